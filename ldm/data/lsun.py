"""LSUN scenes and cats as folders of images with a list of names, as published."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset

from ldm.arguments import Count, Fraction
from ldm.data.image_folder import (
    center_square,
    check_files,
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
    """

    def __init__(
        self,
        txt_file: str | Path,
        data_root: str | Path,
        size: Count | None = None,
        interpolation: str = "bicubic",
        flip_p: Fraction = 0.5,
    ) -> None:
        self.data_root = existing_folder(data_root, "LSUN")
        self.image_paths = read_lines(txt_file, "LSUN")
        self.size, self.flip_p = size, flip_p
        self.interpolation = _filter(interpolation)
        check_files(self.data_root, self.image_paths, "LSUN")

    def __len__(self) -> int:
        return len(self.image_paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name = self.image_paths[index]
        path = self.data_root / name
        image = center_square(read_rgb(path))
        if self.size is not None:
            image = resized(image, self.size, self.interpolation)
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        image = np.ascontiguousarray(draw_flip(self.flip_p, rng, image))
        return {"image": to_signed(image), "relative_file_path_": name, "file_path_": str(path)}


_filter = interpolation  # the constructor's argument has the published name, which hides the function's


class _Published(LSUNBase):
    """A published split: its list and folder unless others are given; never mirrored where it validates."""

    split: ClassVar[tuple[str, str]]  # names of the list and of the folder, under data/lsun

    def __init__(self, **kwargs: Any) -> None:
        listed, folder = self.split
        own: dict[str, Any] = {"txt_file": f"data/lsun/{listed}.txt", "data_root": f"data/lsun/{folder}"}
        if listed.endswith("_val"):
            own["flip_p"] = 0.0
        super().__init__(**{**own, **kwargs})


class LSUNChurchesTrain(_Published):
    split = "church_outdoor_train", "churches"


class LSUNChurchesValidation(_Published):
    split = "church_outdoor_val", "churches"


class LSUNBedroomsTrain(_Published):
    split = "bedrooms_train", "bedrooms"


class LSUNBedroomsValidation(_Published):
    split = "bedrooms_val", "bedrooms"


class LSUNCatsTrain(_Published):
    split = "cat_train", "cats"


class LSUNCatsValidation(_Published):
    split = "cat_val", "cats"
