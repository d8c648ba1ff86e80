"""PLMS: pseudo linear multistep sampling (Liu et al. 2022), the published sampler of the method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ldm.models.diffusion.sampler import Sampler
from ldm.models.diffusion.sampling import (
    EpsFn,
    Guidance,
    History,
    Project,
    ScoreCorrector,
    Step,
    ddim_schedule,
    full_timesteps,
    guided_eps,
    plms_step,
)
from ldm.util import UserError


class PLMSSampler(Sampler):
    """Fourth-order multistep sampling over the DDIM timesteps; S steps take S + 1 model calls."""

    history_length = 3
    first_calls = 2
    plms_sampling = Sampler.denoise
    loop_name, step_name = "plms_sampling", "p_sample_plms"

    def schedule(self, steps: int, eta: float = 0.0, discretize: str = "uniform") -> list[Step]:
        """The chain for `steps` requested steps; UserError unless eta is 0."""
        if eta != 0.0:
            raise UserError("PLMS is deterministic: use eta 0, or the DDIM sampler")
        return ddim_schedule(self.model.alphas_cumprod, steps, discretize=discretize)

    @staticmethod
    def take_step(
        eps_fn: EpsFn, x: Tensor, step: Step, history: History, noise: Tensor | None, project: Project | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """PLMS, see :func:`plms_step`."""
        t, t_next = step.timesteps(x), full_timesteps(step.t_next, x)
        return plms_step(eps_fn, x, t, t_next, history, alpha=step.alpha, alpha_prev=step.alpha_prev, project=project)

    def p_sample_plms(
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
        old_eps: Sequence[Tensor] | None = None,
        t_next: Tensor | None = None,
        *,
        control: Any = None,
        weights: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step at entry `index` of the rising schedule, with timesteps t (B,): (x_prev, pred_x0, eps).

        Args:
            old_eps: up to three earlier eps, the newest last; without any, the model is called at t_next (B,), too.
            repeat_noise, temperature, noise_dropout: of noise, which PLMS has none of.
        """
        step = self.steps(use_original_steps)[::-1][index]
        scale = unconditional_guidance_scale
        eps_fn = guided_eps(
            self.model, Guidance(c, unconditional_conditioning, scale, control, score_corrector, corrector_kwargs)
        )
        return plms_step(
            lambda y, s: eps_fn(y, s, weights),
            x,
            t,
            full_timesteps(step.t_next, x) if t_next is None else t_next,
            tuple(old_eps or ())[::-1],
            alpha=step.alpha,
            alpha_prev=step.alpha_prev,
            project=self.quantize if quantize_denoised else None,
        )
