"""Which of the four relations a text states, by its words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ldm.relations import ABOVE, BELOW, LEFT, RIGHT

_SIDE = r"(?:(?:to|on|at|at the|towards?)\s+)?(?:the\s+)?{side}(?:[\s-]+(?:hand\s+)?side)?(?:\s+of|\b)"
_WORDS = {
    LEFT: _SIDE.format(side="left"),
    RIGHT: _SIDE.format(side="right"),
    ABOVE: r"above|over|on top of|atop",
    BELOW: r"below|under|underneath|beneath",
}
_PATTERN = re.compile("|".join(rf"(\b(?:{words})\b)" for words in _WORDS.values()), re.IGNORECASE)

Span = tuple[int, int]  # characters


def relation_of(words: str) -> str | None:
    """The relation that words say first ("to the left of", "is under", "left"); None for any other."""
    found = _PATTERN.search(words)
    return list(_WORDS)[found.lastindex - 1] if found and found.lastindex else None


def stated_relations(text: str, mentions: Sequence[Sequence[Span]]) -> list[tuple[int, str, int]]:
    """(first, relation, second) of a sentence, by the words between two neighboring mentions of objects.

    With two objects the words may also stand before both: "to the left of the dog is a cat". A pair of objects
    counts once.

    Args:
        text: the sentence.
        mentions: for every object the characters of its mentions.
    """
    places = sorted((span, number) for number, spans in enumerate(mentions) for span in spans)
    found: list[tuple[int, str, int]] = []
    for ((_, end), first), ((begin, _), second) in zip(places, places[1:], strict=False):
        relation = relation_of(text[end:begin])
        pairs = {frozenset((a, b)) for a, _, b in found}
        if relation and first != second and frozenset((first, second)) not in pairs:
            found.append((first, relation, second))
    if not found and len(mentions) == 2 and len(places) >= 2 and places[0][1] != places[1][1]:
        relation = relation_of(text[: places[0][0][0]])
        if relation:
            found.append((places[1][1], relation, places[0][1]))
    return found
