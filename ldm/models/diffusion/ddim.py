"""DDIM: denoising diffusion implicit models (Song et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ldm.models.diffusion.chain import ChainOptions, OnStep
from ldm.models.diffusion.sampler import Sampler
from ldm.models.diffusion.sampling import (
    EpsFn,
    Generators,
    Guidance,
    History,
    Project,
    ScoreCorrector,
    Step,
    ddim_schedule,
    ddim_step,
    guided_eps,
    lowest_steps,
    noise_like,
    step_noise,
)


class DDIMSampler(Sampler):
    """DDIM sampling, and the encode-decode pair that image-to-image uses."""

    ddim_sampling = Sampler.denoise
    loop_name, step_name = "ddim_sampling", "p_sample_ddim"

    def schedule(self, steps: int, eta: float = 0.0, discretize: str = "uniform") -> list[Step]:
        """The chain for `steps` requested steps, the noisiest first."""
        return ddim_schedule(self.model.alphas_cumprod, steps, eta, discretize)

    @staticmethod
    def take_step(
        eps_fn: EpsFn, x: Tensor, step: Step, history: History, noise: Tensor | None, project: Project | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """DDIM, see :func:`ddim_step`."""
        eps = eps_fn(x, step.timesteps(x))
        return (*ddim_step(x, eps, step.alpha, step.alpha_prev, step.sigma, noise, project), eps)

    def stochastic_encode(
        self,
        x0: Tensor,
        t: Tensor,
        use_original_steps: bool = False,
        noise: Tensor | None = None,
        generator: Generators = None,
    ) -> Tensor:
        """Noises latents x0 (B, C, H, W) to entry t (B,) of the rising schedule in one step, DDPM eq. 4."""
        steps = self.steps(use_original_steps)[::-1]
        alphas = torch.tensor([steps[i].alpha for i in t.tolist()], dtype=torch.float64)  # no device need have float64
        alphas = alphas.view(-1, *[1] * (x0.dim() - 1))  # (B, 1, 1, 1)
        if noise is None:
            noise = noise_like(x0.shape, generator, x0.device, x0.dtype)
        return alphas.sqrt().to(x0) * x0 + (1.0 - alphas).sqrt().to(x0) * noise

    def decode(
        self,
        x_latent: Tensor,
        cond: Any,
        t_start: int,
        unconditional_guidance_scale: float = 1.0,
        unconditional_conditioning: Any = None,
        use_original_steps: bool = False,
        callback: Callable[[int], Any] | None = None,
        *,
        control: Any = None,
        weights: Tensor | None = None,
        generator: Generators = None,
        on_step: OnStep | None = None,
        verbose: bool = False,
    ) -> Tensor:
        """Denoises x_latent (B, C, H, W) through the lowest t_start steps of the schedule.

        weights (t_start, N, B) for a control, in the order of the steps taken.
        """
        steps = lowest_steps(self.steps(use_original_steps), t_start)
        guidance = Guidance(cond, unconditional_conditioning, unconditional_guidance_scale, control)
        options = ChainOptions(
            generator=generator, weights=weights, callback=callback, on_step=on_step, verbose=verbose
        )
        return self.run_chain(steps, x_latent, guidance, options, original=use_original_steps)[0]

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
        score_corrector: ScoreCorrector | None = None,
        corrector_kwargs: Mapping[str, Any] | None = None,
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
        step = self.steps(use_original_steps)[::-1][index]
        scale = unconditional_guidance_scale
        eps_fn = guided_eps(
            self.model, Guidance(c, unconditional_conditioning, scale, control, score_corrector, corrector_kwargs)
        )
        shape = (1, *x.shape[1:]) if repeat_noise else x.shape
        noise = step_noise(shape, x, generator, temperature, noise_dropout)
        project = self.quantize if quantize_denoised else None
        return ddim_step(x, eps_fn(x, t, weights), step.alpha, step.alpha_prev, step.sigma, noise, project)
