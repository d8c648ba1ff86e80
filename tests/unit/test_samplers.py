"""DDIM, PLMS and DPM-Solver: golden chains, schedules, gradients, memory, batches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.models.diffusion.ddim import DDIMSampler
from ldm.models.diffusion.dpm_solver import DPMSolverSampler
from ldm.models.diffusion.plms import PLMSSampler
from ldm.models.diffusion.sampler import Sampler
from ldm.models.diffusion.sampling import noise_like, seeded_generators
from ldm.util import UserError
from tests.golden_data import golden, relative_error, tensor
from tests.golden_model import golden_diffusion
from tests.tiny_model import ONE, SIZE, TWO, TinyDiffusion, chain_inputs, make_control

SAMPLERS: dict[str, Any] = {"ddim": DDIMSampler, "plms": PLMSSampler, "dpm": DPMSolverSampler}
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)


@pytest.fixture(scope="module")
def tiny() -> TinyDiffusion:
    return TinyDiffusion()


@pytest.fixture(scope="module")
def reference() -> tuple[Any, dict[str, Any]]:
    config, arrays = golden("ldm/samplers")
    return golden_diffusion(config), arrays


def golden_inputs() -> dict[str, Any]:
    return {
        "conditioning": tensor(1, "ld/c", (2, 7, 48)),
        "unconditional_conditioning": tensor(1, "ld/uc", (1, 7, 48)),
        "x_T": tensor(1, "ld/xT", (2, 4, 8, 8)),
    }


GOLDEN_CHAINS = ["ddim_10", "ddim_7", "plms_10", "plms_4", "plms_1", "plms_10_nocfg", "dpm_10", "dpm_20"]


@pytest.mark.parametrize("case", GOLDEN_CHAINS)
def test_golden_chain(case: str, reference: tuple[Any, dict[str, Any]]) -> None:
    model, arrays = reference
    name, steps, *plain = case.split("_")
    inputs = golden_inputs()
    if plain:
        del inputs["unconditional_conditioning"]
    scale = 1.0 if plain else 7.5
    with torch.no_grad():
        out, _ = SAMPLERS[name](model).sample(
            S=int(steps), batch_size=2, shape=(4, 8, 8), unconditional_guidance_scale=scale, verbose=False, **inputs
        )
    assert relative_error(out, arrays[case]) < 1e-4


def test_golden_encode_decode(reference: tuple[Any, dict[str, Any]]) -> None:
    model, arrays = reference
    sampler = DDIMSampler(model)
    sampler.make_schedule(10, verbose=False)
    inputs = golden_inputs()
    x0, noise = tensor(1, "ld/x0", (2, 4, 8, 8)), tensor(1, "ld/noise", (2, 4, 8, 8))
    with torch.no_grad():
        encoded = sampler.stochastic_encode(x0, torch.tensor([6, 6]), noise=noise)
        decoded = sampler.decode(encoded, inputs["conditioning"], 6, 5.0, inputs["unconditional_conditioning"])
    assert relative_error(encoded, arrays["ddim_stochastic_encode"]) < 1e-4
    assert relative_error(decoded, arrays["ddim_decode"]) < 1e-4


class PointMass:
    """A model whose data is one point: its eps is exact, so that every predicted x_0 must be the point."""

    def __init__(self, x0: Tensor) -> None:
        self.x0 = x0
        self.alphas_cumprod = TinyDiffusion().alphas_cumprod.double()
        self.seen: list[float] = []

    def alpha_at(self, t: Tensor) -> Tensor:
        lower, part = int(t[0]), float(t[0]) - int(t[0])
        logs = self.alphas_cumprod.log()
        return torch.exp(logs[lower] + part * (logs[min(lower + 1, 999)] - logs[lower]))  # as DPM-Solver reads it

    def apply_model(self, x: Tensor, t: Tensor, context: Any) -> Tensor:
        self.seen.append(float(t[0]))
        alpha = self.alpha_at(t)
        return (x - alpha.sqrt() * self.x0) / (1 - alpha).sqrt()


@every_sampler
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 999, 1000])
def test_any_step_count_recovers_a_point(sampler: type[Sampler], steps: int) -> None:
    x0 = tensor(1, "point", (1, 4, 2, 2)).double()
    model = PointMass(x0)
    schedule = sampler(model).schedule(steps)
    assert all(0 <= step.t <= 999 for step in schedule)
    assert all(a.t > b.t and a.alpha < b.alpha for a, b in zip(schedule, schedule[1:], strict=False))
    assert all(a.alpha_prev == b.alpha for a, b in zip(schedule, schedule[1:], strict=False))
    x_T = tensor(1, "start", (1, 4, 2, 2)).double()
    out, inter = sampler(model).sample(steps, 1, (4, 2, 2), None, x_T=x_T, verbose=False)
    assert len(model.seen) == len(schedule) + (sampler is PLMSSampler)
    if sampler is not PLMSSampler or steps > 1:  # its only step, as published, asks for its own timestep twice
        assert max(relative_error(p, x0) for p in inter["pred_x0"][1:]) < 1e-4
    assert out.isfinite().all()


@every_sampler
def test_every_step_count_has_a_schedule(sampler: type[Sampler], tiny: TinyDiffusion) -> None:
    for steps in range(1, 1001, 7):
        schedule = sampler(tiny).schedule(steps)
        assert [step.index for step in schedule] == list(range(len(schedule)))
        assert 0 <= schedule[-1].t < schedule[0].t + 1 <= 1000


@every_sampler
@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5, True])
def test_bad_step_count(sampler: type[Sampler], steps: Any, tiny: TinyDiffusion) -> None:
    with pytest.raises(UserError, match="1..1000"):
        sampler(tiny).sample(S=steps, **chain_inputs(1))


@pytest.mark.parametrize("sampler", [PLMSSampler, DPMSolverSampler])
def test_deterministic_samplers_refuse_eta(sampler: type[Sampler], tiny: TinyDiffusion) -> None:
    with pytest.raises(UserError, match="eta 0"):
        sampler(tiny).sample(S=2, eta=0.5, **chain_inputs(1))


def test_model_that_predicts_x0_is_refused() -> None:
    with pytest.raises(UserError, match="predicts the noise or v"):
        DDIMSampler(SimpleNamespace(parameterization="x0"))


@every_sampler
@pytest.mark.parametrize("blend", ["conditional", "unconditional"])
def test_zero_weights_are_plain_sampling(sampler: type[Sampler], blend: Any, tiny: TinyDiffusion) -> None:
    inputs = chain_inputs(2)
    control = make_control(TWO, ONE, blend=blend)
    with torch.no_grad():
        plain, _ = sampler(tiny).sample(S=5, **inputs)
        zero, _ = sampler(tiny).sample(S=5, control=control, weights=torch.zeros(5, 2, 2), **inputs)
        one, _ = sampler(tiny).sample(S=5, control=control, weights=torch.ones(5, 2, 2), **inputs)
    assert relative_error(zero, plain) < 1e-6
    assert relative_error(one, plain) > 1e-2


@every_sampler
def test_batch_of_two_equals_two_singles(sampler: type[Sampler], tiny: TinyDiffusion) -> None:
    eta = 1.0 if sampler is DDIMSampler else 0.0
    weights = tensor(1, "weights", (5, 2, 2))
    inputs = {**chain_inputs(2), "x_T": None, "eta": eta, "S": 5}
    with torch.no_grad():
        both, _ = sampler(tiny).sample(
            control=make_control(TWO, ONE), weights=weights, generator=seeded_generators([5, 6]), **inputs
        )
        for i, layout in enumerate([TWO, ONE]):
            alone = {**inputs, "batch_size": 1, "conditioning": inputs["conditioning"][i : i + 1]}
            own, generator = weights[:, : len(layout.objects), i : i + 1], seeded_generators([5 + i])
            single, _ = sampler(tiny).sample(control=make_control(layout), weights=own, generator=generator, **alone)
            assert relative_error(both[i : i + 1], single) < 1e-5


def test_unconditional_blend_needs_unconditional_rows(tiny: TinyDiffusion) -> None:
    inputs = {**chain_inputs(1), "unconditional_conditioning": None}
    control = make_control(ONE, blend="unconditional")
    with pytest.raises(UserError, match="unconditional_conditioning"):
        DDIMSampler(tiny).sample(S=2, control=control, weights=torch.ones(2, 1, 1), **inputs)


def test_weights_must_fit_the_chain(tiny: TinyDiffusion) -> None:
    control = make_control(ONE)
    for message, options in (
        ("steps=8", {"S": 7, "control": control, "weights": torch.ones(7, 1, 1)}),  # 7 requested steps make 8
        ("need the control", {"S": 4, "weights": torch.ones(4, 1, 1)}),
        ("needs weights", {"S": 4, "control": control}),
    ):
        with pytest.raises(ValueError, match=message):
            DDIMSampler(tiny).sample(**{**chain_inputs(1), **options})


@every_sampler
def test_weight_update_chooses_the_weights(sampler: type[Sampler], tiny: TinyDiffusion) -> None:
    inputs, weights = chain_inputs(1), tensor(1, "weights", (4, 2, 1))
    predicted: list[Tensor] = []

    def update(step: int, given: Tensor | None, predict_x0: Any) -> Tensor:
        assert given is None
        predicted.append(predict_x0(weights[step]))
        return weights[step]

    with torch.no_grad():
        fixed, inter = sampler(tiny).sample(S=4, control=make_control(TWO), weights=weights, log_every_t=1, **inputs)
        chosen, _ = sampler(tiny).sample(S=4, control=make_control(TWO), weight_update=update, **inputs)
    assert torch.equal(fixed, chosen)
    if sampler is not PLMSSampler:  # its pred_x0 comes from the multistep combination
        assert all(torch.equal(a, b) for a, b in zip(predicted, inter["pred_x0"][1:], strict=True))


@every_sampler
def test_checkpointed_gradients_equal_plain_ones(sampler: type[Sampler], tiny: TinyDiffusion) -> None:
    grads = []
    for checkpointed in (False, True):
        weights = tensor(1, "weights", (5, 2, 2)).requires_grad_()
        options: dict[str, Any] = {"eta": 1.0, "generator": seeded_generators([1, 2])} if sampler is DDIMSampler else {}
        options |= {"control": make_control(TWO, ONE), "weights": weights, "checkpoint_steps": checkpointed}
        out, _ = sampler(tiny).sample(S=5, **options, **chain_inputs(2))
        grads.append(torch.autograd.grad(out.square().sum(), weights)[0])
    assert grads[0].abs().max() > 0
    assert relative_error(grads[1], grads[0]) < 1e-6


@every_sampler
def test_a_trained_text_encoder_asks_for_no_gradient(sampler: type[Sampler], tiny: TinyDiffusion) -> None:
    """Published programs sample without `no_grad` around them, and go on with `.numpy()`; a leaf is asked for."""
    inputs = chain_inputs(1)
    leaf = inputs["conditioning"].clone().requires_grad_()
    out, _ = sampler(tiny).sample(S=3, **{**inputs, "conditioning": leaf * 1})
    assert not out.requires_grad
    out, _ = sampler(tiny).sample(S=3, **{**inputs, "conditioning": leaf})
    assert torch.autograd.grad(out.sum(), leaf)[0].abs().max() > 0


def saved_bytes(sampler: Sampler, steps: int) -> int:
    """Bytes of the distinct storages that a checkpointed chain saves for its backward pass."""
    storages: dict[int, int] = {}
    kept: list[Tensor] = []  # keeps every storage alive, so that no address is used twice

    def pack(saved: Tensor) -> Tensor:
        kept.append(saved)
        storages[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    weights = torch.ones(steps, 1, 1, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        out, _ = sampler.sample(
            S=steps, control=make_control(ONE), weights=weights, checkpoint_steps=True, **chain_inputs(1)
        )
    assert out.requires_grad
    return sum(storages.values())


@every_sampler
def test_memory_of_a_chain_grows_by_at_most_three_latents_a_step(sampler: type[Sampler], tiny: TinyDiffusion) -> None:
    latent = 4 * SIZE * SIZE * 4  # bytes
    growth = (saved_bytes(sampler(tiny), 50) - saved_bytes(sampler(tiny), 10)) / 40
    assert latent <= growth <= 3 * latent


@every_sampler
def test_callbacks_and_intermediates(sampler: type[Sampler], tiny: TinyDiffusion) -> None:
    states: list[dict[str, Any]] = []
    numbers: list[int] = []
    images: list[tuple[int, Tensor]] = []
    calls: dict[str, Any] = {
        "on_step": states.append,
        "callback": numbers.append,
        "img_callback": lambda pred_x0, i: images.append((i, pred_x0)),
    }
    with torch.no_grad():
        out, inter = sampler(tiny).sample(S=5, log_every_t=2, **calls, **chain_inputs(1))
    assert [state["i"] for state in states] == numbers == [i for i, _ in images] == [0, 1, 2, 3, 4]
    assert all(torch.equal(image, state["pred_x0"]) for (_, image), state in zip(images, states, strict=True))
    assert set(states[0]) == {"i", "t", "x", "pred_x0", "weights"}
    assert torch.equal(states[-1]["x"], out)
    assert len(inter["x_inter"]) == len(inter["pred_x0"]) == 4  # the start, and steps 0, 2 and 4
    assert torch.equal(inter["x_inter"][-1], out)


@every_sampler
def test_mask(sampler: type[Sampler], tiny: TinyDiffusion) -> None:
    inputs, x0 = chain_inputs(1), tensor(1, "x0", (1, 4, SIZE, SIZE))
    other, full = {**inputs, "x_T": tensor(1, "other", (1, 4, SIZE, SIZE))}, torch.ones(1, 1, SIZE, SIZE)
    with torch.no_grad():
        plain, _ = sampler(tiny).sample(S=4, **inputs)
        free, _ = sampler(tiny).sample(S=4, mask=0 * full, x0=x0, **inputs)
        kept = [
            sampler(tiny).sample(S=4, mask=full, x0=x0, generator=seeded_generators([3]), **start)[0]
            for start in (inputs, other)
        ]
    assert torch.equal(plain, free)
    assert torch.equal(*kept)  # whatever the starting noise
    with pytest.raises(ValueError, match="x0"):
        sampler(tiny).sample(S=4, mask=full, **inputs)


def test_single_steps_make_the_chain(tiny: TinyDiffusion) -> None:
    sampler, inputs = DDIMSampler(tiny), chain_inputs(2)
    x, c = inputs["x_T"], inputs["conditioning"]
    guidance = {key: inputs[key] for key in ("unconditional_guidance_scale", "unconditional_conditioning")}
    with pytest.raises(UserError, match="make_schedule"):
        sampler.p_sample_ddim(x, c, torch.tensor([1, 1]), 0)
    sampler.make_schedule(5)
    with torch.no_grad():
        for index in reversed(range(5)):
            t = torch.full((2,), int(sampler.ddim_timesteps[index]))
            x, _ = sampler.p_sample_ddim(x, c, t, index, **guidance)
        chain, _ = sampler.sample(S=5, **inputs)
        decoded = sampler.decode(inputs["x_T"], c, 5, **guidance)
    assert relative_error(x, chain) < 1e-6
    assert relative_error(decoded, chain) < 1e-6


def test_original_steps(tiny: TinyDiffusion) -> None:
    sampler, x0 = DDIMSampler(tiny), tensor(1, "x0", (2, 4, SIZE, SIZE))
    noise = torch.ones_like(x0)
    out = sampler.stochastic_encode(x0, torch.tensor([0, 900]), use_original_steps=True, noise=noise)
    alpha = tiny.alphas_cumprod[[0, 900]].view(2, 1, 1, 1)
    assert relative_error(out, alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise) < 1e-6
    with torch.no_grad():
        decoded = sampler.decode(out, chain_inputs(2)["conditioning"], 3, use_original_steps=True)
    assert decoded.isfinite().all()


def test_noise_is_drawn_per_image() -> None:
    both = noise_like((2, 3), seeded_generators([1, 2]))
    assert torch.equal(both[1:], noise_like((1, 3), seeded_generators([2])))
    with pytest.raises(ValueError, match="generators"):
        noise_like((3, 3), seeded_generators([1, 2]))


def test_conditioning_may_be_a_dict(tiny: TinyDiffusion) -> None:
    class Wrapped:
        alphas_cumprod = tiny.alphas_cumprod

        @staticmethod
        def apply_model(x: Tensor, t: Tensor, cond: dict[str, list[Tensor]]) -> Tensor:
            return tiny.apply_model(x, t, torch.cat(cond["c_crossattn"], 1))

    inputs = chain_inputs(2)
    wrapped = {**inputs}
    for key in ("conditioning", "unconditional_conditioning"):
        wrapped[key] = {"c_crossattn": [inputs[key]]}
    with torch.no_grad():
        expected, _ = DDIMSampler(tiny).sample(S=3, **inputs)
        out, _ = DDIMSampler(Wrapped()).sample(S=3, **wrapped)
    assert torch.equal(out, expected)


@every_sampler
def test_a_condition_of_another_batch_size_warns(sampler: type[Sampler]) -> None:
    model = PointMass(torch.zeros(1, 4, 2, 2).double())
    for condition in (torch.zeros(3, 1), [torch.zeros(3, 1)], {"c_concat": None, "c_crossattn": [torch.zeros(3, 1)]}):
        with pytest.warns(UserWarning, match="3 images in a batch of 2"):
            sampler(model).sample(2, 2, (4, 2, 2), condition, verbose=False)


class Shift:
    """A corrector that pulls the prediction towards the noisy latents."""

    def modify_score(self, model: Any, e_t: Tensor, x: Tensor, t: Tensor, c: Any, share: float) -> Tensor:
        return (1 - share) * e_t + share * x


@every_sampler
def test_a_score_corrector_changes_every_prediction(sampler: type[Sampler], tiny: TinyDiffusion) -> None:
    class Corrected:
        alphas_cumprod, parameterization = tiny.alphas_cumprod, "eps"

        @staticmethod
        def apply_model(x: Tensor, t: Tensor, context: Any) -> Tensor:
            return 0.75 * tiny.apply_model(x, t, context) + 0.25 * x

    inputs = chain_inputs(1) | {"unconditional_conditioning": None}
    with torch.no_grad():
        expected, _ = sampler(Corrected()).sample(S=4, **inputs)
        corrector: dict[str, Any] = {"score_corrector": Shift(), "corrector_kwargs": {"share": 0.25}}
        tiny.parameterization = "eps"
        out, _ = sampler(tiny).sample(S=4, **corrector, **inputs)
    assert relative_error(out, expected) < 1e-6


@every_sampler
def test_a_model_of_v_samples_as_the_same_one_of_eps(sampler: type[Sampler]) -> None:
    class Velocity(PointMass):
        parameterization = "v"

        def apply_model(self, x: Tensor, t: Tensor, context: Any) -> Tensor:
            eps = super().apply_model(x, t, context)
            alpha = self.alpha_at(t)
            return (eps - (1 - alpha).sqrt() * x) / alpha.sqrt()

    x0 = tensor(1, "point", (1, 4, 2, 2)).double()
    x_T = tensor(1, "start", (1, 4, 2, 2)).double()
    made = [sampler(model(x0)).sample(5, 1, (4, 2, 2), x_T=x_T, verbose=False)[0] for model in (PointMass, Velocity)]
    assert relative_error(*made) < 1e-9


def test_what_make_schedule_leaves(tiny: TinyDiffusion) -> None:
    for kind in (DDIMSampler, PLMSSampler):
        sampler = kind(tiny, schedule="linear")
        sampler.make_schedule(5, verbose=False)
        assert sampler.ddim_timesteps.tolist() == [1, 201, 401, 601, 801] and sampler.ddpm_num_timesteps == 1000
        chosen = tiny.alphas_cumprod[[1, 201, 401, 601, 801]]
        assert torch.allclose(sampler.ddim_alphas, chosen)
        assert torch.allclose(sampler.ddim_alphas_prev[1:], chosen[:-1])
        assert torch.allclose(sampler.ddim_sqrt_one_minus_alphas, (1 - chosen).sqrt())
        assert not sampler.ddim_sigmas.any()


def test_plms_step_by_step(tiny: TinyDiffusion) -> None:
    sampler, inputs = PLMSSampler(tiny), chain_inputs(2)
    x, c = inputs["x_T"], inputs["conditioning"]
    guidance = {key: inputs[key] for key in ("unconditional_guidance_scale", "unconditional_conditioning")}
    old: list[Tensor] = []
    with torch.no_grad():
        expected, _ = sampler.sample(S=5, **inputs)
        alone, _ = sampler.plms_sampling(c, x.shape, x_T=x, **guidance)
        for index in reversed(range(5)):
            t, t_next = (torch.full((2,), int(sampler.ddim_timesteps[i])) for i in (index, max(index - 1, 0)))
            x, _, eps = sampler.p_sample_plms(x, c, t, index, old_eps=old, t_next=t_next, **guidance)
            old = [*old, eps][-3:]
    assert relative_error(x, expected) < 1e-6
    assert torch.equal(alone, expected)


@pytest.mark.parametrize("sampler", [DDIMSampler, PLMSSampler])
def test_the_step_of_a_subclass_is_taken(sampler: Any, tiny: TinyDiffusion) -> None:
    name = sampler.step_name

    def step(self: Any, x: Tensor, c: Any, t: Tensor, index: int, **options: Any) -> Any:
        seen.append(index)
        made = getattr(sampler, name)(self, x, c, t, index, **options)
        return (0.5 * made[0], *made[1:])

    seen: list[int] = []
    own = type("Own", (sampler,), {name: step})
    with torch.no_grad():
        plain, _ = sampler(tiny).sample(S=4, **chain_inputs(1))
        halved, _ = own(tiny).sample(S=4, **chain_inputs(1))
        partly = own(tiny)
        partly.make_schedule(4, verbose=False)
        getattr(partly, sampler.loop_name)(chain_inputs(1)["conditioning"], (1, 4, SIZE, SIZE), timesteps=3)
    assert seen == [3, 2, 1, 0, 1, 0]  # of three steps the published loop takes two
    assert relative_error(halved, plain) > 0.1


def test_unknown_arguments_are_named(tiny: TinyDiffusion, caplog: pytest.LogCaptureFixture) -> None:
    with torch.no_grad():
        DDIMSampler(tiny).sample(S=1, quantize_denoised=True, **chain_inputs(1))
    assert "quantize_denoised" in caplog.text
