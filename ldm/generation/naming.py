"""What the objects of prompts and layouts are called, by the reader of the layout predictor."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ldm.spacetime.layout import Layout


def category_name(phrase: str) -> str:
    """The category or noun of a phrase: "cat" for "A cat"; the phrase itself where it has none."""
    from layout_predictor.inference.objects import find_objects

    found = find_objects(phrase, all_nouns=True)
    return found[0].name if found else phrase


def named_objects(prompt: str) -> Layout:
    """The objects that a prompt names, all in the middle: no layout is predicted."""
    from layout_predictor.inference.understand import understand
    from ldm.spacetime.layout import Layout, LayoutObject

    found = understand(prompt).objects
    return Layout(tuple(LayoutObject(item.phrase, 0.5, 0.5, name=item.name) for item in found), prompt)


def unnamed_objects(layout: Layout, prompt: str) -> list[str]:
    """The phrases of a layout whose objects a prompt does not name."""
    from layout_predictor.inference.objects import find_objects

    names = {item.name for item in find_objects(prompt, all_nouns=True)}
    text = prompt.casefold()
    return [
        thing.phrase
        for thing in layout.objects
        if thing.phrase.casefold() not in text and not {thing.name, category_name(thing.phrase)} & names
    ]
