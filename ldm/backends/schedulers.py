"""Schedulers of diffusers as samplers: Euler, DPM-Solver++, UniPC, LCM and others, with their own settings."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ldm.errors import UserError
from ldm.models.diffusion.sampler import Intermediates, Sampler
from ldm.models.diffusion.sampling import EpsFn, Generators, Step, noise_like, predict_x0
from ldm.philox import PhiloxGenerator


class SchedulerSampler(Sampler):
    """A scheduler of diffusers behind the interface of the samplers; it gives the library's own chain.

    Between the steps the latents are x_t = sqrt(alpha) x_0 + sqrt(1 - alpha) eps, also for schedulers (Euler's) that
    count in x_0 + sigma eps. Schedulers keep what they did, so no gradient passes from step to step.

    Args:
        backend: a model of diffusers.
        scheduler: the backend's own by default.

    Raises:
        UserError: a scheduler that cannot be used.
    """

    draws_noise = False

    def __init__(self, backend: Any, scheduler: Any = None) -> None:
        self.kind = backend.parameterization
        super().__init__(_AsPredicted(backend))
        self.scheduler = backend.pipe.scheduler if scheduler is None else scheduler
        check_scheduler(self.scheduler)
        self._running = self.scheduler  # a copy of it for each chain
        self._factors: list[float] = []  # x_t is the scheduler's latents times so much, step by step and at the end
        self._first = 0  # of the scheduler's steps
        self._more: dict[str, Any] = {}  # arguments of its step

    def schedule(self, steps: int, eta: float = 0.0, discretize: str = "uniform") -> list[Step]:
        """The scheduler's chain for `steps` requested steps; some make one more."""
        scheduler = self._started(steps)
        times = scheduler.timesteps.tolist()
        sigmas = getattr(scheduler, "sigmas", None)
        if sigmas is None:
            alphas = [float(scheduler.alphas_cumprod[t]) for t in times]
        else:
            alphas = [1.0 / (1.0 + float(sigma) ** 2) for sigma in sigmas[: len(times)]]
        following = [*times[1:], times[-1]], [*alphas[1:], 1.0]
        rows = zip(times, alphas, *following, strict=True)
        return [Step(i, t, t_next, alpha, alpha_prev) for i, (t, alpha, t_next, alpha_prev) in enumerate(rows)]

    def make_schedule(
        self, ddim_num_steps: int, ddim_discretize: str = "uniform", ddim_eta: float = 0.0, verbose: bool = True
    ) -> None:
        """Choose the schedule, which `sample` does itself."""
        super().make_schedule(ddim_num_steps, ddim_discretize, ddim_eta, verbose)
        self._running = self._started(ddim_num_steps)
        takes = inspect.signature(self._running.step).parameters
        self._more = {"eta": ddim_eta} if "eta" in takes else {}
        probe = copy.deepcopy(self._running)
        scales = float(probe.scale_model_input(torch.ones(1), probe.timesteps[0])) != 1.0
        self._factors = [math.sqrt(step.alpha) if scales else 1.0 for step in self.steps()] + [1.0]

    def denoise(
        self,
        cond: Any,
        shape: Sequence[int],
        x_T: Tensor | None = None,
        *args: Any,
        generator: Generators = None,
        last: int | None = None,
        **options: Any,
    ) -> tuple[Tensor, Intermediates]:
        """See `Sampler.denoise`.

        Raises:
            UserError: gradients of the whole chain are wanted, or noise as a CUDA card draws it.
        """
        if torch.is_grad_enabled():
            raise UserError(
                "no gradient passes through a scheduler of diffusers; the presets iccv-2023 and april-2023 need DDIM, "
                "PLMS or DPM-Solver"
            )
        if isinstance(generator, PhiloxGenerator):
            raise UserError("schedulers of diffusers cannot draw --noise published; leave it out")
        scheduler, count = self._running, len(self.steps())
        self._first = 0 if last is None else max(count - last, 0)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(self._first)
        x = noise_like(shape, generator) if x_T is None else x_T
        if last is None:  # pure noise, of the strength that the scheduler wants
            x = x * (float(scheduler.init_noise_sigma) * self._factors[0])
        scheduler.scale_model_input(x, scheduler.timesteps[self._first])  # or it warns
        if "generator" in inspect.signature(scheduler.step).parameters:
            self._more["generator"] = list(generator) if isinstance(generator, Sequence) else generator
        return super().denoise(cond, shape, x, *args, generator=generator, last=last, **options)

    def predicted_x0(self, eps_fn: Callable[..., Tensor], x: Tensor, step: Step, weights: Tensor | None) -> Tensor:
        """See `Sampler.predicted_x0`."""
        return self._implied(x, eps_fn(x, step.timesteps(x), weights), step.alpha)

    def take_step(  # type: ignore[override]  # of a scheduler, which has a state
        self, eps_fn: EpsFn, x: Tensor, step: Step, history: Any, noise: Any, project: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step of the scheduler: (x_prev, pred_x0, the model's output), each (B, C, h, w)."""
        output, index = eps_fn(x, step.timesteps(x)), self._first + step.index
        own = x / self._factors[index]
        made = self._running.step(output, self._running.timesteps[index], own, **self._more).prev_sample
        return made * self._factors[index + 1], self._implied(x, output, step.alpha), output

    def _implied(self, x: Tensor, output: Tensor, alpha: float) -> Tensor:
        """x_0 as the model's output implies it, each (B, C, H, W)."""
        if self.kind == "v":  # Salimans and Ho 2022: v = sqrt(alpha) eps - sqrt(1 - alpha) x_0
            return math.sqrt(alpha) * x - math.sqrt(1.0 - alpha) * output
        return predict_x0(x, output, alpha)

    def _started(self, steps: int) -> Any:
        """A copy of the scheduler at the start of a chain. UserError for a number of steps that it cannot do."""
        scheduler = copy.deepcopy(self.scheduler)
        try:
            scheduler.set_timesteps(steps, device=self.device)
        except (ValueError, IndexError, ZeroDivisionError, AssertionError) as error:
            raise UserError(f"{type(scheduler).__name__} cannot take {steps} steps: {error}") from error
        return scheduler


class _AsPredicted:
    """A backend whose prediction is handed on as it is, since the scheduler knows what it is."""

    parameterization = "eps"

    def __init__(self, backend: Any) -> None:
        self.backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)


def check_scheduler(scheduler: Any) -> None:
    """UserError for a scheduler that does not go with a model of Stable Diffusion and one call of it a step."""
    name = type(scheduler).__name__
    if not hasattr(scheduler, "alphas_cumprod"):
        raise UserError(
            f"{name} is not for models that predict noise; take another scheduler, as EulerDiscreteScheduler"
        )
    if getattr(scheduler, "order", 1) > 1:
        raise UserError(f"{name} calls the model twice a step; take another scheduler, as DPMSolverMultistepScheduler")
