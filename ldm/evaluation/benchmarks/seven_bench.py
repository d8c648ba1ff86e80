"""7Bench, C-Bench and O-Bench: do detected boxes lie where the layout wants them?

Rules of github.com/lparolari/cobench and github.com/Elizzo/7Bench. The layout score of an image: the share of its
objects whose IoU reaches k, for k = 0.0, 0.1 ... 1.0, and the area under this curve. It serves all benchmarks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ldm.evaluation.benchmarks.boxes import Corners, Detection, by_score, iou

LEVELS = tuple(k / 10 for k in range(11))
SIDE = 512  # of the layouts, in pixels
WantedBox = tuple[str, Corners]


@dataclass(frozen=True)
class Overlaps:
    """IoU of every wanted name, and by name the number of the detection that was used."""

    ious: dict[str, float]
    chosen: dict[str, int]

    @property
    def accuracy(self) -> tuple[float, ...]:
        """Share of names that reach each of `LEVELS`; all 0 where nothing was detected."""
        return accuracy(list(self.ious.values()), bool(self.chosen))

    @property
    def auc(self) -> float:
        """Area under the accuracies."""
        return auc(self.accuracy)


def accuracy(ious: Sequence[float], detected: bool) -> tuple[float, ...]:
    """Share of the IoUs that reach each of `LEVELS`; all 0 where nothing was `detected`."""
    return tuple(detected * sum(value >= level for value in ious) / max(1, len(ious)) for level in LEVELS)


def auc(shares: Sequence[float]) -> float:
    """Area under a curve over `LEVELS` by the trapezoid rule."""
    return sum((a + b) / 2 * 0.1 for a, b in zip(shares, shares[1:], strict=False))


def overlaps(wanted: Sequence[WantedBox], detections: Sequence[Detection]) -> Overlaps:
    """Published: of each name the detection that overlaps the wanted box most; of equal names the last box counts."""
    ious, chosen = {}, {}
    for name, box in dict(wanted).items():
        found = [(round(iou(one.box, box, 1), 6), -i) for i, one in enumerate(detections) if one.name == name]
        ious[name] = max(found)[0] if found else 0.0
        if found:
            chosen[name] = -max(found)[1]
    return Overlaps(ious, chosen)


def surest_overlaps(wanted: Sequence[WantedBox], detections: Sequence[Detection]) -> list[float]:
    """Corrected: the IoU of every wanted box with one of the surest detections of its name, each used once.

    Of n wanted boxes of a name the n surest detections are given away, the pair that overlaps most first.
    """
    found = [0.0] * len(wanted)
    for name in dict.fromkeys(name for name, _ in wanted):
        numbers = [i for i, (other, _) in enumerate(wanted) if other == name]
        surest = [i for i in by_score(detections) if detections[i].name == name][: len(numbers)]
        pairs = sorted(((iou(detections[j].box, wanted[i][1], 1), i, j) for i in numbers for j in surest), reverse=True)
        for overlap, i, j in pairs:
            if i in numbers and j in surest:
                found[i] = overlap
                numbers.remove(i)
                surest.remove(j)
    return found
