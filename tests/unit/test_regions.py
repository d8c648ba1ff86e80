"""Regions of any shape through attention, samplers and presets: the equation, its ends, and when it acts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm.extensions.packed import available, packed
from ldm.models.diffusion.plms import PLMSSampler
from ldm.models.diffusion.sampler import Sampler
from ldm.modules.attention import CrossAttention
from ldm.spacetime.control import SpatialControl
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.spacetime.optimize import Result, optimize
from ldm.spacetime.presets import PRESETS, Preset
from ldm.spacetime.shapes import Box, Ellipse, Mask, Polygon, Shape
from tests.golden_data import fill_, relative_error, tensor
from tests.tiny_model import SIZE, TinyBundle, TinyDiffusion, chain_inputs, encode, make_control
from tests.unit.test_samplers import every_sampler

SHORT = {name: replace(preset, rounds=min(preset.rounds, 2)) for name, preset in PRESETS.items()}
every_preset = pytest.mark.parametrize("preset", SHORT.values(), ids=SHORT)
both_blends = pytest.mark.parametrize("blend", ["conditional", "unconditional"])
FULL: dict[str, Shape] = {
    "box": Box(-0.5, 0, 1, 1.2),
    "ellipse": Ellipse(0.5, 0.5, 0.8, 0.8),
    "polygon": Polygon(((0, 0), (1, 0), (1, 1), (0, 1))),
    "mask": Mask(np.ones((3, 5))),
}
SOFT = Layout(
    (
        LayoutObject.shaped("a cat", Box(0.05, 0.1, 0.6, 0.8)),
        LayoutObject.shaped("a dog", Ellipse(0.6, 0.5, 0.35, 0.3), negative_prompt="a wolf"),
        LayoutObject.shaped("a path", Mask(np.linspace(0, 1, 12).reshape(4, 3)), negative_prompt="mud"),
    ),
    "a cat and a dog on a path",
)
SINGLE = Layout((LayoutObject("a bus", 0.5, 0.6, radius=0.3, start=0.25, end=0.75),), "a bus")
STEPS = 4


@pytest.fixture(scope="module")
def tiny() -> TinyDiffusion:
    return TinyDiffusion()


def run(
    model: TinyDiffusion, preset: Preset, *layouts: Layout, sampler: Any = PLMSSampler, first: int = 0, **options: Any
) -> Result:
    """One image per layout, from the starting noise and contexts number `first` and up."""
    inputs = chain_inputs(first + len(layouts))
    own = {"batch_size": len(layouts), "x_T": inputs["x_T"][first:], "conditioning": inputs["conditioning"][first:]}
    objective = preset.objective(TinyBundle(), [layout.prompt or "" for layout in layouts], layouts)
    chain = {"S": STEPS, **inputs, **own, **options}
    return optimize(model, sampler(model), make_control(*layouts), objective, preset, **chain)


def plain(model: TinyDiffusion, sampler: Any = PLMSSampler, **changed: Any) -> Tensor:
    with torch.no_grad():
        return sampler(model).sample(**{"S": STEPS, **chain_inputs(1), **changed})[0]


# --------------------------------------------------------------------------------------------- the equation


@both_blends
@pytest.mark.parametrize("share", [False, True])
def test_the_attention_is_the_equation(blend: Any, share: bool) -> None:
    layer = CrossAttention(16, 8, heads=2, dim_head=4)
    fill_(layer)
    control = make_control(SOFT, blend=blend, share_overlaps=share)
    h, w = 6, 4
    x, context = tensor(1, "pixels", (2, h * w, 16)), encode(["uc", "c"])
    weights = torch.tensor([[0.7], [1.3], [-0.4]])
    local = control.local_attention(h, w, weights)
    assert local is not None
    out = layer(x, context, **local._asdict())
    masks = torch.stack([torch.from_numpy(t.shape.coverage(h, w)) for t in SOFT.objects if t.shape]).flatten(1).float()
    positive, negative = masks[..., None], masks[1:, :, None]  # (N or M, pixels, 1)
    if share:
        assert positive.sum(0).max() > 1
        positive, negative = (part / part.sum(0).clamp(min=1) for part in (positive, negative))
    g_u, g_c = layer(x, context)
    u = g_u + sum(
        m * (layer(x[:1], encode([text]))[0] - g_u) for m, text in zip(negative, ["a wolf", "mud"], strict=True)
    )
    reference = u if blend == "unconditional" else g_c
    expected = g_c + sum(
        weight * m * (layer(x[1:], encode([thing.local_prompt]))[0] - reference)
        for weight, m, thing in zip(weights[:, 0], positive, SOFT.objects, strict=True)
    )
    assert relative_error(out[0], u) < 1e-5
    assert relative_error(out[1], expected) < 1e-5


@both_blends
@pytest.mark.parametrize("share", [False, True])
def test_gradcheck_of_the_weights_of_soft_masks(blend: Any, share: bool) -> None:
    double = torch.float64
    model = TinyDiffusion(double)
    control = make_control(SOFT, dtype=double, blend=blend, share_overlaps=share)

    def loss(weights: Tensor) -> Tensor:
        inputs = chain_inputs(1, double)
        return PLMSSampler(model).sample(S=1, control=control, weights=weights, **inputs)[0].pow(2).sum()

    weights = tensor(1, "weights", (1, 3, 1)).to(double).requires_grad_()
    assert torch.autograd.gradcheck(loss, weights, eps=1e-6, atol=1e-7, rtol=1e-5)


def test_masks_are_the_shares_of_cells_and_discs_as_published() -> None:
    control = make_control(Layout((*SOFT.objects, *SINGLE.objects)))
    masks = control.masks(5, 8)
    assert masks.shape == (6, 1, 40)  # four objects, two negative texts
    assert torch.equal(masks[4:], masks[1:3])
    for thing, mask in zip(SOFT.objects, masks, strict=False):
        assert thing.shape is not None
        assert torch.equal(mask[0], torch.from_numpy(thing.shape.coverage(5, 8)).flatten().float())
    inside = [(c / 8 - 0.5) ** 2 + (r / 5 - 0.6) ** 2 < 0.3**2 for r in range(5) for c in range(8)]
    assert masks[3, 0].tolist() == inside


# ------------------------------------------------------------------------------------------------- the ends


@every_sampler
@pytest.mark.parametrize("name", [*FULL, "disc"])
def test_a_full_mask_of_weight_one_is_the_local_prompt_and_of_zero_nothing(
    tiny: TinyDiffusion, sampler: type[Sampler], name: str
) -> None:
    disc = LayoutObject("a cat", 0.5, 0.5, radius=2.0)
    thing = disc if name == "disc" else LayoutObject.shaped("a cat", FULL[name], prompt="the moon")
    made = run(tiny, PRESETS["fixed"], Layout((thing,)), sampler=sampler)
    local = plain(tiny, sampler, conditioning=encode([thing.local_prompt]))
    assert relative_error(made.latents, local) < 1e-5
    assert relative_error(local, plain(tiny, sampler)) > 1e-2
    none = run(tiny, PRESETS["fixed"], Layout((replace(thing, weight=0.0),)), sampler=sampler)
    assert torch.equal(none.latents, plain(tiny, sampler))


@every_sampler
@both_blends
@pytest.mark.parametrize("name", [*FULL, "disc"])
def test_a_full_negative_region_is_the_global_negative_prompt(
    tiny: TinyDiffusion, sampler: type[Sampler], blend: Any, name: str
) -> None:
    more: dict[str, Any] = {"weight": 0.6, "negative_prompt": "a dog"}
    disc = LayoutObject("a cat", 0.5, 0.5, radius=2.0, **more)
    thing = disc if name == "disc" else LayoutObject.shaped("a cat", FULL[name], **more)
    preset, everywhere = replace(PRESETS["fixed"], blend=blend), {"unconditional_conditioning": encode(["a dog"])}
    regional = run(tiny, preset, Layout((thing,)), sampler=sampler)
    whole = run(tiny, preset, Layout((replace(thing, negative_prompt=None),)), sampler=sampler, **everywhere)
    assert relative_error(regional.latents, whole.latents) < 1e-5
    alone = run(tiny, preset, Layout((replace(thing, weight=0.0),)), sampler=sampler)
    assert relative_error(alone.latents, plain(tiny, sampler, **everywhere)) < 1e-5
    assert relative_error(alone.latents, plain(tiny, sampler)) > 1e-2


@every_preset
def test_what_starts_and_ends_at_once_is_plain(tiny: TinyDiffusion, preset: Preset) -> None:
    never = Layout(tuple(replace(thing, start=0.0, end=0.0) for thing in SOFT.objects))
    made = run(tiny, preset, never)
    assert torch.equal(made.latents, plain(tiny)) and not made.weights.any()


# --------------------------------------------------------------------------------------------- when it acts


class Counting(TinyDiffusion):
    """Notes for each call whether it had a control."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[bool] = []

    def apply_model(self, *inputs: Any, control: Any = None, weights: Tensor | None = None) -> Tensor:
        self.calls.append(control is not None)
        return super().apply_model(*inputs, control=control, weights=weights)


@every_sampler
def test_a_region_acts_in_its_steps_and_in_all_their_calls(sampler: type[Sampler]) -> None:
    model = Counting()
    layout = Layout((LayoutObject.shaped("a cat", FULL["box"], end=0.25, negative_prompt="a dog"),))
    made = run(model, PRESETS["fixed"], layout, sampler=sampler)
    assert made.weights.flatten().tolist() == [1, 0, 0, 0]
    first = sampler.first_calls
    assert model.calls == [True] * first + [False] * (STEPS - 1)
    again = plain(model, sampler, control=make_control(layout), weights=torch.full((STEPS, 1, 1), 1.0))
    assert relative_error(again, made.latents) < 1e-6  # the sampler itself knows when


@pytest.mark.parametrize(
    ("start", "end", "total", "expected"),
    [(0, 1, 5, range(5)), (0.25, 0.75, 4, [1, 2]), (0, 0.07, 100, range(7)), (0.5, 0.5, 10, []), (0.3, 1, 3, [1, 2])],
)
def test_steps_of_an_interval(start: float, end: float, total: int, expected: Any) -> None:
    thing = LayoutObject("a cat", 0.5, 0.5, start=start, end=end)
    assert [i for i in range(total) if thing.acts(i, total)] == list(expected)


@every_sampler
def test_intervals_are_weights_of_zero(tiny: TinyDiffusion, sampler: type[Sampler]) -> None:
    cat, dog = (LayoutObject.shaped(text, FULL["ellipse"]) for text in ("a cat", "a dog"))
    made = run(tiny, PRESETS["fixed"], Layout((replace(cat, end=0.5), replace(dog, start=0.25))), sampler=sampler)
    by_hand = torch.tensor([[1, 0], [1, 1], [0, 1], [0, 1]])[..., None].float()
    assert torch.equal(made.weights, by_hand)
    again = plain(tiny, sampler, control=make_control(Layout((cat, dog))), weights=by_hand)
    assert relative_error(made.latents, again) < 1e-6


@every_preset
def test_what_is_not_to_be_optimized_keeps_its_weight(tiny: TinyDiffusion, preset: Preset) -> None:
    kept, moved, _ = SOFT.objects
    made = run(tiny, preset, Layout((replace(kept, optimize=False, weight=0.75), moved)))
    held = [preset.holds(step, len(made.weights)) for step in range(len(made.weights))]
    assert (made.weights[held, 0] == 0.75).all() and any(held)
    if preset.mode != "fixed":
        assert (made.history[0]["after"] != made.history[0]["before"]).any()


def test_where_nothing_is_to_be_optimized_no_gradient_is_taken(tiny: TinyDiffusion) -> None:
    layout = Layout((replace(SINGLE.objects[0], end=1.0),))  # from step 1 on
    whole = replace(PRESETS["per-step"], last=1.0, release=1.0)
    assert [entry["step"] for entry in run(tiny, whole, layout).history] == [1, 2, 3]
    assert not run(tiny, whole, Layout((replace(layout.objects[0], optimize=False),))).history


# -------------------------------------------------------------------------------------------------- batches


@every_preset
def test_a_batch_of_different_layouts_is_its_images_one_by_one(tiny: TinyDiffusion, preset: Preset) -> None:
    preset = replace(preset, last=1.0)
    both = run(tiny, preset, SOFT, SINGLE)
    for i, layout in enumerate([SOFT, SINGLE]):
        alone = run(tiny, preset, layout, first=i)
        count = len(layout.objects)
        assert relative_error(both.weights[:, :count, i : i + 1], alone.weights) < 1e-5
        assert relative_error(both.latents[i : i + 1], alone.latents) < 1e-5


@every_preset
def test_checkpointed_blocks_and_packed_weights_give_the_same(preset: Preset) -> None:
    model = TinyDiffusion()
    usual, again = (run(model, preset, SOFT, checkpoint_blocks=on) for on in (False, True))
    assert relative_error(again.latents, usual.latents) < 1e-6
    if available():
        with packed(model):
            assert relative_error(run(model, preset, SOFT).latents, usual.latents) < 1e-5


def test_without_unconditional_rows_negative_texts_do_nothing(tiny: TinyDiffusion) -> None:
    layout = Layout((LayoutObject.shaped("a cat", FULL["box"], weight=0.5, negative_prompt="a dog"),))
    unguided = {"unconditional_guidance_scale": 1.0}
    made = run(tiny, PRESETS["fixed"], layout, **unguided)
    without = run(tiny, PRESETS["fixed"], Layout((replace(layout.objects[0], negative_prompt=None),)), **unguided)
    assert torch.equal(made.latents, without.latents)


def test_texts_are_encoded_once_and_an_empty_negative_is_one() -> None:
    calls: list[list[str]] = []
    things = [LayoutObject("a cat", 0.2, 0.5, negative_prompt=text) for text in ("a dog", "")]
    layouts = [Layout((things[0], things[0])), Layout((things[1],))]
    control = SpatialControl.build(layouts, lambda texts: [calls.append(texts), encode(texts)][1])  # type: ignore
    assert calls == [["a photo of a cat", "", "a dog"]]
    assert control.local_contexts.shape == (4, 2, *encode([""]).shape[1:])
    assert control.present.tolist() == [[True, True], [True, False]]
    assert control.masks(SIZE, SIZE)[2:].any(-1).tolist() == [[True, True], [True, False]]
