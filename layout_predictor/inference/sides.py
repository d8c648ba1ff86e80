"""Sides that a parser takes into a noun phrase: "a bird right | of a dog" is a bird, and no kind of right."""

from __future__ import annotations

from collections.abc import Sequence

from layout_predictor.inference.nouns import category_of
from layout_predictor.LayoutTransformer.data.categories import SETTINGS

_ASIDE = {"left", "right", "north", "south", "east", "west", "up"}
# Parts of things as well: "a bottle top" is no bottle, unless something else is said to be at the bottom.
_FACES = {
    "top": {"bottom"},
    "bottom": {"top"},
    "front": {"back"},
    "back": {"front"},
    **dict.fromkeys(("middle", "center", "centre"), {"left", "right", "top", "bottom"}),
}
# Say where something is only together with one of those: "upper left", "right side".
_WITH_ANOTHER = {"upper", "lower", "side"}
SIDES = frozenset({*_ASIDE, *_FACES, *_WITH_ANOTHER})
_SET_PHRASES = ("human right", "right of way")


def before_sides(texts: Sequence[str], first: int, head: int) -> int:
    """The head of the phrase [first, head] without the sides at its end, where what is before them names a category.

    Only where they say a place in the picture, not a part of the thing: "the left hand", "a mountain top" and "right
    of way" stay. `texts` has all words of the sentence in lower case.
    """
    end = head
    while end > first and texts[end] in SIDES:
        end -= 1
    name = category_of(texts[first : end + 1])
    around = " ".join(texts[max(first, head - 1) : head + 3])
    if end == head or name is None or any(phrase in around for phrase in _SET_PHRASES):
        return head
    sides = set(texts[end + 1 : head + 1])
    if sides & _ASIDE:
        return end
    if texts[head] != "side" and texts[head + 1 : head + 2] in (["left"], ["right"]):
        return end  # "a chair bottom | left"
    others = {*texts[:end], *texts[head + 1 :]}
    opposed = any(_FACES.get(side, set()) & others for side in sides)
    # "A metal top and a plastic bottom" are of one thing.
    return end if opposed and name[0] not in SETTINGS else head
