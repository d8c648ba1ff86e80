"""Image files as samples: reading, cropping to a square, resizing, scaling to [-1, 1]."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldm.errors import DAMAGED
from ldm.pixels import read_image
from ldm.util import UserError

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp")
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "linear": Image.Resampling.BILINEAR,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "area": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}
Square = NDArray[np.uint8]  # (S, S, 3)


def interpolation(name: str) -> Image.Resampling:
    """Pillow's filter of that name. UserError for an unknown one."""
    if name not in INTERPOLATIONS:
        raise UserError(f"interpolation '{name}' is unknown; choose one of {', '.join(INTERPOLATIONS)}")
    return INTERPOLATIONS[name]


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """An image file as (H, W, 3), see :func:`ldm.pixels.read_image`; also an array (1, 3, H, W) of bytes as .npy.

    Raises:
        UserError: it is no image.
    """
    if path.suffix != ".npy":  # CelebA-HQ comes as arrays
        return np.asarray(read_image(path))
    try:
        array = np.load(path, allow_pickle=False)
    except (MemoryError, *DAMAGED) as err:
        raise UserError(f"{path} cannot be read as an array of numpy: {err}") from err
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[:2] != (1, 3):
        raise UserError(f"{path} is an array {array.shape} of {array.dtype}, not an image (1, 3, H, W) of uint8")
    return array[0].transpose(1, 2, 0)


def center_square(image: NDArray[np.uint8]) -> Square:
    """The middle square of (H, W, 3), as wide as its shorter side."""
    side = min(image.shape[:2])
    y, x = ((n - side) // 2 for n in image.shape[:2])
    return image[y : y + side, x : x + side]


def resized(image: Square, size: int, how: Image.Resampling) -> Square:
    """(S, S, 3) to (size, size, 3)."""
    return np.asarray(Image.fromarray(image).resize((size, size), how))


def to_signed(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """0..255 to [-1, 1]."""
    return (image / 127.5 - 1.0).astype(np.float32)


def existing_folder(root: str | Path, what: str) -> Path:
    """`root` as a path. UserError where there is no such folder."""
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(f"{what}: {folder} is not a folder; put the images there, or name their folder as data_root")
    return folder


def read_lines(path: str | Path, what: str) -> list[str]:
    """The lines of a list file that are not blank. UserError where it cannot be read or is empty."""
    try:
        lines = [line.strip() for line in Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as err:
        raise UserError(f"{what}: the list {path} cannot be read; it names one file a line") from err
    names = [line for line in lines if line]
    if not names:
        raise UserError(f"{what}: the list {path} is empty; it names one file a line")
    return names


def check_files(folder: Path, names: Iterable[str], what: str) -> None:
    """UserError that tells the first of `names` that is no file under `folder`; each folder is listed once."""
    listed: dict[str, set[str]] = {}
    for name in names:
        inner, file = os.path.split(name)
        if inner not in listed:
            try:
                listed[inner] = set(os.listdir(folder / inner))
            except OSError:
                listed[inner] = set()
        if file not in listed[inner]:
            raise UserError(f"{what}: the list names {name}, but image {folder / name} does not exist")


def draw_flip(p: float, rng: np.random.Generator, image: NDArray[Any]) -> NDArray[Any]:
    """The image, mirrored with probability `p`."""
    return image[:, ::-1] if p > 0 and rng.random() < p else image
