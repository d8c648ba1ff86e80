"""Where the model thinks each object could be: the mixture's density as a heat map over an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageColor

from layout_predictor.LayoutTransformer.model.mixture import Mixture, density
from ldm import pixels
from ldm.util import UserError

Pixels = NDArray[np.uint8]  # (H, W, 3)

MAX_SIDE = 4096
_STRONGEST = 0.75  # opacity where the density is highest
_BLANK = 245  # a light gray canvas


def density_maps(mixture: Mixture, width: int, height: int) -> np.ndarray:
    """Density of each object's mixture at the center of every pixel: (n, height, width), not normalized."""
    x = (torch.arange(width, dtype=torch.float64) + 0.5) / width
    y = (torch.arange(height, dtype=torch.float64) + 0.5) / height
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)  # (height, width, 2) in (x, y)
    each = Mixture(*(values.cpu().double()[:, None, None, :] for values in mixture))  # (n, 1, 1, 5)
    return density(each, grid).numpy()


def shade(canvas: Pixels, mixture: Mixture | None, colors: Sequence[str]) -> Pixels:
    """The canvas under every object's density in its color ("#D55E00").

    Each map is scaled to its own highest value: it says where, not how sure.
    """
    height, width = canvas.shape[:2]
    image = canvas.astype(np.float64)
    for number, values in enumerate(() if mixture is None else density_maps(mixture, width, height)):
        relative = np.sqrt(values / max(values.max(), np.finfo(float).tiny))  # the root brings out the tails
        opacity = _STRONGEST * relative[..., None]  # (H, W, 1)
        image = (1 - opacity) * image + opacity * np.array(ImageColor.getrgb(colors[number % len(colors)]))
    return image.round().astype(np.uint8)


def blank(width: int, height: int) -> Pixels:
    """An empty canvas (height, width, 3). UserError for a size that is no image's."""
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise UserError(f"an image of {width}x{height} cannot be drawn: give sides between 1 and {MAX_SIDE} pixels")
    return np.full((height, width, 3), _BLANK, dtype=np.uint8)


def read_image(path: str | Path, size: tuple[int, int] | None = None) -> Pixels:
    """An image file as (H, W, 3), resized to `size` (width, height) if given. UserError when it is none."""
    image = pixels.read_image(path)
    return np.asarray(image if size is None else image.resize(size, Image.Resampling.LANCZOS))
