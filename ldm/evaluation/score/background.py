"""The color of a flat background, as the emoji world draws them: measured, not guessed by a network."""

from __future__ import annotations

import numpy as np

from ldm.categories import BACKGROUNDS
from ldm.generation.images import ImageArray

FRAME = 4  # pixels from the image's edge that are looked at
_SHADE, _TINT = 7.0, 3.5  # deviations of a background from its word's color: of all channels together, of each alone


def background_color(image: ImageArray) -> str:
    """The word of `ldm.categories.BACKGROUNDS` nearest to the frame of a (H, W, 3) image.

    Nearest in units of the deviations with which the scenes are drawn, of the frame's median color: objects touch
    less than half of the frame.
    """
    inner = np.zeros(image.shape[:2], bool)
    inner[FRAME:-FRAME, FRAME:-FRAME] = True
    color = np.median(image[~inner], axis=0)  # (3,)

    def distance(word: str) -> float:
        offset = color - np.array(BACKGROUNDS[word])
        shade = offset.mean()
        return float((shade / _SHADE) ** 2 + (((offset - shade) / _TINT) ** 2).sum())

    return min(BACKGROUNDS, key=distance)
