"""The emoji edition of published benchmarks: GenEval's six tasks and VISOR's relations over the 24 things.

In the files of the originals, with pairs of the set for reporting only (see `emoji.pairs_of`), drawn from fixed seeds.
Colors are those that the things have in the emoji world.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

from ldm.categories import CATEGORIES
from ldm.evaluation.benchmarks import visor
from ldm.evaluation.prompts.emoji import pairs_of
from ldm.evaluation.prompts.prompt import COLORS
from ldm.relations import RELATIONS, with_article

_EACH = 12  # prompts of a task of several objects
_VISOR = 24  # prompts
_NUMBERS = {2: "two", 3: "three", 4: "four"}


def geneval_file() -> str:
    """A line a prompt, as in GenEval's evaluation_metadata.jsonl."""
    return "".join(f"{json.dumps(entry)}\n" for entry in _geneval(random.Random("geneval")))


def _geneval(rng: random.Random) -> Iterator[dict[str, Any]]:
    pairs = [tuple(rng.sample(pair, 2)) for pair in pairs_of("report")]
    colored = {item.name: [word for word in item.colors if word in COLORS][:1] for item in CATEGORIES}
    both = [pair for pair in pairs if all(colored[name] for name in pair)]

    def entry(tag: str, text: str, *clauses: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"tag": tag, "include": list(clauses), **more, "prompt": f"a photo of {text}"}

    def one(name: str, **more: Any) -> dict[str, Any]:
        return {"class": name, "count": 1, **more}

    for item in CATEGORIES:
        yield entry("single_object", with_article(item.name), one(item.name))
    for a, b in rng.sample(pairs, _EACH):
        yield entry("two_object", f"{with_article(a)} and {with_article(b)}", one(a), one(b))
    for item, count in zip(rng.sample(CATEGORIES, _EACH), itertools.cycle(_NUMBERS), strict=False):
        clause, more = {"class": item.name, "count": count}, {"class": item.name, "count": count + 1}
        yield entry("counting", f"{_NUMBERS[count]} {item.plural}", clause, exclude=[more])
    for name, words in colored.items():
        for word in words:
            yield entry("colors", with_article(f"{word} {name}"), one(name, color=word))
    for (a, b), relation in zip(rng.sample(pairs, _EACH), itertools.cycle(RELATIONS), strict=False):
        text = f"{with_article(a)} {relation} {with_article(b)}"
        yield entry("position", text, one(b), one(a, position=[relation, 0]))
    for a, b in rng.sample(both, _EACH):
        clauses = [one(name, color=colored[name][0]) for name in (a, b)]
        text = " and ".join(with_article(f"{clause['color']} {clause['class']}") for clause in clauses)
        yield entry("color_attr", text, *clauses)


def visor_file() -> str:
    """A list of prompts with the keys of VISOR's file, each relation equally often."""
    pairs = random.Random("visor").sample(pairs_of("report"), _VISOR)
    stated = zip(pairs, itertools.cycle(visor.RELATIONS), strict=False)
    entries = [visor.make_entry(number, a, relation, b) for number, ((a, b), relation) in enumerate(stated)]
    return json.dumps(entries, indent=1) + "\n"
