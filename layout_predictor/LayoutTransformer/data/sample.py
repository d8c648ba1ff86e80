"""What every source of sentences yields: text, where the objects are in it, relations, centres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sample:
    """A sentence with objects 0..n-1.

    spans: characters (start, end) of each object's head noun; relations: (a, "left of", b) over object
    numbers; centres: (n, 2) in fractions of the picture, or None where only relations are known; names: of
    the objects, their last word being the head noun.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    relations: tuple[tuple[int, str, int], ...]
    centres: np.ndarray | None = None
    names: tuple[str, ...] = ()
