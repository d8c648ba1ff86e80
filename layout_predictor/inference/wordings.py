"""Wordings filled with random nouns: how often the centers do what a wording says.

A file is JSON lines {"kind", "text", "expect": [["left", "a", "b"], ...]}, or YAML with `wordings: {kind: [[text,
"left a b; at c top-left"], ...]}`. In a text {a} is "a cat", {A} "cat", {the_a} "the cat", {as} "cats". Expectations:

  left p q, above p q     by more than 0.05
  between p q r           on one axis
  inside p q, near p q    closer than 0.12 on both axes; closer than 0.35
  row p q ...             spread of y under 0.2
  at p PLACE              left, right, top, bottom, center, or two joined by "-"
  count p N, absent p     objects of that noun
  objects N               objects in all
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from layout_predictor.LayoutTransformer.data.categories import THINGS, plural
from layout_predictor.LayoutTransformer.data.records import read_records, require
from ldm.errors import DAMAGED
from ldm.relations import with_article
from ldm.spacetime.layout import Layout
from ldm.util import UserError

Wording = tuple[str, str, list[list[Any]]]  # kind, text, expectations
Point = tuple[float, float]
_CLEAR, _INSIDE, _NEAR, _ROW = 0.05, 0.12, 0.35, 0.2
_NO_NOUNS = {
    "skis",
    "scissors",
    "sports ball",
    "hair drier",
    "toothbrush",
    "baseball glove",
    "parking meter",
    "tv",
    "remote",
}
_PLACES: dict[str, Callable[[float, float], bool]] = {
    "left": lambda x, y: x < 0.4,
    "right": lambda x, y: x > 0.6,
    "top": lambda x, y: y < 0.4,
    "bottom": lambda x, y: y > 0.6,
    "center": lambda x, y: max(abs(x - 0.5), abs(y - 0.5)) < 0.15,
}
_TESTS: dict[str, Callable[[Sequence[Point]], bool]] = {
    "left": lambda p: p[0][0] < p[1][0] - _CLEAR,
    "above": lambda p: p[0][1] < p[1][1] - _CLEAR,
    "between": lambda p: any(min(p[1][k], p[2][k]) < p[0][k] < max(p[1][k], p[2][k]) for k in (0, 1)),
    "inside": lambda p: all(abs(p[0][k] - p[1][k]) < _INSIDE for k in (0, 1)),
    "near": lambda p: math.dist(p[0], p[1]) < _NEAR,
    "row": lambda p: max(y for _, y in p) - min(y for _, y in p) < _ROW,
}


def read_wordings(path: str | Path) -> list[Wording]:
    """The wordings of a file. UserError where it cannot be read."""
    if Path(path).suffix in (".yaml", ".yml"):
        try:
            kinds = yaml.safe_load(Path(path).read_text(encoding="utf-8-sig"))["wordings"]
            return [
                (kind, text, [rule.split() for rule in rules.split(";")])
                for kind in kinds
                for text, rules in kinds[kind]
            ]
        except (*DAMAGED, yaml.YAMLError) as error:
            raise UserError(f"{path} cannot be read as YAML with 'wordings': {error}") from None
    found = []
    for where, record in read_records(path):
        require(record, ("kind", "text", "expect"), where)
        found.append((record["kind"], record["text"], record["expect"]))
    if not found:
        raise UserError(f"{path} holds no wording; write JSON lines with kind, text and expect")
    return found


def holds(expect: Sequence[Sequence[Any]], layout: Layout, nouns: dict[str, str]) -> bool:
    """Whether a layout does what is expected of it; each object that is named must be there once."""

    def of(key: str) -> list[Point]:
        return [(item.x, item.y) for item in layout.objects if item.name == nouns[key]]

    for rule, *given in expect:
        if rule == "objects":
            good = len(layout.objects) == int(given[0])
        elif rule in ("count", "absent"):
            good = len(of(given[0])) == (int(given[1]) if rule == "count" else 0)
        else:
            places = [of(key) for key in given if key in nouns]
            good = all(len(place) == 1 for place in places)
            points = [point for place in places for point in place]
            if good and rule == "at":
                good = all(_PLACES[part](*points[0]) for part in given[1].split("-"))
            elif good:
                good = _TESTS[rule](points)
        if not good:
            return False
    return True


def score(
    wordings: Sequence[Wording], predict: Callable[[str], Layout], *, draws: int = 20, seed: int = 1
) -> dict[str, Any]:
    """Part of the draws of each kind, and of each wording that is not always right, in which all holds."""
    things = [thing for thing in THINGS if thing not in _NO_NOUNS]
    right: Counter[str] = Counter()
    drawn: Counter[str] = Counter()
    short: dict[str, float] = {}
    for kind, text, expect in wordings:
        source, good = random.Random(f"{seed} {text}"), 0
        for _ in range(draws):
            nouns = dict(zip("abcd", source.sample(things, 4), strict=True))
            fill = {key: with_article(noun) for key, noun in nouns.items()}
            fill |= {key.upper(): noun for key, noun in nouns.items()}
            fill |= {f"the_{key}": f"the {noun}" for key, noun in nouns.items()}
            fill |= {f"{key}s": plural(noun) for key, noun in nouns.items()}
            good += holds(expect, predict(text.format(**fill)), nouns)
        right[kind] += good
        drawn[kind] += draws
        if good < draws:
            short[text] = round(good / draws, 3)
    return {
        "wordings": len(wordings),
        "draws": draws,
        "at_0.95": len(wordings) - sum(part < 0.95 for part in short.values()),
        "by_kind": {kind: round(right[kind] / drawn[kind], 4) for kind in drawn},
        "all": round(right.total() / max(1, drawn.total()), 4),
        "not_always": dict(sorted(short.items(), key=lambda item: item[1])),
    }
