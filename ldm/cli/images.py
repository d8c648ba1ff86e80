"""Images in and out: files of a user's as tensors, and numbered PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ldm.generation.images import ImageArray, grid, save_png
from ldm.util import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def read_image(path: Path, mode: str = "RGB") -> Image.Image:
    """The image in a file, converted to `mode`. Raises UserError where the file is no image."""
    try:
        with Image.open(path) as image:
            return image.convert(mode)
    except FileNotFoundError as err:
        raise UserError(f"image {path} does not exist; give the path of an image file") from err
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as err:
        raise UserError(f"{path} is not an image that can be read; give a PNG, JPEG or WebP file") from err


def image_tensor(image: Image.Image) -> Tensor:
    """An RGB image as (1, 3, H, W) in [-1, 1]."""
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 127.5 - 1.0)
    return pixels.permute(2, 0, 1)[None].contiguous()


def mask_tensor(image: Image.Image) -> Tensor:
    """A grey image as (1, 1, H, W) of 0 and 1; 1, where it is at least half white, is to be painted."""
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255.0)
    return (pixels >= 0.5).float()[None, None]


def fit_size(image: Image.Image, multiple: int) -> Image.Image:
    """`image` with both sides cut down to a multiple of `multiple`, by resampling as published (Lanczos)."""
    width, height = (max(multiple, side - side % multiple) for side in image.size)
    return image if (width, height) == image.size else image.resize((width, height), Image.Resampling.LANCZOS)


def pad_to_multiple(x: Tensor, multiple: int, mode: str = "replicate") -> Tensor:
    """(B, C, H, W) grown to the right and below until both sides are multiples; `mode` as in ``F.pad``."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % multiple, 0, -height % multiple), mode=mode)


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder by name. Raises UserError where there is no folder or no image in it."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give one with images in it")
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not files:
        raise UserError(f"folder {folder} holds no image ({', '.join(SUFFIXES)}); give one with images in it")
    return files


class ImageFolder:
    """``<outdir>/samples/00000.png`` and on, after those of earlier runs, and ``<outdir>/grid-0000.png``."""

    def __init__(self, outdir: Path) -> None:
        self.outdir = outdir
        taken = [int(p.stem) for p in (outdir / "samples").glob("*.png") if p.stem.isdigit()]
        self.next = max(taken, default=-1) + 1

    def save(self, image: ImageArray, parameters: str | None = None) -> Path:
        """Write one image. Raises UserError on an unwritable folder."""
        path = save_png(self.outdir / "samples" / f"{self.next:05d}.png", image, parameters)
        self.next += 1
        return path

    def save_grid(self, images: Sequence[ImageArray], columns: int | None = None) -> Path | None:
        """Write all images of a run on one sheet, where there is more than one."""
        if len(images) < 2:
            return None
        number = len(list(self.outdir.glob("grid-*.png")))
        return save_png(self.outdir / f"grid-{number:04d}.png", grid(images, columns))
