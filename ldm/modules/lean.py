"""Layers that, while their parameters are frozen, keep for the backward pass only what it needs.

While the weights of the objects are optimized, gradients pass through U-Net and decoder but none is taken of their
parameters. PyTorch's layers keep their inputs all the same: a convolution its input, a normalization, the activation
behind it and the gate of a feed-forward the same map several times over. Here a convolution keeps its weight and
computes from that, `norm_silu` and `geglu` keep their input and compute the rest again, which costs little. Under
autocast the layers keep the weights as they are, not a copy in the lower precision each.

Numbers, names and state dicts are those of PyTorch's layers. Where a parameter is trained, where nothing needs a
gradient, and under `torch.compile`, which makes such choices itself, PyTorch's own code runs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input


def frozen(layer: nn.Module, x: Tensor) -> bool:
    """Whether a gradient passes through `layer` to x, and to none of its parameters."""
    return _differentiated(x) and not any(parameter.requires_grad for parameter in layer.parameters(recurse=False))


def _differentiated(x: Tensor) -> bool:
    return x.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()


class Conv2d(nn.Conv2d):
    """A convolution that keeps no input while it is frozen."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C_out, h', w')."""
        if not frozen(self, x) or self.padding_mode != "zeros" or isinstance(self.padding, str) or x.dim() != 4:
            return super().forward(x)
        return _Convolution.apply(x, self)


class Linear(nn.Linear):
    """A linear layer that keeps no weight of its own precision under autocast while it is frozen."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if torch.is_autocast_enabled(x.device.type) and frozen(self, x):
            return _Linear.apply(x, self)
        return super().forward(x)


class LayerNorm(nn.LayerNorm):
    """A layer normalization, computed in at least float32, that keeps its input in its own precision."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> the same."""
        if x.dtype == torch.float32 or not frozen(self, x):
            return super().forward(x)
        return _LayerNorm.apply(x, self)


def norm_silu(norm: nn.Module, x: Tensor) -> Tensor:
    """silu(norm(x)) of (B, C, ...) and a group normalization; of a frozen one, only x is kept."""
    return _NormSilu.apply(x, norm) if frozen(norm, x) else F.silu(norm(x))


def geglu(projected: Tensor) -> Tensor:
    """a * gelu(b) of (..., 2 C) = [a, b] -> (..., C); only the input is kept."""
    return _Geglu.apply(projected) if _differentiated(projected) else _gated(projected)


def _gated(projected: Tensor) -> Tensor:
    value, gate = projected.chunk(2, dim=-1)
    return value * F.gelu(gate)


def convolution_input_gradient(layer: nn.Conv2d, gradient: Tensor, shape: torch.Size) -> Tensor:
    """Of a convolution's output (B, C_out, h', w') to that of its input of `shape` (B, C, h, w)."""
    weight = layer.weight.to(gradient.dtype)
    geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return conv2d_input(shape, weight, gradient, *geometry)  # type: ignore[arg-type]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Conv2d) -> Tensor:  # type: ignore[override]
        ctx.layer, ctx.shape, ctx.dtype = layer, x.shape, x.dtype
        return nn.Conv2d.forward(layer, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return convolution_input_gradient(ctx.layer, gradient, ctx.shape).to(ctx.dtype), None


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Linear) -> Tensor:  # type: ignore[override]
        ctx.layer, ctx.dtype = layer, x.dtype
        return nn.Linear.forward(layer, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return (gradient @ ctx.layer.weight.to(gradient.dtype)).to(ctx.dtype), None


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: nn.LayerNorm) -> Tensor:  # type: ignore[override]
        ctx.norm = norm
        ctx.save_for_backward(x)
        return nn.LayerNorm.forward(norm, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        norm, shape = ctx.norm, list(ctx.norm.normalized_shape)
        wide, weight = _wide(x), None if norm.weight is None else _wide(norm.weight)
        bias = None if norm.bias is None else _wide(norm.bias)
        _, mean, deviation = torch.native_layer_norm(wide, shape, weight, bias, norm.eps)
        back = torch.ops.aten.native_layer_norm_backward(
            _wide(gradient), wide, shape, mean, deviation, weight, bias, [True, False, False]
        )
        return back[0].to(x.dtype), None


class _NormSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: nn.GroupNorm) -> Tensor:  # type: ignore[override]
        ctx.norm = norm
        ctx.save_for_backward(x)
        return F.silu(norm(x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        norm: nn.GroupNorm = ctx.norm
        wide, weight, bias = _dense(_wide(x)), _wide(norm.weight), _wide(norm.bias)
        sizes = (*x.shape[:2], x[0, 0].numel(), norm.num_groups)
        normed, mean, deviation = torch.ops.aten.native_group_norm(wide, weight, bias, *sizes, norm.eps)
        through = torch.ops.aten.silu_backward(_wide(gradient), normed)
        back = torch.ops.aten.native_group_norm_backward(
            _dense(through), wide, mean, deviation, weight, *sizes, [True, False, False]
        )
        return back[0].to(x.dtype), None


class _Geglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, projected: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(projected)
        return _gated(projected)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        value, gate = ctx.saved_tensors[0].chunk(2, dim=-1)
        of_gate = torch.ops.aten.gelu_backward(gradient * value, gate)
        return torch.cat([gradient * F.gelu(gate), of_gate], dim=-1)


def _wide(x: Tensor) -> Tensor:
    """x in at least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _dense(x: Tensor) -> Tensor:
    """x without gaps, its channels last where they are."""
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return x if last else x.contiguous()
