"""Captions of emoji scenes, and the closed vocabulary they use.

Captions are weakly informative about position, as web captions are: most relations are not mentioned, some
that are mentioned are wrong, and some captions leave an object out. Nothing here needs the font.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Protocol

from ldm.data.emoji.sprites import CATEGORIES, LABELS, Category
from ldm.modules.encoders.tokenizer import split_words

TRUE_RELATION, WRONG_RELATION = 0.20, 0.10  # shares of the captions of two-object scenes
ONE_OF_TWO = 0.08  # two-object scenes whose caption names only one of the objects

# relation -> what "A <words> B" says; OPPOSITE gives the relation of B to A.
RELATIONS: dict[str, tuple[str, ...]] = {
    "left": ("to the left of", "on the left of", "left of", "on the left side of", "to the left side of"),
    "right": ("to the right of", "on the right of", "right of", "on the right side of", "to the right side of"),
    "above": ("above", "over", "on top of", "higher than", "directly above"),
    "below": ("below", "under", "beneath", "underneath", "lower than", "directly below"),
}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
_PLACE = {  # where something is that stands in this relation to another
    "left": ("on the left", "to the left", "on the left side", "on the left hand side"),
    "right": ("on the right", "to the right", "on the right side", "on the right hand side"),
    "above": ("at the top", "on top", "in the upper part", "higher up"),
    "below": ("at the bottom", "in the lower part", "down below", "lower down"),
}
_BESIDE_ITS = {
    "left": ("to its left", "on its left"),
    "right": ("to its right", "on its right"),
    "above": ("above it", "on top of it", "over it"),
    "below": ("below it", "under it", "underneath it", "beneath it"),
}

_SYNONYMS = {
    "motorcycle": ("motorbike",),
    "airplane": ("plane", "aeroplane"),
    "boat": ("sailboat",),
    "couch": ("sofa",),
    "donut": ("doughnut",),
    "tv": ("television",),
    "sports ball": ("ball", "soccer ball", "football"),
    "teddy bear": ("teddy",),
    "cat": ("kitten",),
    "dog": ("puppy",),
    "pizza": ("slice of pizza",),
    "cake": ("birthday cake",),
}
_VERBS = {
    "vehicle": ("parking", "parked", "standing", "waiting", "driving", "moving", "traveling", "stopped"),
    "animal": ("sitting", "standing", "lying", "waiting", "playing", "resting", "walking", "sleeping", "looking"),
    "food": ("lying", "placed", "resting", "served", "sitting"),
    "thing": ("standing", "placed", "sitting", "located", "positioned", "shown", "seen", "left"),
}
_EXTRA_VERBS = {
    "airplane": ("flying", "landing"),
    "bird": ("flying", "singing"),
    "kite": ("flying", "floating"),
    "boat": ("sailing", "floating"),
    "clock": ("hanging",),
    "umbrella": ("hanging",),
    "dog": ("running",),
    "zebra": ("running", "grazing"),
    "elephant": ("grazing",),
    "traffic light": ("hanging",),
}
_DETERMINERS = (
    ("a", 62),
    ("the", 20),
    ("", 8),
    ("one", 3),
    ("this", 2),
    ("that", 1),
    ("my", 1),
    ("his", 1),
    ("her", 1),
    ("our", 1),
)
_DETERMINER_WORDS = tuple(word for word, _ in _DETERMINERS)
_DETERMINER_WEIGHTS = tuple(weight for _, weight in _DETERMINERS)
_SMALL, _LARGE = ("small", "little", "tiny"), ("big", "large", "huge")
_SMALL_UP_TO, _LARGE_FROM = 24, 28  # pixels of a sprite's longer side
_ADJECTIVES = (
    "nice",
    "beautiful",
    "old",
    "new",
    "cute",
    "lovely",
    "pretty",
    "shiny",
    "bright",
    "funny",
    "single",
    "simple",
    "good",
    "great",
    "favorite",
    "real",
    "young",
    "clean",
)
# Words kept out of the vocabulary on purpose: they train the vector of the unknown word to mean little.
_OUTSIDE = ("marvelous", "dented", "quirky", "weathered", "magnificent", "secondhand", "enormous", "elegant")
_TAILS = (
    "outdoors",
    "outside",
    "inside",
    "indoors",
    "in the street",
    "on the road",
    "in the park",
    "in a garden",
    "in the kitchen",
    "on the table",
    "on the floor",
    "on the ground",
    "on the grass",
    "in a field",
    "in the city",
    "in front of a wall",
    "on a sunny day",
    "at night",
    "in the morning",
    "in the snow",
    "in the room",
    "at home",
    "near the water",
    "by the sea",
    "under the sky",
    "in the middle",
    "in the scene",
    "in this picture",
    "in the photo",
    "during the day",
    "at the beach",
    "in the air",
    "on the side",
    "in the background",
    "all day",
    "today",
    "together with nothing else",
)

_ONE = (
    ("a photo of {a}", 24),
    ("{a}", 22),
    ("A photo of {a}.", 4),
    ("a picture of {a}", 5),
    ("an image of {a}", 4),
    ("there is {a}", 3),
    ("{a} is {v}", 4),
    ("{a} {v}", 4),
    ("a photograph of {a}", 2),
    ("this is {a}", 2),
    ("here is {a}", 1),
    ("a close up of {a}", 2),
    ("a drawing of {a}", 1),
    ("an emoji of {a}", 2),
    ("a view of {a}", 1),
    ("{a} by itself", 1),
    ("a scene with {a}", 2),
    ("I see {a}", 1),
    ("we can see {a} here", 1),
    ("just {a}", 1),
    ("only {a} and nothing else", 1),
    ("a painting of {a}", 1),
    ("it is {a}", 1),
    ("it's {a}", 1),
    ("that's {a}", 1),
    ("look at {a}", 1),
    ("someone took a photo of {a}", 1),
    ("an icon of {a}", 1),
    ("a small image of {a}", 1),
)
_PLURAL = ("{p}", "a photo of {p}", "some {p}", "many {p}", "two {p}")
_TWO = (
    ("{a} and {b}", 26),
    ("a photo of {a} and {b}", 18),
    ("{a} with {b}", 5),
    ("{a} next to {b}", 7),
    ("{a} is {v} next to {b}", 4),
    ("a picture of {a} and {b}", 5),
    ("there is {a} and {b}", 3),
    ("{a}, {b}", 3),
    ("{a} beside {b}", 3),
    ("{a} near {b}", 3),
    ("{a} by {b}", 2),
    ("an image of {a} with {b}", 2),
    ("{a} and {b} together", 2),
    ("both {a} and {b}", 2),
    ("{a} {v} near {b}", 2),
    ("a scene with {a} and {b}", 2),
    ("there are {a} and {b}", 2),
    ("a photo of {a} with {b}", 3),
    ("{a} is close to {b}", 1),
    ("{a} is {v} beside {b}", 2),
    ("{a} and also {b}", 1),
    ("{a} and {b} are {v}", 2),
    ("I see {a} and {b}", 1),
    ("{a} around {b}", 1),
    ("{a} is here, and {b} is there", 1),
    ("{a} stands not far from {b}", 1),
    ("a photo of {a} next to {b}", 2),
    ("{a} and another thing, {b}", 1),
)
_RELATED = (
    ("{a} {r} {b}", 16),
    ("{a} is {r} {b}", 12),
    ("{a} is {v} {r} {b}", 20),
    ("a photo of {a} {r} {b}", 10),
    ("{a} {v} {r} {b}", 6),
    ("there is {a} {r} {b}", 4),
    ("{r} {b} is {a}", 2),
    ("{r} {b} there is {a}", 2),
    ("{a} {pa} and {b} {pb}", 4),
    ("{a} is {pa} and {b} is {pb}", 3),
    ("{pa} is {a}, {pb} is {b}", 2),
    ("{b} with {a} {i}", 3),
    ("{b} has {a} {i}", 2),
    ("{b} is {v2} and {a} is {i}", 2),
    ("a picture of {a} {r} {b}", 2),
    ("{a} can be seen {r} {b}", 1),
    ("you can see {a} {r} {b}", 1),
    ("{a} was placed {r} {b}", 1),
    ("{a} stands {r} {b}", 1),
    ("{a} sits {r} {b}", 1),
    ("someone put {a} {r} {b}", 1),
    ("an image of {a} {r} {b}", 1),
)
_THREE = (
    ("{a}, {b} and {c}", 20),
    ("a photo of {a}, {b} and {c}", 14),
    ("{a}, {b}, and {c}", 6),
    ("{a}, {b}, {c}", 4),
    ("{a} with {b} and {c}", 6),
    ("{a} and {b} next to {c}", 5),
    ("there are {a}, {b} and {c}", 3),
    ("a picture of {a}, {b} and {c}", 4),
    ("three things, {a}, {b} and {c}", 1),
    ("{a} between {b} and {c}", 1),
    ("{a} and {b}, and also {c}", 2),
    ("{a} and {b} with {c}", 3),
)
_BACKGROUND = ("on a {g} background", "against a {g} background", "with a {g} background")
_SHADES = ("light", "soft", "pale", "plain")

Weighted = Sequence[tuple[str, int]]


class Placed(Protocol):
    """What a caption needs of an object: its category, center in [0, 1] and longer side in pixels."""

    @property
    def name(self) -> str: ...
    @property
    def x(self) -> float: ...
    @property
    def y(self) -> float: ...
    @property
    def side(self) -> int: ...


def relation_between(first: Placed, second: Placed) -> str:
    """The key of RELATIONS that says how the first object lies to the second, along the longer axis."""
    dx, dy = first.x - second.x, first.y - second.y
    if abs(dx) >= abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


def phrase(item: Placed, rng: random.Random, plain: bool = False) -> str:
    """A noun phrase: determiner, now and then a true adjective (never if ``plain``), name."""
    category = CATEGORIES[LABELS[item.name]]
    noun = item.name
    if noun in _SYNONYMS and rng.random() < 0.05:
        noun = rng.choice(_SYNONYMS[noun])
    if not plain and rng.random() < 0.12:
        noun = f"{_adjective(item, category, rng)} {noun}"
    determiner = rng.choices(_DETERMINER_WORDS, _DETERMINER_WEIGHTS)[0]
    if determiner == "a" and noun[0] in "aeiou":
        determiner = "an"
    return f"{determiner} {noun}" if determiner else noun


def _adjective(item: Placed, category: Category, rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(category.colors)
    if kind < 0.7 and item.side <= _SMALL_UP_TO:
        return rng.choice(_SMALL)
    if kind < 0.7 and item.side >= _LARGE_FROM:
        return rng.choice(_LARGE)
    return rng.choice(_OUTSIDE) if kind > 0.95 else rng.choice(_ADJECTIVES)


def _verb(item: Placed, rng: random.Random) -> str:
    category = CATEGORIES[LABELS[item.name]]
    return rng.choice(_VERBS[category.kind] + _EXTRA_VERBS.get(item.name, ()))


def _pick(templates: Weighted, rng: random.Random) -> str:
    return rng.choices([text for text, _ in templates], [weight for _, weight in templates])[0]


def _named(template: str, items: Sequence[Placed], rng: random.Random) -> str:
    """Fills {a}, {b}, {c} with phrases and {v} with a verb of the first object."""
    phrases = {letter: phrase(item, rng) for letter, item in zip("abc", items, strict=False)}
    return template.format(v=_verb(items[0], rng), **phrases)


def relation_caption(first: Placed, second: Placed, relation: str, rng: random.Random) -> str:
    """A sentence saying that ``first`` is ``relation`` (a key of RELATIONS) of ``second``, or the reverse.

    The sentence is true only if the relation is: nothing is checked here.
    """
    if rng.random() < 0.5:
        first, second, relation = second, first, OPPOSITE[relation]
    return _pick(_RELATED, rng).format(
        a=phrase(first, rng),
        b=phrase(second, rng),
        v=_verb(first, rng),
        v2=_verb(second, rng),
        r=rng.choice(RELATIONS[relation]),
        i=rng.choice(_BESIDE_ITS[relation]),
        pa=rng.choice(_PLACE[relation]),
        pb=rng.choice(_PLACE[OPPOSITE[relation]]),
    )


def true_caption(items: Sequence[Placed], rng: random.Random, relation_rate: float = 0.5) -> str:
    """A caption that names every object and says nothing wrong, with a relation at the given rate."""
    shuffled = list(items)
    rng.shuffle(shuffled)
    if len(shuffled) == 1:
        return _finish(_named(_pick(_ONE, rng), shuffled, rng), rng)
    relate = rng.random() < relation_rate
    if len(shuffled) == 2 and not relate:
        return _finish(_named(_pick(_TWO, rng), shuffled, rng), rng)
    if not relate:
        return _finish(_named(_pick(_THREE, rng), shuffled, rng), rng)
    first, second, *rest = shuffled
    text = relation_caption(first, second, relation_between(first, second), rng)
    return _finish(" and ".join([text, *(phrase(item, rng) for item in rest)]), rng)


def caption(items: Sequence[Placed], rng: random.Random, background: str | None = None) -> str:
    """A caption as people type them for 1 to 3 objects: weakly informative, sometimes wrong or incomplete.

    Args:
        items: the objects of the scene.
        rng: decides everything.
        background: color word of a plain background; sparsely mentioned.
    """
    shuffled = list(items)
    rng.shuffle(shuffled)
    chance = rng.random()
    if len(shuffled) == 1:
        if chance < 0.03:
            plural = CATEGORIES[LABELS[shuffled[0].name]].plural
            return _finish(rng.choice(_PLURAL).format(p=plural), rng)
        return _finish(_named(_pick(_ONE, rng), shuffled, rng), rng, background)
    if len(shuffled) == 2:
        return _finish(_two(shuffled, chance, rng), rng, background)
    if chance < 0.10:
        return _finish(_two(shuffled[:2], rng.random(), rng), rng, background)
    if chance < 0.22:
        first, second, third = shuffled
        related = relation_caption(first, second, relation_between(first, second), rng)
        return _finish(f"{related} and {phrase(third, rng)}", rng)
    return _finish(_named(_pick(_THREE, rng), shuffled, rng), rng, background)


def _two(items: Sequence[Placed], chance: float, rng: random.Random) -> str:
    """A caption of two objects; ``chance`` in [0, 1) decides its kind by the shares above."""
    first, second = items
    true = relation_between(first, second)
    if chance < TRUE_RELATION:
        return relation_caption(first, second, true, rng)
    if chance < TRUE_RELATION + WRONG_RELATION:
        return relation_caption(first, second, rng.choice([name for name in RELATIONS if name != true]), rng)
    if chance < TRUE_RELATION + WRONG_RELATION + ONE_OF_TWO:
        return _named(_pick(_ONE, rng), items[:1], rng)
    return _named(_pick(_TWO, rng), items, rng)


def _finish(text: str, rng: random.Random, background: str | None = None) -> str:
    """Adds a sparse tail, capital letter and full stop."""
    chance = rng.random()
    if background is not None and chance < 0.12:
        color = background if rng.random() < 0.6 else f"{rng.choice(_SHADES)} {background}"
        text = f"{text.rstrip('.')} {rng.choice(_BACKGROUND).format(g=color)}"
    elif chance > 0.95:
        text = f"{text.rstrip('.')} {rng.choice(_TAILS)}"
    style = rng.random()
    if style < 0.35:
        text = text[0].upper() + text[1:]
    return text + "." if style < 0.2 and not text.endswith(".") else text


BACKGROUND_CAPTIONS = (
    "a photo of nothing",
    "an empty background",
    "nothing",
    "a plain background",
    "empty",
    "a photo of an empty background",
    "only the background",
    "no object",
)
BACKGROUND_COLORS = ("white", "gray", "blue", "green", "yellow", "pink", "purple", "orange", "brown")


def vocabulary() -> list[str]:
    """The content of vocab.txt: every word a caption can hold, sorted, but those kept out on purpose."""
    groups: list[Sequence[str]] = [
        *([text for text, _ in templates] for templates in (_ONE, _TWO, _RELATED, _THREE)),
        _PLURAL,
        _BACKGROUND,
        _SHADES,
        _TAILS,
        _ADJECTIVES,
        _SMALL,
        _LARGE,
        _DETERMINER_WORDS,
        *RELATIONS.values(),
        *_PLACE.values(),
        *_BESIDE_ITS.values(),
        *_SYNONYMS.values(),
        *_VERBS.values(),
        *_EXTRA_VERBS.values(),
        BACKGROUND_CAPTIONS,
        BACKGROUND_COLORS,
        ("an", ",", ".", "'"),
        *((category.name, category.plural, *category.colors) for category in CATEGORIES),
    ]
    texts = (re.sub(r"\{\w+\}", " ", text) for group in groups for text in group)
    return sorted({word for text in texts for word in split_words(text)})
