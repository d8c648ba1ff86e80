"""PLMS: pseudo linear multistep sampling (Liu et al. 2022), the published sampler of the method."""

from __future__ import annotations

from torch import Tensor

from ldm.models.diffusion.sampler import Sampler
from ldm.models.diffusion.sampling import EpsFn, History, Project, Step, ddim_schedule, full_timesteps, plms_step
from ldm.util import UserError


class PLMSSampler(Sampler):
    """Fourth-order multistep sampling over the DDIM timesteps; S steps take S + 1 model calls."""

    history_length = 3
    first_calls = 2

    def schedule(self, steps: int, eta: float = 0.0) -> list[Step]:
        """The chain for `steps` requested steps; UserError unless eta is 0."""
        if eta != 0.0:
            raise UserError("PLMS is deterministic: use eta 0, or the DDIM sampler")
        return ddim_schedule(self.model.alphas_cumprod, steps)

    @staticmethod
    def take_step(
        eps_fn: EpsFn, x: Tensor, step: Step, history: History, noise: Tensor | None, project: Project | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """PLMS, see :func:`plms_step`."""
        t, t_next = step.timesteps(x), full_timesteps(step.t_next, x)
        return plms_step(eps_fn, x, t, t_next, history, alpha=step.alpha, alpha_prev=step.alpha_prev, project=project)
