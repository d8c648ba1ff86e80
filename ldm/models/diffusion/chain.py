"""What a chain of denoising steps is given, and what is checked and done around each step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ldm.models.diffusion.sampling import Generators, Step, WeightedEpsFn, add_noise, noise_like, predict_x0

PredictX0 = Callable[[Tensor], Tensor]  # weights (N,B) -> pred_x0 (B,C,H,W) of the present step
WeightUpdate = Callable[[int, "Tensor | None", PredictX0], "Tensor | None"]  # None: this step is plain
OnStep = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class ChainOptions:
    """What a chain needs beside the model and the schedule."""

    mask: Tensor | None = None  # (B or 1, 1 or C, H, W); 1 keeps x0, 0 is painted
    x0: Tensor | None = None  # (B, C, H, W) latents kept where mask is 1
    temperature: float = 1.0  # factor on the noise of stochastic steps
    noise_dropout: float = 0.0  # dropout on that noise
    generator: Generators = None
    weights: Tensor | None = None  # (S, N, B)
    weight_update: WeightUpdate | None = None
    checkpoint_steps: bool = False
    gradient_steps: int = 0  # how many of the last steps are differentiated; 0 is all
    callback: Callable[[int], Any] | None = None
    img_callback: Callable[[Tensor, int], Any] | None = None
    on_step: OnStep | None = None
    log_every_t: int = 100
    verbose: bool = True


def recomputed(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, its activations recomputed in the backward pass. All that is random must be an argument."""
    return partial(checkpoint, function, use_reentrant=False, preserve_rng_state=False)


def check_batch(conditioning: Any, batch_size: int) -> None:
    """Warn where a condition is for another number of images; the model may take it all the same."""
    for count in sorted({len(tensor) for tensor in tensors_of(conditioning)} - {batch_size}):
        warnings.warn(f"conditioning for {count} images in a batch of {batch_size}", stacklevel=3)


def tensors_of(condition: Any) -> Iterator[Tensor]:
    """The tensors of a condition, through lists and dicts."""
    if isinstance(condition, Tensor):
        yield condition
    elif isinstance(condition, (Mapping, list, tuple)):
        for part in condition.values() if isinstance(condition, Mapping) else condition:
            yield from tensors_of(part)


def check_weights(weights: Tensor | None, steps: int, control: Any, update: WeightUpdate | None) -> None:
    """ValueError unless the weights are one (N, B) slice for every step of the chain."""
    if weights is not None and (weights.dim() != 3 or weights.shape[0] != steps):
        raise ValueError(f"weights must be (steps={steps}, objects, batch), not {tuple(weights.shape)}")
    if weights is not None and control is None:
        raise ValueError("weights need the control that they belong to")
    if control is not None and weights is None and update is None:
        raise ValueError("a control needs weights (steps, objects, batch) or a weight_update")


def idle_steps(weights: Tensor | None) -> list[bool]:
    """Of every step, whether its weights (S, N, B) are all zero; read once for a chain. Empty where they may move."""
    if weights is None or weights.requires_grad:
        return []
    return (weights == 0).flatten(1).all(1).tolist()


def keep_known(x: Tensor, step: Step, options: ChainOptions) -> Tensor:
    """Puts the noised known latents where the mask is 1, before the step (inpainting as published)."""
    if options.mask is None:
        return x
    if options.x0 is None:
        raise ValueError("a mask needs x0, the latents to keep")
    noise = noise_like(options.x0.shape, options.generator, x.device, x.dtype)
    return options.mask * add_noise(options.x0, noise, step.alpha) + (1.0 - options.mask) * x


def predicted_x0(eps_fn: WeightedEpsFn, x: Tensor, step: Step, weights: Tensor | None) -> Tensor:
    """x_0 from the guided prediction of this step alone, without the history of a multistep method."""
    return predict_x0(x, eps_fn(x, step.timesteps(x), weights), step.alpha)
