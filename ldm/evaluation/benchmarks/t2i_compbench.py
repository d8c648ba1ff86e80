"""T2I-CompBench++ (Huang et al., 2023, arXiv 2307.06350): 2D and 3D relations, numeracy, and its 3-in-1 mean.

Boxes are in pixels of the image resized by `resized`. `corrected=True` mends the published rules; each function says
what it changes. The color, texture and shape scores need a VQA model and are not here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from layout_predictor.inference.reading import language_model
from ldm.evaluation.benchmarks.boxes import Corners, Detection, area, intersection, iou, suppress
from ldm.files import read_yaml
from ldm.util import UserError

_WORDS = read_yaml(Path(__file__).with_name("t2i_compbench.yaml"))
NEAR = 150  # pixels between centers
_OVERLAP_2D, _OVERLAP_3D = 0.1, 0.5
THRESHOLD = 0.5  # a box counts if its score is above
Depth = NDArray[np.float64]  # (H, W) of the resized image, in [0, 1], larger is nearer


def resized(width: int, height: int) -> float:
    """The factor by which the benchmark resizes an image before it looks for objects: shorter side 479, longer 480."""
    return min(479 / min(width, height), 480 / max(width, height))


# --------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Spatial:
    """Two nouns and the words of a relation; None where the prompt states none that has a rule."""

    first: str | None
    relation: str | None
    second: str | None


def read_spatial(prompt: str, kind: str = "2d", people: bool = False) -> Spatial:
    """What the original reads from a prompt.

    Args:
        kind: "2d" or "3d": the first and the last noun; "complex": the nouns nearest to the words of the relation,
            on both sides of it.
        people: corrected: girls, boys, men and women are not called "person" already here.
    """
    relation = next((words for words in _WORDS["relations"][kind] if words in prompt), None)
    tokens = list(language_model()(prompt))
    if kind != "complex":
        nouns = [token.text for token in tokens if token.pos_ == "NOUN"]
        first, second = (nouns[0], nouns[-1]) if nouns else (None, None)
    elif relation is None:
        return Spatial(None, None, None)
    else:
        start = prompt.index(relation)
        before = _nouns([token for token in tokens if token.idx < start])
        after = _nouns([token for token in tokens if token.idx >= start + len(relation)])
        if not before or not after:
            return Spatial(None, relation, None)
        first, second = before[-1], after[0]
    if not people:
        first, second = (_WORDS["people"].get(noun, noun) for noun in (first, second))
    return Spatial(first, relation, second)


def _nouns(tokens: Sequence[object]) -> list[str]:
    """Common nouns; where there is none, proper ones that stand in front of no other."""
    kinds = [(str(t.text), t.pos_, t.dep_) for t in tokens]  # type: ignore[attr-defined]
    common = [text for text, tag, _ in kinds if tag == "NOUN"]
    return common or [text for text, tag, role in kinds if tag == "PROPN" and role != "compound"]


def read_nouns(text: str) -> dict[str, str]:
    """Singular to plural, of the lines "cat - cats" of new_objects.txt. UserError for another file."""
    pairs = [line.split(" - ") for line in text.splitlines() if line.strip()]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise UserError("a list of nouns has lines like 'cat - cats'; give the benchmark's new_objects.txt")
    return {one.strip(): many.strip() for one, many in pairs}


def read_numbers(prompt: str, nouns: Mapping[str, str]) -> list[tuple[str, int]]:
    """Nouns and numbers of a numeracy prompt. UserError where the original stops or reads a noun without a number."""
    words = re.findall(r"[\w'-]+", prompt)
    singulars = {many: one for one, many in nouns.items()}
    found = []
    for index, word in enumerate(words):
        if word not in _WORDS["numbers"]:
            continue
        if index + 1 == len(words):
            raise UserError(f"'{prompt}' ends with the number '{word}'; write what it counts")
        for size in (1, 2):
            noun = " ".join(words[index + 1 : index + 1 + size])
            number = _WORDS["numbers"][word]
            if noun in singulars and word not in ("a", "an"):
                found.append((singulars[noun], number))
            elif noun in nouns and number == 1:
                found.append((noun, 1))
            elif noun in nouns or noun in singulars:
                raise UserError(f"'{word} {noun}' in '{prompt}' does not agree in number; correct the prompt")
            else:
                continue
            break
    if not found:
        raise UserError(f"'{prompt}' names no number and noun of the list; write 'two dogs and one cat'")
    return found


# -------------------------------------------------------------------------------------------------- relations


def relation_2d(words: str | None, a: Corners, b: Corners, corrected: bool = False) -> float:
    """How well box a stands in a relation to box b, from 0 to 1; 0 for words without a rule ("on top of").

    Two empty boxes, at which the original stops, overlap by 0. Corrected: "on top of" is "on the top of".
    """
    words = "on the top of" if corrected and words == "on top of" else words
    dx, dy = ((b[i] + b[i + 2] - a[i] - a[i + 2]) / 2 for i in (0, 1))
    if words in _WORDS["near"]:
        near = abs(dx) < NEAR or abs(dy) < NEAR
        return 1.0 if near else NEAR / max(abs(dx), abs(dy))
    if words not in _WORDS["sides"]:
        return 0.0
    axis, sign = _WORDS["sides"][words]
    along, across = ((dx, dy), (dy, dx))[axis]
    if sign * along <= 0 or abs(along) <= abs(across):
        return 0.0
    overlap = iou(a, b)
    return 1.0 if overlap < _OVERLAP_2D else _OVERLAP_2D / overlap


def relation_3d(words: str | None, a: Corners, b: Corners, depth: Depth, corrected: bool = False) -> float:
    """The same for "in front of", "behind" and "hidden", and for the words of 2D.

    Published: the depth map is read with x and y exchanged, and an overlap of exactly 0.5 counts nothing. Corrected:
    as it should be.
    """
    if words not in _WORDS["nearer"]:
        return relation_2d(words, a, b, corrected)
    overlap = iou(a, b)
    if overlap == 0 or (overlap == _OVERLAP_3D and not corrected):
        return 0.0
    difference = mean_depth(depth, a, corrected) - mean_depth(depth, b, corrected)
    if not difference * _WORDS["nearer"][words] > 0:  # nan, too
        return 0.0
    return min(overlap / _OVERLAP_3D, 1.0)


def mean_depth(depth: Depth, box: Corners, corrected: bool = False) -> float:
    """Mean of the depth in a box, nan where that is empty; published with the axes exchanged."""
    x0, y0, x1, y1 = map(int, box)
    part = depth[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] if corrected else depth[x0:x1, y0:y1]
    return float(part.mean()) if part.size else float("nan")


def spatial_2d(asked: Spatial, detections: Sequence[Detection], corrected: bool = False) -> float:
    """Score of an image: half by the sureness of both objects, half by their relation; below 0.5 it becomes 0.

    Corrected: two objects of one name are two boxes, and what is below 0.5 stays.
    """
    first, second = _pair(asked, detections, distinct=corrected)
    score = sum(found.score for found in (first, second) if found) / 4
    if first and second:
        score += relation_2d(asked.relation, first.box, second.box, corrected) / 2
    return score if score >= 0.5 or corrected else 0.0


def _pair(asked: Spatial, detections: Sequence[Detection], distinct: bool) -> tuple[Detection | None, Detection | None]:
    """The first detection of each noun; `distinct`: one is not both."""
    first = next((d for d in detections if d.name == asked.first), None)
    second = next((d for d in detections if d.name == asked.second and not (distinct and d is first)), None)
    return first, second


def spatial_3d(asked: Spatial, detections: Sequence[Detection], depth: Depth, corrected: bool = False) -> float:
    """Score of an image; nothing is cut.

    Published: labels contain the nouns, a noun's box is the last one before both are found, and one box may be both.
    Corrected: labels are the nouns, the first box of each counts, and it is the box of one noun only.
    """
    if corrected:
        one, other = _pair(asked, detections, distinct=True)
        score = sum(found.score for found in (one, other) if found) / 4
        if one and other:
            score += relation_3d(asked.relation, one.box, other.box, depth, True) / 2
        return score
    if asked.first is None or asked.second is None:
        return 0.0
    places: list[Detection | None] = [None, None]
    for found in detections:
        for index, noun in enumerate((asked.first, asked.second)):
            if noun in found.name:
                places[index] = found
        if all(places):
            break
    first, second = places
    if first is not None and second is not None:
        return (first.score + second.score) / 4 + relation_3d(asked.relation, first.box, second.box, depth) / 2
    there = next((d for d in detections if asked.first in d.name or asked.second in d.name), None)
    return there.score / 4 if there else 0.0


# --------------------------------------------------------------------------------------------------- numbers


def same_thing(a: Corners, b: Corners) -> bool:
    """Whether two boxes of one label are merged: they overlap, or one holds the other, by more than 0.9."""
    common = intersection(a, b, 1)
    parts = [common / size for size in (area(a, 1), area(b, 1)) if size]
    return iou(a, b, 1) > 0.9 or any(part > 0.9 for part in parts)


def merged(detections: Sequence[Detection]) -> list[Detection]:
    """Without duplicates."""

    def drops(first: int, second: int) -> bool:
        a, b = detections[first], detections[second]
        return a.name == b.name and same_thing(a.box, b.box)

    return [detections[index] for index in suppress(range(len(detections)), drops)]


def label(noun: str) -> str:
    """What the detector calls a noun of a numeracy prompt."""
    return str(_WORDS["numeracy_aliases"].get(noun, noun))


def numeracy(asked: Sequence[tuple[str, int]], detections: Sequence[Detection], corrected: bool = False) -> float:
    """Score of an image: for each noun half for being there and half for the exact number.

    Published: where no label is the noun, every label that contains it is renamed to it, for the nouns to come, too;
    so carrots are cars. Corrected: labels are the noun or its alias, and of several nouns with one alias (two boys and
    one girl are three persons) the numbers add up.
    """
    labels = [found.name for found in merged(detections)]
    if corrected:
        wanted: Counter[str] = Counter()
        for noun, number in asked:
            wanted[label(noun)] += number
        known = Counter(map(label, labels))
        nouns = [label(noun) for noun, _ in asked]
        return sum(((known[noun] > 0) + (known[noun] == wanted[noun])) / 2 for noun in nouns) / len(asked)
    score = 0.0
    for noun, number in asked:
        noun = label(noun)
        if noun not in labels:
            labels = [noun if noun in known_as else known_as for known_as in labels]
        count = labels.count(noun)
        score += ((count > 0) + (count == number)) / 2 / len(asked)
    return score


def three_in_one(prompt: str, scores: Mapping[str, float], spatial: Sequence[str], action: Sequence[str]) -> float:
    """The mean of an image's scores that counts for a complex prompt.

    Args:
        scores: "attribute", "spatial" and "action".
        spatial, action: prompts of complex_val_spatial.txt and complex_val_action.txt.
    """

    def listed(prompts: Sequence[str]) -> bool:
        return prompt.split(".")[0].lower() in {other.split(".")[0].lower() for other in prompts}

    names = ["attribute", "spatial"] if listed(spatial) else ["attribute", "action"] if listed(action) else list(scores)
    return sum(scores[name] for name in names) / len(names)
