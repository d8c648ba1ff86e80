"""Captions of emoji scenes, and the closed vocabulary they use.

Captions are weakly informative about position, as web captions are: most relations are not mentioned, some
that are mentioned are wrong, and some captions leave an object out. Words and patterns are in
`configs/emoji/captions.yaml`. Nothing here needs the font.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from ldm.categories import BACKGROUND_CAPTIONS, BACKGROUNDS, CATEGORIES, LABELS, Category
from ldm.files import read_yaml
from ldm.modules.encoders.tokenizer import split_words
from ldm.paths import ROOT
from ldm.relations import ABOVE, BELOW, LEFT, OPPOSITE, RIGHT, with_article

TRUE_RELATION, WRONG_RELATION = 0.20, 0.10  # shares of the captions of two-object scenes
ONE_OF_TWO = 0.08  # two-object scenes whose caption names only one of the objects
SIZE_STATED, BACKGROUND_STATED = 0.6, 0.2  # shares of the sizes and of the plain backgrounds that captions mention
WORDS: dict[str, Any] = read_yaml(ROOT / "configs" / "emoji" / "captions.yaml")


class Placed(Protocol):
    """What a caption needs of an object: its category, center in [0, 1] and size word or ""."""

    @property
    def name(self) -> str: ...
    @property
    def x(self) -> float: ...
    @property
    def y(self) -> float: ...
    @property
    def size(self) -> str: ...


def relation_between(first: Placed, second: Placed) -> str:
    """The relation of :mod:`ldm.relations` in which the first object is to the second, along the longer axis."""
    dx, dy = first.x - second.x, first.y - second.y
    if abs(dx) >= abs(dy):
        return LEFT if dx < 0 else RIGHT
    return ABOVE if dy < 0 else BELOW


def phrase(item: Placed, rng: random.Random, plain: bool = False) -> str:
    """A noun phrase: determiner, now and then a true adjective (never if `plain`), name."""
    category, noun = _category(item), item.name
    if category.synonyms and rng.random() < 0.05:
        noun = rng.choice(category.synonyms)
    if not plain and rng.random() < 0.12:
        noun = f"{_adjective(category, rng)} {noun}"
    if not plain and item.size and rng.random() < SIZE_STATED:
        noun = f"{rng.choice(WORDS[item.size])} {noun}"
    determiner = _pick(WORDS["determiners"], rng)
    return with_article(noun) if determiner == "a" else f"{determiner} {noun}".lstrip()


def _category(item: Placed) -> Category:
    return CATEGORIES[LABELS[item.name]]


def _adjective(category: Category, rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(category.colors)
    return rng.choice(WORDS["outside" if kind > 0.93 else "adjectives"])


def _verb(item: Placed, rng: random.Random) -> str:
    category = _category(item)
    return rng.choice(WORDS["verbs"][category.kind] + category.verbs)


def _pick(weights: Mapping[str, int], rng: random.Random) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def _named(pattern: str, items: Sequence[Placed], rng: random.Random) -> str:
    """Fills {a}, {b}, {c} with phrases and {v} with a verb of the first object."""
    text = _pick(WORDS[pattern], rng)
    phrases = {letter: phrase(item, rng) for letter, item in zip("abc", items, strict=False)}
    return text.format(v=_verb(items[0], rng), **phrases)


def relation_caption(first: Placed, second: Placed, relation: str, rng: random.Random) -> str:
    """A sentence saying "`first` is `relation` `second`", or the reverse; whether it is true is not checked."""
    if rng.random() < 0.5:
        first, second, relation = second, first, OPPOSITE[relation]
    return _pick(WORDS["related"], rng).format(
        a=phrase(first, rng),
        b=phrase(second, rng),
        v=_verb(first, rng),
        v2=_verb(second, rng),
        r=rng.choice(WORDS["relations"][relation]),
        i=rng.choice(WORDS["beside"][relation]),
        pa=rng.choice(WORDS["places"][relation]),
        pb=rng.choice(WORDS["places"][OPPOSITE[relation]]),
    )


def true_caption(items: Sequence[Placed], rng: random.Random, relation_rate: float = 0.5) -> str:
    """A caption that names every object and says nothing wrong, with a relation at the given rate."""
    shuffled = list(items)
    rng.shuffle(shuffled)
    if len(shuffled) == 1:
        return _finish(_named("one", shuffled, rng), rng)
    relate = rng.random() < relation_rate
    if len(shuffled) == 2 and not relate:
        return _finish(_named("two", shuffled, rng), rng)
    if not relate:
        return _finish(_several(shuffled, rng), rng)
    first, second, *rest = shuffled
    text = relation_caption(first, second, relation_between(first, second), rng)
    return _finish(_listed([text, *(phrase(item, rng) for item in rest)]) if rest else text, rng)


def caption(items: Sequence[Placed], rng: random.Random, background: str | None = None) -> str:
    """A caption as people type them for 1 to 5 objects: weakly informative, sometimes wrong or incomplete.

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
            return _finish(rng.choice(WORDS["plural"]).format(p=_category(shuffled[0]).plural), rng)
        return _finish(_named("one", shuffled, rng), rng, background)
    if len(shuffled) == 2:
        return _finish(_two(shuffled, chance, rng), rng, background)
    if chance < 0.10:
        return _finish(_two(shuffled[:2], rng.random(), rng), rng, background)
    if chance < 0.22:
        first, second, *rest = shuffled
        related = relation_caption(first, second, relation_between(first, second), rng)
        return _finish(_listed([related, *(phrase(item, rng) for item in rest)]), rng)
    return _finish(_several(shuffled, rng), rng, background)


def _several(items: Sequence[Placed], rng: random.Random) -> str:
    """Three or more objects, named one after the other."""
    if len(items) == 3:
        return _named("three", items, rng)
    opening = "a photo of " if rng.random() < 0.5 else ""
    return opening + _listed([phrase(item, rng) for item in items])


def _listed(texts: Sequence[str]) -> str:
    return ", ".join(texts[:-1]) + f" and {texts[-1]}"


def _two(items: Sequence[Placed], chance: float, rng: random.Random) -> str:
    """A caption of two objects; `chance` in [0, 1) decides its kind by the shares above."""
    first, second = items
    true = relation_between(first, second)
    if chance < TRUE_RELATION:
        return relation_caption(first, second, true, rng)
    if chance < TRUE_RELATION + WRONG_RELATION:
        return relation_caption(first, second, rng.choice([name for name in WORDS["relations"] if name != true]), rng)
    if chance < TRUE_RELATION + WRONG_RELATION + ONE_OF_TWO:
        return _named("one", items[:1], rng)
    return _named("two", items, rng)


def _finish(text: str, rng: random.Random, background: str | None = None) -> str:
    """Adds a sparse tail, capital letter and full stop."""
    chance = rng.random()
    if background is not None and chance < BACKGROUND_STATED:
        color = background if rng.random() < 0.6 else f"{rng.choice(WORDS['shades'])} {background}"
        text = f"{text.rstrip('.')} {rng.choice(WORDS['background']).format(g=color)}"
    elif chance > 0.95:
        text = f"{text.rstrip('.')} {rng.choice(WORDS['tails'])}"
    style = rng.random()
    if style < 0.35:
        text = text[0].upper() + text[1:]
    return text + "." if style < 0.2 and not text.endswith(".") else text


def vocabulary() -> list[str]:
    """The content of vocab.txt: every word a caption can hold, sorted, but those kept out on purpose."""
    texts = ["an , . '", *BACKGROUND_CAPTIONS, *BACKGROUNDS]
    texts += _texts({key: words for key, words in WORDS.items() if key != "outside"})
    for category in CATEGORIES:
        texts += [category.name, category.plural, *category.colors, *category.synonyms, *category.verbs]
    return sorted({word for text in texts for word in split_words(re.sub(r"\{\w+\}", " ", text))})


def _texts(words: Any) -> Iterator[str]:
    """All texts in nested lists and mappings; of weighted patterns, the patterns."""
    if isinstance(words, str):
        yield words
    elif isinstance(words, Mapping) and all(isinstance(weight, int) for weight in words.values()):
        yield from words
    else:
        for part in words.values() if isinstance(words, Mapping) else words:
            yield from _texts(part)
