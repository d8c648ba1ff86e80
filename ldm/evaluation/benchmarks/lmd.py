"""The benchmark of LLM-grounded Diffusion (Lian et al., 2023, arXiv 2305.13655): negation, numbers, attributes, space.

Scores images and layouts alike by predicates on named boxes. `whole=True` mends the published rules: nouns are whole
words, and both groups of "two cats and three dogs" count.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from layout_predictor.LayoutTransformer.data.categories import singular
from ldm.evaluation.benchmarks.boxes import Corners, Detection, by_score, iou, suppress
from ldm.generation.lmd import SIDE as SIDE
from ldm.generation.lmd import read_answer as read_answer
from ldm.relations import with_article
from ldm.util import UserError

KINDS = ("negation", "numeracy", "attribution", "spatial")
PROMPTS_SHA256 = "05333f912cfba8603f153d53593f8524172627f28baaae462ae05235058eec9b"  # of the 400, joined by newlines
ASK = "a photo of "  # before what the detector is asked for
_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_NUMBERS += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"]
_SIGNS = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}
_GROUP = r"(\S+) (\S+)"
NamedBox = tuple[str, Corners]  # x0, y0, x1, y1


@dataclass(frozen=True)
class Limits:
    """Which detections count: score at least `score`; of two that overlap by `overlap` or more the surer."""

    score: float
    overlap: float
    class_aware: bool


LIMITS = {
    "readme": Limits(0.15, 0.15, True),  # of the README's command, which made the published table
    "script": Limits(0.05, 0.5, False),
    "function": Limits(0.1, 0.5, False),
}


@dataclass(frozen=True)
class Question:
    """What a prompt demands: of each group a name and a number, or two names and their sides."""

    kind: str
    names: tuple[str, ...]
    numbers: tuple[int, ...] = ()
    sides: tuple[str, ...] = ()
    queries: tuple[str, ...] = ()


def question(prompt: str, whole: bool = False) -> Question:
    """What a prompt demands, read as the original does. UserError where the original stops.

    Published: of two groups, as in "two cats and three dogs", the first is read twice; with `whole` both are read.
    """
    if "without" in prompt:
        name = singular(prompt.partition("without ")[2].strip())
        return Question("negation", (name,), (0,), queries=(_ask(name),))
    if re.search(r"on the (left|right|top|bottom)", prompt):
        found = _match(r"with (.+) on the (\w+) and (.+) on the (\w+)", prompt)
        names, sides = (found[1], found[3]), (found[2], found[4])
        if any(side not in _SIGNS for side in sides) or _SIGNS[sides[0]][0] != _SIGNS[sides[1]][0]:
            raise UserError(f"'{prompt}' names the sides {' and '.join(sides)}, which are not opposed; correct it")
        return Question("spatial", names, sides=sides, queries=tuple(ASK + name for name in names))
    if "and" in prompt and any(word in prompt for word in _NUMBERS[1:6]):
        found = _match(rf"with {_GROUP} and {_GROUP}$", prompt)
        groups = [(_number(found[i], prompt), singular(found[i + 1])) for i in (1, 3 if whole else 1)]
        return Question(
            "numeracy_2obj",
            tuple(name for _, name in groups),
            tuple(number for number, _ in groups),
            queries=tuple(_ask(name) for _, name in groups),
        )
    if "and" in prompt:
        found = _match(r"with (.+) and (.+)", prompt)
        return Question("attribution", (found[1], found[2]), (1, 1), queries=(ASK + found[1], ASK + found[2]))
    found = _match(rf"with {_GROUP}$", prompt)
    name = singular(found[2])
    return Question("numeracy", (name,), (_number(found[1], prompt),), queries=(_ask(name),))


def _ask(noun: str) -> str:
    """What the detector is asked for; phrases with a color or a side are asked for as they stand."""
    return ASK + (noun if noun.startswith(("a ", "an ")) else with_article(noun))


def _match(pattern: str, prompt: str) -> re.Match[str]:
    found = re.search(pattern, prompt)
    if found is None:
        raise UserError(f"'{prompt}' is none of LMD's prompts; write '... with two cats' or see its prompts.txt")
    return found


def _number(word: str, prompt: str) -> int:
    if word in _NUMBERS:
        return _NUMBERS.index(word)
    if word.isdigit():
        return int(word)
    raise UserError(f"'{word}' in '{prompt}' is no number up to twenty; write 'with two cats'")


# -------------------------------------------------------------------------------------------------- judging


def keep(detections: Sequence[Detection], labels: Sequence[int], limits: Limits) -> list[int]:
    """Indices of the detections that count, in the order in which the predicates see them.

    Args:
        labels: for every detection the number of the query that found it.
    """
    order = [index for index in by_score(detections) if detections[index].score >= limits.score]

    def drops(first: int, second: int) -> bool:
        if limits.class_aware and labels[first] != labels[second]:
            return False
        overlap = iou(detections[first].box, detections[second].box, empty=math.nan)
        return not overlap < limits.overlap  # two empty boxes: 0/0 is below nothing

    kept = suppress(order, drops)
    return sorted(kept, key=lambda index: labels[index]) if limits.class_aware else kept


def named(detections: Sequence[Detection]) -> list[NamedBox]:
    """Boxes under what the queries asked for."""
    return [(found.name.removeprefix(ASK), found.box) for found in detections]


def judge(asked: Question, boxes: Sequence[NamedBox], whole: bool = False) -> bool:
    """Whether the boxes, of an image or of a layout, fulfill the prompt."""
    if asked.kind == "spatial":
        centers = []
        for phrase in asked.names:
            box = next((box for name, box in boxes if name.endswith(phrase) or f"{phrase} " in name), None)
            if box is None:
                return False
            centers.append(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
        axis, sign = _SIGNS[asked.sides[0]]
        return sign * (centers[0][axis] - centers[1][axis]) > 0
    counts = [sum(_means(name, noun, whole) for name, _ in boxes) for noun in asked.names]
    return all(counts) if asked.kind == "attribution" else counts == list(asked.numbers)


def _means(name: str, noun: str, whole: bool) -> bool:
    return bool(re.search(rf"\b{re.escape(noun)}\b", name)) if whole else noun in name
