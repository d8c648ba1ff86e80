"""Frozen layers that keep less for the backward pass.

While the weights of the objects are optimized, gradients pass through U-Net and decoder, none to their parameters.
PyTorch's layers keep their inputs all the same, and under autocast a copy of each weight. Here, while frozen, a
convolution or linear layer keeps nothing (`Affine`); a normalization with its activation, or a gate, keeps its input
and is computed again in the backward pass. Results and state dicts are those of PyTorch's layers, whose own code runs
where a parameter is trained or no gradient is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import get_gradient_edge
from torch.nn.grad import conv2d_input

Call = Callable[[Tensor], Tensor]


def frozen(layer: nn.Module, x: Tensor) -> bool:
    """Whether a gradient passes through `layer` to x, and to none of its parameters."""
    trained = any(parameter.requires_grad for parameter in layer.parameters(recurse=False))
    return x.requires_grad and torch.is_grad_enabled() and not trained


class Affine(torch.autograd.Function):
    """`compute(x)` with the gradient `back(gradient, x.shape)`, for which x is not needed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, compute: Call, back: Callable[[Tensor, torch.Size], Tensor]) -> Tensor:  # type: ignore[override]
        ctx.back, ctx.shape, ctx.dtype = back, x.shape, x.dtype
        return compute(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return ctx.back(gradient, ctx.shape).to(ctx.dtype), None, None


class Recomputed(torch.autograd.Function):
    """`compute(x)`, of which only x is kept; it is computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, compute: Call) -> Tensor:  # type: ignore[override]
        kind = x.device.type
        ctx.compute, ctx.autocast = compute, (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        ctx.save_for_backward(x)
        return compute(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad(), torch.autocast(*ctx.autocast):
            edge = get_gradient_edge(ctx.compute(x))  # the result itself is not needed
        return torch.autograd.grad(edge, x, gradient)[0], None


class Conv2d(nn.Conv2d):
    """A convolution that keeps no input while it is frozen."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C_out, h', w')."""
        if not frozen(self, x) or self.padding_mode != "zeros" or isinstance(self.padding, str) or x.dim() != 4:
            return super().forward(x)
        return Affine.apply(x, super().forward, partial(input_gradient, self))


def input_gradient(layer: nn.Conv2d, gradient: Tensor, shape: torch.Size) -> Tensor:
    """Of a convolution's output (B, C_out, h', w') to that of its input of `shape` (B, C, h, w)."""
    geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return conv2d_input(shape, layer.weight.to(gradient.dtype), gradient, *geometry)  # type: ignore[arg-type]


class Linear(nn.Linear):
    """A linear layer that keeps no weight of its own precision under autocast while it is frozen."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if not torch.is_autocast_enabled(x.device.type) or not frozen(self, x):
            return super().forward(x)
        return Affine.apply(x, super().forward, lambda gradient, _: gradient @ self.weight.to(gradient.dtype))


class LayerNorm(nn.LayerNorm):
    """A layer normalization, computed in at least float32, that keeps its input in its own precision."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> the same."""
        if x.dtype == torch.float32 or not frozen(self, x):
            return super().forward(x)
        return Recomputed.apply(x, super().forward)


def norm_silu(norm: nn.Module, x: Tensor) -> Tensor:
    """silu(norm(x)) of (B, C, ...) and a group normalization; of a frozen one, only x is kept."""
    return _NormSilu.apply(x, norm) if frozen(norm, x) else F.silu(norm(x))


class _NormSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: nn.Module) -> Tensor:  # type: ignore[override]
        ctx.norm = norm
        ctx.save_for_backward(x)
        return F.silu(norm(x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        x = ctx.saved_tensors[0]
        precision = torch.promote_types(x.dtype, torch.float32)
        wide = x.detach().to(precision).requires_grad_()
        with torch.enable_grad():
            normed = ctx.norm.forward(wide)  # without the hooks of a second call
        through = normed.detach()  # in its place: the normalization's own gradient does not need its result
        torch.ops.aten.silu_backward.grad_input(gradient.to(precision), through, grad_input=through)
        return torch.autograd.grad(normed, wide, through)[0].to(x.dtype), None


def geglu(projected: Tensor) -> Tensor:
    """a * gelu(b) of (..., 2 C) = [a, b] -> (..., C); only the input is kept."""
    return Recomputed.apply(projected, _gated)


def _gated(projected: Tensor) -> Tensor:
    value, gate = projected.chunk(2, dim=-1)
    return value * F.gelu(gate)
