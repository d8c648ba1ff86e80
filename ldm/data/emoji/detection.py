"""Scenes with heat maps of object centers, for training the detector of the emoji world."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldm.arguments import Count, Fraction, Whole
from ldm.categories import CATEGORIES
from ldm.data.emoji.degrade import degrade
from ldm.data.emoji.scene import IMAGE_SIZE, scene_rng
from ldm.data.emoji.scenes import SceneDataset, channels_first

Center = tuple[int, float, float]  # category number, x, y in [0, 1]
STRIDE = 8  # pixels of a cell of the heat map
_SPREAD = 0.8  # standard deviation of a center's bump, in cells
_PAD = 32  # pixels of border repeated before an image is turned and scaled


def center_targets(
    centers: Sequence[Center], size: int = IMAGE_SIZE // STRIDE
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """What the detector should say of objects at these centers (Zhou et al., "Objects as Points", 2019).

    Args:
        centers: category number and center of every object; centers outside the image are left out.
        size: cells a side.

    Returns:
        heat, (categories, size, size): 1 in the cell of a center, a Gaussian bump around it; offset,
        (2, size, size): where in its cell a center lies, x then y, in cells; mask, (size, size): 1 in cells
        that hold a center.
    """
    heat = np.zeros((len(CATEGORIES), size, size), np.float32)
    offset, mask = np.zeros((2, size, size), np.float32), np.zeros((size, size), np.float32)
    rows, columns = np.mgrid[:size, :size]
    for label, x, y in centers:
        column, row = math.floor(x * size), math.floor(y * size)
        if not (0 <= column < size and 0 <= row < size):
            continue
        bump = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * _SPREAD**2))
        heat[label] = np.maximum(heat[label], bump)
        offset[:, row, column] = x * size - column, y * size - row
        mask[row, column] = 1
    return heat, offset, mask


def wobble(
    image: NDArray[np.uint8], centers: Sequence[Center], rng: random.Random
) -> tuple[NDArray[np.uint8], list[Center]]:
    """Turns by up to 8 degrees and scales each axis by up to an eighth; the centers move along."""
    angle = math.radians(rng.uniform(-8, 8))
    scale_x, scale_y = (rng.uniform(0.88, 1.12) for _ in range(2))
    cos, sin = math.cos(angle), math.sin(angle)
    forward = np.array([[scale_x * cos, -scale_y * sin], [scale_x * sin, scale_y * cos]])
    inverse = np.linalg.inv(forward)
    middle = IMAGE_SIZE / 2
    shift = middle + _PAD - inverse @ (middle, middle)  # output pixel -> padded input pixel
    padded = np.pad(image, ((_PAD, _PAD), (_PAD, _PAD), (0, 0)), mode="edge")
    coefficients = (*inverse[0], shift[0], *inverse[1], shift[1])
    turned = Image.fromarray(padded).transform(
        (IMAGE_SIZE, IMAGE_SIZE), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
    )
    moved = [(label, *(forward @ (x - 0.5, y - 0.5) + 0.5).tolist()) for label, x, y in centers]
    return np.asarray(turned), moved


class EmojiDetection(SceneDataset):
    """Images and the heat maps that belong to them.

    A sample is {"image": float32 (3, 128, 128) in [0, 1], "heat": (categories, 16, 16), "offset": (2, 16, 16),
    "mask": (16, 16)}.

    Args:
        size, seed, split, close_ups: see :class:`SceneDataset`.
        clean: show the scenes as they are; otherwise most are turned, blurred, noised and so on, since the
            detector is for generated images.
    """

    def __init__(
        self,
        size: Count = 1_000_000,
        seed: Whole = 0,
        split: str = "train",
        clean: bool = False,
        close_ups: Fraction = 0.0,
    ) -> None:
        super().__init__(size, seed, split, close_ups)
        self.clean = clean

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.check(index)
        rng = scene_rng(self.seed, index)
        scene = self.make(rng)
        image = scene.image
        centers: list[Center] = [(item.label, item.x, item.y) for item in scene.objects]
        if not self.clean:
            if rng.random() < 0.5:
                image, centers = wobble(image, centers, rng)
            image = degrade(image, rng)
        heat, offset, mask = center_targets(centers)
        return {"image": channels_first(image), "heat": heat, "offset": offset, "mask": mask}
