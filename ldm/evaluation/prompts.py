"""Prompts for the evaluation: two objects in a relation, or one object, in fixed sets.

The sets share no pair of categories, so that what is chosen on one is not reported on prompts like it.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

from ldm.categories import NAMES
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.util import UserError

SETS = {"choose": 0.4, "report": 0.6}  # share of all pairs of categories that belongs to each
_PAIR_SEED = 20230407  # splits the pairs; the sets must stay the same for ever
_WORDS = {
    "left": ("to the left of", "on the left of", "left of"),
    "right": ("to the right of", "on the right of", "right of"),
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath"),
}
_TEMPLATES = (
    "{a} {r} {b}",
    "a photo of {a} {r} {b}",
    "{a} is {r} {b}.",
    "{a} is standing {r} {b}.",
    "there is {a} {r} {b}",
)
# Centers of (first, second) for "first is <relation> second".
RULE_CENTERS = {
    "left": ((0.27, 0.5), (0.73, 0.5)),
    "right": ((0.73, 0.5), (0.27, 0.5)),
    "above": ((0.5, 0.27), (0.5, 0.73)),
    "below": ((0.5, 0.73), (0.5, 0.27)),
}


@dataclass(frozen=True)
class RelationPrompt:
    """A sentence saying "<first> is <relation> <second>", and the seed of the image's starting noise."""

    text: str
    first: str
    second: str
    relation: str
    phrases: tuple[str, str]
    seed: int

    @property
    def names(self) -> tuple[str, str]:
        """The categories of the two objects, in the order of the layout's objects."""
        return self.first, self.second


def pairs_of(which: str) -> list[tuple[str, str]]:
    """The pairs of categories that belong to a set, in a fixed order."""
    if which not in SETS:
        raise UserError(f"There is no prompt set '{which}'; choose one of {', '.join(SETS)}.")
    pairs = list(itertools.combinations(NAMES, 2))
    random.Random(_PAIR_SEED).shuffle(pairs)
    cut = round(SETS["choose"] * len(pairs))
    return pairs[:cut] if which == "choose" else pairs[cut:]


def relation_prompts(which: str, count: int) -> list[RelationPrompt]:
    """The first ``count`` prompts of the set "choose" or "report": always the same ones, all different.

    Raises:
        UserError: no such set, or more prompts than it has.
    """
    rng = random.Random(f"{which} prompts")
    triples = [
        (*(pair if straight else pair[::-1]), relation)
        for pair in pairs_of(which)
        for straight in (True, False)
        for relation in RULE_CENTERS
    ]
    if not 1 <= count <= len(triples):
        raise UserError(f"The set '{which}' has {len(triples)} prompts; ask for between 1 and {len(triples)}.")
    rng.shuffle(triples)
    return [_relation_prompt(triple, index, rng) for index, triple in enumerate(triples[:count])]


def _relation_prompt(triple: tuple[str, ...], index: int, rng: random.Random) -> RelationPrompt:
    first, second, relation = triple
    phrases = (_phrase(first, rng), _phrase(second, rng))
    text = rng.choice(_TEMPLATES).format(a=phrases[0], b=phrases[1], r=rng.choice(_WORDS[relation]))
    return RelationPrompt(text[0].upper() + text[1:], first, second, relation, phrases, seed=1000 + index)


def _phrase(name: str, rng: random.Random) -> str:
    if rng.random() < 0.3:
        return f"the {name}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


@dataclass(frozen=True)
class SinglePrompt:
    """A sentence saying "a photo of <name>", and the seed of the image's starting noise."""

    text: str
    name: str
    seed: int


def single_prompts(count: int) -> list[SinglePrompt]:
    """``count`` prompts of one object each, going round the categories."""
    names = itertools.islice(itertools.cycle(NAMES), count)
    return [
        SinglePrompt(f"a photo of {'an' if name[0] in 'aeiou' else 'a'} {name}", name, seed=5000 + index)
        for index, name in enumerate(names)
    ]


def rule_layout(prompt: RelationPrompt) -> Layout:
    """The layout that the relation asks for, at fixed centers; its objects in the order of
    ``prompt.names``.
    """
    centers = RULE_CENTERS[prompt.relation]
    objects = tuple(
        LayoutObject(phrase, x, y, name=name)
        for phrase, name, (x, y) in zip(prompt.phrases, prompt.names, centers, strict=True)
    )
    return Layout(objects, prompt.text)


def swapped(layout: Layout) -> Layout:
    """The layout with its first two objects in each other's place: a check that the centers steer."""
    first, second, *rest = layout.objects
    return Layout(
        (
            LayoutObject(first.phrase, second.x, second.y, first.weight, first.name),
            LayoutObject(second.phrase, first.x, first.y, second.weight, second.name),
            *rest,
        ),
        layout.prompt,
    )
