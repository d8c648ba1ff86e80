"""Spatial control: the local descriptions of a batch of layouts and the regions in which they act.

Section 3.2 of Wu et al., ICCV 2023 (arXiv 2304.03869). Built once per batch and handed from the sampler through
the U-Net to every cross-attention; nothing is kept on a module or in a file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from typing import Any, Literal

import torch
from torch import Tensor

from ldm.modules.attention import LocalAttention, Projections
from ldm.modules.diffusionmodules.util import send
from ldm.spacetime.layout import RADIUS, Layout, LayoutObject

Blend = Literal["conditional", "unconditional"]


def disc_mask(center: Tensor, h: int, w: int, radius: float = RADIUS, dtype: torch.dtype = torch.float64) -> Tensor:
    """Which pixels of an h x w grid lie inside the disc: (c/w - x)^2 + (r/h - y)^2 < radius^2.

    On the rim (0.25 against a center at 0.45 and radius 0.2) rounding decides: the arithmetic is done in `dtype`.

    Args:
        center: (..., 2) on the CPU, x then y, as fractions of width and height.
    Returns: (..., h*w) bool, pixels in row-major order.
    """
    x, y = center.to(dtype).unbind(-1)
    columns = torch.arange(w, dtype=dtype) / w  # (w,)
    rows = torch.arange(h, dtype=dtype) / h  # (h,)
    dx2 = (columns - x[..., None]) ** 2  # (..., w)
    dy2 = (rows - y[..., None]) ** 2  # (..., h)
    return (dx2[..., None, :] + dy2[..., :, None] < radius**2).flatten(-2)


@dataclass(frozen=True, eq=False)
class SpatialControl:
    """Local contexts and masks of N objects for each of B images; images with fewer objects are padded.

    It acts on the last B rows of the U-Net's batch, which has B rows, or 2B with the unconditional ones first. The
    negative texts of M of the objects act on the unconditional rows, where there are some.
    """

    local_contexts: Tensor  # (N + M, B, L, C), encoded descriptions, then negative texts
    layouts: tuple[Layout, ...]  # B
    radius: float = RADIUS  # of discs without their own
    # The attention subtracted from the local one: the prompt's, as in the paper, or the unconditional row's, as in the
    # ICCV 2023 release, which needs 2B rows.
    blend: Blend = "conditional"
    mask_dtype: torch.dtype = torch.float64  # of the arithmetic at a disc's rim, see `disc_mask`
    clamp: bool = False  # move centers of discs into [0, 1] first, as the April 2023 release
    share_overlaps: bool = False  # where masks add up to more than 1, divide them by their sum
    _cache: dict[tuple[int, int], tuple[Tensor, list[Tensor]]] = field(default_factory=dict, init=False, repr=False)
    _acting: dict[tuple[bool, ...], Tensor] = field(default_factory=dict, init=False, repr=False)
    _projections: Projections = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        rows, b = len(self._regions), len(self.layouts)
        if self.local_contexts.shape[:2] != (rows, b):
            found = tuple(self.local_contexts.shape[:2])
            raise ValueError(f"local contexts of shape {found} do not fit {rows} regions for {b} images")

    @classmethod
    def build(cls, layouts: Sequence[Layout], encode: Callable[[list[str]], Tensor], **options: Any) -> SpatialControl:
        """The control of a batch with one layout per image.

        Args:
            encode: texts -> (number of texts, L, C); called once, with every different text.
            options: further fields.
        """
        regions, n = _table(layouts), _most(layouts)
        # Padding attends to the empty text, inside an empty mask.
        texts = [
            ["" if one is None else one.local_prompt if i < n else one.negative_prompt or "" for one in row]
            for i, row in enumerate(regions)
        ]
        contexts = _encode_distinct(texts, encode) if regions else torch.zeros(0, len(layouts), 0, 0)
        return cls(contexts, tuple(layouts), **options)

    @property
    def num_objects(self) -> int:
        """N, the largest number of objects of an image."""
        return _most(self.layouts)

    @property
    def present(self) -> Tensor:
        """(N, B) bool on the CPU; False for padding, whose mask is zero."""
        return self._of_objects(lambda one: one is not None)

    @property
    def free(self) -> Tensor:
        """(N, B) bool on the CPU; False for objects whose weights are not to be optimized."""
        return self._of_objects(lambda one: one is None or one.optimize)

    def moves(self, index: int, total: int) -> bool:
        """Whether there is something to optimize in step `index` of `total`."""
        return any(one.optimize and one.acts(index, total) for layout in self.layouts for one in layout.objects)

    def masks(self, h: int, w: int) -> Tensor:
        """Masks of every object, and of every negative text, on an h x w grid: (N + M, B, h*w), from 0 to 1.

        In the dtype of the contexts; discs are 0 or 1.
        """
        return self._grid(h, w)[0]

    def at_step(self, index: int, total: int, weights: Tensor) -> Tensor | None:
        """Coefficients (N + M, B) of step `index` of `total` with weights (N, B), or None where nothing acts.

        Negative texts have coefficient 1. What does not act in this step has 0.
        """
        regions = [one for row in self._regions for one in row]
        acts = tuple(one is None or one.acts(index, total) for one in regions)
        if not any(on for one, on in zip(regions, acts, strict=True) if one is not None):
            return None
        if all(acts) and len(self._regions) == len(weights):
            return weights
        if acts not in self._acting:
            coefficients = torch.tensor(acts, dtype=self.local_contexts.dtype).view(-1, len(self.layouts))
            self._acting[acts] = send(coefficients, self.local_contexts.device)
        return self._with_negatives(weights) * self._acting[acts].to(weights)

    def local_attention(self, h: int, w: int, weights: Tensor | None) -> LocalAttention | None:
        """What a cross-attention over an h x w grid needs; None when there is no object at all.

        Args:
            weights: w_{i,t} (N, B), or the coefficients of `at_step`.
        """
        n, rows = self.num_objects, len(self._regions)
        if n == 0:
            return None
        shape = (n, len(self.layouts))
        if weights is None or weights.shape not in (shape, (rows, shape[1])):
            got = "none" if weights is None else tuple(weights.shape)
            raise ValueError(f"control needs weights of shape {shape}, got {got}")
        weights = self._with_negatives(weights)
        masks, pixels = self._grid(h, w)
        if self.share_overlaps:
            acting = masks * (weights.detach() != 0)[..., None]
            parts = (slice(n), slice(n, None))  # objects, negative texts
            masks = torch.cat([masks[part] / acting[part].sum(0).clamp(min=1) for part in parts])
        return LocalAttention(
            self.local_contexts.unbind(),
            masks.unbind(),
            weights.unbind(),
            self.blend,
            pixels,
            self._projections,
            rows - n,
        )

    @cached_property
    def _regions(self) -> list[list[LayoutObject | None]]:
        """(N + M) x B, see `_table`."""
        return _table(self.layouts)

    def _of_objects(self, test: Callable[[LayoutObject | None], bool]) -> Tensor:
        rows = [[test(one) for one in row] for row in self._regions[: self.num_objects]]
        return torch.tensor(rows, dtype=torch.bool).view(-1, len(self.layouts))

    def _with_negatives(self, weights: Tensor) -> Tensor:
        """Weights (N, B) and a 1 for each negative text: (N + M, B)."""
        lacking = len(self._regions) - len(weights)
        return torch.cat([weights, weights.new_ones(lacking, weights.shape[1])]) if lacking else weights

    def _grid(self, h: int, w: int) -> tuple[Tensor, list[Tensor]]:
        """Masks, and for each of them the pixels where any image's is nonzero; computed once per size."""
        if (h, w) not in self._cache:
            known: dict[LayoutObject | None, Tensor] = {None: torch.zeros(h * w, dtype=torch.float64)}
            known |= {one: self._mask(one, h, w) for layout in self.layouts for one in layout.objects}
            masks = torch.stack([torch.stack([known[one] for one in row]) for row in self._regions])  # (N + M, B, P)
            device = self.local_contexts.device
            pixels = [mask.any(0).nonzero().squeeze(1).to(device) for mask in masks]  # each (P_i,)
            self._cache[h, w] = masks.to(self.local_contexts), pixels
        return self._cache[h, w]

    def _mask(self, region: LayoutObject, h: int, w: int) -> Tensor:
        """(h*w,) float64 mask of a region."""
        if region.shape is not None:
            return torch.from_numpy(region.shape.coverage(h, w)).flatten()
        center = torch.tensor([region.x, region.y], dtype=torch.float64)
        center = center.clamp(0, 1) if self.clamp else center
        radius = self.radius if region.radius is None else region.radius
        return disc_mask(center, h, w, radius, self.mask_dtype).double()


def _most(layouts: Sequence[Layout]) -> int:
    return max((len(layout.objects) for layout in layouts), default=0)


def _table(layouts: Sequence[Layout]) -> list[list[LayoutObject | None]]:
    """The regions of N objects for B images, then those with a negative text: (N + M) rows of B, None for padding."""
    rows = list(zip_longest(*(layout.objects for layout in layouts)))
    negative = [[one if one and one.negative_prompt is not None else None for one in row] for row in rows]
    return [*map(list, rows), *(row for row in negative if any(row))]


def _encode_distinct(texts: list[list[str]], encode: Callable[[list[str]], Tensor]) -> Tensor:
    """Encode a table of texts, N + M rows of B, each different one once: (N + M, B, L, C)."""
    number: dict[str, int] = {}
    index = torch.tensor([[number.setdefault(text, len(number)) for text in row] for row in texts])
    contexts = encode(list(number))
    return contexts[index.to(contexts.device)]
