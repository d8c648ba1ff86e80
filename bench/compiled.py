"""A call of the Stable Diffusion v1 U-Net with two objects: as it is, with compiled blocks, with packed weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._inductor.utils import fresh_cache

from bench.timing import Call, in_turn, timed
from bench.unet import make_control, own_unet, run
from ldm.extensions.packed import pack
from ldm.modules.compiling import compile_blocks

Tensors = Callable[[], tuple[Tensor, ...]]
USUAL, COMPILED, PACKED = "as it is", "`--compile`", "`--pack-weights`"


def measure(size: int = 256, rounds: int = 5) -> dict[str, dict[str, Any]]:
    """Rows "forward, NAME" and "forward and backward, NAME", see :func:`bench.timing.in_turn`, with

    "first": seconds of the first call, in which the compiled blocks are compiled, with nothing in the compiler's cache;
    "saved": bytes that autograd keeps for the backward pass;
    "departure": the largest difference of output or gradient from those of the usual call, over the largest value;
    "products": the share of the time that goes into convolutions, matrix products and attention.

    The backward pass goes to the weights of the objects, all activations kept. The models share their parameters.
    """
    usual = own_unet()
    shared = {id(parameter): parameter for parameter in usual.parameters()}
    models = {USUAL: usual, **{name: copy.deepcopy(usual, dict(shared)) for name in (COMPILED, PACKED)}}
    compile_blocks(models[COMPILED], "cpu")
    pack(models[PACKED])
    with fresh_cache():
        return _rows(models, size // 8, rounds)


def _rows(models: dict[str, torch.nn.Module], side: int, rounds: int) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for gradient in (False, True):
        what = "forward and backward" if gradient else "forward"
        calls = {f"{what}, {name}": call for name, call in _calls(models, side, gradient).items()}
        first = {name: timed(call) for name, call in calls.items()}
        made = in_turn(calls, f"{what}, {USUAL}", rounds)
        expected = calls[f"{what}, {USUAL}"]()
        for name, call in calls.items():
            kept = _Kept(models[USUAL])
            with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor):
                result = call()
            rows[name] = {
                **made[name],
                "first": first[name],
                "departure": _departure(result, expected),
                "products": _products(call),
                "saved": kept.bytes if gradient else None,
            }
    return rows


class _Kept:
    """Counts the bytes of the storages that autograd saves, those of the parameters left out."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.bytes = 0
        self._seen = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def __call__(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor


def _calls(models: dict[str, torch.nn.Module], side: int, gradient: bool) -> dict[str, Tensors]:
    """Of every model a call that gives the output, or the output and the gradient."""
    torch.manual_seed(0)
    x, t = torch.randn(2, 4, side, side), torch.tensor([500, 500])
    context = torch.randn(2, 77, 768)
    control = make_control(2, torch.randn(2, 77, 768))

    def call(unet: torch.nn.Module) -> tuple[Tensor, ...]:
        weights = torch.ones(2, 1)
        return run(lambda w: unet(x, t, context, control=control, weights=w), weights, gradient, recompute=False)

    return {name: partial(call, unet) for name, unet in models.items()}


def _products(call: Call) -> float:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    seconds = {entry.key: entry.self_cpu_time_total for entry in profile.key_averages()}
    heavy = [name for name in seconds if any(part in name for part in ("conv", "mm", "linear", "attention"))]
    return sum(seconds[name] for name in heavy) / sum(seconds.values())


def _departure(result: Any, expected: Any) -> float:
    pairs = zip(result, expected, strict=True)
    return max(float((got - want).abs().max() / want.abs().max()) for got, want in pairs)
