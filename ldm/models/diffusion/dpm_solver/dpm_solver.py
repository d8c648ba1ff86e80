"""DPM-Solver and DPM-Solver++ in continuous time (Lu et al. 2022, arXiv 2206.00927 and 2211.01095), published names.

Time runs from T to 0, and lambda = log(alpha / sigma) rises on the way, where x_t = alpha x_0 + sigma eps. An update
integrates a polynomial in lambda. With z = h where the model's noise is integrated and z = -h where its data is (h: the
way in lambda), both have one form: x_t = ratio x_s - scale (phi_1(z) m + phi_2(z) m' + phi_3(z) m'' ...), with
phi_1(z) = e^z - 1 and phi_{k+1}(z) = phi_k(z) / z - 1 / k!. :class:`DPMSolverSampler`, which the scripts use, is the
multistep one of second order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ldm.models.diffusion.dpm_solver.noise_schedule import (
    ModelFn,
    NoiseScheduleVP,
    expand_dims,
    interpolate_fn,
    model_wrapper,
)
from ldm.util import UserError

__all__ = ["DPM_Solver", "NoiseScheduleVP", "expand_dims", "interpolate_fn", "model_wrapper"]


class DPM_Solver:
    """Solves the diffusion ODE from noise x (B, ...) to data.

    Args:
        model_fn: noise prediction in continuous time, see :func:`model_wrapper`.
        predict_x0: integrate the data (DPM-Solver++) instead of the noise.
        thresholding, max_val: clip the predicted data to its 99.5 percentile, at least `max_val`, and divide by it.
    """

    def __init__(
        self,
        model_fn: ModelFn,
        noise_schedule: NoiseScheduleVP,
        predict_x0: bool = False,
        thresholding: bool = False,
        max_val: float = 1.0,
    ) -> None:
        self.model, self.noise_schedule = model_fn, noise_schedule
        self.predict_x0, self.thresholding, self.max_val = predict_x0, thresholding, max_val

    def noise_prediction_fn(self, x: Tensor, t: Tensor) -> Tensor:
        """The noise in x (B, ...) at times t (B,)."""
        return self.model(x, t)

    def data_prediction_fn(self, x: Tensor, t: Tensor) -> Tensor:
        """The data that x (B, ...) at times t (B,) comes from."""
        ns = self.noise_schedule
        alpha, sigma = (expand_dims(f(t.expand(len(x))), x.dim()) for f in (ns.marginal_alpha, ns.marginal_std))
        x0 = (x - sigma * self.noise_prediction_fn(x, t)) / alpha
        if self.thresholding:
            s = torch.quantile(x0.abs().flatten(1), 0.995, dim=1).clamp(min=self.max_val)
            s = expand_dims(s, x.dim())
            x0 = x0.clamp(-s, s) / s
        return x0

    def model_fn(self, x: Tensor, t: Tensor) -> Tensor:
        """What is integrated: data or noise."""
        return self.data_prediction_fn(x, t) if self.predict_x0 else self.noise_prediction_fn(x, t)

    def denoise_to_zero_fn(self, x: Tensor, s: Tensor) -> Tensor:
        """A last step from times s (B,) to the data."""
        return self.data_prediction_fn(x, s)

    def get_time_steps(self, skip_type: str, t_T: float, t_0: float, N: int, device: torch.device | str) -> Tensor:
        """N + 1 times (N + 1,) from t_T to t_0, evenly spaced in lambda, in time, or in the root of time."""
        if skip_type == "logSNR":
            ends = (self.noise_schedule.marginal_lambda(torch.tensor([t], device=device)) for t in (t_T, t_0))
            first, last = (float(end) for end in ends)
            return self.noise_schedule.inverse_lambda(torch.linspace(first, last, N + 1, device=device))
        if skip_type == "time_uniform":
            return torch.linspace(t_T, t_0, N + 1, device=device)
        if skip_type == "time_quadratic":
            return torch.linspace(t_T**0.5, t_0**0.5, N + 1, device=device) ** 2
        raise UserError(f"skip_type '{skip_type}' is none of logSNR, time_uniform, time_quadratic")

    def get_orders_and_timesteps_for_singlestep_solver(
        self, steps: int, order: int, skip_type: str, t_T: float, t_0: float, device: torch.device | str
    ) -> tuple[Tensor, list[int]]:
        """Times of the outer steps, and the order of each, which make `steps` model calls in all."""
        whole, rest = divmod(steps, order)
        orders = [order] * whole + [rest] * (rest > 0)
        if order == 3 and rest == 0:
            orders = [3] * (whole - 1) + [2, 1]
        if skip_type == "logSNR":
            return self.get_time_steps(skip_type, t_T, t_0, len(orders), device), orders
        ends = torch.tensor([0, *orders]).cumsum(0).to(device)
        return self.get_time_steps(skip_type, t_T, t_0, steps, device)[ends], orders

    def _step(self, s: Tensor, t: Tensor, dims: int) -> tuple[Tensor, Tensor, Tensor]:
        """ratio, scale and z of an update from time s to t, see the top of this file; each (B, 1, ...)."""
        ns = self.noise_schedule
        h = ns.marginal_lambda(t) - ns.marginal_lambda(s)
        if self.predict_x0:
            parts = (ns.marginal_std(t) / ns.marginal_std(s), ns.marginal_alpha(t), -h)
        else:
            parts = (ns.marginal_alpha(t) / ns.marginal_alpha(s), ns.marginal_std(t), h)
        ratio, scale, z = (expand_dims(part, dims) for part in parts)
        return ratio, scale, z

    def dpm_solver_first_update(
        self, x: Tensor, s: Tensor, t: Tensor, model_s: Tensor | None = None, return_intermediate: bool = False
    ) -> Any:
        """From time s (B,) to t with one model call, which is DDIM; with `return_intermediate` that, too."""
        ratio, scale, z = self._step(s, t, x.dim())
        model_s = self.model_fn(x, s) if model_s is None else model_s
        x_t = ratio * x - scale * torch.expm1(z) * model_s
        return (x_t, {"model_s": model_s}) if return_intermediate else x_t

    def singlestep_dpm_solver_second_update(
        self,
        x: Tensor,
        s: Tensor,
        t: Tensor,
        r1: float | Tensor | None = 0.5,
        model_s: Tensor | None = None,
        return_intermediate: bool = False,
        solver_type: str = "dpm_solver",
    ) -> Any:
        """From time s (B,) to t with a second model call at the share r1 of the way in lambda."""
        r1 = 0.5 if r1 is None else r1
        ratio, scale, z = self._step(s, t, x.dim())
        model_s = self.model_fn(x, s) if model_s is None else model_s
        s1 = self._between(s, t, r1)
        model_s1 = self.model_fn(self.dpm_solver_first_update(x, s, s1, model_s), s1)
        slope = second_factor(z, solver_type) * (model_s1 - model_s) / r1
        x_t = ratio * x - scale * (torch.expm1(z) * model_s + slope)
        return (x_t, {"model_s": model_s, "model_s1": model_s1}) if return_intermediate else x_t

    def _between(self, s: Tensor, t: Tensor, share: float | Tensor) -> Tensor:
        """The time at a share of the way from s to t in lambda."""
        first, last = self.noise_schedule.marginal_lambda(s), self.noise_schedule.marginal_lambda(t)
        return self.noise_schedule.inverse_lambda(first + share * (last - first))

    def singlestep_dpm_solver_third_update(
        self,
        x: Tensor,
        s: Tensor,
        t: Tensor,
        r1: float | Tensor | None = 1.0 / 3.0,
        r2: float | Tensor | None = 2.0 / 3.0,
        model_s: Tensor | None = None,
        model_s1: Tensor | None = None,
        return_intermediate: bool = False,
        solver_type: str = "dpm_solver",
    ) -> Any:
        """From time s (B,) to t with two more model calls, at the shares r1 and r2 of the way in lambda."""
        check_solver(solver_type)
        r1, r2 = 1.0 / 3.0 if r1 is None else r1, 2.0 / 3.0 if r2 is None else r2
        s1, s2 = self._between(s, t, r1), self._between(s, t, r2)
        model_s = self.model_fn(x, s) if model_s is None else model_s
        if model_s1 is None:
            model_s1 = self.model_fn(self.dpm_solver_first_update(x, s, s1, model_s), s1)
        ratio, scale, z = self._step(s, s2, x.dim())
        x_s2 = ratio * x - scale * (torch.expm1(z) * model_s + r2 / r1 * phi(z, 2) * (model_s1 - model_s))
        model_s2 = self.model_fn(x_s2, s2)
        ratio, scale, z = self._step(s, t, x.dim())
        first, second = (model_s1 - model_s) / r1, (model_s2 - model_s) / r2
        moved = phi(z, 2) * second
        if solver_type == "taylor":
            slope, curve = (r2 * first - r1 * second) / (r2 - r1), 2.0 * (second - first) / (r2 - r1)
            moved = phi(z, 2) * slope + phi(z, 3) * curve
        x_t = ratio * x - scale * (torch.expm1(z) * model_s + moved)
        return (x_t, {"model_s": model_s, "model_s1": model_s1, "model_s2": model_s2}) if return_intermediate else x_t

    def multistep_dpm_solver_second_update(
        self,
        x: Tensor,
        model_prev_list: Sequence[Tensor],
        t_prev_list: Sequence[Tensor],
        t: Tensor,
        solver_type: str = "dpm_solver",
    ) -> Tensor:
        """To time t (B,) from the two latest predictions and their times, the newest last."""
        (model_1, model_0), (t_1, t_0) = model_prev_list[-2:], t_prev_list[-2:]
        ratio, scale, z = self._step(t_0, t, x.dim())
        slope = (model_0 - model_1) / self._share(t_1, t_0, t, x.dim())
        return ratio * x - scale * (torch.expm1(z) * model_0 + second_factor(z, solver_type) * slope)

    def _share(self, a: Tensor, b: Tensor, t: Tensor, dims: int, c: Tensor | None = None) -> Tensor:
        """The way from time a to b in lambda, over that from c (by default b) to t: (B, 1, ...)."""
        one, two, three, four = (self.noise_schedule.marginal_lambda(v) for v in (a, b, b if c is None else c, t))
        return expand_dims((two - one) / (four - three), dims)

    def multistep_dpm_solver_third_update(
        self,
        x: Tensor,
        model_prev_list: Sequence[Tensor],
        t_prev_list: Sequence[Tensor],
        t: Tensor,
        solver_type: str = "dpm_solver",
    ) -> Tensor:
        """To time t (B,) from the three latest predictions and their times, the newest last."""
        check_solver(solver_type)
        (model_2, model_1, model_0), (t_2, t_1, t_0) = model_prev_list[-3:], t_prev_list[-3:]
        ratio, scale, z = self._step(t_0, t, x.dim())
        r0, r1 = self._share(t_1, t_0, t, x.dim()), self._share(t_2, t_1, t, x.dim(), t_0)
        first, second = (model_0 - model_1) / r0, (model_1 - model_2) / r1
        slope, curve = first + r0 / (r0 + r1) * (first - second), (first - second) / (r0 + r1)
        return ratio * x - scale * (torch.expm1(z) * model_0 + phi(z, 2) * slope + phi(z, 3) * curve)

    def singlestep_dpm_solver_update(
        self,
        x: Tensor,
        s: Tensor,
        t: Tensor,
        order: int,
        return_intermediate: bool = False,
        solver_type: str = "dpm_solver",
        r1: float | Tensor | None = None,
        r2: float | Tensor | None = None,
    ) -> Any:
        """The single-step update of this order."""
        options: dict[str, Any] = {"return_intermediate": return_intermediate}
        if order == 1:
            return self.dpm_solver_first_update(x, s, t, **options)
        options |= {"solver_type": solver_type, "r1": r1}
        if check_order(order) == 2:
            return self.singlestep_dpm_solver_second_update(x, s, t, **options)
        return self.singlestep_dpm_solver_third_update(x, s, t, r2=r2, **options)

    def multistep_dpm_solver_update(
        self,
        x: Tensor,
        model_prev_list: Sequence[Tensor],
        t_prev_list: Sequence[Tensor],
        t: Tensor,
        order: int,
        solver_type: str = "dpm_solver",
    ) -> Tensor:
        """The multistep update of this order."""
        if order == 1:
            return self.dpm_solver_first_update(x, t_prev_list[-1], t, model_s=model_prev_list[-1])
        updates = {2: self.multistep_dpm_solver_second_update, 3: self.multistep_dpm_solver_third_update}
        return updates[check_order(order)](x, model_prev_list, t_prev_list, t, solver_type)

    def dpm_solver_adaptive(
        self,
        x: Tensor,
        order: int,
        t_T: float,
        t_0: float,
        h_init: float = 0.05,
        atol: float = 0.0078,
        rtol: float = 0.05,
        theta: float = 0.9,
        t_err: float = 1e-5,
        solver_type: str = "dpm_solver",
    ) -> Tensor:
        """From time t_T to t_0 in steps of lambda that keep the error below atol + rtol |x| (orders 2 and 3)."""
        ns, s = self.noise_schedule, torch.full((len(x),), t_T, device=x.device, dtype=x.dtype)
        h, end = torch.full_like(s, h_init), ns.marginal_lambda(torch.full_like(s, t_0))
        if order == 2:
            lower: Any = partial(self.dpm_solver_first_update, return_intermediate=True)
            higher: Any = partial(self.singlestep_dpm_solver_second_update, solver_type=solver_type)
        elif order == 3:
            options: dict[str, Any] = {"return_intermediate": True, "solver_type": solver_type}
            lower = partial(self.singlestep_dpm_solver_second_update, r1=1.0 / 3.0, **options)
            higher = partial(self.singlestep_dpm_solver_third_update, solver_type=solver_type)
        else:
            raise UserError(f"the adaptive solver has orders 2 and 3, not {order}")
        previous = x
        while float((s - t_0).abs().mean()) > t_err:
            t = ns.inverse_lambda(ns.marginal_lambda(s) + h)
            rough, found = lower(x, s, t)
            fine = higher(x, s, t, **found)
            allowed = (rtol * torch.maximum(rough.abs(), previous.abs())).clamp(min=atol)
            error = ((fine - rough) / allowed).flatten(1).square().mean(1).sqrt().max()
            if float(error) <= 1.0:
                x, s, previous = fine, t, rough
            h = torch.minimum(theta * h * error.clamp(min=1e-12) ** (-1.0 / order), end - ns.marginal_lambda(s))
        return x

    def sample(
        self,
        x: Tensor,
        steps: int = 20,
        t_start: float | None = None,
        t_end: float | None = None,
        order: int = 3,
        skip_type: str = "time_uniform",
        method: str = "singlestep",
        lower_order_final: bool = True,
        denoise_to_zero: bool = False,
        solver_type: str = "dpm_solver",
        atol: float = 0.0078,
        rtol: float = 0.05,
    ) -> Tensor:
        """Data (B, ...) from noise x at time `t_start` (by default the last one), down to `t_end` (the first step).

        Args:
            steps: model calls ("adaptive" has its own, by `atol` and `rtol`).
            method: "singlestep", "singlestep_fixed" (one order throughout), "multistep" or "adaptive".
            lower_order_final: lower orders at the end of multistep chains below 15 steps.
            denoise_to_zero: one more call, to the data itself.
        """
        first = self.noise_schedule.T if t_start is None else t_start
        last = 1.0 / self.noise_schedule.total_N if t_end is None else t_end
        check_solver(solver_type)
        check_order(order)
        if method == "adaptive":
            x = self.dpm_solver_adaptive(x, order, first, last, atol=atol, rtol=rtol, solver_type=solver_type)
        elif method == "multistep":
            x = self._multistep(x, steps, first, last, order, skip_type, lower_order_final, solver_type)
        elif method in ("singlestep", "singlestep_fixed"):
            if method == "singlestep":
                times, orders = self.get_orders_and_timesteps_for_singlestep_solver(
                    steps, order, skip_type, first, last, x.device
                )
            else:
                orders = [order] * (steps // order)
                times = self.get_time_steps(skip_type, first, last, len(orders), x.device)
            for s, t, taken in zip(times[:-1], times[1:], orders, strict=True):
                inner = self.get_time_steps(skip_type, float(s), float(t), taken, x.device)
                logs = self.noise_schedule.marginal_lambda(inner)
                r1, r2, *_ = *((logs[1:-1] - logs[0]) / (logs[-1] - logs[0])), None, None
                ends = (s.expand(len(x)), t.expand(len(x)))
                x = self.singlestep_dpm_solver_update(x, *ends, taken, solver_type=solver_type, r1=r1, r2=r2)
        else:
            raise UserError(f"method '{method}' is none of singlestep, singlestep_fixed, multistep, adaptive")
        return self.denoise_to_zero_fn(x, torch.full((len(x),), last, device=x.device)) if denoise_to_zero else x

    def _multistep(
        self, x: Tensor, steps: int, first: float, last: float, order: int, skip: str, lower_final: bool, kind: str
    ) -> Tensor:
        if steps < order:
            raise UserError(f"a multistep solver of order {order} takes at least {order} steps, not {steps}")
        times = [t.expand(len(x)) for t in self.get_time_steps(skip, first, last, steps, x.device)]
        predictions = [self.model_fn(x, times[0])]
        for step in range(1, steps + 1):
            taken = min(order, step)
            if lower_final and steps < 15:
                taken = min(taken, steps + 1 - step)
            x = self.multistep_dpm_solver_update(x, predictions, times[:step][-order:], times[step], taken, kind)
            if step < steps:
                predictions = [*predictions, self.model_fn(x, times[step])][-order:]
        return x


def phi(z: Tensor, order: int) -> Tensor:
    """phi_order(z), see the top of this file."""
    value = torch.expm1(z)
    for k in range(1, order):
        value = value / z - 1.0 / math.factorial(k)
    return value


def second_factor(z: Tensor, solver_type: str) -> Tensor:
    """The factor of the slope in a second-order update: phi_2, or its approximation phi_1 / 2."""
    return phi(z, 2) if check_solver(solver_type) == "taylor" else 0.5 * torch.expm1(z)


def check_solver(solver_type: str) -> str:
    """`solver_type` itself; UserError unless it is one of the two."""
    if solver_type not in ("dpm_solver", "taylor"):
        raise UserError(f"solver_type '{solver_type}' is neither dpm_solver nor taylor")
    return solver_type


def check_order(order: int) -> int:
    """`order` itself; UserError unless it is 1, 2 or 3."""
    if order not in (1, 2, 3):
        raise UserError(f"the order of a solver is 1, 2 or 3, not {order}")
    return order
