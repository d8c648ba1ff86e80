"""The forward process in continuous time, and a model of steps as a function of that time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ldm.models.diffusion.sampling import join_conditions
from ldm.util import UserError

ModelFn = Callable[[Tensor, Tensor], Tensor]  # (x (B, ...), t (B,)) -> like x
COSINE_S, COSINE_T = 0.008, 0.9946  # offset and last time of the cosine schedule


def expand_dims(v: Tensor, dims: int) -> Tensor:
    """v (B,) to (B, 1, ..., 1) of `dims` dimensions."""
    return v[(..., *(None,) * (dims - 1))]


def interpolate_fn(x: Tensor, xp: Tensor, yp: Tensor) -> Tensor:
    """Piecewise linear y (N, C) at x (N, C) through points xp, yp (C, K), xp rising; linear beyond them, too."""
    columns = x.t().contiguous()  # (C, N)
    knots = xp.expand(len(columns), -1).contiguous()
    values = yp.expand(len(columns), -1)
    right = torch.searchsorted(knots, columns).clamp(1, knots.shape[1] - 1)
    x0, x1, y0, y1 = (a.gather(1, i) for a in (knots, values) for i in (right - 1, right))
    return (y0 + (columns - x0) * (y1 - y0) / (x1 - x0)).t()


class NoiseScheduleVP:
    """A variance-preserving forward process: alpha_t and sigma_t at any time t in (0, T].

    Args:
        schedule: "discrete", through the steps of a trained model; "linear" or "cosine".
        betas, alphas_cumprod: one of them (N,) for "discrete"; step n of N is time (n + 1) / N.
        continuous_beta_0, continuous_beta_1: of "linear".
    """

    def __init__(
        self,
        schedule: str = "discrete",
        betas: Tensor | None = None,
        alphas_cumprod: Tensor | None = None,
        continuous_beta_0: float = 0.1,
        continuous_beta_1: float = 20.0,
    ) -> None:
        if schedule not in ("discrete", "linear", "cosine"):
            raise UserError(f"noise schedule '{schedule}' is none of discrete, linear, cosine")
        self.schedule, self.T, self.total_N = schedule, COSINE_T if schedule == "cosine" else 1.0, 1000
        self.beta_0, self.beta_1 = continuous_beta_0, continuous_beta_1
        self.cosine_log_alpha_0 = math.log(math.cos(COSINE_S / (1.0 + COSINE_S) * math.pi / 2.0))
        if schedule == "discrete":
            if betas is None and alphas_cumprod is None:
                raise UserError("a discrete noise schedule needs betas or alphas_cumprod")
            logs = torch.log(1 - betas).cumsum(0) if betas is not None else torch.log(alphas_cumprod)  # type: ignore[arg-type]
            self.total_N = len(logs)
            times = torch.arange(1, self.total_N + 1, dtype=torch.float64) / self.total_N
            self.t_array = times.to(logs).reshape(1, -1)
            self.log_alpha_array = (0.5 * logs).reshape(1, -1)

    def marginal_log_mean_coeff(self, t: Tensor) -> Tensor:
        """log(alpha_t) for t (B,)."""
        if self.schedule == "discrete":
            arrays = (a.to(t.device, t.dtype) for a in (self.t_array, self.log_alpha_array))
            return interpolate_fn(t.reshape(-1, 1), *arrays).reshape(-1)
        if self.schedule == "linear":
            return -0.25 * t**2 * (self.beta_1 - self.beta_0) - 0.5 * t * self.beta_0
        return torch.log(torch.cos((t + COSINE_S) / (1.0 + COSINE_S) * math.pi / 2.0)) - self.cosine_log_alpha_0

    def marginal_alpha(self, t: Tensor) -> Tensor:
        """alpha_t."""
        return torch.exp(self.marginal_log_mean_coeff(t))

    def marginal_std(self, t: Tensor) -> Tensor:
        """sigma_t."""
        return torch.sqrt(1.0 - torch.exp(2.0 * self.marginal_log_mean_coeff(t)))

    def marginal_lambda(self, t: Tensor) -> Tensor:
        """lambda_t = log(alpha_t / sigma_t)."""
        log_alpha = self.marginal_log_mean_coeff(t)
        return log_alpha - 0.5 * torch.log(1.0 - torch.exp(2.0 * log_alpha))

    def inverse_lambda(self, lamb: Tensor) -> Tensor:
        """The time t (B,) at which lambda_t is `lamb`."""
        if self.schedule == "linear":
            term = 2.0 * (self.beta_1 - self.beta_0) * torch.logaddexp(-2.0 * lamb, torch.zeros_like(lamb))
            return term / ((self.beta_0**2 + term).sqrt() + self.beta_0) / (self.beta_1 - self.beta_0)
        log_alpha = -0.5 * torch.logaddexp(torch.zeros_like(lamb), -2.0 * lamb)
        if self.schedule == "discrete":
            arrays = (a.to(lamb.device, lamb.dtype).flip(1) for a in (self.log_alpha_array, self.t_array))
            return interpolate_fn(log_alpha.reshape(-1, 1), *arrays).reshape(-1)
        return torch.arccos(torch.exp(log_alpha + self.cosine_log_alpha_0)) * 2 * (1 + COSINE_S) / math.pi - COSINE_S


def model_wrapper(
    model: Callable[..., Tensor],
    noise_schedule: NoiseScheduleVP,
    model_type: str = "noise",
    model_kwargs: Mapping[str, Any] = {},  # noqa: B006
    guidance_type: str = "uncond",
    condition: Any = None,
    unconditional_condition: Any = None,
    guidance_scale: float = 1.0,
    classifier_fn: Callable[..., Tensor] | None = None,
    classifier_kwargs: Mapping[str, Any] = {},  # noqa: B006
) -> ModelFn:
    """The noise prediction in continuous time of `model(x, t, [condition], **model_kwargs)`, trained in steps.

    Args:
        model_type: what the model predicts: "noise", "x_start", "v" or "score".
        guidance_type: "uncond", "classifier" (by `classifier_fn(x, t, condition, **classifier_kwargs)`, log
            probabilities) or "classifier-free" (away from `unconditional_condition`), at `guidance_scale`.
    """
    if model_type not in ("noise", "x_start", "v", "score"):
        raise UserError(f"model_type '{model_type}' is none of noise, x_start, v, score")
    if guidance_type not in ("uncond", "classifier", "classifier-free"):
        raise UserError(f"guidance_type '{guidance_type}' is none of uncond, classifier, classifier-free")

    def model_time(t: Tensor) -> Tensor:
        return (t - 1.0 / noise_schedule.total_N) * 1000.0 if noise_schedule.schedule == "discrete" else t

    def noise(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        t = t.expand(len(x))
        output = model(x, model_time(t), *(() if cond is None else (cond,)), **model_kwargs)
        alpha, sigma = (
            expand_dims(f(t), x.dim()) for f in (noise_schedule.marginal_alpha, noise_schedule.marginal_std)
        )
        if model_type == "x_start":
            return (x - alpha * output) / sigma
        if model_type == "v":
            return alpha * output + sigma * x
        return -sigma * output if model_type == "score" else output

    def model_fn(x: Tensor, t: Tensor) -> Tensor:
        t = t.expand(len(x))
        if guidance_type == "uncond":
            return noise(x, t)
        if guidance_type == "classifier":
            if classifier_fn is None:
                raise UserError("guidance by a classifier needs classifier_fn")
            with torch.enable_grad():
                at = x.detach().requires_grad_()
                score = classifier_fn(at, model_time(t), condition, **classifier_kwargs)
                (gradient,) = torch.autograd.grad(score.sum(), at)
            return noise(x, t) - guidance_scale * expand_dims(noise_schedule.marginal_std(t), x.dim()) * gradient
        if guidance_scale == 1.0 or unconditional_condition is None:
            return noise(x, t, condition)
        joined = join_conditions(unconditional_condition, condition)
        without, given = noise(torch.cat([x, x]), torch.cat([t, t]), joined).chunk(2)
        return without + guidance_scale * (given - without)

    return model_fn
