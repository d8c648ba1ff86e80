"""Spatial control: the local descriptions of a batch of layouts and the discs in which they act.

Section 3.2 of Wu et al., ICCV 2023 (arXiv 2304.03869). Built once per batch and handed from the sampler through
the U-Net to every cross-attention; nothing is kept on a module or in a file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ldm.modules.attention import LocalAttention, Projections
from ldm.spacetime.layout import RADIUS, Layout

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
    """Local contexts and discs of N objects for each of B images; images with fewer objects are padded.

    It acts on the last B rows of the U-Net's batch, which has B rows, or 2B with the unconditional ones first.
    """

    local_contexts: Tensor  # (N, B, L, C), encoded descriptions
    centers: Tensor  # (N, B, 2) float64 on the CPU, x then y
    present: Tensor  # (N, B) bool on the CPU; False for padding, whose mask is zero
    radius: float = RADIUS
    # The attention subtracted from the local one: the prompt's, as in the paper, or the unconditional row's, as in the
    # ICCV 2023 release, which needs 2B rows.
    blend: Blend = "conditional"
    mask_dtype: torch.dtype = torch.float64  # of the arithmetic at the rim, see `disc_mask`
    clamp: bool = False  # move centers into [0, 1] first, as the April 2023 release
    _cache: dict[tuple[int, int], tuple[Tensor, list[Tensor]]] = field(default_factory=dict, init=False, repr=False)
    _projections: Projections = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        n, b = self.local_contexts.shape[:2]
        if self.centers.shape != (n, b, 2) or self.present.shape != (n, b):
            raise ValueError(
                f"local_contexts for {n} objects and {b} images do not fit centers "
                f"{tuple(self.centers.shape)} and present {tuple(self.present.shape)}"
            )

    @classmethod
    def build(
        cls,
        layouts: Sequence[Layout],
        encode: Callable[[list[str]], Tensor],
        *,
        radius: float = RADIUS,
        blend: Blend = "conditional",
        mask_dtype: torch.dtype = torch.float64,
        clamp: bool = False,
    ) -> SpatialControl:
        """The control of a batch with one layout per image.

        Args:
            encode: texts -> (number of texts, L, C); called once, with every different local prompt.
        """
        n, b = max((len(layout.objects) for layout in layouts), default=0), len(layouts)
        centers = torch.full((n, b, 2), 0.5, dtype=torch.float64)
        present = torch.zeros(n, b, dtype=torch.bool)
        texts = [[""] * b for _ in range(n)]  # padding attends to the empty text, inside an empty mask
        for j, layout in enumerate(layouts):
            for i, entry in enumerate(layout.objects):
                centers[i, j] = torch.tensor([entry.x, entry.y], dtype=torch.float64)
                present[i, j] = True
                texts[i][j] = entry.local_prompt
        local_contexts = _encode_distinct(texts, encode) if n else torch.zeros(0, b, 0, 0)
        return cls(local_contexts, centers, present, radius, blend, mask_dtype, clamp)

    @property
    def num_objects(self) -> int:
        """N, the largest number of objects of an image."""
        return self.local_contexts.shape[0]

    def masks(self, h: int, w: int) -> Tensor:
        """Masks of every object on an h x w grid: (N, B, h*w), 0 or 1, in the dtype of the contexts."""
        return self._grid(h, w)[0]

    def local_attention(self, h: int, w: int, weights: Tensor | None) -> LocalAttention | None:
        """What a cross-attention over an h x w grid needs, with w_{i,t} (N, B); None when there is no object at all."""
        if self.num_objects == 0:
            return None
        if weights is None or weights.shape != self.present.shape:
            got = "none" if weights is None else tuple(weights.shape)
            raise ValueError(f"control needs weights of shape {tuple(self.present.shape)}, got {got}")
        masks, pixels = self._grid(h, w)
        return LocalAttention(
            self.local_contexts.unbind(), masks.unbind(), weights.unbind(), self.blend, pixels, self._projections
        )

    def _grid(self, h: int, w: int) -> tuple[Tensor, list[Tensor]]:
        """Masks, and for each object the pixels where any image's mask is nonzero; computed once per size."""
        if (h, w) not in self._cache:
            centers = self.centers.clamp(0, 1) if self.clamp else self.centers
            inside = disc_mask(centers, h, w, self.radius, self.mask_dtype)  # (N, B, P)
            inside = inside & self.present[..., None]
            device = self.local_contexts.device
            pixels = [mask.any(0).nonzero().squeeze(1).to(device) for mask in inside]  # N x (P_i,)
            self._cache[h, w] = inside.to(self.local_contexts), pixels
        return self._cache[h, w]


def _encode_distinct(texts: list[list[str]], encode: Callable[[list[str]], Tensor]) -> Tensor:
    """Encode an N x B table of texts, each different one once: (N, B, L, C)."""
    number: dict[str, int] = {}
    index = torch.tensor([[number.setdefault(text, len(number)) for text in row] for row in texts])  # (N, B)
    contexts = encode(list(number))
    return contexts[index.to(contexts.device)]
