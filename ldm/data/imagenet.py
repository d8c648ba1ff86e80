"""ImageNet for class-conditional models and for super-resolution, from folders that the user has unpacked.

Nothing is downloaded. A split is a folder with one folder of images a class, named by WordNet id (n01440764);
the class number is the folder's place in the sorted list, which for all thousand classes is the usual one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from ldm import unpickle
from ldm.arguments import Count, wrong_argument, wrong_value
from ldm.data.image_folder import (
    SUFFIXES,
    center_square,
    existing_folder,
    interpolation,
    read_lines,
    read_rgb,
    resized,
    to_signed,
)
from ldm.errors import DAMAGED
from ldm.modules.image_degradation import degradation_fn_bsr, degradation_fn_bsr_light
from ldm.modules.image_degradation import operations as ops
from ldm.util import UserError

Degradation = Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]


def default_root(split: str) -> Path:
    """Where the published code keeps a split ("train" or "val")."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "autoencoders" / "data" / f"ILSVRC2012_{'validation' if split == 'val' else 'train'}" / "data"


class ImageNetBase(Dataset[dict[str, Any]]):
    """Images of one split with their classes, cut to the middle square.

    A sample is {"image": float32 (S, S, 3) in [-1, 1], "class_label": int, "synset": str,
    "relpath": str, "file_path_": str}; without `process_images` there is no "image".

    Args:
        config: published form of the options: ``size`` and ``sub_indices``.
        data_root: folder of class folders; see :func:`default_root`.
        size: side of a sample in pixels; as cut when left out.
        sub_indices: only these class numbers; a sequence, or a text such as "0-9,100".
        process_images: read the images.
    """

    split = "train"

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        data_root: str | Path | None = None,
        size: Count | None = None,
        sub_indices: Sequence[int] | str | None = None,
        process_images: bool = True,
    ) -> None:
        config = dict(config or {})
        if wrong := wrong_argument(ImageNetBase, config) or wrong_value(ImageNetBase, config):
            raise UserError(f"the config of ImageNet: {wrong}")
        self.size = config.get("size", size)
        self.process_images = process_images
        self.root = existing_folder(data_root or default_root(self.split), "ImageNet")
        self.synsets = sorted(p.name for p in self.root.iterdir() if p.is_dir())
        chosen = _class_numbers(config.get("sub_indices", sub_indices), len(self.synsets))
        self.samples: list[tuple[Path, int]] = [
            (path, label)
            for label in chosen
            for path in sorted((self.root / self.synsets[label]).iterdir())
            if path.suffix.lower() in SUFFIXES
        ]
        if not self.samples:
            raise UserError(f"ImageNet: {self.root} holds no folders of images; unpack them as n01440764/*.JPEG")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, label = self.samples[index]
        sample: dict[str, Any] = {
            "class_label": label,
            "synset": self.synsets[label],
            "relpath": str(path.relative_to(self.root)),
            "file_path_": str(path),
        }
        if self.process_images:
            image = center_square(read_rgb(path))
            if self.size is not None:
                image = resized(image, self.size, Image.Resampling.BICUBIC)
            sample["image"] = to_signed(image)
        return sample


def _class_numbers(chosen: Sequence[int] | str | None, count: int) -> list[int]:
    """Class numbers of a sequence, of a text such as "0-9,100", or all. UserError for one that is not there."""
    if chosen is None:
        return list(range(count))
    if isinstance(chosen, str):
        try:
            parts = [[int(n) for n in part.split("-")] for part in chosen.split(",")]
        except ValueError as err:
            raise UserError(f"sub_indices '{chosen}' is no list of class numbers such as 0-9,100") from err
        if all(0 <= n < count for part in parts for n in part):
            numbers = [n for part in parts for n in range(part[0], part[-1] + 1)]
        else:
            numbers = [n for part in parts for n in part]
    else:
        numbers = [int(n) for n in chosen]
    if outside := [n for n in numbers if not 0 <= n < count]:
        raise UserError(f"ImageNet has no class {outside[0]} here; its folder holds {count} classes")
    return numbers


class ImageNetTrain(ImageNetBase):
    """The training split."""

    def __init__(self, process_images: bool = True, data_root: str | Path | None = None, **kwargs: Any) -> None:
        super().__init__(data_root=data_root, process_images=process_images, **kwargs)


class ImageNetValidation(ImageNetBase):
    """The validation split, sorted into class folders as the training split."""

    split = "val"

    def __init__(self, process_images: bool = True, data_root: str | Path | None = None, **kwargs: Any) -> None:
        super().__init__(data_root=data_root, process_images=process_images, **kwargs)


class ImageNetSR(Dataset[dict[str, Any]]):
    """Pairs of a square crop and its degraded version.

    A sample is that of :class:`ImageNetBase` with "image", float32 (size, size, 3), and "LR_image", float32
    (size / f, size / f, 3), both in [-1, 1].

    Args:
        size: side of the crops after resizing.
        degradation: "bsrgan", "bsrgan_light", or an interpolation: "pil_" or "cv_" and nearest, bilinear,
            bicubic, area (cv) or box, hamming, lanczos (pil).
        downscale_f: f.
        min_crop_f, max_crop_f: the crop's side as a share of the image's shorter side, drawn uniformly.
        random_crop: crop anywhere instead of in the middle.
        data_root: see :class:`ImageNetBase`.
        indices: file with the numbers of the images to use (.npy, .txt, or the published pickled list).
    """

    base_class: type[ImageNetBase] = ImageNetTrain

    def __init__(
        self,
        size: Count,
        degradation: str,
        downscale_f: int = 4,
        min_crop_f: float = 0.5,
        max_crop_f: float = 1.0,
        random_crop: bool = True,
        data_root: str | Path | None = None,
        indices: str | Path | None = None,
    ) -> None:
        if size % downscale_f:
            raise UserError(f"size {size} is not a multiple of downscale_f {downscale_f}; choose one that is")
        if not 0 < min_crop_f <= max_crop_f <= 1:
            raise UserError(f"crops need 0 < min_crop_f <= max_crop_f <= 1, not {min_crop_f} and {max_crop_f}")
        self.size, self.low_size = size, size // downscale_f
        self.min_crop_f, self.max_crop_f = min_crop_f, max_crop_f
        self.random_crop = random_crop
        self.degrade = make_degradation(degradation, downscale_f)
        self.base = self.base_class(process_images=False, data_root=data_root)
        self.indices = list(range(len(self.base))) if indices is None else read_indices(Path(indices), len(self.base))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.base[self.indices[index]]
        # From torch's generator, which a loader seeds differently in each worker and epoch.
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        image = resized(self._crop(read_rgb(Path(sample["file_path_"])), rng), self.size, Image.Resampling.BOX)
        return {**sample, "image": to_signed(image), "LR_image": to_signed(self.degrade(image, rng))}

    def _crop(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        side = max(1, int(min(image.shape[:2]) * rng.uniform(self.min_crop_f, self.max_crop_f)))
        rest = [n - side for n in image.shape[:2]]
        y, x = (int(rng.integers(n + 1)) if self.random_crop else n // 2 for n in rest)
        return image[y : y + side, x : x + side]


class ImageNetSRTrain(ImageNetSR):
    """Of the training split."""


class ImageNetSRValidation(ImageNetSR):
    """Of the validation split."""

    base_class = ImageNetValidation


def make_degradation(name: str, factor: int) -> Degradation:
    """The degradation of that name, from (S, S, 3) to (S / factor, S / factor, 3). UserError for an unknown one."""
    if name in ("bsrgan", "bsrgan_light"):
        function = degradation_fn_bsr if name == "bsrgan" else degradation_fn_bsr_light
        return lambda image, rng: function(image, sf=factor, rng=rng)["image"]
    library, _, kind = name.partition("_")
    if library == "pil":
        how = interpolation(kind)
        return lambda image, rng: resized(image, len(image) // factor, how)
    if library == "cv" and kind in ("nearest", *ops.RESIZE_MODES):
        return lambda image, rng: ops.to_uint8(
            ops.resize(ops.to_float(image), len(image) // factor, len(image) // factor, kind)
        )
    raise UserError(
        f"degradation '{name}' is unknown; choose bsrgan, bsrgan_light, cv_nearest, cv_bilinear, cv_bicubic, "
        "cv_area, pil_nearest, pil_bilinear, pil_bicubic, pil_box, pil_hamming or pil_lanczos"
    )


def read_indices(path: Path, count: int) -> list[int]:
    """The image numbers in a file: .npy, .txt with one a line, or a pickled list, read without unpickling freely."""
    try:
        if path.suffix == ".npy":
            numbers = [int(n) for n in np.load(path, allow_pickle=False)]
        elif path.suffix == ".txt":
            numbers = [int(line) for line in read_lines(path, "ImageNet")]
        else:
            with path.open("rb") as handle:
                numbers = [int(n) for n in unpickle.load(handle)]
    except (MemoryError, *DAMAGED) as err:
        raise UserError(f"ImageNet: {path} is no list of image numbers; give a .npy or .txt file of them") from err
    if outside := [n for n in numbers if not 0 <= n < count]:
        raise UserError(f"ImageNet: {path} names image {outside[0]}, but there are {count}; it is of another data set")
    return numbers
