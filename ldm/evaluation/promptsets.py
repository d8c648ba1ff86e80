"""Prompt files for the emoji world, in the styles and the formats of the paper's three sets.

    gpt    two to five objects in blocks of Objects, Relation, Sentence
    coco   captions of one to three objects, a sentence a line: few directions, size words, backgrounds
    vsr    two objects and a relation as JSON lines, with the keys of VSR (Liu et al., 2023)

The sets for choosing and for reporting share no pair of categories (:mod:`ldm.evaluation.prompts`): every two objects
of one prompt are a pair of its set. All is drawn from fixed seeds, so that the files are always the same.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ldm.categories import BACKGROUNDS, NAMES
from ldm.evaluation.prompts import SETS, pairs_of
from ldm.util import atomic_write

FILES = {"gpt": "gpt.txt", "coco": "coco.txt", "vsr": "vsr.jsonl"}
COUNTS = {"choose": 60, "report": 200}  # prompts a style
_OBJECTS = {2: 80, 3: 60, 4: 40, 5: 20}  # shares of the GPT style by the number of objects
_TO = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
_SHORT = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
_VSR = {
    "left": ("left of", "at the left side of"),
    "right": ("right of", "at the right side of"),
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath"),
}
_VSR_NEAR = ("next to", "near", "beside")  # relations of VSR that boxes can't judge
# Places that name no further thing: "on the grass" would ask for grass, which the model cannot draw.
_PLACES = ("outdoors", "indoors", "in a garden", "at night", "in the morning", "on a sunny day")
_SIZES = ("small", "big", "large", "tiny")
T = TypeVar("T")


@dataclass(frozen=True)
class Stated:
    """A sentence, its objects by name, and what it says of them: (first, direction, second) by number."""

    text: str
    names: tuple[str, ...]
    relations: tuple[tuple[int, str, int], ...] = ()


def a(name: str) -> str:
    """The name with its indefinite article."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def write_sets(folder: Path) -> list[Path]:
    """Write all files; their paths."""
    paths = []
    for which in SETS:
        for style, file in FILES.items():
            path = folder / f"{which}-{file}"
            with atomic_write(path) as temporary:
                temporary.write_text(prompt_file(style, which), encoding="utf-8")
            paths.append(path)
    return paths


def prompt_file(style: str, which: str) -> str:
    """The content of one file: `style` a key of :data:`FILES`, `which` "choose" or "report"."""
    if style == "gpt":
        return "\n".join(_block(item) for item in gpt_style(which, COUNTS[which]))
    if style == "coco":
        return "".join(f"{text}\n" for text in coco_style(which, COUNTS[which]))
    return "".join(json.dumps(record) + "\n" for record in vsr_style(which, COUNTS[which]))


def _block(item: Stated) -> str:
    relations = "; ".join(f"{item.names[i]} {_SHORT[word]} {item.names[j]}" for i, word, j in item.relations)
    return f"Objects: {', '.join(item.names)}\nRelation: {relations}\nSentence: {item.text}\n"


# ------------------------------------------------------------------------------------------------ the styles


def gpt_style(which: str, count: int) -> list[Stated]:
    """Sentences of two to five objects; in those of more than two not every two stand in a stated relation."""
    rng = random.Random(f"gpt {which}")
    groups = {size: _Groups(which, size, rng) for size in _OBJECTS}
    sizes = _shares(_OBJECTS, count)
    rng.shuffle(sizes)
    return _different(lambda index: _gpt(next(groups[sizes[index]]), rng), count)


def _gpt(names: Sequence[str], rng: random.Random) -> Stated:
    """Two objects: one clause. Three: a chain or a fork. Four and five: two clauses, and a fifth object alone."""
    n, words = len(names), [rng.choice(list(_TO)) for _ in range(2)]
    if n == 2:
        text = rng.choice(("{0} is {r} {1}.", "There is {0} {r} {1}.", "A photo of {0} {r} {1}."))
        return Stated(_upper(text.format(a(names[0]), a(names[1]), r=_TO[words[0]])), tuple(names), ((0, words[0], 1),))
    if n == 3:
        anchor = rng.choice((0, 1))
        text = f"{_clause(names, words[0])}, and {a(names[2])} is {_TO[words[1]]} the {names[anchor]}."
        return Stated(_upper(text), tuple(names), ((0, words[0], 1), (2, words[1], anchor)))
    text = f"{_clause(names, words[0])}, and {_clause(names[2:], words[1])}."
    if n == 5:  # shorter words: the embedded text encoder reads 30 of them
        said = [f"{a(names[i])} {_SHORT[word]} {a(names[i + 1])}" for i, word in zip((0, 2), words, strict=True)]
        text = f"{', '.join(said)}, and {a(names[4])}."
    return Stated(_upper(text), tuple(names), ((0, words[0], 1), (2, words[1], 3)))


def _clause(names: Sequence[str], word: str) -> str:
    return f"{a(names[0])} is {_TO[word]} {a(names[1])}"


def coco_style(which: str, count: int) -> list[str]:
    """Captions: a fifth of one object, half of two, the rest of three; some with a size, a place or a background."""
    rng = random.Random(f"coco {which}")
    groups = {size: _Groups(which, size, rng) for size in (2, 3)}
    singles = itertools.cycle(rng.sample(NAMES, len(NAMES)))
    sizes = _shares({1: 2, 2: 5, 3: 3}, count)
    rng.shuffle(sizes)
    return _different(
        lambda index: _caption((next(singles),) if sizes[index] == 1 else next(groups[sizes[index]]), rng), count
    )


def _caption(names: Sequence[str], rng: random.Random) -> str:
    # Last, since the noun finder may take "teddy bear next to" for two things.
    names = sorted(names, key=lambda name: name == "teddy bear")
    phrases = [a(f"{rng.choice(_SIZES)} {name}") if rng.random() < 0.15 else a(name) for name in names]
    templates = {
        1: ("{0}", "a photo of {0}", "a close up of {0}", "a picture of {0}"),
        2: (
            "{0} and {1}",
            "a photo of {0} and {1}",
            "{0} next to {1}",
            "{0} standing near {1}",
            "{0} with {1}",
            "{0} sitting beside {1}",
            "{0} above {1}",
            "{0} under {1}",
            "{0} to the left of {1}",
        ),
        3: ("{0}, {1} and {2}", "a photo of {0}, {1} and {2}", "{0} with {1} and {2}", "{0} and {1} next to {2}"),
    }[len(names)]
    text = rng.choice(templates).format(*phrases)
    kind = rng.random()
    if kind < 0.3:
        text += f" on a {rng.choice(list(BACKGROUNDS))} background"
    elif kind < 0.5:
        text += f" {rng.choice(_PLACES)}"
    return _upper(text) + "."


def vsr_style(which: str, count: int) -> list[dict[str, object]]:
    """Records with caption, relation, subj, obj and label (always 1: the caption is what the image should show)."""
    rng = random.Random(f"vsr {which}")
    groups = _Groups(which, 2, rng)

    def record(index: int) -> dict[str, object]:
        first, second = next(groups)
        words = rng.choice(_VSR_NEAR if index % 8 == 7 else _VSR[tuple(_VSR)[index % 4]])
        caption = f"The {first} is {words} the {second}."
        return {"caption": caption, "relation": words, "subj": first, "obj": second, "label": 1}

    return _different(record, count)


# ------------------------------------------------------------------------------------------------- together


class _Groups(Iterator[tuple[str, ...]]):
    """Groups of `size` categories every two of which are a pair of the set, in random order, again and again."""

    def __init__(self, which: str, size: int, rng: random.Random) -> None:
        pairs = {frozenset(pair) for pair in pairs_of(which)}
        self.all = [
            group
            for group in itertools.combinations(NAMES, size)
            if all(frozenset(pair) in pairs for pair in itertools.combinations(group, 2))
        ]
        self.rng, self.left = rng, list[tuple[str, ...]]()

    def __next__(self) -> tuple[str, ...]:
        if not self.left:
            self.left = self.rng.sample(self.all, len(self.all))
        group = self.left.pop()
        return tuple(self.rng.sample(group, len(group)))


def _shares(weights: dict[int, int], count: int) -> list[int]:
    """`count` keys in the proportion of their weights, the most frequent filling up."""
    total = sum(weights.values())
    keys = [key for key, weight in weights.items() for _ in range(count * weight // total)]
    return keys + [max(weights, key=lambda key: weights[key])] * (count - len(keys))


def _different(draw: Callable[[int], T], count: int) -> list[T]:
    """`count` different results of draw(index)."""
    found: list[T] = []
    for index in range(count):
        item = draw(index)
        while item in found:
            item = draw(index)
        found.append(item)
    return found


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]
