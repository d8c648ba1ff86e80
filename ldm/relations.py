"""Spatial relations between two objects of an image: the axis they are about, and its direction."""

from __future__ import annotations

from collections.abc import Sequence

LEFT, RIGHT, ABOVE, BELOW = "left of", "right of", "above", "below"
RELATIONS = (ABOVE, BELOW, LEFT, RIGHT)  # the order is that of the layout predictor's published loss
HORIZONTAL, VERTICAL = (LEFT, RIGHT), (ABOVE, BELOW)
# "a RELATION b" holds where sign * (a - b) > 0 on the axis; axis 0 is x, 1 is y, which points down.
AXIS_SIGN = {LEFT: (0, -1.0), RIGHT: (0, 1.0), ABOVE: (1, -1.0), BELOW: (1, 1.0)}
OPPOSITE = {LEFT: RIGHT, RIGHT: LEFT, ABOVE: BELOW, BELOW: ABOVE}


def gap(relation: str, a: Sequence[float], b: Sequence[float]) -> float:
    """How far the points a and b, both (x, y), satisfy "a `relation` b"; negative where they do not."""
    axis, sign = AXIS_SIGN[relation]
    return sign * (a[axis] - b[axis])


def satisfied(relation: str, a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether "a `relation` b" holds for the points a and b, both (x, y) with y down."""
    return gap(relation, a, b) > 0


def article(words: str) -> str:
    """ "a" or "an", as the words behind it want it."""
    return "an" if words[:1].lower() in tuple("aeiou") else "a"


def with_article(noun: str) -> str:
    """ "a cat", "an apple"."""
    return f"{article(noun)} {noun}"
