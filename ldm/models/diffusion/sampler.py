"""The chain that DDIM, PLMS and DPM-Solver share: one loop under the published names.

Under `torch.no_grad()` this is plain sampling. With gradients enabled the chain is differentiable in what it is given
(weights of the spatial control, conditions, latents), not in the model's parameters, and with `checkpoint_steps` it
keeps latents only.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ldm.models.diffusion.chain import (
    ChainOptions,
    OnStep,
    StepWeights,
    WeightUpdate,
    check_batch,
    check_weights,
    keep_known,
    predicted_x0,
    recomputed,
    tensors_of,
)
from ldm.models.diffusion.sampling import (
    MAX_STEPS,
    EpsFn,
    Generators,
    Guidance,
    History,
    Project,
    ScoreCorrector,
    Step,
    WeightedEpsFn,
    full_timesteps,
    guided_eps,
    lowest_steps,
    noise_like,
    schedule_from_timesteps,
    skip_noise,
    step_noise,
    stop_at_nan,
)
from ldm.util import UserError

logger = logging.getLogger(__name__)

Intermediates = dict[str, list[Tensor]]
# (eps, step, projection, x, weights, noise, *history) -> (x_prev, pred_x0, the prediction to remember)
Take = Callable[..., tuple[Tensor, Tensor, Tensor]]


class Sampler(ABC):
    """Base of the samplers; `model` is a LatentDiffusion or has its apply_model and alphas_cumprod.

    Args:
        schedule, options: accepted, as published; without effect.
    """

    history_length = 0  # earlier predictions that a step looks back on
    first_calls = 1  # of the model in the first step; each later step makes one
    draws_noise = True  # after every call as published, also where its factor is 0
    # The published names of the loop and of one step. A subclass's own step is taken instead of `take_step`.
    loop_name = "denoise"
    step_name = ""
    predicted_x0 = staticmethod(predicted_x0)

    def __init__(self, model: Any, schedule: str = "linear", **options: Any) -> None:
        if getattr(model, "parameterization", "eps") not in ("eps", "v"):
            raise UserError("the samplers need a model that predicts the noise or v (parameterization: eps or v)")
        self.model = model
        self.ddpm_num_timesteps = len(model.alphas_cumprod) if hasattr(model, "alphas_cumprod") else 0
        self._chosen: list[Step] | None = None

    @abstractmethod
    def schedule(self, steps: int, eta: float = 0.0, discretize: str = "uniform") -> list[Step]:
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

    def register_buffer(self, name: str, attr: Any) -> None:
        """Keep `attr` as an attribute, a tensor on the model's device."""
        setattr(self, name, attr.to(self.device) if isinstance(attr, Tensor) else attr)

    def make_schedule(
        self, ddim_num_steps: int, ddim_discretize: str = "uniform", ddim_eta: float = 0.0, verbose: bool = True
    ) -> None:
        """Choose the schedule, which `sample` does itself.

        Afterwards `ddim_timesteps` (S,) rise, and `ddim_alphas`, `ddim_alphas_prev`, `ddim_sigmas`,
        `ddim_sqrt_one_minus_alphas` (S,) go with them. `verbose` logs them.
        """
        chosen = self.schedule(ddim_num_steps, ddim_eta, ddim_discretize)
        self._chosen, rising = chosen, chosen[::-1]
        self.ddim_timesteps = np.asarray([step.t for step in rising])
        alphas = torch.tensor([step.alpha for step in rising], dtype=torch.float64)
        for name, value in {
            "ddim_alphas": alphas,
            "ddim_alphas_prev": torch.tensor([step.alpha_prev for step in rising], dtype=torch.float64),
            "ddim_sigmas": torch.tensor([step.sigma for step in rising], dtype=torch.float64),
            "ddim_sqrt_one_minus_alphas": (1.0 - alphas).sqrt(),
        }.items():
            self.register_buffer(name, value.float())
        for name in ("betas", "alphas_cumprod", "alphas_cumprod_prev"):
            if hasattr(self.model, name):
                self.register_buffer(name, getattr(self.model, name).detach())
        if verbose:
            logger.debug("timesteps of the sampler: %s", self.ddim_timesteps)

    def steps(self, use_original_steps: bool = False) -> list[Step]:
        """The chosen schedule, or all training timesteps (at eta 1, as DDPM); the noisiest first."""
        if use_original_steps:
            alphas = self.model.alphas_cumprod.detach().cpu().numpy()
            return schedule_from_timesteps(alphas, np.arange(len(alphas)), 1.0)
        if self._chosen is None:
            raise UserError("choose a schedule first: make_schedule(steps)")
        return self._chosen

    def sample(
        self,
        S: int,
        batch_size: int,
        shape: Sequence[int],
        conditioning: Any = None,
        callback: Callable[[int], Any] | None = None,
        normals_sequence: Any = None,
        img_callback: Callable[[Tensor, int], Any] | None = None,
        quantize_x0: bool = False,
        eta: float = 0.0,
        mask: Tensor | None = None,
        x0: Tensor | None = None,
        temperature: float = 1.0,
        noise_dropout: float = 0.0,
        score_corrector: ScoreCorrector | None = None,
        corrector_kwargs: Mapping[str, Any] | None = None,
        verbose: bool = True,
        x_T: Tensor | None = None,
        log_every_t: int = 100,
        unconditional_guidance_scale: float = 1.0,
        unconditional_conditioning: Any = None,
        *,
        generator: Generators = None,
        control: Any = None,
        weights: StepWeights = None,
        weight_update: WeightUpdate | None = None,
        checkpoint_steps: bool = False,
        gradient_steps: int = 0,
        on_step: OnStep | None = None,
        last: int | None = None,
        **ignored: Any,
    ) -> tuple[Tensor, Intermediates]:
        """Samples latents (B, C, H, W) in S steps. Returns them and {"x_inter": [...], "pred_x0": [...]}.

        Args:
            shape: (C, H, W) of one latent.
            conditioning: for `apply_model`: a tensor (B, ...), a list of them, or a dict of either.
            callback, img_callback: called after step i as `callback(i)` and `img_callback(pred_x0, i)`.
            on_step: called after every step with a dict of i, t, x, pred_x0 and weights, detached.
            normals_sequence: accepted, as published; without effect.
            eta: 0 is deterministic, 1 as noisy as DDPM (DDIM only).
            mask, x0: inpainting; where the mask is 1, x0 is kept, noised afresh at every step.
            score_corrector: changes every noise prediction, called with `corrector_kwargs`; see `ScoreCorrector`.
            x_T: starting noise (B, C, H, W), else drawn from `generator` (one, or one per image).
            control: SpatialControl; `weights` (S, N, B) of it in the order of the steps, see `StepWeights`.
            weight_update: called before step i as (i, its weights, predict_x0); gives the weights to take it with, or
                None for a plain step.
            checkpoint_steps: recompute every step in the backward pass instead of keeping its activations.
            gradient_steps: the gradient passes through so many of the last steps only, an approximation; 0 is all.
            last: take so many of the least noisy steps only; x_T is noised as far as the first of them.
            ignored: what published programs also give; named in the log.

        Raises:
            UserError: a step count outside 1..1000, or an eta that the sampler can't do.
        """
        if ignored:
            logger.warning("%s ignores %s", type(self).__name__, ", ".join(ignored))
        check_batch(conditioning, batch_size)
        self.make_schedule(S, ddim_eta=eta, verbose=verbose)
        check_weights(weights, min(last or MAX_STEPS, len(self.steps())), control, weight_update)
        ours = {
            "generator": generator,
            "control": control,
            "weights": weights,
            "weight_update": weight_update,
            "checkpoint_steps": checkpoint_steps or None,
            "gradient_steps": gradient_steps or None,
            "on_step": on_step,
            "last": last,
            "verbose": None if verbose else False,
        }
        return getattr(self, self.loop_name)(
            conditioning,
            (batch_size, *shape),
            x_T=x_T,
            callback=callback,
            quantize_denoised=quantize_x0,
            mask=mask,
            x0=x0,
            img_callback=img_callback,
            log_every_t=log_every_t,
            temperature=temperature,
            noise_dropout=noise_dropout,
            score_corrector=score_corrector,
            corrector_kwargs=corrector_kwargs,
            unconditional_guidance_scale=unconditional_guidance_scale,
            unconditional_conditioning=unconditional_conditioning,
            # A subclass's own loop need not know what is ours alone.
            **{name: value for name, value in ours.items() if value is not None},
        )

    def denoise(
        self,
        cond: Any,
        shape: Sequence[int],
        x_T: Tensor | None = None,
        ddim_use_original_steps: bool = False,
        callback: Callable[[int], Any] | None = None,
        timesteps: int | None = None,
        quantize_denoised: bool = False,
        mask: Tensor | None = None,
        x0: Tensor | None = None,
        img_callback: Callable[[Tensor, int], Any] | None = None,
        log_every_t: int = 100,
        temperature: float = 1.0,
        noise_dropout: float = 0.0,
        score_corrector: ScoreCorrector | None = None,
        corrector_kwargs: Mapping[str, Any] | None = None,
        unconditional_guidance_scale: float = 1.0,
        unconditional_conditioning: Any = None,
        *,
        control: Any = None,
        generator: Generators = None,
        last: int | None = None,
        **options: Any,
    ) -> tuple[Tensor, Intermediates]:
        """`sample` over the schedule that `make_schedule` chose; `shape` is (B, C, H, W).

        Args:
            ddim_use_original_steps: take every training timestep instead.
            timesteps: begin below the noisiest step: of S chosen steps the lowest min(timesteps, S) - 1 are taken, as
                published; of all training timesteps the lowest `timesteps`.
            last: see `sample`.
            options: see `ChainOptions`.
        """
        steps = self.steps(ddim_use_original_steps)
        if timesteps is not None:
            steps = lowest_steps(steps, timesteps if ddim_use_original_steps else min(timesteps, len(steps)) - 1)
        steps = steps if last is None else lowest_steps(steps, last)
        x = noise_like(shape, generator) if x_T is None else x_T
        x = x.to(self.device)
        if tuple(x.shape) != tuple(shape):
            raise ValueError(f"x_T has shape {tuple(x.shape)}, expected {tuple(shape)}")
        guidance = Guidance(
            cond, unconditional_conditioning, unconditional_guidance_scale, control, score_corrector, corrector_kwargs
        )
        chain = ChainOptions(
            mask=mask,
            x0=x0,
            temperature=temperature,
            noise_dropout=noise_dropout,
            generator=generator,
            callback=callback,
            img_callback=img_callback,
            log_every_t=log_every_t,
            **options,
        )
        return self.run_chain(steps, x, guidance, chain, quantize_denoised, ddim_use_original_steps)

    def quantize(self, pred_x0: Tensor) -> Tensor:
        """The nearest entries of the first stage's codebook to pred_x0 (B, C, H, W)."""
        return self.model.first_stage_model.quantize(pred_x0)[0]

    def run_chain(
        self,
        steps: Sequence[Step],
        x: Tensor,
        guidance: Guidance,
        options: ChainOptions,
        quantize: bool = False,
        original: bool = False,
    ) -> tuple[Tensor, Intermediates]:
        """The loop over `steps` from x (B, C, H, W). Only x, the history and the weights pass from step to step.

        Raises:
            UserError: the latents are not finite.
        """
        own: Any = getattr(self, self.step_name, None)
        own_step = own is not None and not getattr(own, "__module__", "").startswith("ldm.models.diffusion.")
        eps_fn = guided_eps(self.model, guidance)
        take_step: Take = self._take
        if own_step:
            take_step = partial(self._own_step, own, guidance, options, quantize, original, len(steps))
        project = self.quantize if quantize else None
        # Leaves only: what a trainable text encoder gives has a gradient, too, and nobody asked for it.
        given = tensors_of([guidance.conditioning, guidance.unconditional])
        asked = any(tensor.requires_grad and tensor.is_leaf for tensor in given)
        history: History = ()
        inter: Intermediates = {"x_inter": [x.detach()], "pred_x0": [x.detach()]}
        for step in tqdm(steps, desc=type(self).__name__, disable=not options.verbose):
            left = len(steps) - step.index  # with this one
            x = keep_known(x, step, options)
            acting = partial(_acting, guidance.control, step.index, len(steps))
            weights = None if options.weights is None else options.weights[step.index]  # (N, B)
            if options.weight_update is not None:
                predict = partial(self.predicted_x0, lambda y, t, w: eps_fn(y, t, acting(w)), x, step)  # noqa: B023  of this step
                weights = options.weight_update(step.index, weights, predict)
            weights = acting(weights)  # (N + M, B)
            # The noise is drawn outside the step, so that the step can be recomputed.
            noise = None
            if step.sigma != 0.0 and not own_step:
                noise = step_noise(x.shape, x, options.generator, options.temperature, options.noise_dropout)
            elif self.draws_noise and not own_step:
                skip_noise(x.shape, options.generator, 1 if history else self.first_calls)
            differentiated = options.gradient_steps == 0 or left <= options.gradient_steps
            wanted = asked or x.requires_grad or (weights is not None and weights.requires_grad)
            with torch.set_grad_enabled(torch.is_grad_enabled() and differentiated and wanted):
                recompute = options.checkpoint_steps and torch.is_grad_enabled()
                # Of a step with two calls, the backward pass should hold one call's activations at a time.
                call = recomputed(eps_fn) if recompute and not history and self.first_calls > 1 else eps_fn
                take = partial(take_step, call, step, project)
                x, pred_x0, entry = (recomputed(take) if recompute else take)(x, weights, noise, *history)
            history = (entry, *history)[: self.history_length]
            state = {"i": step.index, "t": step.t, "x": x.detach(), "pred_x0": pred_x0.detach()}
            if options.on_step is not None:
                options.on_step({**state, "weights": None if weights is None else weights.detach()})
            if options.callback is not None:
                options.callback(step.index)
            if options.img_callback is not None:
                options.img_callback(state["pred_x0"], step.index)
            if (left - 1) % options.log_every_t == 0 or step.index == 0:  # counted from the end, as published
                inter["x_inter"].append(state["x"])
                inter["pred_x0"].append(state["pred_x0"])
        stop_at_nan(x)
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

    def _own_step(
        self,
        function: Callable[..., Sequence[Tensor]],
        guidance: Guidance,
        options: ChainOptions,
        quantize: bool,
        original: bool,
        total: int,
        eps_fn: WeightedEpsFn,
        step: Step,
        project: Project | None,
        x: Tensor,
        weights: Tensor | None,
        noise: Tensor | None,
        *history: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A subclass's own `p_sample_...` as a step; what is ours alone is handed on where it is given."""
        extra: dict[str, Any] = {}
        if guidance.control is not None:
            extra = {"control": guidance.control, "weights": weights}
        if options.generator is not None:
            extra["generator"] = options.generator
        if self.history_length:
            extra |= {"old_eps": list(history[::-1]), "t_next": full_timesteps(step.t_next, x)}
        made = function(
            x,
            guidance.conditioning,
            step.timesteps(x),
            index=total - 1 - step.index,
            use_original_steps=original,
            quantize_denoised=quantize,
            temperature=options.temperature,
            noise_dropout=options.noise_dropout,
            score_corrector=guidance.score_corrector,
            corrector_kwargs=guidance.corrector_kwargs,
            unconditional_guidance_scale=guidance.scale,
            unconditional_conditioning=guidance.unconditional,
            **extra,
        )
        return made[0], made[1], made[-1]


def _acting(control: Any, index: int, total: int, weights: Tensor | None) -> Tensor | None:
    """What step `index` of `total` takes instead of its weights (N, B): see `SpatialControl.at_step`."""
    return None if control is None or weights is None else control.at_step(index, total, weights)
