"""3x3 convolutions of stride 1 by Winograd's minimal filtering, on a CPU.

F(2x2, 3x3) of Lavin and Gray (2016), "Fast Algorithms for Convolutional Neural Networks": four pixels cost 16 products
a pair of channels instead of 36. Input tiles of 4x4 pixels, which overlap by two, are transformed by additions; each of
the 16 positions in a tile is then a matrix product over channels, and additions give 2x2 pixels of the output. In
float32 the result differs from the direct sum by some 1e-6 of its largest value. Weights take 16/9 of their memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

TILE, STEP = 4, 2  # pixels a side of a tile of the input, and of the output
CHANNELS = 320  # with fewer, the additions take what the products save
_FEW, _MANY = 8, 512  # tiles: of fewer, reading the weights is all; of more, what lies beside is computed in parts
_CENTER = 5  # the position whose product enters all four pixels with a plus: the bias goes in there
_FILTER = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
_SAME = ((1, 1), (1, 1), (1, 1), 1)
Geometry = tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]  # padding, stride, dilation, groups


def suits(weight: Sequence[int], geometry: Geometry) -> bool:
    """Whether convolutions with a weight of that shape can be computed so, and gain by it."""
    return tuple(weight[2:]) == (3, 3) and geometry == _SAME and min(weight[:2]) >= CHANNELS


def tiles(x: Sequence[int]) -> bool:
    """Whether x of that shape (B, C, h, w) falls into tiles, and into enough of them."""
    batch, _, height, width = x
    return height % STEP == width % STEP == 0 and batch * height * width >= _FEW * STEP**2


def transformed(weight: Tensor) -> list[Tensor]:
    """(C_out, C, 3, 3) -> the 16 weights (C_out, C) of the positions in a tile, in the layout of oneDNN."""
    matrix = torch.tensor(_FILTER, dtype=weight.dtype)
    parts = torch.einsum("ia,ocab,jb->ijoc", matrix, weight, matrix).flatten(0, 1)
    return [torch.ops.mkldnn._reorder_linear_weight(part.contiguous()) for part in parts]


def convolve(x: Tensor, weights: Sequence[Tensor], bias: Tensor | None) -> Tensor:
    """The convolution with padding 1 of x (B, C, h, w), for which `tiles` holds.

    Args:
        weights: of `transformed`, of (C_out, C).
        bias: (C_out).

    Returns:
        (B, C_out, h, w), channels last in memory.
    """
    batch, _, height, width = x.shape
    rows, columns = height // STEP, width // STEP
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))  # (B, h + 2, w + 2, C)
    out = x.new_empty(batch, rows, STEP, columns, STEP, len(weights[0]))
    part = max(1, _MANY // (batch * columns))
    for first in range(0, rows, part):
        last = min(rows, first + part)
        _convolve_rows(padded[:, STEP * first : STEP * last + 2], weights, bias, out[:, first:last])
    return out.view(batch, height, width, -1).permute(0, 3, 1, 2)


def _convolve_rows(x: Tensor, weights: Sequence[Tensor], bias: Tensor | None, out: Tensor) -> None:
    """x (B, 2 rows + 2, 2 columns + 2, C) to `out` (B, rows, 2, columns, 2, C_out)."""
    batch, rows, _, columns, _, _ = out.shape
    taken = x.new_empty(TILE, TILE, batch, rows, columns, x.shape[-1])
    lines = _differences([x[:, i : i + STEP * rows - 1 : STEP] for i in range(TILE)], [None] * TILE)
    for line, into in zip(lines, taken, strict=True):
        _differences([line[:, :, j : j + STEP * columns - 1 : STEP] for j in range(TILE)], list(into))
    products = [
        torch.ops.mkldnn._linear_pointwise(tile, weight, bias if position == _CENTER else None, "none", [], "")
        for position, (tile, weight) in enumerate(zip(taken.flatten(0, 1).flatten(1, 3), weights, strict=True))
    ]
    summed = [_sums(products[j::TILE]) for j in range(TILE)]
    for i in range(STEP):
        for j, pixels in enumerate(_sums([column[i] for column in summed])):
            out[:, :, i, :, j] = pixels.view(batch, rows, columns, -1)


def _differences(x: Sequence[Tensor], out: Sequence[Tensor | None]) -> list[Tensor]:
    """Four lines of the input to the four that are multiplied."""
    return [
        torch.sub(x[0], x[2], out=out[0]),
        torch.add(x[1], x[2], out=out[1]),
        torch.sub(x[2], x[1], out=out[2]),
        torch.sub(x[1], x[3], out=out[3]),
    ]


def _sums(x: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Four lines of products to two of the output, in the place of the first two."""
    return x[0].add_(x[1]).add_(x[2]), x[1].sub_(x[2]).sub_(x[3])
