"""What the boxes of an image say about its prompt. Every formula names its source; every ratio keeps its counts.

Boxes are fractions of the image, x to the right and y down. Where several boxes have an object's name the surest one
stands for it, as in GenEval; for two objects of one name the two surest, in whichever order fits.

Sources: Wu et al., ICCV 2023 (arXiv 2304.03869), section 4; Gokhale et al., "Benchmarking Spatial Relationships in
Text-to-Image Generation", 2022 (arXiv 2212.10015): OA and VISOR; Ghosh et al., "GenEval", NeurIPS 2023
(arXiv 2310.11513): position with a margin, counts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm.evaluation.prompts.prompt import EvalPrompt, EvalRelation
from ldm.relations import AXIS_SIGN, satisfied
from ldm.spacetime.control import RADIUS

GENEVAL_MARGIN = 0.1  # of the sum of two boxes' sizes, that must lie between two centers to count
_GENEVAL_SHARE = 0.5  # of the distance that the rest of an offset must make up
Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A detected object: category, score in [0, 1], sides as fractions of width and height.

    `mask` is (H, W) bool in pixels of the image, where the detector gives one.
    """

    name: str
    score: float
    left: float
    top: float
    right: float
    bottom: float
    mask: NDArray[np.bool_] | None = field(default=None, compare=False, repr=False)

    @property
    def center(self) -> Point:
        """x and y."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    def corners(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 in pixels of an image of `size`, (width, height)."""
        width, height = size
        return self.left * width, self.top * height, self.right * width, self.bottom * height

    def to_json(self) -> dict[str, Any]:
        """All fields but the mask by name, rounded."""
        sides = {key: round(getattr(self, key), 4) for key in ("score", "left", "top", "right", "bottom")}
        return {"name": self.name, **sides}


@dataclass(frozen=True)
class ImageFacts:
    """What an image shows of its prompt; what was not measured is empty or None.

    Attributes:
        found: for every object, whether as many of its name are detected as the prompt needs up to it.
        counted: for every object, whether exactly the demanded number of its name is detected.
        both: for every relation, whether both objects are there.
        right: for every relation, whether it holds by the centers.
        with_margin: for every relation, whether it holds by GenEval's rule.
        in_disc: for every object, whether one of its name is detected within the disc around its target.
        colors: for every object whether its color is the demanded one; None where none is demanded or where the
            object is not there.
        background: whether its color is the demanded one, None where none is demanded.
        clip_score: of image and sentence.
        extra: detections of any category beside the found objects.
    """

    found: tuple[bool, ...] = ()
    counted: tuple[bool, ...] = ()
    both: tuple[bool, ...] = ()
    right: tuple[bool, ...] = ()
    with_margin: tuple[bool, ...] = ()
    in_disc: tuple[bool, ...] = ()
    colors: tuple[bool | None, ...] = ()
    background: bool | None = None
    clip_score: float | None = None
    extra: int | None = None

    @property
    def all_right(self) -> bool:
        """All relations hold: VISOR(image) of a prompt with one relation."""
        return bool(self.right) and all(self.right)

    @property
    def faults(self) -> int:
        """Objects that lack, relations that do not hold, and wrong colors."""
        return sum(value is False for value in (*self.found, *self.right, *self.colors, self.background))

    def to_json(self) -> dict[str, Any]:
        """What was measured, by name; `from_json` reads it."""
        measured = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.clip_score is not None:
            measured["clip_score"] = round(self.clip_score, 2)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in measured.items() if v not in ((), None)}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> ImageFacts:
        """What `to_json` wrote; TypeError or ValueError for anything else."""
        fields: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in entry.items()}
        facts = cls(**fields)
        for values in (facts.found, facts.counted, facts.both, facts.right, facts.with_margin, facts.in_disc):
            if not isinstance(values, tuple) or not all(isinstance(value, bool) for value in values):
                raise ValueError(f"{values} should be a list of truth values")
        return facts


def image_facts(
    boxes: Sequence[Box], prompt: EvalPrompt, size: tuple[int, int], targets: Sequence[Point] | None = None
) -> ImageFacts:
    """Judge one image by its boxes, whose names are those of the prompt's objects.

    Args:
        size: width and height in pixels, for the margin of GenEval's rule.
        targets: where the objects should be, for ``in_disc``; any box of an object's name may hit.
    """
    by_name: dict[str, list[Box]] = {}
    for box in sorted(boxes, key=lambda item: -item.score):
        by_name.setdefault(box.name, []).append(box)
    demanded: Counter[str] = Counter()
    found = []
    for item in prompt.objects:
        demanded[item.name] += item.count
        found.append(len(by_name.get(item.name, ())) >= demanded[item.name])
    counted = tuple(len(by_name.get(name, ())) == demanded[name] for name in prompt.names)
    judged = [_relation_facts(relation, prompt, by_name, size) for relation in prompt.relations]
    both, right, with_margin = zip(*judged, strict=True) if judged else ((), (), ())
    in_disc = tuple(
        any(math.dist(box.center, target) < RADIUS for box in by_name.get(name, ()))
        for name, target in zip(prompt.names, targets or (), strict=targets is not None)
    )
    return ImageFacts(tuple(found), counted, both, right, with_margin, in_disc)


def _relation_facts(
    stated: EvalRelation, prompt: EvalPrompt, by_name: Mapping[str, Sequence[Box]], size: tuple[int, int]
) -> tuple[bool, bool, bool]:
    """Whether both objects are there, the relation holds by the centers, and by GenEval's rule."""
    names = [prompt.objects[number].name for number in (stated.first, stated.second)]
    if names[0] == names[1]:
        same = by_name.get(names[0], [])[:2]
        pairs = [(same[0], same[1]), (same[1], same[0])] if len(same) == 2 else []
    else:
        pairs = [(a, b) for a in by_name.get(names[0], [])[:1] for b in by_name.get(names[1], [])[:1]]
    right = any(satisfied(stated.relation, a.center, b.center) for a, b in pairs)
    with_margin = any(stated.relation in geneval_positions(a, b, size) for a, b in pairs)
    return bool(pairs), right, with_margin


def geneval_positions(first: Box, second: Box, size: tuple[int, int]) -> set[str]:
    """`geneval_relations` of two boxes in an image of `size`, (width, height) in pixels."""
    return geneval_relations(first.corners(size), second.corners(size))


def geneval_relations(
    first: Sequence[float], second: Sequence[float], threshold: float = GENEVAL_MARGIN, whole: bool = False
) -> set[str]:
    """Relations of `first` to `second`, boxes x0, y0, x1, y1 in pixels, by GenEval's rule (Ghosh et al., section 3).

    With centers c and sizes s, the offset d = c1 - c2 is shortened along each axis by the margin
    `threshold` (s1 + s2), to no less than 0; what is left, as a share of |d|, must be beyond 0.5 along an axis. Both
    axes may be, so that "above" and "left of" can hold together. Centers that are closer than the margin on both
    axes have no relation. With `whole` the share is that of the length of what is left, so that the others have one.
    """
    offset, rest = [], []
    for axis in (0, 1):
        centers = [(box[axis] + box[axis + 2]) / 2 for box in (first, second)]
        margin = threshold * sum(abs(box[axis + 2] - box[axis]) for box in (first, second))
        offset.append(centers[0] - centers[1])
        rest.append(math.copysign(max(abs(offset[-1]) - margin, 0.0), offset[-1]))
    if all(abs(part) < 1e-3 for part in rest):
        return set()
    length = math.hypot(*(rest if whole else offset))
    return {name for name, (axis, sign) in AXIS_SIGN.items() if sign * rest[axis] / length > _GENEVAL_SHARE}


# --------------------------------------------------------------------------------------------------- ratios


Counts = tuple[float, float]  # hits and total of one image; the total is 0 where the ratio says nothing about it

RATIOS = {
    "object_recall": "object recall",
    "object_accuracy": "all objects there (OA)",
    "relation_given_both": "relation right, given both (VISOR cond)",
    "relation": "relation right (VISOR uncond)",
    "position_with_margin": "position (GenEval rule)",
    "disc_hits": "hits in target disc",
    "count": "count exact",
    "color": "color right, given the object",
    "background": "background's color right",
    "clip_score": "CLIP score",
    "extra_objects": "further objects an image",
}


def counts(facts: ImageFacts) -> dict[str, Counts]:
    """The share of one image in every ratio of `RATIOS`.

    ``object_recall``: objects detected, of all mentioned (Wu et al., section 4). ``object_accuracy``: OA of Gokhale et
    al., eq. 1, images with all objects. ``relation`` and ``relation_given_both``: VISOR uncond and cond, eq. 2 to 4,
    relations that hold by the centers, of all and of those whose objects are there; the latter is the relation accuracy
    of Wu et al. ``position_with_margin``: GenEval's position. ``count``: objects whose name is detected exactly as
    often as demanded (GenEval's counting). ``color``: objects of the right color, of those there.
    ``background``: plain backgrounds of the demanded color (of the emoji world). ``clip_score`` and
    ``extra_objects``: means, not shares.
    """

    def share(values: Sequence[bool]) -> Counts:
        return sum(values), len(values)

    def mean(value: float | None) -> Counts:
        return (0.0, 0.0) if value is None else (float(value), 1.0)

    return {
        "object_recall": share(facts.found),
        "object_accuracy": mean(all(facts.found) if facts.found else None),
        "relation_given_both": (sum(facts.right), sum(facts.both)),
        "relation": share(facts.right),
        "position_with_margin": share(facts.with_margin),
        "disc_hits": share(facts.in_disc),
        "count": share(facts.counted),
        "color": share([color for color in facts.colors if color is not None]),
        "background": mean(facts.background),
        "clip_score": mean(facts.clip_score),
        "extra_objects": mean(facts.extra),
    }


def visor_n(images: Sequence[Sequence[ImageFacts]], n: int) -> tuple[int, int]:
    """VISOR_n (Gokhale et al., 2022, eq. 5): prompts with at least n images whose relations hold, of all prompts.

    Args:
        images: for every prompt its images; the paper takes four. Prompts without a relation, or with fewer than
            n images, are left out.
    """
    judged = [group for group in images if len(group) >= n and group[0].right]
    return sum(sum(facts.all_right for facts in group) >= n for group in judged), len(judged)
