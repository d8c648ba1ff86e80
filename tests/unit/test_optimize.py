"""Optimizing the weights: gradients, the presets on a tiny model, batches, what is left behind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from ldm.errors import UserError
from ldm.models.diffusion.plms import PLMSSampler
from ldm.models.diffusion.sampler import Sampler
from ldm.models.diffusion.sampling import seeded_generators
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.spacetime.objective import ClipObjective
from ldm.spacetime.optimize import Adam, Result, block_checkpoints, frozen, optimize
from ldm.spacetime.presets import PRESETS, Preset
from tests.golden_data import relative_error, tensor
from tests.tiny_model import NONE, ONE, TWO, TinyBundle, TinyDiffusion, chain_inputs, make_control
from tests.unit.test_samplers import SAMPLERS, every_sampler

SHORT = {name: replace(preset, rounds=min(preset.rounds, 2)) for name, preset in PRESETS.items()}
every_preset = pytest.mark.parametrize("preset", SHORT.values(), ids=SHORT)
# Of every step and every number known here, whatever the default's tuned constants are.
PER_STEP = replace(
    PRESETS["per-step"], blend="conditional", initial=1.0, learning_rate=0.1, inner_steps=1, last=1.0, release=1.0
)


@pytest.fixture(scope="module")
def tiny() -> TinyDiffusion:
    return TinyDiffusion()


def objective_of(preset: Preset, *layouts: Layout, dtype: torch.dtype = torch.float32) -> ClipObjective:
    return preset.objective(TinyBundle(dtype), [layout.prompt or "" for layout in layouts], layouts)


def run(
    model: TinyDiffusion,
    preset: Preset,
    *layouts: Layout,
    sampler: type[Sampler] = PLMSSampler,
    first: int = 0,
    steps: int = 4,
    **options: Any,
) -> Result:
    """Optimizes one image per layout, from the starting noise and contexts number `first` and up."""
    inputs = chain_inputs(first + len(layouts))
    own = {"batch_size": len(layouts), "x_T": inputs["x_T"][first:], "conditioning": inputs["conditioning"][first:]}
    control, objective = make_control(*layouts), objective_of(preset, *layouts)
    chain = {"S": steps, **inputs, **own, **options}
    return optimize(model, sampler(model), control, objective, preset, **chain)


def plain(model: TinyDiffusion, sampler: type[Sampler] = PLMSSampler, steps: int = 4, **extra: Any) -> torch.Tensor:
    with torch.no_grad():
        return sampler(model).sample(S=steps, **chain_inputs(1), **extra)[0]


# ---------------------------------------------------------------------------------------------- gradients


@every_sampler
@pytest.mark.parametrize("blend", ["conditional", "unconditional"])
def test_gradcheck_of_the_loss(sampler: type[Sampler], blend: Any) -> None:
    double = torch.float64
    model = TinyDiffusion(double)
    control = make_control(TWO, dtype=double, blend=blend)
    objective = objective_of(PER_STEP, TWO, dtype=double)

    def loss(weights: torch.Tensor) -> torch.Tensor:
        latents, _ = sampler(model).sample(
            S=2, control=control, weights=weights, checkpoint_steps=True, **chain_inputs(1, double)
        )
        return objective(model.decode(latents))["total"].sum()

    weights = tensor(1, "weights", (2, 2, 1)).to(double).requires_grad_()
    assert torch.autograd.gradcheck(loss, weights, eps=1e-6, atol=1e-7, rtol=1e-5)


def test_fixed_weights_hold_up_to_the_release(tiny: TinyDiffusion) -> None:
    preset = replace(PRESETS["fixed"], initial=3.0, release=0.5, radius=0.3, blend="unconditional")
    result = run(tiny, preset, TWO, ONE)
    expected = torch.zeros(4, 2, 2)
    expected[:2] = torch.tensor([[3.0, 3.0], [3.0, 0.0]])  # the second image has one object
    assert torch.equal(result.weights, expected) and not result.history


@every_preset
@every_sampler
def test_block_checkpoints_change_nothing(preset: Preset, sampler: type[Sampler], tiny: TinyDiffusion) -> None:
    kept, recomputed = (run(tiny, preset, TWO, sampler=sampler, checkpoint_blocks=on) for on in (False, True))
    assert relative_error(recomputed.latents, kept.latents) < 1e-6
    for a, b in zip(recomputed.history, kept.history, strict=True):
        assert relative_error(a["grad"], b["grad"]) < 1e-5


@pytest.mark.parametrize("name", ["april-2023", "iccv-2023"])
@every_sampler
def test_step_checkpoints_change_nothing(name: str, sampler: type[Sampler], tiny: TinyDiffusion) -> None:
    preset = replace(PRESETS[name], rounds=2)
    kept, recomputed = (run(tiny, preset, TWO, sampler=sampler, checkpoint_steps=on) for on in (False, True))
    assert relative_error(recomputed.latents, kept.latents) < 1e-6
    for a, b in zip(recomputed.history, kept.history, strict=True):
        assert relative_error(a["grad"], b["grad"]) < 1e-5


# ------------------------------------------------------------------------------------------------ presets


@every_preset
@every_sampler
def test_weights_make_the_image_again(preset: Preset, sampler: type[Sampler], tiny: TinyDiffusion) -> None:
    result = run(tiny, preset, TWO, sampler=sampler)
    control = preset.adapt(make_control(TWO))
    again = plain(tiny, sampler, control=control, weights=result.weights)
    assert relative_error(again, result.latents) < 1e-6
    assert relative_error(tiny.decode(again), result.images) < 1e-6
    assert relative_error(again, plain(tiny, sampler)) > 1e-3


@every_preset
def test_batch_of_two_equals_two_singles(preset: Preset, tiny: TinyDiffusion) -> None:
    both = run(tiny, preset, TWO, ONE)
    for i, layout in enumerate([TWO, ONE]):
        alone = run(tiny, preset, layout, first=i)
        count = len(layout.objects)
        assert relative_error(both.weights[:, :count, i : i + 1], alone.weights) < 1e-5
        assert relative_error(both.latents[i : i + 1], alone.latents) < 1e-5


def test_batch_with_noise_equals_singles(tiny: TinyDiffusion) -> None:
    preset, ddim = SHORT["april-2023"], SAMPLERS["ddim"]
    both = run(tiny, preset, TWO, ONE, sampler=ddim, eta=1.0, generator=seeded_generators([1, 2]))
    alone = run(tiny, preset, ONE, first=1, sampler=ddim, eta=1.0, generator=seeded_generators([2]))
    assert relative_error(both.latents[1:], alone.latents) < 1e-5


@every_preset
def test_an_image_without_objects_is_plain_sampling(preset: Preset, tiny: TinyDiffusion) -> None:
    alone = run(tiny, preset, NONE)
    assert torch.equal(alone.latents, plain(tiny)) and not alone.history
    assert alone.weights.shape == (4, 0, 1)
    beside = run(tiny, preset, NONE, ONE)
    assert relative_error(beside.latents[:1], plain(tiny)) < 1e-6


def test_rounds_record(tiny: TinyDiffusion) -> None:
    preset = replace(PRESETS["april-2023"], rounds=3)
    states: list[dict[str, Any]] = []
    result = run(tiny, preset, TWO, on_step=states.append)
    assert [entry["round"] for entry in result.history] == [0, 1, 2]
    assert len(states) == 12 and states[-1]["round"] == 2
    assert set(states[-1]["loss"]) == {"global", "local", "local_0", "local_1", "total"}
    for earlier, later in zip(result.history, result.history[1:], strict=False):
        assert torch.equal(earlier["after"], later["before"])
    assert torch.allclose(result.weights, 4 * result.history[-1]["before"])  # w = 8/N lambda, before the last update
    assert result.history[0]["before"].shape == (4, 2, 1)
    assert result.history[-1]["loss"]["total"].item() < result.history[0]["loss"]["total"].item()


@pytest.mark.parametrize("name", ["april-2023", "iccv-2023"])
def test_shared_weights_move_by_the_gradients_of_all_steps(name: str, tiny: TinyDiffusion) -> None:
    apart, shared = (run(tiny, replace(PRESETS[name], rounds=2, shared=on), TWO, ONE) for on in (False, True))
    first, one = apart.history[0], shared.history[0]
    assert one["before"].shape == one["after"].shape == (2, 2) and shared.weights.shape == (4, 2, 2)
    assert torch.equal(one["before"], first["before"][0])
    assert relative_error(one["grad"], first["grad"].sum(0)) < 1e-5
    scales = PRESETS[name].scales(make_control(TWO, ONE).present)
    assert all(torch.equal(step, shared.history[1]["before"] * scales) for step in shared.weights)


def test_shared_weights_are_refused_where_every_step_has_its_own() -> None:
    with pytest.raises(UserError, match="iccv-2023 or april-2023"):
        replace(PER_STEP, shared=True)


def test_per_step_record(tiny: TinyDiffusion) -> None:
    preset = replace(PER_STEP, inner_steps=3, learning_rate=0.05)
    states: list[dict[str, Any]] = []
    result = run(tiny, preset, TWO, on_step=states.append)
    assert [(entry["step"], entry["inner"]) for entry in result.history] == [(s, k) for s in range(4) for k in range(3)]
    assert len(states) == 4
    for step in range(4):
        inner = result.history[3 * step : 3 * step + 3]
        assert torch.equal(inner[-1]["after"], result.weights[step])
        assert inner[-1]["loss"]["total"].item() < inner[0]["loss"]["total"].item()
        if step:
            assert torch.equal(inner[0]["before"], result.weights[step - 1])  # carried over


def test_per_step_may_start_afresh_at_every_step(tiny: TinyDiffusion) -> None:
    result = run(tiny, replace(PER_STEP, carry_over=False, inner_steps=2), TWO)
    assert all((entry["before"] == PER_STEP.initial).all() for entry in result.history if entry["inner"] == 0)


def test_per_step_moments_may_last(tiny: TinyDiffusion) -> None:
    fresh, lasting = (run(tiny, replace(PER_STEP, keep_moments=keep), TWO) for keep in (False, True))
    moved = fresh.history[1]["after"] - fresh.history[1]["before"]
    assert torch.allclose(moved.abs(), torch.full_like(moved, PER_STEP.learning_rate), rtol=1e-2)  # Adam's first
    assert not torch.allclose(lasting.history[1]["after"], fresh.history[1]["after"])


def test_per_step_may_leave_steps_out(tiny: TinyDiffusion) -> None:
    result = run(tiny, replace(PER_STEP, first=0.25, last=0.75), TWO)
    assert [entry["step"] for entry in result.history] == [1, 2]
    assert (result.weights[0] == PER_STEP.initial).all()
    assert torch.equal(result.weights[3], result.weights[2])


def test_per_step_may_release_the_last_steps(tiny: TinyDiffusion) -> None:
    result = run(tiny, replace(PER_STEP, release=0.5), TWO)
    assert [entry["step"] for entry in result.history] == [0, 1]
    assert result.weights[:2].all() and not result.weights[2:].any()
    again = plain(tiny, PLMSSampler, control=make_control(TWO), weights=result.weights)
    assert relative_error(result.latents, again) < 1e-6


@every_sampler
def test_no_inner_step_is_sampling_with_the_initial_weights(sampler: type[Sampler], tiny: TinyDiffusion) -> None:
    result = run(tiny, replace(PER_STEP, inner_steps=0), TWO, sampler=sampler)
    fixed = plain(tiny, sampler, control=make_control(TWO), weights=torch.full((4, 2, 1), PER_STEP.initial))
    assert relative_error(result.latents, fixed) < 1e-6


def test_step_count_that_gives_more_steps(tiny: TinyDiffusion) -> None:
    assert run(tiny, PER_STEP, ONE, steps=7).weights.shape == (8, 1, 1)
    assert run(tiny, PER_STEP, ONE, steps=1).weights.shape == (1, 1, 1)
    with pytest.raises(UserError, match="steps"):
        run(tiny, PER_STEP, ONE, steps=0)


# ------------------------------------------------------------------------------------- constants and state


def test_initial_weights_and_scales() -> None:
    present = torch.tensor([[True, True], [True, False]])
    april, iccv = PRESETS["april-2023"], PRESETS["iccv-2023"]
    assert torch.equal(april.initial_weights(present), torch.full((2, 2), 0.5))
    assert torch.equal(april.scales(present), torch.tensor([[4.0, 8.0], [4.0, 8.0]]))
    assert torch.equal(iccv.initial_weights(present), torch.tensor([[2.5, 5.0], [2.5, 5.0]]))
    assert torch.equal(iccv.scales(present), torch.ones(2, 2))
    layout = Layout((LayoutObject("a cat", 0.3, 0.4, weight=2.0), LayoutObject("a dog", 0.7, 0.4)))
    given = april.initial_weights(torch.ones(2, 1, dtype=torch.bool), [layout])
    assert torch.equal(given, torch.tensor([[0.5], [0.5]]))  # 2 = 8/2 * 0.5, and the preset's own


def test_preset_decides_on_blend_and_discs() -> None:
    control = PRESETS["iccv-2023"].adapt(make_control(ONE))
    assert control.blend == "unconditional" and control.mask_dtype == torch.float32 and not control.clamp
    control = PRESETS["april-2023"].adapt(control)
    assert control.blend == "conditional" and control.mask_dtype == torch.float64 and control.clamp


def test_nothing_is_left_on_the_model(tiny: TinyDiffusion) -> None:
    model = TinyDiffusion().train().requires_grad_(True)
    before = [(module, dict(module.__dict__)) for module in model.modules()]
    run(model, PER_STEP, TWO, checkpoint_blocks=True)
    assert all(module.__dict__ == state for module, state in before)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(module.training for module in model.modules())


def test_model_state_comes_back_after_an_error() -> None:
    model = TinyDiffusion().train().requires_grad_(True)
    with pytest.raises(KeyError), frozen(model), block_checkpoints(model, True):
        assert not model.training and not any(p.requires_grad for p in model.parameters())
        raise KeyError
    assert model.training and all(p.requires_grad for p in model.parameters())


# ------------------------------------------------------------------------------------- truncated gradients


@every_sampler
def test_a_truncated_gradient_is_the_whole_ones_of_the_last_steps(tiny: TinyDiffusion, sampler: type[Sampler]) -> None:
    preset = replace(SHORT["iccv-2023"], rounds=1)
    whole = run(tiny, preset, TWO, sampler=sampler).history[0]
    short = run(tiny, replace(preset, gradient_steps=2), TWO, sampler=sampler).history[0]
    assert torch.equal(short["latents"], whole["latents"])
    torch.testing.assert_close(short["grad"][-2:], whole["grad"][-2:])
    assert not short["grad"][:-2].any() and whole["grad"][:-2].any()
    assert torch.equal(short["after"][:-2], short["before"][:-2])  # what has no gradient does not move


def test_a_truncation_longer_than_the_chain_changes_nothing(tiny: TinyDiffusion) -> None:
    preset = SHORT["iccv-2023"]
    assert torch.equal(run(tiny, preset, TWO).weights, run(tiny, replace(preset, gradient_steps=99), TWO).weights)


def test_adam_is_that_of_torch_bit_for_bit() -> None:
    ours, theirs = torch.ones(3, 2, requires_grad=True), torch.ones(3, 2, requires_grad=True)
    mine, other = Adam(ours, 0.1), torch.optim.Adam([theirs], lr=0.1)
    for step in range(6):
        if step == 4:
            mine.forget()
            other.state.clear()
        theirs.grad = torch.randn(3, 2)
        mine.step(theirs.grad)
        other.step()
        assert torch.equal(ours, theirs)
