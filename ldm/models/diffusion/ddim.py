"""DDIM: denoising diffusion implicit models (Song et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm.models.diffusion.sampler import ChainOptions, Sampler
from ldm.models.diffusion.sampling import (
    EpsFn,
    Generators,
    History,
    Project,
    Step,
    ddim_schedule,
    ddim_step,
    guided_eps,
    lowest_steps,
    noise_like,
    schedule_from_timesteps,
    step_noise,
)
from ldm.util import UserError


class DDIMSampler(Sampler):
    """DDIM sampling, and the encode-decode pair that image-to-image uses.

    `sample` keeps no state. `stochastic_encode`, `decode` and `p_sample_ddim` work on the schedule that
    `make_schedule` chose, as in the published code.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._chosen: list[Step] | None = None

    def schedule(self, steps: int, eta: float = 0.0) -> list[Step]:
        """The chain for `steps` requested steps, the noisiest first."""
        return ddim_schedule(self.model.alphas_cumprod, steps, eta)

    @staticmethod
    def take_step(
        eps_fn: EpsFn, x: Tensor, step: Step, history: History, noise: Tensor | None, project: Project | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """DDIM, see :func:`ddim_step`."""
        eps = eps_fn(x, step.timesteps(x))
        return (*ddim_step(x, eps, step.alpha, step.alpha_prev, step.sigma, noise, project), eps)

    def make_schedule(
        self, ddim_num_steps: int, ddim_discretize: str = "uniform", ddim_eta: float = 0.0, verbose: bool = True
    ) -> None:
        """Chooses the schedule for stochastic_encode, decode and p_sample_ddim. `verbose` changes nothing."""
        self._chosen = ddim_schedule(self.model.alphas_cumprod, ddim_num_steps, ddim_eta, ddim_discretize)

    @property
    def ddim_timesteps(self) -> np.ndarray:
        """Rising timesteps (S,) of the chosen schedule."""
        return np.asarray([int(step.t) for step in reversed(self._steps(False))])

    def _steps(self, use_original_steps: bool) -> list[Step]:
        """The chosen schedule, or all training timesteps (at eta 1, as DDPM); the noisiest first."""
        if use_original_steps:
            alphas = self.model.alphas_cumprod.detach().cpu().numpy()
            return schedule_from_timesteps(alphas, np.arange(len(alphas)), 1.0)
        if self._chosen is None:
            raise UserError("call make_schedule(steps) before encoding or decoding")
        return self._chosen

    def stochastic_encode(
        self,
        x0: Tensor,
        t: Tensor,
        use_original_steps: bool = False,
        noise: Tensor | None = None,
        generator: Generators = None,
    ) -> Tensor:
        """Noises latents x0 (B, C, H, W) to entry t (B,) of the rising schedule in one step, DDPM eq. 4."""
        steps = self._steps(use_original_steps)[::-1]
        alphas = torch.tensor([steps[int(i)].alpha for i in t], device=x0.device, dtype=torch.float64)
        alphas = alphas.view(-1, *[1] * (x0.dim() - 1))  # (B, 1, 1, 1)
        if noise is None:
            noise = noise_like(x0.shape, generator, x0.device, x0.dtype)
        return alphas.sqrt().to(x0.dtype) * x0 + (1.0 - alphas).sqrt().to(x0.dtype) * noise

    def decode(
        self,
        x_latent: Tensor,
        cond: Any,
        t_start: int,
        unconditional_guidance_scale: float = 1.0,
        unconditional_conditioning: Any = None,
        use_original_steps: bool = False,
        *,
        control: Any = None,
        weights: Tensor | None = None,
        generator: Generators = None,
        callback: Callable[[dict[str, Any]], None] | None = None,
        verbose: bool = False,
    ) -> Tensor:
        """Denoises x_latent (B, C, H, W) through the lowest t_start steps of the schedule.

        weights (t_start, N, B) for a control, in the order of the steps taken.
        """
        steps = lowest_steps(self._steps(use_original_steps), t_start)
        eps_fn = guided_eps(self.model, cond, unconditional_conditioning, unconditional_guidance_scale, control)
        options = ChainOptions(generator=generator, weights=weights, callback=callback, verbose=verbose)
        return self.run_chain(steps, x_latent, eps_fn, options)[0]

    def p_sample_ddim(
        self,
        x: Tensor,
        c: Any,
        t: Tensor,
        index: int,
        repeat_noise: bool = False,
        use_original_steps: bool = False,
        quantize_denoised: bool = False,
        temperature: float = 1.0,
        noise_dropout: float = 0.0,
        unconditional_guidance_scale: float = 1.0,
        unconditional_conditioning: Any = None,
        *,
        control: Any = None,
        weights: Tensor | None = None,
        generator: Generators = None,
    ) -> tuple[Tensor, Tensor]:
        """One step at entry `index` of the rising schedule, with timesteps t (B,): (x_prev, pred_x0).

        repeat_noise: the same noise for every image. weights (N, B) of this step, for a control.
        """
        step = self._steps(use_original_steps)[::-1][index]
        eps_fn = guided_eps(self.model, c, unconditional_conditioning, unconditional_guidance_scale, control)
        shape = (1, *x.shape[1:]) if repeat_noise else x.shape
        noise = step_noise(shape, x, generator, temperature, noise_dropout)
        project = self._quantize if quantize_denoised else None
        return ddim_step(x, eps_fn(x, t, weights), step.alpha, step.alpha_prev, step.sigma, noise, project)
