"""Large images in overlapping patches: the pieces are computed one by one and blended, so that memory stays flat."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.arguments import wrong_argument
from ldm.util import UserError

Fold = Callable[[Tensor], Tensor]
PatchFn = Callable[[Tensor, int], Tensor]  # (patch (B, C, kh, kw), its number) -> (B, C', kh', kw')


@dataclasses.dataclass(frozen=True)
class SplitOptions:
    """How an input is cut; names as in published notebooks."""

    ks: Sequence[int] = (128, 128)  # height and width of a patch, in pixels of what is cut (image or latent)
    stride: Sequence[int] = (64, 64)  # from one patch to the next
    vqf: int = 4  # pixels of an image over those of its latent
    patch_distributed_vq: bool = True  # the first stage works in patches, too
    tie_braker: bool = False  # patches at the border of the input count less
    clip_min_weight: float = 0.01
    clip_max_weight: float = 0.5
    clip_min_tie_weight: float = 0.01
    clip_max_tie_weight: float = 0.5
    original_image_size: Sequence[int] | None = None  # accepted; the size is that of the input

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> SplitOptions:
        """From a mapping. UserError for an unknown name, or sizes that are not positive."""
        if wrong := wrong_argument(cls, values):
            raise UserError(f"split_input_params does not fit: {wrong}")
        options = cls(**values)
        if min(*options.ks, *options.stride, options.vqf) < 1 or len(options.ks) != 2 or len(options.stride) != 2:
            raise UserError("split_input_params needs ks and stride as two positive numbers each, and a positive vqf")
        return options


def delta_border(height: int, width: int) -> Tensor:
    """(height, width): distance of each pixel to the nearest border, as a share of the side; 0 at the border."""
    y = (torch.arange(height) / max(height - 1, 1))[:, None]
    x = (torch.arange(width) / max(width - 1, 1))[None]
    return torch.minimum(torch.minimum(y, x), torch.minimum(1 - y, 1 - x))


def patch_weights(size: Sequence[int], grid: Sequence[int], options: SplitOptions) -> Tensor:
    """(1, kh kw, L): how much each pixel of each of the L patches counts; least at a patch's border."""
    weights = delta_border(*size).clamp(options.clip_min_weight, options.clip_max_weight)
    weights = weights.reshape(1, -1, 1).repeat(1, 1, grid[0] * grid[1])
    if options.tie_braker:
        ties = delta_border(*grid).clamp(options.clip_min_tie_weight, options.clip_max_tie_weight)
        weights = weights * ties.reshape(1, 1, -1)
    return weights


def get_fold_unfold(
    x: Tensor, kernel_size: Sequence[int], stride: Sequence[int], options: SplitOptions, uf: int = 1, df: int = 1
) -> tuple[Fold, Fold, Tensor, Tensor]:
    """What cuts x (B, C, H, W) into L patches, and what puts results at `uf / df` times the size together.

    Returns: fold (B, C' kh' kw', L) -> (B, C', H', W'); unfold (B, C, H, W) -> (B, C kh kw, L); the sum of all
        weights (1, 1, H', W'); the weights (1, 1, kh', kw', L).
    """
    height, width = x.shape[2:]
    if any(value % df for value in (*kernel_size, *stride, height, width)):
        raise UserError(f"patches of {tuple(kernel_size)} every {tuple(stride)} pixels do not divide by {df}")

    def scaled(values: Sequence[int]) -> tuple[int, int]:
        first, second = (value * uf // df for value in values)
        return first, second

    grid = [(side - k) // s + 1 for side, k, s in zip((height, width), kernel_size, stride, strict=True)]
    size, step, out = scaled(kernel_size), scaled(stride), scaled((height, width))
    weights = patch_weights(size, grid, options).to(x)  # (1, kh' kw', L)

    def unfold(y: Tensor) -> Tensor:
        return F.unfold(y, tuple(kernel_size), stride=tuple(stride))

    def fold(y: Tensor) -> Tensor:
        return F.fold(y, out, size, stride=step)

    return fold, unfold, fold(weights), weights.reshape(1, 1, *size, -1)


def patch_grid(side: int, patch: int, stride: int) -> tuple[int, int]:
    """Side of a patch, at most the input's, and the side that whole steps of `stride` cover."""
    patch = min(patch, side)
    steps = -(-(side - patch) // stride)
    return patch, patch + steps * stride


def on_patches(function: PatchFn, x: Tensor, options: SplitOptions, uf: int = 1, df: int = 1) -> Tensor:
    """`function` of every patch of x (B, C, H, W), blended: (B, C', H uf/df, W uf/df).

    An input that the patches do not cover is continued by its last row and column, which are cut off again.
    """
    height, width = x.shape[2:]
    sides = [patch_grid(*v) for v in zip((height, width), options.ks, options.stride, strict=True)]
    (kh, full_height), (kw, full_width) = sides
    if (full_height, full_width) != (height, width):
        x = F.pad(x, (0, full_width - width, 0, full_height - height), mode="replicate")
    fold, unfold, total, weights = get_fold_unfold(x, (kh, kw), options.stride, options, uf, df)
    patches = unfold(x).unflatten(1, (-1, kh, kw))  # (B, C, kh, kw, L)
    results = [function(patches[..., i], i) for i in range(patches.shape[-1])]
    merged = fold((torch.stack(results, dim=-1) * weights).flatten(1, 3)) / total
    return merged[..., : height * uf // df, : width * uf // df]


def patch_boxes(size: Sequence[int], options: SplitOptions) -> list[tuple[float, float, float, float]]:
    """(x, y, width, height) of every patch of an input (H, W), as shares of it, in the order of the patches."""
    (kh, rows), (kw, columns) = (patch_grid(*v) for v in zip(size, options.ks, options.stride, strict=True))
    height, width = size
    return [
        (x / width, y / height, kw / width, kh / height)
        for y in range(0, rows - kh + 1, options.stride[0])
        for x in range(0, columns - kw + 1, options.stride[1])
    ]
