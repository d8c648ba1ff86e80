"""The loss that steers the weights: CLIP similarity of the image with its prompt and of crops with objects.

Section 3.3 of Wu et al., ICCV 2023 (arXiv 2304.03869): a global term 1 - cos(image, prompt), and for each object a
local term 1 - cos(crop, "A photo of <object>"), the crop being the square around its center. For an object of another
shape it is the smallest box around that; with a prompt of its own it is compared with that prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.modules.encoders.openai_clip import ClipBundle
from ldm.spacetime.layout import RADIUS, Layout
from ldm.spacetime.shapes import Bounds

HALF_SIDE = RADIUS  # of a crop, as a fraction of the image side


def area_matrix(size: int, resolution: int) -> Tensor:
    """(resolution, size) matrix of nearest upsampling followed by average pooling along one axis.

    With g = gcd(resolution, size), every pixel is repeated resolution/g times and size/g neighbors are then
    averaged: 7 and 16 for 512 to 224. As a matrix it never builds the upsampled image.
    """
    divisor = math.gcd(size, resolution)
    repeat, pool = resolution // divisor, size // divisor
    source = torch.arange(resolution * pool) // repeat  # (resolution * pool,) pixel that is repeated there
    target = torch.arange(resolution * pool) // pool
    matrix = torch.zeros(resolution, size, dtype=torch.float64)
    matrix.index_put_((target, source), torch.tensor(1.0 / pool, dtype=torch.float64), accumulate=True)
    return matrix


def resize_area(image: Tensor, resolution: int, matrices: dict[int, Tensor] | None = None) -> Tensor:
    """image (B, 3, H, W) to (B, 3, resolution, resolution), each axis on its own; see `area_matrix`.

    `matrices`, by size, are made at their first use and kept for the next call.
    """
    kept = {} if matrices is None else matrices
    for size in image.shape[-2:]:
        if size not in kept:
            kept[size] = area_matrix(size, resolution).to(image)
    rows, columns = (kept[size].to(image) for size in image.shape[-2:])  # (R, H), (R, W)
    return rows @ image @ columns.T


def pixel_bounds(low: float, high: float, size: int) -> tuple[int, int]:
    """First and one-past-last pixel from low to high, fractions of an axis of `size` pixels; never empty."""
    first = min(int(size * low), size - 1)
    return first, max(int(size * high), first + 1)


def crop(image: Tensor, bounds: Bounds) -> Tensor:
    """The part of image (..., H, W) within bounds, which are fractions of width and height."""
    left, right = pixel_bounds(bounds[0], bounds[2], image.shape[-1])
    top, bottom = pixel_bounds(bounds[1], bounds[3], image.shape[-2])
    return image[..., top:bottom, left:right]


class ClipObjective:
    """CLIP losses of a batch of images under their prompts and layouts.

    Images (B, 3, H, W) in [0, 1] give (B,) losses by name: "global"; "local_{i}" of object i, zero where an image
    has fewer; "local", their sum; "total" = global_weight * global + local_weight * local. A term of weight 0 is
    reported but carries no gradient.
    """

    def __init__(
        self,
        bundle: ClipBundle,
        prompts: Sequence[str],
        layouts: Sequence[Layout],
        *,
        normalize: bool = True,  # apply CLIP's mean and standard deviation to the pixels
        global_weight: float = 1.0,
        local_weight: float = 5.0,
        half_side: float = HALF_SIDE,
    ) -> None:
        """One prompt and one layout per image."""
        if len(prompts) != len(layouts):
            raise ValueError(f"{len(prompts)} prompts for {len(layouts)} layouts")
        self.bundle, self.layouts, self.normalize = bundle, tuple(layouts), normalize
        self.global_weight, self.local_weight, self.half_side = global_weight, local_weight, half_side
        self.num_objects = max((len(layout.objects) for layout in layouts), default=0)
        self._places = [(b, i) for b, layout in enumerate(layouts) for i in range(len(layout.objects))]
        local_texts = [layouts[b].objects[i].clip_text for b, i in self._places]
        device = next(bundle.model.parameters()).device
        # Made once: a copy to the device at every step would be waited for.
        self._object_of, self._image_of = (torch.tensor([p[k] for p in self._places], device=device) for k in (1, 0))
        self._mean, self._std = (torch.as_tensor(v, device=device).view(3, 1, 1) for v in (bundle.mean, bundle.std))
        self._matrices: dict[int, Tensor] = {}  # of `resize_area`
        with torch.no_grad():
            texts = self._encode_texts([*prompts, *local_texts])
        self._prompt_features = texts[: len(prompts)]  # (B, D)
        self._object_features = texts[len(prompts) :]  # (objects of all images, D)

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """Losses by name, each (B,), of images (B, 3, H, W) in [0, 1]; in float32 at least, under autocast too."""
        if len(image) != len(self.layouts):
            raise ValueError(f"{len(image)} images for {len(self.layouts)} layouts")
        with torch.autocast(image.device.type, enabled=False):
            image = image.to(torch.promote_types(image.dtype, torch.float32))
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.global_weight != 0):
                whole = self._distance(
                    resize_area(image, self.bundle.resolution, self._matrices), self._prompt_features
                )  # (B,)
            rows = self._local(image)  # (N, B)
            local = rows.sum(0)
            numbered = {f"local_{i}": row for i, row in enumerate(rows)}
            total = self.global_weight * whole + self.local_weight * local
            return {"global": whole, "local": local, **numbered, "total": total}

    def _local(self, image: Tensor) -> Tensor:
        """(N, B) losses of the crops; all crops of the batch go through CLIP together."""
        local = image.new_zeros(self.num_objects, len(image))
        if not self._places:
            return local
        crops = [self._crop(image[b : b + 1], b, i) for b, i in self._places]
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.local_weight != 0):
            distance = self._distance(torch.cat(crops), self._object_features)
        return local.index_put((self._object_of, self._image_of), distance)

    def _crop(self, image: Tensor, b: int, i: int) -> Tensor:
        """(1, 3, R, R): object i of image b, resized bilinearly without antialiasing."""
        entry, side = self.layouts[b].objects[i], self.bundle.resolution
        part = crop(image, entry.bounds(self.half_side))
        return F.interpolate(part, size=(side, side), mode="bilinear", align_corners=False)

    def _distance(self, pixels: Tensor, texts: Tensor) -> Tensor:
        """(B,) 1 - cos between pixels (B, 3, R, R) in [0, 1] and normalized text features (B, D)."""
        if self.normalize:
            pixels = (pixels - self._mean.to(pixels)) / self._std.to(pixels)
        features = F.normalize(self.bundle.model.encode_image(pixels), dim=-1)
        return 1.0 - (features * texts.to(features)).sum(-1)

    def _encode_texts(self, texts: list[str]) -> Tensor:
        """(len(texts), D) normalized text features."""
        device = next(self.bundle.model.parameters()).device
        with torch.autocast(device.type, enabled=False):
            return F.normalize(self.bundle.model.encode_text(self.bundle.tokenize(texts).to(device)), dim=-1)
