"""Frozen layers: PyTorch's numbers and gradients with less kept for the backward pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.modules import lean
from ldm.modules.attention import GEGLU
from ldm.modules.diffusionmodules.unet_blocks import ResBlock
from ldm.modules.diffusionmodules.util import GroupNorm32

Call = Callable[[Tensor], Tensor]


def _geglu(x: Tensor) -> Tensor:
    value, gate = x.chunk(2, dim=-1)
    return value * F.gelu(gate)


def _cases() -> list[tuple[str, nn.Module, Call, Call, tuple[int, ...]]]:
    """(name, layer to freeze, ours, PyTorch's, shape of the input)."""
    conv, strided = lean.Conv2d(4, 6, 3, padding=1), lean.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2)
    grouped, linear = lean.Conv2d(4, 6, 1, groups=2, bias=False), lean.Linear(5, 3)
    norm, fine, layer_norm = nn.GroupNorm(2, 4), GroupNorm32(2, 4, eps=1e-6), lean.LayerNorm(5)
    for part in (norm, fine, layer_norm):
        for parameter in part.parameters():
            nn.init.normal_(parameter, mean=1.0)
    image = (2, 4, 7, 6)
    return [
        ("conv", conv, conv, lambda x: nn.Conv2d.forward(conv, x), image),
        ("strided", strided, strided, lambda x: nn.Conv2d.forward(strided, x), image),
        ("grouped", grouped, grouped, lambda x: nn.Conv2d.forward(grouped, x), image),
        ("linear", linear, linear, lambda x: nn.Linear.forward(linear, x), (2, 3, 5)),
        ("norm_silu", norm, lambda x: lean.norm_silu(norm, x), lambda x: F.silu(norm(x)), image),
        ("norm_silu 32", fine, lambda x: lean.norm_silu(fine, x), lambda x: F.silu(fine(x)), image),
        ("norm_silu 1d", norm, lambda x: lean.norm_silu(norm, x), lambda x: F.silu(norm(x)), (2, 4, 9)),
        ("layer_norm", layer_norm, layer_norm, lambda x: nn.LayerNorm.forward(layer_norm, x), (2, 3, 5)),
        ("geglu", nn.Identity(), lean.geglu, _geglu, (2, 3, 8)),
    ]


@pytest.mark.parametrize("index", range(len(_cases())))
def test_numbers_and_gradients_are_pytorchs(index: int) -> None:
    torch.manual_seed(index)
    name, layer, ours, theirs, shape = _cases()[index]
    layer.double().requires_grad_(False)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    out, expected = ours(x), theirs(x)
    assert torch.equal(out, expected), name
    upstream = torch.randn_like(out)
    (got,), (want,) = torch.autograd.grad(out, x, upstream), torch.autograd.grad(expected, x, upstream)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(ours, (x,), nondet_tol=0.0)


def test_channels_last_gives_the_same_gradient() -> None:
    norm = nn.GroupNorm(2, 4).requires_grad_(False)
    x = torch.randn(2, 4, 6, 5)
    grads = []
    for layout in (torch.contiguous_format, torch.channels_last):
        y = x.clone(memory_format=layout).requires_grad_()
        grads += torch.autograd.grad(lean.norm_silu(norm, y).square().sum(), y)
    torch.testing.assert_close(grads[0], grads[1])


def test_a_trained_layer_gets_its_gradients() -> None:
    layers = nn.Sequential(lean.Conv2d(3, 4, 3), lean.Conv2d(4, 4, 1)).requires_grad_(True)
    norm = nn.GroupNorm(2, 4)
    lean.norm_silu(norm, layers(torch.randn(1, 3, 5, 5, requires_grad=True))).sum().backward()
    assert all(p.grad is not None for p in (*layers.parameters(), *norm.parameters()))


def _saved(call: Call, x: Tensor, layer: nn.Module) -> int:
    """Elements of the distinct tensors, those of `layer` left out, that autograd keeps for the backward pass."""
    kept: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = call(x)
    assert out.requires_grad
    return sum(kept.values())


def test_a_frozen_residual_block_keeps_two_maps() -> None:
    block = ResBlock(32, 16, dropout=0.0).eval().requires_grad_(False)
    x, emb = torch.randn(1, 32, 8, 8), torch.randn(1, 16)
    assert _saved(lambda y: block(y, emb), x.clone().requires_grad_(), block) == 2 * x.numel()
    block.requires_grad_(True)
    assert _saved(lambda y: block(y, emb), x.clone().requires_grad_(), block) > 5 * x.numel()


def test_a_frozen_gate_keeps_its_input_alone() -> None:
    gate = GEGLU(8, 16).requires_grad_(False)
    assert _saved(gate, torch.randn(2, 5, 8, requires_grad=True), gate) == 2 * 5 * 32


@pytest.mark.parametrize("kind", ["conv", "linear", "layer_norm", "norm_silu"])
def test_under_autocast_no_second_copy_of_a_weight_is_kept(kind: str) -> None:
    calls: dict[str, tuple[nn.Module, Call, tuple[int, ...]]] = {
        "conv": (conv := lean.Conv2d(4, 16, 3, padding=1), conv, (2, 4, 5, 5)),
        "linear": (linear := lean.Linear(5, 64), linear, (2, 3, 5)),
        "layer_norm": (layer := lean.LayerNorm(8), layer, (2, 3, 8)),
        "norm_silu": (norm := GroupNorm32(2, 4), lambda x: lean.norm_silu(norm, x), (2, 4, 5, 5)),
    }
    layer_, call, shape = calls[kind]
    layer_.requires_grad_(False)
    x = torch.randn(shape, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        probe = torch.randn_like(call(x).float())
        kept = _saved(call, x, layer_)
        (got,) = torch.autograd.grad((call(x).float() * probe).sum(), x)
    assert kept == (x.numel() if kind in ("layer_norm", "norm_silu") else 0)
    wide = x.detach().float().requires_grad_()
    (want,) = torch.autograd.grad((call(wide) * probe).sum(), wide)
    torch.testing.assert_close(got.float(), want, rtol=0.1, atol=0.1 * float(want.abs().max()))
