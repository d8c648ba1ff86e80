"""DPM-Solver++, multistep, second order (Lu et al. 2022b, arXiv 2211.01095, algorithm 2), as pure functions.

Continuous time runs over (0, 1]: t = (n + 1) / N for training timestep n of N; between them the logarithm of
sqrt(alpha) is linear in t (Lu et al. 2022a, appendix D.4).
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from ldm.models.diffusion.sampling import EpsFn, History, Step, check_steps, predict_x0

LOWER_ORDER_FINAL_BELOW = 15  # chains shorter than this end with a first-order step, for stability


def dpm_schedule(alphas_cumprod: Tensor | np.ndarray, steps: int) -> list[Step]:
    """`steps` steps of equal length in time from T down to the first training timestep, the noisiest first.

    alphas_cumprod (T,). The timesteps are fractional: the model gets N t - 1.
    """
    check_steps(steps)
    if isinstance(alphas_cumprod, Tensor):
        alphas_cumprod = alphas_cumprod.detach().cpu().numpy()
    count = len(alphas_cumprod)
    times = np.linspace(1.0, 1.0 / count, steps + 1)
    log_alphas = np.log(alphas_cumprod.astype(np.float64))  # twice that of the root: both linear in t
    grid = np.arange(1, count + 1) / count
    alphas = np.exp(np.interp(times, grid, log_alphas))
    timesteps = times * count - 1.0
    return [
        Step(
            index=i,
            t=float(timesteps[i]),
            t_next=float(timesteps[min(i + 1, steps - 1)]),
            alpha=float(alphas[i]),
            alpha_prev=float(alphas[i + 1]),
            alpha_before=float(alphas[i - 1]) if step_order(i, steps) == 2 else None,
        )
        for i in range(steps)
    ]


def half_log_snr(alpha: float) -> float:
    """lambda = log(sqrt(alpha) / sqrt(1 - alpha)) for cumulative alpha."""
    return 0.5 * (math.log(alpha) - math.log1p(-alpha))


def step_order(index: int, total: int) -> int:
    """Order of step `index`: 1 at the start, 1 at the end of a short chain, else 2."""
    short_end = total < LOWER_ORDER_FINAL_BELOW and index == total - 1
    return 1 if index == 0 or short_end else 2


def dpm_step(eps_fn: EpsFn, x: Tensor, step: Step, history: History) -> tuple[Tensor, Tensor]:
    """One step of DPM-Solver++(2M), or of DPM-Solver++(1) = DDIM where step.alpha_before is None.

    history: the x_0 prediction of the step before, made at cumulative alpha `step.alpha_before`.
    Returns (x_prev, pred_x0), each like x (B, C, H, W).
    """
    pred_x0 = predict_x0(x, eps_fn(x, step.timesteps(x)), step.alpha)
    here, there = half_log_snr(step.alpha), half_log_snr(step.alpha_prev)
    h = there - here
    data = pred_x0
    if step.alpha_before is not None:
        r = (here - half_log_snr(step.alpha_before)) / h
        data = (1.0 + 0.5 / r) * pred_x0 - (0.5 / r) * history[0]  # D_i of algorithm 2
    sigma_ratio = math.sqrt((1.0 - step.alpha_prev) / (1.0 - step.alpha))
    x_prev = sigma_ratio * x - math.sqrt(step.alpha_prev) * math.expm1(-h) * data
    return x_prev, pred_x0
