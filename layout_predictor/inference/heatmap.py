"""Where the model thinks each object could be: the mixture's density as a heat map over a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from layout_predictor.inference.predictor import Prediction
from layout_predictor.LayoutTransformer.model.mixture import Mixture, density
from ldm.generation.images import COLORS, ImageArray, draw_layout
from ldm.util import UserError

MAX_SIDE = 4096
_STRONGEST = 0.75  # opacity where the density is highest
_BLANK = 245  # a light grey canvas


def density_maps(mixture: Mixture, width: int, height: int) -> np.ndarray:
    """Density of each object's mixture at the centre of every pixel: (n, height, width), not normalised."""
    x = (torch.arange(width, dtype=torch.float64) + 0.5) / width
    y = (torch.arange(height, dtype=torch.float64) + 0.5) / height
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)  # (height, width, 2) in (x, y)
    each = Mixture(*(values.double().cpu()[:, None, None, :] for values in mixture))  # (n, 1, 1, 5)
    return density(each, grid).numpy()


def draw_heatmap(prediction: Prediction, canvas: ImageArray) -> Image.Image:
    """The canvas (H, W, 3) under every object's density in its colour, with the centres and names.

    Each map is scaled to its own highest value: it says where, not how sure.
    """
    height, width = canvas.shape[:2]
    picture = canvas.astype(np.float64)
    maps = () if prediction.mixture is None else density_maps(prediction.mixture, width, height)
    for number, values in enumerate(maps):
        colour = np.array([int(COLORS[number % len(COLORS)][i : i + 2], 16) for i in (1, 3, 5)])
        relative = np.sqrt(values / max(values.max(), np.finfo(float).tiny))  # the root brings out the tails
        opacity = _STRONGEST * relative[..., None]  # (H, W, 1)
        picture = (1 - opacity) * picture + opacity * colour
    return draw_layout(picture.round().astype(np.uint8), prediction.layout, radius=0.0)


def blank(width: int, height: int) -> ImageArray:
    """An empty canvas (height, width, 3). UserError for a size that is no picture's."""
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise UserError(f"a picture of {width}x{height} cannot be drawn: give sides between 1 and {MAX_SIDE} pixels")
    return np.full((height, width, 3), _BLANK, dtype=np.uint8)


def read_picture(path: str | Path, size: tuple[int, int] | None = None) -> ImageArray:
    """A picture file as (H, W, 3), resized to `size` (width, height) if given. UserError when it is none."""
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(f"the picture {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return np.asarray(picture if size is None else picture.resize(size, Image.Resampling.LANCZOS))
