"""DPMSolverSampler: DPM-Solver++ under the common sampler surface."""

from __future__ import annotations

from torch import Tensor

from ldm.models.diffusion.dpm_solver.solver import dpm_schedule, dpm_step
from ldm.models.diffusion.sampler import Sampler
from ldm.models.diffusion.sampling import EpsFn, History, Project, Step
from ldm.util import UserError


class DPMSolverSampler(Sampler):
    """Multistep DPM-Solver++ of order 2, one model call a step."""

    history_length = 1
    draws_noise = False

    def schedule(self, steps: int, eta: float = 0.0, discretize: str = "uniform") -> list[Step]:
        """The chain of exactly `steps` steps, uniform in time; UserError unless eta is 0."""
        if eta != 0.0:
            raise UserError("DPM-Solver is deterministic: use eta 0, or the DDIM sampler")
        return dpm_schedule(self.model.alphas_cumprod, steps)

    @staticmethod
    def take_step(
        eps_fn: EpsFn, x: Tensor, step: Step, history: History, noise: Tensor | None, project: Project | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """DPM-Solver++(2M), see :func:`dpm_step`."""
        if project is not None:
            raise UserError("quantize_x0 works with the DDIM and PLMS samplers only")
        x_prev, pred_x0 = dpm_step(eps_fn, x, step, history)
        return x_prev, pred_x0, pred_x0
