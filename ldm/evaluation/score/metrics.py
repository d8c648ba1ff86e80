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
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ldm.evaluation.promptfiles import EvalPrompt, EvalRelation
from ldm.evaluation.scoring import relation_holds

GENEVAL_MARGIN = 0.1  # of the sum of two boxes' sizes, that must lie between two centers to count
_GENEVAL_SHARE = 0.5  # of the distance that the rest of an offset must make up


@dataclass(frozen=True)
class Box:
    """A detected object: category, score in [0, 1], sides as fractions of width and height."""

    name: str
    score: float
    left: float
    top: float
    right: float
    bottom: float

    @property
    def center(self) -> tuple[float, float]:
        """x and y."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    def to_json(self) -> dict[str, Any]:
        """All fields by name, rounded."""
        return {key: value if isinstance(value, str) else round(value, 4) for key, value in asdict(self).items()}


@dataclass(frozen=True)
class RelationFacts:
    """One relation of an image: are both objects there, does it hold by the centers, and by GenEval's rule."""

    both: bool
    right: bool
    with_margin: bool


@dataclass(frozen=True)
class ImageFacts:
    """What an image shows of its prompt.

    Attributes:
        found: for every object, whether as many of its name are detected as the prompt needs up to it.
        counted: for every object, whether exactly the demanded number of its name is detected.
        relations: in the order of the prompt.
        colors: for every object whether its color is the demanded one; None where none is demanded or where the
            object is not there.
        clip_score: of image and sentence, None where it was not asked for.
        background: whether its color is the demanded one, None where none is demanded or it was not measured.
    """

    found: tuple[bool, ...]
    counted: tuple[bool, ...]
    relations: tuple[RelationFacts, ...]
    colors: tuple[bool | None, ...] = ()
    clip_score: float | None = None
    background: bool | None = None

    @property
    def all_right(self) -> bool:
        """All relations hold: VISOR(image) of a prompt with one relation."""
        return bool(self.relations) and all(relation.right for relation in self.relations)

    @property
    def faults(self) -> int:
        """Objects that lack and relations that do not hold."""
        return self.found.count(False) + sum(not relation.right for relation in self.relations)


def image_facts(boxes: Sequence[Box], prompt: EvalPrompt, size: tuple[int, int]) -> ImageFacts:
    """Judge one image by its boxes, whose names are those of the prompt's objects.

    Args:
        size: width and height in pixels, for the margin of GenEval's rule.
    """
    by_name: dict[str, list[Box]] = {}
    for box in sorted(boxes, key=lambda item: -item.score):
        by_name.setdefault(box.name, []).append(box)
    demanded: Counter[str] = Counter()
    found = []
    for item in prompt.objects:
        demanded[item.name] += item.count
        found.append(len(by_name.get(item.name, ())) >= demanded[item.name])
    counted = tuple(len(by_name.get(item.name, ())) == demanded[item.name] for item in prompt.objects)
    relations = tuple(_relation_facts(relation, prompt, by_name, size) for relation in prompt.relations)
    return ImageFacts(tuple(found), counted, relations)


def _relation_facts(
    relation: EvalRelation, prompt: EvalPrompt, by_name: dict[str, list[Box]], size: tuple[int, int]
) -> RelationFacts:
    names = [prompt.objects[number].name for number in (relation.first, relation.second)]
    if names[0] == names[1]:
        same = by_name.get(names[0], [])[:2]
        pairs = [(same[0], same[1]), (same[1], same[0])] if len(same) == 2 else []
    else:
        pairs = [(a, b) for a in by_name.get(names[0], [])[:1] for b in by_name.get(names[1], [])[:1]]
    right = any(relation_holds(a.center, b.center, relation.direction) for a, b in pairs)
    with_margin = any(relation.direction in geneval_positions(a, b, size) for a, b in pairs)
    return RelationFacts(bool(pairs), right, with_margin)


def geneval_positions(first: Box, second: Box, size: tuple[int, int]) -> set[str]:
    """Directions in which `first` lies from `second` by GenEval's rule (Ghosh et al., 2023, section 3).

    With centers c and sizes s in pixels, the offset d = c1 - c2 is shortened along each axis by the margin
    0.1 (s1 + s2), to no less than 0; what is left, as a share of |d|, must be beyond 0.5 along an axis. Both axes
    may be, so that "above" and "left" can hold together. Centers that are closer than the margin on both axes have no
    direction.
    """
    offset, rest = [], []
    for axis, pixels in enumerate(size):
        sides = [((box.left, box.right), (box.top, box.bottom))[axis] for box in (first, second)]
        centers = [(low + high) / 2 * pixels for low, high in sides]
        margin = GENEVAL_MARGIN * sum((high - low) * pixels for low, high in sides)
        offset.append(centers[0] - centers[1])
        rest.append(math.copysign(max(abs(offset[-1]) - margin, 0.0), offset[-1]))
    if all(abs(part) < 1e-3 for part in rest):
        return set()
    x, y = (part / math.hypot(*offset) for part in rest)
    found = {"right": x, "left": -x, "below": y, "above": -y}
    return {direction for direction, share in found.items() if share > _GENEVAL_SHARE}


# --------------------------------------------------------------------------------------------------- ratios


Counts = tuple[float, float]  # hits and total of one image; the total is 0 where the ratio says nothing about it

RATIOS = {
    "object_recall": "object recall",
    "object_accuracy": "all objects there (OA)",
    "relation_given_both": "relation right, given both (VISOR cond)",
    "relation": "relation right (VISOR uncond)",
    "position_with_margin": "position (GenEval rule)",
    "count": "count exact",
    "color": "color right, given the object",
    "background": "background's color right",
    "clip_score": "CLIP score",
}


def counts(facts: ImageFacts) -> dict[str, Counts]:
    """The share of one image in every ratio of :data:`RATIOS`.

    ``object_recall``: objects detected, of all mentioned (Wu et al., section 4). ``object_accuracy``: OA of Gokhale et
    al., eq. 1, images with all objects. ``relation`` and ``relation_given_both``: VISOR uncond and cond, eq. 2 to 4,
    relations that hold by the centers, of all and of those whose objects are there; the latter is the relation accuracy
    of Wu et al. ``position_with_margin``: GenEval's position. ``count``: objects whose name is detected exactly as
    often as demanded (GenEval's counting). ``color``: objects of the right color, of those there.
    ``background``: plain backgrounds of the demanded color (of the emoji world). ``clip_score``: a mean, not a share.
    """
    relations = facts.relations
    judged = [color for color in facts.colors if color is not None]
    right = sum(relation.right for relation in relations)
    return {
        "object_recall": (sum(facts.found), len(facts.found)),
        "object_accuracy": (float(all(facts.found)), 1.0) if facts.found else (0.0, 0.0),
        "relation_given_both": (right, sum(relation.both for relation in relations)),
        "relation": (right, len(relations)),
        "position_with_margin": (sum(relation.with_margin for relation in relations), len(relations)),
        "count": (sum(facts.counted), len(facts.counted)),
        "color": (sum(judged), len(judged)),
        "background": (0.0, 0.0) if facts.background is None else (float(facts.background), 1.0),
        "clip_score": (0.0, 0.0) if facts.clip_score is None else (facts.clip_score, 1.0),
    }


def visor_n(images: Sequence[Sequence[ImageFacts]], n: int) -> tuple[int, int]:
    """VISOR_n (Gokhale et al., 2022, eq. 5): prompts with at least n images whose relations hold, of all prompts.

    Args:
        images: for every prompt its images; the paper takes four. Prompts without a relation, or with fewer than
            n images, are left out.
    """
    judged = [group for group in images if len(group) >= n and group[0].relations]
    return sum(sum(facts.all_right for facts in group) >= n for group in judged), len(judged)
