"""The mathematics that the samplers share, as pure functions.

Notation: `alpha` is the cumulative product (written alpha-bar in DDPM, alpha in DDIM), so that
x_t = sqrt(alpha) x_0 + sqrt(1 - alpha) eps. Coefficients are Python floats: they work for any dtype and
add nothing to the autograd graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensor

from ldm.modules.diffusionmodules.util import make_ddim_sampling_parameters, make_ddim_timesteps, send
from ldm.philox import PhiloxGenerator
from ldm.util import UserError

EpsFn = Callable[[Tensor, Tensor], Tensor]  # (x (B,C,H,W), t (B,)) -> eps (B,C,H,W)
WeightedEpsFn = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]  # the same with weights (N,B) of the step
History = tuple[Tensor, ...]  # earlier predictions, the newest first
Generators = torch.Generator | PhiloxGenerator | Sequence[torch.Generator] | None
Project = Callable[[Tensor], Tensor]  # pred_x0 -> pred_x0, e.g. onto a codebook


class ScoreCorrector(Protocol):
    """What may change each guided noise prediction, under its published name."""

    def modify_score(self, model: Any, e_t: Tensor, x: Tensor, t: Tensor, c: Any, **kwargs: Any) -> Tensor:
        """The prediction to go on with instead of e_t (B, C, H, W), at x, t (B,) under condition c."""


class Guidance(NamedTuple):
    """What the model is called with, beside x and t."""

    conditioning: Any = None  # a tensor, a list of tensors, or a dict of either
    unconditional: Any = None
    scale: float = 1.0
    control: Any = None
    score_corrector: ScoreCorrector | None = None
    corrector_kwargs: Mapping[str, Any] | None = None


MAX_STEPS = 1000


@dataclass(frozen=True)
class Step:
    """One denoising step, from timestep `t` to the next lower one."""

    index: int  # place in the chain; 0 is the noisiest step
    t: float  # timestep given to the model; whole numbers except for DPM-Solver
    t_next: float  # timestep of the following step; the last step repeats its own
    alpha: float  # cumulative alpha at t
    alpha_prev: float  # cumulative alpha at the point that the step reaches
    sigma: float = 0.0  # standard deviation of the noise that the step adds, DDIM eq. 16
    alpha_before: float | None = None  # cumulative alpha of the prediction looked back on, in DPM-Solver

    def timesteps(self, x: Tensor) -> Tensor:
        """`t` for every image of the batch x: (B,), integer where t is a whole number by design."""
        return full_timesteps(self.t, x)


def full_timesteps(t: float, x: Tensor) -> Tensor:
    """(B,) tensor of one timestep for x (B, ...): int64 for an int, float32 for a float."""
    dtype = torch.long if isinstance(t, int) else torch.float32
    return torch.full((x.shape[0],), t, device=x.device, dtype=dtype)


def stop_at_nan(values: Tensor, what: str = "sampling") -> None:
    """Stop at values that are no finite numbers. Waits for the device: not to be called at every step.

    Fake tensors, which have no values, pass.

    Raises:
        UserError: naming `what` gave them.
    """
    if not isinstance(values, FakeTensor) and not values.detach().isfinite().all():
        raise UserError(
            f"{what} gave values that are no numbers, and no image; lower --scale or --lr, try --precision full, "
            "or take another checkpoint"
        )


def check_steps(steps: int) -> int:
    """The step count itself, if it is a whole number from 1 to 1000; UserError otherwise."""
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or not 1 <= steps <= MAX_STEPS:
        raise UserError(f"the number of sampling steps must be a whole number in 1..{MAX_STEPS}, not {steps}")
    return int(steps)


def ddim_schedule(
    alphas_cumprod: Tensor | np.ndarray, steps: int, eta: float = 0.0, discretize: str = "uniform"
) -> list[Step]:
    """The DDIM and PLMS chain for `steps` requested steps, the noisiest step first.

    alphas_cumprod (T,). The uniform discretization of the published code strides by T // steps, so that a
    count which does not divide T gives more steps than asked for (8 for 7): read the length of the result.
    """
    check_steps(steps)
    if isinstance(alphas_cumprod, Tensor):
        alphas_cumprod = alphas_cumprod.detach().cpu().numpy()
    timesteps = make_ddim_timesteps(discretize, steps, len(alphas_cumprod), verbose=False)
    return schedule_from_timesteps(alphas_cumprod, timesteps, eta)


def schedule_from_timesteps(alphas_cumprod: np.ndarray, timesteps: np.ndarray, eta: float) -> list[Step]:
    """The chain over rising `timesteps` (S,), the noisiest step first; sigmas by DDIM eq. 16."""
    sigmas, alphas, alphas_prev = make_ddim_sampling_parameters(alphas_cumprod, timesteps, eta, verbose=False)
    order = [int(t) for t in timesteps[::-1]]
    rows = zip(order, alphas[::-1], alphas_prev[::-1], sigmas[::-1], strict=True)
    return [
        Step(i, t, order[min(i + 1, len(order) - 1)], float(alpha), float(alpha_prev), float(sigma))
        for i, (t, alpha, alpha_prev, sigma) in enumerate(rows)
    ]


def lowest_steps(steps: Sequence[Step], count: int) -> list[Step]:
    """The chain of the `count` least noisy steps of a chain."""
    taken = list(steps)[max(len(steps) - count, 0) :]
    following = [*taken[1:], *taken[-1:]]
    return [replace(a, index=i, t_next=b.t) for i, (a, b) in enumerate(zip(taken, following, strict=True))]


def noise_like(
    shape: Sequence[int], generator: Generators, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Standard normal noise of `shape` (B, ...), drawn on the CPU and moved to `device`.

    With one generator per image, image b depends on generator b alone: the same image whatever the batch
    size and device. With one generator, or none (the global one), the batch is drawn as a whole.
    """
    if isinstance(generator, PhiloxGenerator):
        return send(generator.randn(shape).to(dtype), device)
    if generator is None or isinstance(generator, torch.Generator):
        return send(torch.randn(*shape, generator=generator, dtype=dtype), device)
    if len(generator) != shape[0]:
        raise ValueError(f"{len(generator)} generators for a batch of {shape[0]} images")
    return send(torch.stack([torch.randn(*shape[1:], generator=g, dtype=dtype) for g in generator]), device)


def step_noise(
    shape: Sequence[int], x: Tensor, generator: Generators, temperature: float = 1.0, dropout: float = 0.0
) -> Tensor:
    """The noise of a stochastic step, of the device and type of x."""
    noise = noise_like(shape, generator, x.device, x.dtype) * temperature
    return F.dropout(noise, p=dropout) if dropout > 0.0 else noise


def skip_noise(shape: Sequence[int], generator: Generators, times: int = 1) -> None:
    """Leave out noise that the published samplers draw and multiply by 0, so that what follows is as theirs."""
    if isinstance(generator, PhiloxGenerator):
        for _ in range(times):
            generator.skip(shape)


def seeded_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per image, each from its own seed."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def join_conditions(unconditional: Any, conditional: Any) -> Any:
    """[unconditional; conditional] along the batch, through lists and dicts of tensors.

    An unconditional context of batch 1 serves every image.
    """
    if conditional is None:
        return None
    if isinstance(conditional, Mapping):
        return {key: join_conditions(unconditional[key], value) for key, value in conditional.items()}
    if isinstance(conditional, list | tuple):
        return [join_conditions(u, c) for u, c in zip(unconditional, conditional, strict=True)]
    if unconditional.shape[0] == 1:
        unconditional = unconditional.expand(conditional.shape[0], *unconditional.shape[1:])
    return torch.cat([unconditional, conditional])  # (2B, ...)


def check_correctable(model: Any) -> None:
    """UserError for a model whose prediction no score corrector can change."""
    if model.parameterization != "eps":
        raise UserError("a score_corrector needs a model that predicts the noise (parameterization: eps)")


def guided_eps(model: Any, guidance: Guidance) -> WeightedEpsFn:
    """The noise prediction with classifier-free guidance (Ho and Salimans 2022, eq. 6, scale = 1 + w).

    One model call on [unconditional; conditional] rows: eps_u + scale (eps_c - eps_u). Without guidance the
    model is called on the conditional rows alone, unless the control blends against the unconditional rows.
    A model that predicts v gives eps by its definition.
    """
    conditioning, unconditional, scale, control, corrector, corrector_kwargs = guidance
    if corrector is not None:
        check_correctable(model)
    subtracts = control is not None and control.blend == "unconditional"
    if subtracts and unconditional is None:
        raise UserError("this blend subtracts the unconditional attention: give unconditional_conditioning")
    doubled = unconditional is not None and (scale != 1.0 or subtracts)
    context = join_conditions(unconditional, conditioning) if doubled else conditioning

    def call(x: Tensor, t: Tensor, weights: Tensor | None) -> Tensor:
        if control is None or weights is None:  # a step in which nothing acts does not pay for the local attention
            return model.apply_model(x, t, context)
        return model.apply_model(x, t, context, control=control, weights=weights)

    def guided(x: Tensor, t: Tensor, weights: Tensor | None) -> Tensor:
        if not doubled:
            return call(x, t, weights)
        both = call(torch.cat([x, x]), torch.cat([t, t]), weights)  # (2B, C, H, W)
        uncond, cond = both.chunk(2)
        return uncond + scale * (cond - uncond)

    def eps(x: Tensor, t: Tensor, weights: Tensor | None = None) -> Tensor:
        output = guided(x, t, weights)
        if getattr(model, "parameterization", "eps") == "v":
            alpha = alphas_at(model.alphas_cumprod, t).view(-1, *[1] * (x.dim() - 1))
            return (
                alpha.sqrt().to(x.dtype) * output + (1.0 - alpha).sqrt().to(x.dtype) * x
            )  # Salimans and Ho 2022, v = a eps - s x_0
        if corrector is not None:
            return corrector.modify_score(model, output, x, t, conditioning, **(corrector_kwargs or {}))
        return output

    return eps


def alphas_at(alphas_cumprod: Tensor, t: Tensor) -> Tensor:
    """Cumulative alphas (B,) at timesteps t (B,); between two whole ones their logarithm is linear."""
    if not t.is_floating_point():
        return alphas_cumprod[t]
    low = t.floor().long()
    logs = alphas_cumprod.log()
    return torch.lerp(logs[low], logs[(low + 1).clamp(max=len(logs) - 1)], (t - low).to(logs)).exp()


def predict_x0(x: Tensor, eps: Tensor, alpha: float) -> Tensor:
    """x_0 as the noise prediction implies it: (x - sqrt(1 - alpha) eps) / sqrt(alpha), DDIM eq. 9."""
    return (x - math.sqrt(1.0 - alpha) * eps) / math.sqrt(alpha)


def add_noise(x0: Tensor, noise: Tensor, alpha: float) -> Tensor:
    """x_t from x_0 and noise: sqrt(alpha) x_0 + sqrt(1 - alpha) noise, DDPM eq. 4."""
    return math.sqrt(alpha) * x0 + math.sqrt(1.0 - alpha) * noise


def ddim_step(
    x: Tensor,
    eps: Tensor,
    alpha: float,
    alpha_prev: float,
    sigma: float = 0.0,
    noise: Tensor | None = None,
    project: Project | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of DDIM (Song et al. 2020, eq. 12). Returns (x_prev, pred_x0), each like x (B, C, H, W)."""
    pred_x0 = predict_x0(x, eps, alpha)
    if project is not None:
        pred_x0 = project(pred_x0)
    direction = math.sqrt(max(1.0 - alpha_prev - sigma**2, 0.0)) * eps
    x_prev = math.sqrt(alpha_prev) * pred_x0 + direction
    if noise is not None:
        x_prev = x_prev + sigma * noise
    return x_prev, pred_x0


def adams_bashforth(eps: Tensor, history: History) -> Tensor:
    """The multistep combination of PLMS (Liu et al. 2022, eq. 12) for the 1 to 3 earlier predictions held."""
    if len(history) == 1:
        return (3 * eps - history[0]) / 2
    if len(history) == 2:
        return (23 * eps - 16 * history[0] + 5 * history[1]) / 12
    return (55 * eps - 59 * history[0] + 37 * history[1] - 9 * history[2]) / 24


def plms_step(
    eps_fn: EpsFn,
    x: Tensor,
    t: Tensor,
    t_next: Tensor,
    history: History,
    *,
    alpha: float,
    alpha_prev: float,
    project: Project | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of pseudo linear multistep sampling (Liu et al. 2022, algorithm 2).

    t, t_next (B,). `history` holds up to three earlier eps, the newest first; an empty one makes this the
    first step, which calls the model a second time at t_next (pseudo improved Euler). Returns (x_prev,
    pred_x0, eps), where eps is the present prediction alone: the next entry of the history.
    """
    eps = eps_fn(x, t)
    if history:
        combined = adams_bashforth(eps, history)
    else:
        x_euler, _ = ddim_step(x, eps, alpha, alpha_prev, project=project)
        combined = (eps + eps_fn(x_euler, t_next)) / 2
    x_prev, pred_x0 = ddim_step(x, combined, alpha, alpha_prev, project=project)
    return x_prev, pred_x0, eps
