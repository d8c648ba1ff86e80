"""Scores of images from what the detector found in them: pure functions, every ratio with its counts.

Centers are shares of the image, x to the right and y down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm.evaluation.statistics import interval, resampled
from ldm.models.detector import Detection

TARGET_RADIUS = 0.2  # of the method's disc
MATCH_RADIUS = 0.12  # within which a detection is the object it should be; a sprite's half side is 0.17 to 0.23
Point = tuple[float, float]


@dataclass(frozen=True)
class Ratio:
    """``hits`` of ``total``."""

    hits: int
    total: int

    @property
    def value(self) -> float | None:
        """The ratio, or None where nothing was counted."""
        return self.hits / self.total if self.total else None

    def to_json(self) -> dict[str, Any]:
        """Counts and value."""
        return {"hits": self.hits, "total": self.total, "value": self.value}


@dataclass(frozen=True)
class ImageScore:
    """What one image of "<first> is <relation> <second>" shows.

    ``found`` and ``in_disc`` have an entry an object; ``relation_right`` is None unless both are present;
    ``extra`` counts detections beside one of each object.
    """

    found: tuple[bool, bool]
    in_disc: tuple[bool, bool]
    relation_right: bool | None
    extra: int

    @property
    def both(self) -> bool:
        """Both objects are present."""
        return all(self.found)

    @property
    def both_and_right(self) -> bool:
        """Both objects are present and stand as the prompt says."""
        return bool(self.relation_right)

    def to_json(self) -> dict[str, Any]:
        """All fields by name."""
        return asdict(self)


def distance(first: Point, second: Point) -> float:
    """Between two points, as a share of the image's side."""
    return float(np.hypot(first[0] - second[0], first[1] - second[1]))


def relation_holds(first: Point, second: Point, relation: str) -> bool:
    """Whether ``first`` lies "left", "right", "above" or "below" ``second``, by their centers alone."""
    signed = {
        "left": second[0] - first[0],
        "right": first[0] - second[0],
        "above": second[1] - first[1],
        "below": first[1] - second[1],
    }
    return signed[relation] > 0


def score_image(
    detections: Sequence[Detection], names: tuple[str, str], relation: str, targets: tuple[Point, Point]
) -> ImageScore:
    """Scores one image.

    Args:
        detections: what the detector found.
        names: the two categories of the prompt, different from each other.
        relation: of the first to the second.
        targets: where the two objects should be. Of several detections of a category any may hit the disc,
            and the surest one decides the relation.
    """
    of = [[found for found in detections if found.name == name] for name in names]
    found = (bool(of[0]), bool(of[1]))
    hits = [
        any(distance((item.x, item.y), target) < TARGET_RADIUS for item in items)
        for items, target in zip(of, targets, strict=True)
    ]
    right = None
    if all(found):
        surest = [max(items, key=lambda item: item.score) for items in of]
        right = relation_holds((surest[0].x, surest[0].y), (surest[1].x, surest[1].y), relation)
    return ImageScore(found, (hits[0], hits[1]), right, extra=len(detections) - sum(found))


def summarize(scores: Sequence[ImageScore]) -> dict[str, Ratio]:
    """The table's columns for one method, as counts."""
    both = [score for score in scores if score.both]
    return {
        "object_recall": Ratio(sum(sum(score.found) for score in scores), 2 * len(scores)),
        "both_present": Ratio(len(both), len(scores)),
        "relation_given_both": Ratio(sum(score.both_and_right for score in both), len(both)),
        "both_and_right": Ratio(sum(score.both_and_right for score in scores), len(scores)),
        "disc_hits": Ratio(sum(sum(score.in_disc) for score in scores), 2 * len(scores)),
    }


def per_prompt(scores: Sequence[ImageScore]) -> dict[str, NDArray[np.float64]]:
    """The columns that every prompt has a value for, (prompts,) each: what paired differences are made of."""
    return {
        "object_recall": np.array([sum(score.found) / 2 for score in scores]),
        "both_present": np.array([float(score.both) for score in scores]),
        "both_and_right": np.array([float(score.both_and_right) for score in scores]),
        "disc_hits": np.array([sum(score.in_disc) / 2 for score in scores]),
        "extra_objects": np.array([float(score.extra) for score in scores]),
    }


@dataclass(frozen=True)
class Interval:
    """A mean difference and its 95% interval."""

    mean: float
    low: float
    high: float


def paired_bootstrap(
    values: NDArray[np.float64], baseline: NDArray[np.float64], resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean of values - baseline over the same prompts, with the percentile interval of resampled prompts.

    Args:
        values, baseline: (prompts,) each, in the same order.
        resamples: draws with replacement.
        seed: of the draws; the same seed gives the same interval.

    Raises:
        ValueError: if the two differ in length or are empty.
    """
    if values.shape != baseline.shape or values.ndim != 1 or not len(values):
        raise ValueError(f"paired values need one entry a prompt: {values.shape} against {baseline.shape}")
    differences = values - baseline  # (prompts,)
    picks = resampled(len(differences), resamples, np.random.default_rng(seed))
    return Interval(float(differences.mean()), *interval(differences[picks].mean(axis=1)))


@dataclass(frozen=True)
class Matches:
    """How detections of one or more images agree with the truth; ``distances`` of the matched centers."""

    matched: int
    detected: int
    present: int
    distances: tuple[float, ...] = ()

    def __add__(self, other: Matches) -> Matches:
        return Matches(
            self.matched + other.matched,
            self.detected + other.detected,
            self.present + other.present,
            self.distances + other.distances,
        )

    @property
    def precision(self) -> Ratio:
        """Detections that are right, of all detections."""
        return Ratio(self.matched, self.detected)

    @property
    def recall(self) -> Ratio:
        """Objects that were detected, of all objects."""
        return Ratio(self.matched, self.present)

    def to_json(self, pixels: int = 64) -> dict[str, Any]:
        """Precision, recall, and the mean center error in pixels of a ``pixels``-wide image."""
        error = float(np.mean(self.distances)) * pixels if self.distances else None
        return {"precision": self.precision.to_json(), "recall": self.recall.to_json(), "center_error_px": error}


def match(
    detections: Sequence[Detection], truth: Sequence[tuple[str, float, float]], radius: float = MATCH_RADIUS
) -> Matches:
    """Pairs detections with objects of the same category within ``radius``, the surest detection choosing
    first.

    Args:
        detections: of one image.
        truth: name, x and y of every object in it.
    """
    free = list(truth)
    distances = []
    for found in sorted(detections, key=lambda item: -item.score):
        near = [
            (distance((found.x, found.y), (x, y)), index)
            for index, (name, x, y) in enumerate(free)
            if name == found.name and distance((found.x, found.y), (x, y)) < radius
        ]
        if near:
            gap, index = min(near)
            distances.append(gap)
            del free[index]
    return Matches(len(distances), len(detections), len(truth), tuple(distances))
