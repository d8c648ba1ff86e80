"""The chain that DDIM, PLMS and DPM-Solver share: one loop, one surface, no state between calls.

No gradient switch anywhere: under `torch.no_grad()` this is plain sampling; with gradients enabled the chain
is differentiable in the weights of the spatial control, and with `checkpoint_steps` it keeps latents only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from ldm.models.diffusion.sampling import (
    EpsFn,
    Generators,
    History,
    Project,
    Step,
    WeightedEpsFn,
    add_noise,
    check_finite,
    guided_eps,
    noise_like,
    predict_x0,
    skip_noise,
    step_noise,
)
from ldm.util import UserError

PredictX0 = Callable[[Tensor], Tensor]  # weights (N,B) -> pred_x0 (B,C,H,W) of the present step
WeightUpdate = Callable[[int, "Tensor | None", PredictX0], "Tensor | None"]
Intermediates = dict[str, list[Tensor]]


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
    callback: Callable[[dict[str, Any]], None] | None = None
    img_callback: Callable[[Tensor, int], None] | None = None
    log_every_t: int = 100
    verbose: bool = False


class Sampler(ABC):
    """Base of the samplers; `model` is a LatentDiffusion or has its apply_model and alphas_cumprod."""

    history_length = 0  # earlier predictions that a step looks back on
    first_calls = 1  # of the model in the first step; each later step makes one
    draws_noise = True  # after every call as published, also where its factor is 0

    def __init__(self, model: Any) -> None:
        if getattr(model, "parameterization", "eps") != "eps":
            raise UserError("the samplers need a model that predicts the noise (parameterization: eps)")
        self.model = model

    @abstractmethod
    def schedule(self, steps: int, eta: float = 0.0) -> list[Step]:
        """The chain for `steps` requested steps, the noisiest first; its length is that of the weights."""

    @staticmethod
    @abstractmethod
    def take_step(
        eps_fn: EpsFn, x: Tensor, step: Step, history: History, noise: Tensor | None, project: Project | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step: (x_prev, pred_x0, the prediction to remember), each (B, C, H, W)."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.alphas_cumprod.device

    def sample(
        self,
        S: int,
        batch_size: int,
        shape: Sequence[int],
        conditioning: Any = None,
        *,
        callback: Callable[[dict[str, Any]], None] | None = None,
        img_callback: Callable[[Tensor, int], None] | None = None,
        quantize_x0: bool = False,
        eta: float = 0.0,
        mask: Tensor | None = None,
        x0: Tensor | None = None,
        temperature: float = 1.0,
        noise_dropout: float = 0.0,
        verbose: bool = True,
        x_T: Tensor | None = None,
        log_every_t: int = 100,
        unconditional_guidance_scale: float = 1.0,
        unconditional_conditioning: Any = None,
        generator: Generators = None,
        control: Any = None,
        weights: Tensor | None = None,
        weight_update: WeightUpdate | None = None,
        checkpoint_steps: bool = False,
        gradient_steps: int = 0,
    ) -> tuple[Tensor, Intermediates]:
        """Samples latents (B, C, H, W) in S steps. Returns them and {"x_inter": [...], "pred_x0": [...]}.

        Args:
            shape: (C, H, W) of one latent.
            callback: called after every step with a dict of i, t, x, pred_x0 and weights, detached;
                `img_callback` likewise with pred_x0 and i.
            eta: 0 is deterministic, 1 as noisy as DDPM (DDIM only).
            mask, x0: inpainting; where the mask is 1, x0 is kept, noised afresh at every step.
            x_T: starting noise (B, C, H, W), else drawn from `generator` (one, or one per image).
            control: SpatialControl; `weights` (S, N, B) of it in the order of the steps.
            weight_update: called before step i as (i, its weights, predict_x0); gives the weights to take it with.
            checkpoint_steps: recompute every step in the backward pass instead of keeping its activations.
            gradient_steps: the gradient passes through so many of the last steps only, an approximation; 0 is all.

        Raises:
            UserError: a step count outside 1..1000, or an eta that the sampler can't do.
        """
        steps = self.schedule(S, eta)
        x = noise_like((batch_size, *shape), generator) if x_T is None else x_T
        x = x.to(self.device)
        if tuple(x.shape) != (batch_size, *shape):
            raise ValueError(f"x_T has shape {tuple(x.shape)}, expected {(batch_size, *shape)}")
        if isinstance(conditioning, Tensor) and len(conditioning) != batch_size:
            raise ValueError(f"conditioning for {len(conditioning)} images in a batch of {batch_size}")
        check_weights(weights, len(steps), control, weight_update)
        eps_fn = guided_eps(self.model, conditioning, unconditional_conditioning, unconditional_guidance_scale, control)
        options = ChainOptions(
            mask,
            x0,
            temperature,
            noise_dropout,
            generator,
            weights,
            weight_update,
            checkpoint_steps,
            gradient_steps,
            callback,
            img_callback,
            log_every_t,
            verbose,
        )
        return self.run_chain(steps, x, eps_fn, options, self._quantize if quantize_x0 else None)

    def _quantize(self, pred_x0: Tensor) -> Tensor:
        return self.model.first_stage_model.quantize(pred_x0)[0]

    def run_chain(
        self,
        steps: Sequence[Step],
        x: Tensor,
        eps_fn: WeightedEpsFn,
        options: ChainOptions,
        project: Project | None = None,
    ) -> tuple[Tensor, Intermediates]:
        """The loop over `steps` from x (B, C, H, W). Only x, the history and the weights pass from step to step.

        Raises:
            UserError: the latents are not finite.
        """
        history: History = ()
        inter: Intermediates = {"x_inter": [x.detach()], "pred_x0": [x.detach()]}
        for step in tqdm(steps, desc=type(self).__name__, disable=not options.verbose):
            left = len(steps) - step.index  # with this one
            x = keep_known(x, step, options)
            weights = None if options.weights is None else options.weights[step.index]  # (N, B)
            if options.weight_update is not None:
                weights = options.weight_update(step.index, weights, partial(_predicted_x0, eps_fn, x, step))
            # The noise is drawn outside the step, so that the step can be recomputed.
            noise = None
            if step.sigma != 0.0:
                noise = step_noise(x.shape, x, options.generator, options.temperature, options.noise_dropout)
            elif self.draws_noise:
                skip_noise(x.shape, options.generator, 1 if history else self.first_calls)
            differentiated = options.gradient_steps == 0 or left <= options.gradient_steps
            with torch.set_grad_enabled(torch.is_grad_enabled() and differentiated):
                recompute = options.checkpoint_steps and torch.is_grad_enabled()
                # Of a step with two calls, the backward pass should hold one call's activations at a time.
                call = recomputed(eps_fn) if recompute and not history and self.first_calls > 1 else eps_fn
                take = partial(self._take, call, step, project)
                x, pred_x0, entry = (recomputed(take) if recompute else take)(x, weights, noise, *history)
            history = (entry, *history)[: self.history_length]
            state = {"i": step.index, "t": step.t, "x": x.detach(), "pred_x0": pred_x0.detach()}
            if options.callback is not None:
                options.callback({**state, "weights": None if weights is None else weights.detach()})
            if options.img_callback is not None:
                options.img_callback(state["pred_x0"], step.index)
            if (left - 1) % options.log_every_t == 0 or step.index == 0:  # counted from the end, as published
                inter["x_inter"].append(state["x"])
                inter["pred_x0"].append(state["pred_x0"])
        check_finite(x)
        return x, inter

    def _take(
        self,
        eps_fn: WeightedEpsFn,
        step: Step,
        project: Project | None,
        x: Tensor,
        weights: Tensor | None,
        noise: Tensor | None,
        *history: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step as a function of tensors, which is what checkpointing needs."""
        return self.take_step(lambda y, t: eps_fn(y, t, weights), x, step, history, noise, project)


def recomputed(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, its activations recomputed in the backward pass. All that is random must be an argument."""
    return partial(checkpoint, function, use_reentrant=False, preserve_rng_state=False)


def check_weights(weights: Tensor | None, steps: int, control: Any, update: WeightUpdate | None) -> None:
    """ValueError unless the weights are one (N, B) slice for every step of the chain."""
    if weights is not None and (weights.dim() != 3 or weights.shape[0] != steps):
        raise ValueError(f"weights must be (steps={steps}, objects, batch), not {tuple(weights.shape)}")
    if weights is not None and control is None:
        raise ValueError("weights need the control that they belong to")
    if control is not None and weights is None and update is None:
        raise ValueError("a control needs weights (steps, objects, batch) or a weight_update")


def keep_known(x: Tensor, step: Step, options: ChainOptions) -> Tensor:
    """Puts the noised known latents where the mask is 1, before the step (inpainting as published)."""
    if options.mask is None:
        return x
    if options.x0 is None:
        raise ValueError("a mask needs x0, the latents to keep")
    noise = noise_like(options.x0.shape, options.generator, x.device, x.dtype)
    return options.mask * add_noise(options.x0, noise, step.alpha) + (1.0 - options.mask) * x


def _predicted_x0(eps_fn: WeightedEpsFn, x: Tensor, step: Step, weights: Tensor | None) -> Tensor:
    """x_0 from the guided prediction of this step alone, without the history of a multistep method."""
    return predict_x0(x, eps_fn(x, step.timesteps(x), weights), step.alpha)
