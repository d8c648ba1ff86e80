"""One guided call of the Stable Diffusion v1 U-Net, with and without control, beside the U-Net of `diffusers`.

Plain calls without a gradient also stand beside other programs' (`bench.others`).

Random weights: only the architecture decides the time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bench import others
from bench.counting import Call, in_turn
from ldm.backends.diffusers import attentions_of, controlled
from ldm.extensions.packed import pack, paused
from ldm.paths import SD_CONFIG, project_file
from ldm.spacetime.control import SpatialControl
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.spacetime.optimize import set_block_checkpoints
from ldm.util import UserError, instantiate_from_config, load_config

LIBRARY = "diffusers, plain"
CENTERS = ((0.25, 0.5), (0.75, 0.5), (0.5, 0.25), (0.5, 0.75))


def measure(size: int = 256, rounds: int = 5, gradient: bool = False) -> dict[str, dict[str, Any]]:
    """Seconds of a call by row, and the ratio to the library's; see `bench.counting.in_turn`.

    Args:
        size: pixels a side; the latents are an eighth of it, two rows of them (guidance).
        gradient: also the backward pass, to the weights of the objects or, without objects, to the latents; ours
            computes the call twice, as the checkpoint of every step does, the library keeps its activations.

    Raises:
        UserError: `diffusers` is not installed.
    """
    torch.manual_seed(0)
    side = size // 8
    x, t, context = torch.randn(2, 4, side, side), torch.tensor([500, 500]), torch.randn(2, 77, 768)
    library, own = _library(side), make_unet()
    attentions = attentions_of(library)
    texts = torch.randn(len(CENTERS), 77, 768)
    elsewhere = {} if gradient else others.calls(own, (x, t, context))
    pack(own)

    def ours(packed: bool, control: SpatialControl | None) -> None:
        with paused(own, not packed):  # packed once, in the warm-up
            if control is None:
                _run(lambda y: own(y, t, context), x, gradient)
                return
            weights = torch.ones(control.num_objects, 1)
            _run(lambda w: own(x, t, context, control=control, weights=w), weights, gradient)

    def theirs(control: SpatialControl | None) -> None:
        assert control is not None
        weights = torch.ones(control.num_objects, 1)
        with controlled(attentions):
            told = lambda w: {"control": (control, w, (side, side))}  # noqa: E731
            _run(lambda w: library(x, t, context, cross_attention_kwargs=told(w)).sample, weights, gradient, False)

    calls: dict[str, Call] = {LIBRARY: lambda: _run(lambda y: library(y, t, context).sample, x, gradient, False)}
    for objects in (1, 2):
        calls[f"diffusers, {objects} object{'s' * (objects > 1)}"] = partial(theirs, make_control(objects, texts))
    for packed in (True, False):
        for objects in (0, 1, 2, 3) if packed else (0, 2):
            name = f"ours, {f'{objects} objects' if objects else 'plain'}{', packed weights' if packed else ''}"
            calls[name] = partial(ours, packed, make_control(objects, texts))
    return in_turn(calls | elsewhere, LIBRARY, rounds)


def _run(function: Callable[[Tensor], Tensor], argument: Tensor, gradient: bool, recompute: bool = True) -> None:
    """The function once; with `gradient` also the derivative, recomputed from its input as a step of our chain is."""
    if not gradient:
        with torch.no_grad():
            function(argument)
        return
    argument = argument.detach().clone().requires_grad_()
    out = checkpoint(function, argument, use_reentrant=False) if recompute else function(argument)
    torch.autograd.grad(out.square().sum(), argument)


def make_control(objects: int, contexts: Tensor, batch: int = 1) -> SpatialControl | None:
    """Of so many objects in every image, with contexts (at least `objects`, L, C); None for no object."""
    if not objects:
        return None
    layout = Layout(tuple(LayoutObject(f"object {i}", *CENTERS[i]) for i in range(objects)))
    return SpatialControl.build([layout] * batch, lambda texts: contexts[: len(texts)])


def make_unet() -> torch.nn.Module:
    """The U-Net of v1-inference.yaml with random weights; layers that begin at zero get some, too."""
    params = load_config(project_file(SD_CONFIG)).model.params
    model = instantiate_from_config(params.unet_config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.01)
    set_block_checkpoints(model, False)
    return model


def _library(side: int) -> Any:
    try:
        from diffusers import UNet2DConditionModel
    except ImportError as error:
        raise UserError("the comparison needs the package diffusers: pip install diffusers") from error
    model: Any = UNet2DConditionModel(sample_size=side, cross_attention_dim=768)
    return model.eval().requires_grad_(False)
