"""DPM-Solver in continuous time: the noise schedules, and every solver on an ODE whose solution is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.models.diffusion.dpm_solver.dpm_solver import DPM_Solver, NoiseScheduleVP, interpolate_fn, model_wrapper
from ldm.models.diffusion.dpm_solver.sampler import DPMSolverSampler
from ldm.modules.diffusionmodules.util import make_beta_schedule
from ldm.util import UserError
from tests.golden_data import golden, relative_error, tensor
from tests.golden_model import golden_diffusion

BETAS = torch.from_numpy(make_beta_schedule("linear", 1000, 0.00085, 0.012))
SCHEDULES = {
    "discrete": {"betas": BETAS},
    "linear": {"continuous_beta_0": 0.2, "continuous_beta_1": 15.0},
    "cosine": {},
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name: str) -> None:
    schedule: Any = NoiseScheduleVP(name, **SCHEDULES[name])  # type: ignore[arg-type]
    t = torch.linspace(0.01, schedule.T, 50, dtype=torch.float64)
    alpha, sigma, lamb = schedule.marginal_alpha(t), schedule.marginal_std(t), schedule.marginal_lambda(t)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t))
    torch.testing.assert_close(lamb, (alpha / sigma).log())
    torch.testing.assert_close(schedule.inverse_lambda(lamb), t, rtol=1e-6, atol=1e-8)
    assert (lamb[1:] < lamb[:-1]).all()
    if name == "discrete":
        steps = torch.tensor([1.0, 500.0, 1000.0], dtype=torch.float64) / 1000
        expected = (1 - BETAS).cumprod(0)[[0, 499, 999]].sqrt()
        torch.testing.assert_close(schedule.marginal_alpha(steps), expected)
        same = NoiseScheduleVP(alphas_cumprod=(1 - BETAS).cumprod(0))
        torch.testing.assert_close(same.marginal_alpha(t), alpha)
    if name == "linear":  # log alpha is minus half the integral of beta
        expected = -0.5 * (0.2 * t + (15.0 - 0.2) * t**2 / 2)
        torch.testing.assert_close(schedule.marginal_log_mean_coeff(t), expected)


def test_interpolation_goes_on_beyond_its_points() -> None:
    xp, yp = torch.tensor([[0.0, 1.0, 3.0]]), torch.tensor([[0.0, 2.0, 3.0]])
    x = torch.tensor([[-1.0], [0.5], [1.0], [2.0], [5.0]])
    assert interpolate_fn(x, xp, yp)[:, 0].tolist() == [-2.0, 1.0, 2.0, 2.5, 4.0]


SPREAD, CENTER = 0.5, 0.7  # data ~ N(CENTER, SPREAD^2)


def noise_of(schedule: NoiseScheduleVP, x: Tensor, t: Tensor) -> Tensor:
    """The exact noise prediction for that data."""
    alpha, sigma = (f(t)[:, None] for f in (schedule.marginal_alpha, schedule.marginal_std))
    return sigma * (x - alpha * CENTER) / (alpha**2 * SPREAD**2 + sigma**2)


def transported(schedule: NoiseScheduleVP, x: Tensor, t: float, s: float) -> Tensor:
    """Where the ODE takes x from time t to s: its standard score stays."""
    a, c = (schedule.marginal_alpha(torch.tensor([v], dtype=x.dtype)) for v in (t, s))
    b, d = (schedule.marginal_std(torch.tensor([v], dtype=x.dtype)) for v in (t, s))
    return c * CENTER + (c**2 * SPREAD**2 + d**2).sqrt() * (x - a * CENTER) / (a**2 * SPREAD**2 + b**2).sqrt()


METHODS = ["singlestep", "singlestep_fixed", "multistep"]


@pytest.mark.parametrize("predict_x0", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("solver_type", ["dpm_solver", "taylor"])
def test_solvers_converge_with_their_order(method: str, solver_type: str, predict_x0: bool) -> None:
    schedule = NoiseScheduleVP("linear")
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    exact = transported(schedule, x, 1.0, 0.05)
    solver = DPM_Solver(lambda x, t: noise_of(schedule, x, t), schedule, predict_x0=predict_x0)
    options: dict[str, Any] = {"method": method, "solver_type": solver_type, "skip_type": "logSNR"}
    for order in (1, 2, 3):
        made = [solver.sample(x, steps, 1.0, 0.05, order=order, **options) for steps in (96, 192)]
        coarse, fine = (float((samples - exact).abs().max()) for samples in made)
        # A step of first order, at the start of multistep and at the end of singlestep, allows second order in all.
        reached = order if method == "singlestep_fixed" else min(order, 2)
        assert fine < 0.01
        assert math.log2(coarse / fine) > reached - 0.4 or fine < 2e-6, (order, coarse, fine)  # the grid is float32


@pytest.mark.parametrize("order", [2, 3])
def test_the_adaptive_solver_keeps_its_tolerance(order: int) -> None:
    schedule = NoiseScheduleVP("cosine")
    calls: list[int] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        calls.append(1)
        return noise_of(schedule, x, t)

    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    made = DPM_Solver(model, schedule).sample(x, t_end=0.01, order=order, method="adaptive", atol=1e-4, rtol=1e-3)
    assert (made - transported(schedule, x, schedule.T, 0.01)).abs().max() < 2e-3
    assert 10 < len(calls) < 500


def test_model_types_and_guidance() -> None:
    schedule = NoiseScheduleVP(betas=BETAS)
    x, t = tensor(1, "x", (2, 3)).double(), torch.tensor([0.3, 0.8], dtype=torch.float64)
    alpha, sigma = schedule.marginal_alpha(t)[:, None], schedule.marginal_std(t)[:, None]
    noise = tensor(1, "noise", (2, 3)).double()
    x0 = (x - sigma * noise) / alpha
    outputs = {"noise": noise, "x_start": x0, "v": alpha * noise - sigma * x0, "score": -noise / sigma}
    seen: list[Tensor] = []
    for kind, output in outputs.items():
        made = model_wrapper(lambda x, t, out=output: seen.append(t) or out, schedule, kind)(x, t)
        torch.testing.assert_close(made, noise)
    torch.testing.assert_close(seen[0], torch.tensor([299.0, 799.0], dtype=torch.float64))

    def conditional(x: Tensor, t: Tensor, c: dict[str, Tensor], shift: float) -> Tensor:
        return x * c["c"] + shift

    options: dict[str, Any] = {"guidance_type": "classifier-free", "model_kwargs": {"shift": 1.0}}
    one, two = ({"c": torch.full((2, 1), v, dtype=torch.float64)} for v in (1.0, 2.0))
    guided = model_wrapper(
        conditional, schedule, condition=two, unconditional_condition=one, guidance_scale=3.0, **options
    )
    torch.testing.assert_close(guided(x, t), x * 4 + 1)
    alone = model_wrapper(conditional, schedule, condition=two, **options)
    torch.testing.assert_close(alone(x, t), x * 2 + 1)
    by_classifier = model_wrapper(
        lambda x, t: noise, schedule, guidance_type="classifier", classifier_fn=lambda x, t, c: c * x.square(),
        condition=0.5, guidance_scale=2.0,
    )  # fmt: skip
    torch.testing.assert_close(by_classifier(x, t), noise - 2.0 * sigma * x)
    for wrong in ({"model_type": "eps"}, {"guidance_type": "free"}):
        with pytest.raises(UserError, match="is none of"):
            model_wrapper(conditional, schedule, **wrong)


def test_thresholding_and_the_last_call() -> None:
    schedule = NoiseScheduleVP(betas=BETAS)
    solver = DPM_Solver(lambda x, t: torch.zeros_like(x), schedule, predict_x0=True, thresholding=True)
    x = torch.cat([torch.full((1, 99), 4.0), torch.full((1, 1), 40.0)], dim=1).double()
    assert solver.data_prediction_fn(x, torch.tensor([0.001])).abs().max() <= 1.0
    made = DPM_Solver(lambda x, t: torch.zeros_like(x), schedule).sample(x, 3, denoise_to_zero=True)
    alpha = schedule.marginal_alpha(torch.tensor([1.0]).double())
    torch.testing.assert_close(made, x / alpha, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("steps", [10, 20])
def test_the_golden_chains(steps: int) -> None:
    """As the published sampler calls it, and as ours does the same in one pass."""
    config, arrays = golden("ldm/samplers")
    model = golden_diffusion(config)
    schedule = NoiseScheduleVP("discrete", alphas_cumprod=model.alphas_cumprod)
    c, free = tensor(1, "ld/c", (2, 7, 48)), tensor(1, "ld/uc", (1, 7, 48)).expand(2, -1, -1)
    x_T = tensor(1, "ld/xT", (2, 4, 8, 8))
    function = model_wrapper(
        lambda x, t, c: model.apply_model(x, t, c), schedule, model_type="noise", guidance_type="classifier-free",
        condition=c, unconditional_condition=free, guidance_scale=7.5,
    )  # fmt: skip
    with torch.no_grad():
        solver = DPM_Solver(function, schedule, predict_x0=True, thresholding=False)
        made = solver.sample(
            x_T, steps=steps, skip_type="time_uniform", method="multistep", order=2, lower_order_final=True
        )
        options: dict[str, Any] = {"unconditional_guidance_scale": 7.5, "unconditional_conditioning": free}
        ours, _ = DPMSolverSampler(model).sample(steps, 2, (4, 8, 8), c, x_T=x_T, verbose=False, **options)
    assert relative_error(made, arrays[f"dpm_{steps}"]) < 1e-4
    assert relative_error(ours, made) < 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 4}, "1, 2 or 3"),
        ({"method": "leap"}, "singlestep"),
        ({"skip_type": "odd"}, "logSNR"),
        ({"solver_type": "euler"}, "taylor"),
        ({"method": "multistep", "steps": 2}, "at least 3"),
        ({"method": "adaptive", "order": 1}, "2 and 3"),
    ],
)
def test_what_it_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DPM_Solver(lambda x, t: x, NoiseScheduleVP("linear")).sample(torch.zeros(1, 1), **options)
    with pytest.raises(UserError, match="discrete, linear, cosine"):
        NoiseScheduleVP("square")
