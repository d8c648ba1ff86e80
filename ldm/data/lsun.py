"""LSUN scenes and cats as folders of images with a list of names, as published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ldm.data.image_folder import (
    centre_square,
    draw_flip,
    existing_folder,
    interpolation,
    read_lines,
    read_rgb,
    resized,
    to_signed,
)


class LSUNBase(Dataset[dict[str, Any]]):
    """Images that a text file lists, cut to their middle square.

    A sample is {"image": float32 (S, S, 3) in [-1, 1], "relative_file_path_": str, "file_path_": str}.

    Args:
        txt_file: one file name a line, relative to `data_root`.
        data_root: folder of the images.
        size: side of a sample in pixels; as cut when left out.
        interpolation: of the resizing.
        flip_p: chance to be mirrored, drawn from torch's generator, which the loader seeds per worker.

    Raises:
        UserError: list or folder are not there, or the list is empty.
    """

    def __init__(
        self,
        txt_file: str | Path,
        data_root: str | Path,
        size: int | None = None,
        interpolation: str = "bicubic",
        flip_p: float = 0.5,
    ) -> None:
        self.data_root = existing_folder(data_root, "LSUN")
        self.image_paths = read_lines(txt_file, "LSUN")
        self.size, self.flip_p = size, flip_p
        self.interpolation = _filter(interpolation)

    def __len__(self) -> int:
        return len(self.image_paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name = self.image_paths[index]
        path = self.data_root / name
        image = centre_square(read_rgb(path))
        if self.size is not None:
            image = resized(image, self.size, self.interpolation)
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        image = np.ascontiguousarray(draw_flip(self.flip_p, rng, image))
        return {"image": to_signed(image), "relative_file_path_": name, "file_path_": str(path)}


_filter = interpolation  # the constructor's argument has the published name, which hides the function's


class _Published(LSUNBase):
    """A published split: its list and folder unless others are given."""

    LIST = ""
    FOLDER = ""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"txt_file": self.LIST, "data_root": self.FOLDER, **kwargs})


class _Validation(_Published):
    """As above, never mirrored."""

    def __init__(self, flip_p: float = 0.0, **kwargs: Any) -> None:
        super().__init__(flip_p=flip_p, **kwargs)


class LSUNChurchesTrain(_Published):
    """Churches for training."""

    LIST, FOLDER = "data/lsun/church_outdoor_train.txt", "data/lsun/churches"


class LSUNChurchesValidation(_Validation):
    """Churches for validation."""

    LIST, FOLDER = "data/lsun/church_outdoor_val.txt", "data/lsun/churches"


class LSUNBedroomsTrain(_Published):
    """Bedrooms for training."""

    LIST, FOLDER = "data/lsun/bedrooms_train.txt", "data/lsun/bedrooms"


class LSUNBedroomsValidation(_Validation):
    """Bedrooms for validation."""

    LIST, FOLDER = "data/lsun/bedrooms_val.txt", "data/lsun/bedrooms"


class LSUNCatsTrain(_Published):
    """Cats for training."""

    LIST, FOLDER = "data/lsun/cat_train.txt", "data/lsun/cats"


class LSUNCatsValidation(_Validation):
    """Cats for validation."""

    LIST, FOLDER = "data/lsun/cat_val.txt", "data/lsun/cats"
