"""The four directions that an evaluation can judge by boxes, and the words that say them."""

from __future__ import annotations

import re
from collections.abc import Sequence

DIRECTIONS = ("left", "right", "above", "below")
_SIDE = r"(?:(?:to|on|at|at the|towards?)\s+)?(?:the\s+)?{side}(?:[\s-]+(?:hand\s+)?side)?(?:\s+of|\b)"
_WORDS = {
    "left": _SIDE.format(side="left"),
    "right": _SIDE.format(side="right"),
    "above": r"above|over|on top of|atop",
    "below": r"below|under|underneath|beneath",
}
_PATTERN = re.compile("|".join(rf"(?P<{name}>\b(?:{words})\b)" for name, words in _WORDS.items()), re.IGNORECASE)

Span = tuple[int, int]  # characters


def direction(words: str) -> str | None:
    """Which of :data:`DIRECTIONS` the words say ("to the left of", "is under"); None for any other relation."""
    found = _PATTERN.search(words)
    return found.lastgroup if found else None


def stated_relations(text: str, mentions: Sequence[Sequence[Span]]) -> list[tuple[int, str, int]]:
    """(first, direction, second) of a sentence, by the words between two neighboring mentions of objects.

    With two objects the words may also stand before both: "to the left of the dog is a cat". A pair of objects
    counts once.

    Args:
        text: the sentence.
        mentions: for every object the characters of its mentions.
    """
    places = sorted((span, number) for number, spans in enumerate(mentions) for span in spans)
    found: list[tuple[int, str, int]] = []
    for ((_, end), first), ((begin, _), second) in zip(places, places[1:], strict=False):
        towards = direction(text[end:begin])
        pairs = {frozenset((a, b)) for a, _, b in found}
        if towards and first != second and frozenset((first, second)) not in pairs:
            found.append((first, towards, second))
    if not found and len(mentions) == 2 and len(places) >= 2 and places[0][1] != places[1][1]:
        towards = direction(text[: places[0][0][0]])
        if towards:
            found.append((places[1][1], towards, places[0][1]))
    return found
