"""A prompt with what it demands of an image, and the layout that obeys its relations."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ldm.relations import AXIS_SIGN, with_article
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.util import UserError

# The colors whose binding is judged: those of GenEval (Ghosh et al., 2023).
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
_BACKGROUND = re.compile(r"\b(?:on|against|with) an? (?:\w+ )?(\w+) background\b", re.IGNORECASE)


@dataclass(frozen=True)
class EvalObject:
    """A category that an image should show, how many of it, and its color where the prompt says one.

    `box` is where a benchmark's layout wants it: left, top, right and bottom as fractions of the image.
    """

    name: str
    phrase: str
    count: int = 1
    color: str | None = None
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class EvalRelation:
    """Object number ``first`` stands in ``relation``, one of `ldm.relations.RELATIONS`, to ``second`` (from 0)."""

    first: int
    relation: str
    second: int


@dataclass(frozen=True)
class EvalPrompt:
    """A sentence with what it demands. ``unjudged``: relations that boxes can't judge ("riding"), as written."""

    text: str
    objects: tuple[EvalObject, ...] = ()
    relations: tuple[EvalRelation, ...] = ()
    unjudged: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Categories of the objects, in order."""
        return [item.name for item in self.objects]

    @property
    def background(self) -> str | None:
        """The color word of "on a green background", "against a light green background"; None without one."""
        found = _BACKGROUND.search(self.text)
        return found[1].lower() if found else None

    def to_json(self) -> dict[str, Any]:
        """All fields by name, boxes where there are any; `from_json` reads them."""
        content = asdict(self)
        for item in content["objects"]:
            if item["box"] is None:
                del item["box"]
        return content


def from_json(entry: Mapping[str, Any]) -> EvalPrompt:
    """The prompt that `EvalPrompt.to_json` wrote."""
    return EvalPrompt(
        entry["text"],
        tuple(
            EvalObject(**{**item, "box": tuple(item["box"]) if "box" in item else None}) for item in entry["objects"]
        ),
        tuple(EvalRelation(**item) for item in entry["relations"]),
        tuple(entry["unjudged"]),
    )


def prompts_hash(prompts: Sequence[EvalPrompt]) -> str:
    """SHA-256 of the JSON of a list of prompts."""
    return hashlib.sha256(json.dumps([p.to_json() for p in prompts], sort_keys=True).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------- layouts


def rule_layout(prompt: EvalPrompt, spread: float = 1.0) -> Layout:
    """Centers that obey every stated relation: columns by left and right, rows by above and below.

    Objects that no relation separates stand side by side in their cell, in the order of the prompt.

    Args:
        spread: 1 puts centers into the middles of equal cells, less moves them towards the image's center.

    Raises:
        UserError: the relations contradict each other.
    """
    columns, rows = (_levels(prompt, axis) for axis in (0, 1))
    cells = list(zip(columns, rows, strict=True))
    objects = []
    for number, (item, cell) in enumerate(zip(prompt.objects, cells, strict=True)):
        mates = [i for i, other in enumerate(cells) if other == cell]
        x = (cell[0] + (mates.index(number) + 0.5) / len(mates)) / (max(columns) + 1)
        y = (cell[1] + 0.5) / (max(rows) + 1)
        x, y = (round(0.5 + spread * (value - 0.5), 4) for value in (x, y))
        objects.append(LayoutObject(item.phrase, x, y, name=item.name))
    return Layout(tuple(objects), prompt.text)


def given_layout(prompt: EvalPrompt) -> Layout:
    """What the prompt's file states: its boxes, or centers by rule; without relations all objects stand in a grid.

    Each of several objects of a name has its place.

    Raises:
        UserError: the relations contradict each other.
    """
    if any(item.box for item in prompt.objects):
        return Layout(
            tuple(_region(item.phrase, item.name, item.box) for item in prompt.objects if item.box), prompt.text
        )
    objects: list[EvalObject] = []
    first: list[int] = []  # where each object's own are
    for item in prompt.objects:
        first.append(len(objects))
        phrase = item.phrase if item.count == 1 else with_article(item.name)
        objects += [replace(item, phrase=phrase, count=1)] * item.count
    if prompt.relations:
        relations = tuple(replace(one, first=first[one.first], second=first[one.second]) for one in prompt.relations)
        return rule_layout(replace(prompt, objects=tuple(objects), relations=relations))
    columns = math.ceil(math.sqrt(len(objects)))
    rows = [objects[start : start + columns] for start in range(0, len(objects), columns or 1)]
    placed = [
        LayoutObject(item.phrase, round((x + 0.5) / len(row), 4), round((y + 0.5) / len(rows), 4), name=item.name)
        for y, row in enumerate(rows)
        for x, item in enumerate(row)
    ]
    return Layout(tuple(placed), prompt.text)


def _region(phrase: str, name: str, box: Sequence[float]) -> LayoutObject:
    """The region of a box: the disc at its center, within the image."""
    x, y = (min(max((box[axis] + box[axis + 2]) / 2, 0.0), 1.0) for axis in (0, 1))
    return LayoutObject(phrase, round(x, 4), round(y, 4), name=name)


def _levels(prompt: EvalPrompt, axis: int) -> list[int]:
    """For every object how many others must come before it along an axis: the longest chain of relations."""
    count = len(prompt.objects)
    levels = [0] * count
    chains = []
    for stated in prompt.relations:
        along, sign = AXIS_SIGN[stated.relation]
        if along == axis:
            chains.append((stated.first, stated.second) if sign < 0 else (stated.second, stated.first))
    for _ in range(count + 1):
        late = [(low, high) for low, high in chains if levels[high] <= levels[low]]
        if not late:
            return levels
        for low, high in late:
            levels[high] = max(levels[high], levels[low] + 1)
    raise UserError(f"the relations of '{prompt.text}' contradict each other; correct the prompt file")


def swapped(layout: Layout) -> Layout:
    """The layout with its first two objects in each other's place, where it has two: a check that centers steer."""
    if len(layout.objects) < 2:
        return layout
    first, second, *rest = layout.objects
    places = [{key: getattr(thing, key) for key in ("x", "y", "shape", "radius")} for thing in (second, first)]
    return replace(layout, objects=(replace(first, **places[0]), replace(second, **places[1]), *rest))
