"""Frozen convolutions and linear layers on a CPU with weights in the layout that they are computed in.

PyTorch hands oneDNN plain weights, which are rearranged at every call; for small feature maps, as in the inner half of
a U-Net, that takes longer than the convolution. `pack` does it once a layer, and where it gains time, 3x3 convolutions
are computed with fewer products (`ldm/extensions/winograd.py`). Both work in both directions: the gradient to the input
of a stride-1 convolution is a convolution, too. The cost is a second copy of the weights, 16/9 as large where there are
fewer products, and a third once a gradient is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ldm.extensions import winograd
from ldm.extensions.winograd import Geometry
from ldm.modules import lean

KINDS = (nn.Conv2d, nn.Linear, lean.Conv2d, lean.Linear)  # subclasses of others may not use their forward


def available() -> bool:
    """Whether this PyTorch has oneDNN and the operators that take packed weights."""
    names = ("_reorder_convolution_weight", "_convolution_pointwise", "_reorder_linear_weight", "_linear_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


@contextmanager
def packed(model: nn.Module, tiles: bool = True) -> Iterator[int]:
    """`pack` for the length of a block; gives the number of layers."""
    layers = pack(model, tiles)
    try:
        yield len(layers)
    finally:
        unpack(model)


def pack(model: nn.Module, tiles: bool = True) -> list[nn.Module]:
    """Let the frozen float32 layers of a model on the CPU compute with packed weights; returns those layers.

    Weights are packed at a layer's first call. State dict, parameters and results stay as they were. A layer whose
    weights, device or dtype change afterwards packs them again, or goes the usual way where it must.

    Args:
        tiles: whether 3x3 convolutions that gain by it take fewer products and larger copies of their weights.
    """
    if not available():
        return []
    layers = _layers(model)
    for layer in layers:
        # An attribute of the instance, so that hooks, parameters and the state dict are untouched.
        layer.forward = _PackedLayer(layer, tiles)  # type: ignore[method-assign]
    return layers


def room(model: nn.Module, tiles: bool = True) -> int:
    """Bytes that `pack` and a gradient would take for a model."""
    return 2 * sum(_bytes(layer, tiles) for layer in _layers(model)) if available() else 0


def free_memory() -> int:
    """Bytes of this machine's memory that are free; 0 if that is not known."""
    with suppress(OSError, ValueError, IndexError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable")))
    return 0


@contextmanager
def paused(model: nn.Module, pause: bool = True) -> Iterator[None]:
    """Packed layers compute the usual way inside, iff `pause`; their packed weights are kept."""
    own = [module.__dict__.get("forward") for module in model.modules()]
    layers = [forward for forward in own if isinstance(forward, _PackedLayer)]
    for layer in layers:
        layer.paused = pause
    try:
        yield
    finally:
        for layer in layers:
            layer.paused = False


def unpack(model: nn.Module) -> None:
    """Undo `pack`."""
    for module in model.modules():
        if isinstance(module.__dict__.get("forward"), _PackedLayer):
            del module.forward


def _layers(model: nn.Module) -> list[Any]:
    """Those whose weights can be packed."""
    return [module for module in model.modules() if type(module) in KINDS and _fits(module)]


def _fits(layer: Any) -> bool:
    """Whether the layer's weights can be packed: float32, on the CPU, frozen; plain zero padding."""
    frozen = not any(parameter.requires_grad for parameter in layer.parameters())
    plain = not isinstance(layer, nn.Conv2d) or (layer.padding_mode == "zeros" and not isinstance(layer.padding, str))
    return frozen and plain and layer.weight.device.type == "cpu" and layer.weight.dtype == torch.float32


def _geometry(layer: Any) -> Geometry:
    return layer.padding, layer.stride, layer.dilation, layer.groups


def _bytes(layer: Any, tiles: bool) -> int:
    """Of the layer's packed weights in one direction."""
    size: int = layer.weight.numel() * layer.weight.element_size()
    tiled = tiles and isinstance(layer, nn.Conv2d) and winograd.suits(layer.weight.shape, _geometry(layer))
    return size * winograd.TILE**2 // layer.weight[0, 0].numel() if tiled else size


class _PackedLayer:
    """The forward of one layer, with the packed weights that it made at its first call."""

    def __init__(self, layer: Any, tiles: bool) -> None:
        self.layer, self.tiles = layer, tiles
        self.usual: Callable[[Tensor], Tensor] = partial(type(layer).forward, layer)
        self.paused = False
        self.version: tuple[int, int] | None = None
        self.weights: dict[tuple[bool, bool], Any] = {}  # by whether turned (backward pass), and in tiles

    def __deepcopy__(self, memo: dict[int, Any]) -> _PackedLayer:
        return _PackedLayer(memo.get(id(self.layer), self.layer), self.tiles)

    def __call__(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32 or x.device.type != "cpu" or not x.numel() or torch.is_autocast_enabled("cpu"):
            return self.usual(x)
        linear = isinstance(self.layer, nn.Linear)
        if self.paused or not _fits(self.layer) or (not linear and x.dim() != 4):
            return self.usual(x)
        version = (self.layer.weight.data_ptr(), self.layer.weight._version)
        if version != self.version:
            self.version = version
            self.weights.clear()
        compute, back = (self.linear, self.linear_gradient) if linear else (self.convolve, self.convolution_gradient)
        return lean.Affine.apply(x, compute, back) if x.requires_grad else compute(x)

    def linear(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        flat = x.reshape(-1, x.shape[-1])
        if not self.weights:
            weight = torch.ops.mkldnn._reorder_linear_weight(self.layer.weight.detach(), len(flat))
            self.weights[False, False] = weight
        out = torch.ops.mkldnn._linear_pointwise(flat, self.weights[False, False], self.layer.bias, "none", [], "")
        return out.view(*x.shape[:-1], out.shape[-1])

    def linear_gradient(self, gradient: Tensor, _: torch.Size) -> Tensor:
        """Of the output (..., out) to that of the input (..., in)."""
        return gradient @ self.layer.weight

    def convolve(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C_out, h', w')."""
        layer = self.layer
        return self._apply(x, layer.bias, _geometry(layer), False)

    def convolution_gradient(self, gradient: Tensor, shape: torch.Size) -> Tensor:
        """Of the output (B, C_out, h', w') to that of the input of `shape` (B, C, h, w)."""
        layer = self.layer
        sides = zip(layer.dilation, layer.kernel_size, layer.padding, strict=True)
        down, right = (dilation * (size - 1) - own for dilation, size, own in sides)
        if layer.stride != (1, 1) or layer.groups != 1 or min(down, right) < 0:
            return lean.input_gradient(layer, gradient, shape)
        return self._apply(gradient, None, ((down, right), (1, 1), layer.dilation, 1), True)

    def _apply(self, x: Tensor, bias: Tensor | None, geometry: Geometry, turned: bool) -> Tensor:
        """The convolution of x with the weight, or with the turned one: (C, C_out, kh, kw), back to front."""
        weight = self.layer.weight.detach()
        tiled = self.tiles and winograd.suits(weight.shape, geometry) and winograd.tiles(x.shape)
        padding, stride, dilation, groups = geometry
        if (turned, tiled) not in self.weights:
            weight = weight.flip(2, 3).transpose(0, 1).contiguous() if turned else weight
            self.weights[turned, tiled] = (
                winograd.transformed(weight)
                if tiled
                else torch.ops.mkldnn._reorder_convolution_weight(weight, padding, stride, dilation, groups, x.shape)
            )
        own = self.weights[turned, tiled]
        if tiled:
            return winograd.convolve(x, own, bias)
        return torch.ops.mkldnn._convolution_pointwise(x, own, bias, padding, stride, dilation, groups, "none", [], "")
