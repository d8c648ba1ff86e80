"""Detections in pixels, and how much boxes overlap; every benchmark counts areas in a way of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

Corners = Sequence[float]  # x0, y0, x1, y1 in pixels, y down


@dataclass(frozen=True)
class Detection:
    """What a detector found: the class or query, its score, its box in pixels, and its color where that was judged."""

    name: str
    score: float
    box: Corners
    color: str | None = None

    @property
    def center(self) -> tuple[float, float]:
        """x and y."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2

    def scaled(self, factor: float) -> Detection:
        """The detection in an image `factor` times as large."""
        return replace(self, box=[value * factor for value in self.box])


def area(box: Corners, grow: float = 0.0) -> float:
    """Width by height, each `grow` larger and at least 0."""
    return max(box[2] - box[0] + grow, 0) * max(box[3] - box[1] + grow, 0)


def intersection(a: Corners, b: Corners, grow: float = 0.0) -> float:
    """Area that two boxes share."""
    return area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])), grow)


def iou(a: Corners, b: Corners, grow: float = 0.0, empty: float = 0.0) -> float:
    """Intersection over union, sides counted `grow` larger (1: pixels at both ends); `empty` where the union is 0."""
    common = intersection(a, b, grow)
    union = area(a, grow) + area(b, grow) - common
    return common / union if union else empty


def by_score(detections: Sequence[Detection]) -> list[int]:
    """Indices, surest first; of equal scores the later one, since the originals sort upward and read backward."""
    return sorted(range(len(detections)), key=lambda i: (-detections[i].score, -i))


def suppress(order: Iterable[int], drops: Callable[[int, int], bool]) -> list[int]:
    """The indices in `order` that no kept earlier one drops; `drops(kept, later)`."""
    kept: list[int] = []
    for index in order:
        if not any(drops(other, index) for other in kept):
            kept.append(index)
    return kept
