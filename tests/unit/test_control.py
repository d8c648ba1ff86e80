"""The spatial control inside the U-Net, against the published releases and its own equation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.spacetime.control import Blend, SpatialControl, disc_mask
from ldm.spacetime.layout import Layout, LayoutObject
from tests.golden_data import DEVICE, fill_, golden, relative_error, tensor

BAR = 1e-4
TINY: dict[str, Any] = {
    "image_size": 8,
    "in_channels": 4,
    "model_channels": 32,
    "out_channels": 4,
    "num_res_blocks": 1,
    "attention_resolutions": [1, 2],
    "channel_mult": [1, 2],
    "num_heads": 2,
    "use_spatial_transformer": True,
    "context_dim": 6,
}
LEFT_AND_RIGHT = [[0.25, 0.5], [0.8, 0.4]]


def make_control(centers: list[list[float]], contexts: Tensor | None = None, **kwargs: Any) -> SpatialControl:
    """Control of one image; contexts (N, 1, L, C)."""
    n = len(centers)
    if contexts is None:
        contexts = torch.stack([tensor(1, f"local{i}", (1, 5, 6)) for i in range(n)])
    layout = Layout(tuple(LayoutObject(f"object {i}", *center) for i, center in enumerate(centers)))
    return SpatialControl(contexts, (layout,), **kwargs)


def tiny_unet(use_checkpoint: bool = False) -> UNetModel:
    model = UNetModel(**TINY, use_checkpoint=use_checkpoint)
    fill_(model)
    return model.requires_grad_(False)


def guided_inputs(batch: int, h: int = 8, w: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    x = tensor(1, "x", (batch, 4, h, w)).repeat(2, 1, 1, 1)  # [unconditional; conditional]
    context = torch.cat([tensor(1, "uc", (1, 5, 6)).repeat(batch, 1, 1), tensor(1, "c", (batch, 5, 6))])
    return x, torch.full((2 * batch,), 981), context


# -------------------------------------------------------------------- discs


@pytest.mark.parametrize(("h", "w"), [(8, 8), (4, 6), (16, 5)])
@pytest.mark.parametrize("center", [(0.7, 0.5), (0.05, 0.97), (1.0, 0.0)])
def test_disc_is_the_inequality(h: int, w: int, center: tuple[float, float]) -> None:
    x, y = center
    expected = [(c / w - x) ** 2 + (r / h - y) ** 2 < 0.2**2 for r in range(h) for c in range(w)]
    assert disc_mask(torch.tensor(center, dtype=torch.float64), h, w).tolist() == expected


def test_rim_depends_on_the_arithmetic() -> None:
    """(0.25 - 0.45)^2 against 0.04 on an 8 x 8 grid: the releases disagree about this pixel."""
    center = torch.tensor([0.25, 0.45], dtype=torch.float64)
    double, single = (disc_mask(center, 8, 8, dtype=dtype) for dtype in (torch.float64, torch.float32))
    assert (single & ~double).nonzero().flatten().tolist() == [2 * 8 + 2]


def test_masks_of_padding_are_zero_and_cached() -> None:
    layouts = [Layout((LayoutObject("a cat", 0.2, 0.5),) * count) for count in (2, 1)]
    control = SpatialControl.build(layouts, encode_by_name)
    masks = control.masks(8, 12)
    assert masks.shape == (2, 2, 96)
    assert masks[0].any(-1).all() and masks[1, 0].any()
    assert not masks[1, 1].any()
    assert control.masks(8, 12) is masks


def test_clamp_moves_centers_into_the_image() -> None:
    outside, corner = make_control([[1.3, -0.2]], clamp=True), make_control([[1.0, 0.0]])
    assert torch.equal(outside.masks(8, 8), corner.masks(8, 8))
    assert make_control([[1.3, -0.2]]).masks(8, 8).sum() == 0


# ---------------------------------------------------------- against releases


@pytest.mark.parametrize(
    "case", ["init_two_objects", "init_edge_object", "head_two_objects", "head_edge_object", "head_three_objects"]
)
def test_guided_call_is_the_published_one(case: str) -> None:
    config, arrays = golden("control/guided_call")
    centers, coefficients = config[case]["centres"], torch.from_numpy(arrays[f"{case}.coef"])[:, None].to(DEVICE)
    n = len(centers)
    contexts = torch.stack([tensor(1, f"st/local{i}", (1, 7, 48)) for i in range(n)])
    if case.startswith("init"):  # April 2023
        weights, control = coefficients * 8 / n, make_control(centers, contexts, clamp=True)
    else:  # ICCV 2023
        weights = coefficients
        control = make_control(centers, contexts, blend="unconditional", mask_dtype=torch.float32)
    model = fill_(UNetModel(**golden("ldm/unet_sd")[0]), 1, "model.diffusion_model.")
    x = tensor(1, "st/xT", (1, 4, 8, 8)).repeat(2, 1, 1, 1)
    context = torch.cat([tensor(1, "st/uc", (1, 7, 48)), tensor(1, "st/c", (1, 7, 48))])
    with torch.no_grad():
        out = model(x, torch.tensor([981, 981], device=DEVICE), context, control=control, weights=weights)
    assert relative_error(out, arrays[f"{case}.eps"]) < BAR


# --------------------------------------------------------------- properties


def test_zero_weights_and_no_objects_are_plain_bit_for_bit() -> None:
    model, (x, t, context) = tiny_unet(), guided_inputs(1, 8, 12)
    plain = model(x, t, context)
    control = make_control(LEFT_AND_RIGHT)
    assert torch.equal(model(x, t, context, control=control, weights=torch.zeros(2, 1)), plain)
    none = SpatialControl.build([Layout(())], encode=lambda texts: pytest.fail("nothing to encode"))
    assert none.num_objects == 0
    assert torch.equal(model(x, t, context, control=none, weights=torch.zeros(0, 1)), plain)


def test_full_mask_with_weight_one_is_the_local_prompt() -> None:
    model, (x, t, context) = tiny_unet(), guided_inputs(1, 8, 12)
    control = make_control([[0.5, 0.5]], radius=2.0)
    out = model(x, t, context, control=control, weights=torch.ones(1, 1))
    local = model(x[1:], t[1:], control.local_contexts[0])
    assert relative_error(out[1:], local) < 1e-5
    assert relative_error(out[:1], model(x[:1], t[:1], context[:1])) < 1e-5


def test_a_conditional_batch_needs_no_unconditional_rows() -> None:
    model, (x, t, context) = tiny_unet(), guided_inputs(1)
    control, weights = make_control(LEFT_AND_RIGHT), torch.tensor([[0.7], [1.3]])
    both = model(x, t, context, control=control, weights=weights)
    conditional = model(x[1:], t[1:], context[1:], control=control, weights=weights)
    assert relative_error(conditional, both[1:]) < 1e-5


@pytest.mark.parametrize("blend", ["conditional", "unconditional"])
def test_batch_of_two_is_two_singles(blend: Blend) -> None:
    """The second image has one object only, so its padding must not count."""
    layouts = [
        Layout((LayoutObject("a cat", 0.2, 0.5), LayoutObject("a dog", 0.8, 0.4))),
        Layout((LayoutObject("a bus", 0.5, 0.7),)),
    ]
    model, (x, t, context) = tiny_unet(), guided_inputs(2, 8, 12)
    control = SpatialControl.build(layouts, encode_by_name, blend=blend)
    weights = torch.tensor([[0.5, 1.5], [2.0, 3.0]])
    both = model(x, t, context, control=control, weights=weights)
    for j in range(2):
        rows = torch.tensor([j, 2 + j])
        alone = SpatialControl.build([layouts[j]], encode_by_name, blend=blend)
        single = model(x[rows], t[rows], context[rows], control=alone, weights=weights[: alone.num_objects, [j]])
        assert relative_error(single, both[rows]) < 1e-5


def encode_by_name(texts: list[str]) -> Tensor:
    return torch.stack([tensor(1, text, (5, 6)) for text in texts])


def test_build_encodes_each_text_once() -> None:
    calls: list[list[str]] = []

    def encode(texts: list[str]) -> Tensor:
        calls.append(texts)
        return encode_by_name(texts)

    cat = LayoutObject("a cat", 0.2, 0.5)
    control = SpatialControl.build([Layout((cat, cat)), Layout((LayoutObject("a dog", 0.1, 0.9),))], encode)
    assert calls == [["a photo of a cat", "a photo of a dog", ""]]
    assert control.local_contexts.shape == (2, 2, 5, 6)
    assert control.present.tolist() == [[True, True], [True, False]]
    assert torch.equal(control.local_contexts[0, 1], tensor(1, "a photo of a dog", (5, 6)))


def test_wrong_shapes_are_refused() -> None:
    model, (x, t, context) = tiny_unet(), guided_inputs(1)
    control = make_control(LEFT_AND_RIGHT)
    for weights in (None, torch.ones(1, 1)):
        with pytest.raises(ValueError, match=r"needs weights of shape \(2, 1\)"):
            model(x, t, context, control=control, weights=weights)
    with pytest.raises(ValueError, match="do not fit 2 regions for 1 images"):
        SpatialControl(control.local_contexts[:1], control.layouts)


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("blend", ["conditional", "unconditional"])
def test_gradient_with_frozen_weights_with_and_without_checkpoint(blend: str) -> None:
    x, t, context = guided_inputs(1)
    control = make_control(LEFT_AND_RIGHT, blend=blend)
    grads = []
    for use_checkpoint in (False, True):
        weights = torch.tensor([[0.7], [1.3]], requires_grad=True)
        out = tiny_unet(use_checkpoint)(x, t, context, control=control, weights=weights)
        grads.append(torch.autograd.grad((out**2).sum(), weights)[0])
    assert grads[0].abs().min() > 0
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize("blend", ["conditional", "unconditional"])
def test_gradcheck_of_the_weights_in_double_precision(blend: str) -> None:
    model = tiny_unet().double()
    x, t, context = guided_inputs(1)
    contexts = torch.stack([tensor(1, f"local{i}", (1, 5, 6)) for i in range(2)]).double()
    control = make_control(LEFT_AND_RIGHT, contexts, blend=blend)

    def function(weights: Tensor) -> Tensor:
        return model(x.double(), t, context.double(), control=control, weights=weights).pow(2).sum()

    assert torch.autograd.gradcheck(function, (torch.tensor([[0.7], [1.3]]).double().requires_grad_(),))


def test_autocast_keeps_the_control() -> None:
    model, (x, t, context) = tiny_unet(), guided_inputs(1)
    control, weights = make_control(LEFT_AND_RIGHT), torch.tensor([[0.7], [1.3]])
    exact = model(x, t, context, control=control, weights=weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(x, t, context, control=control, weights=weights)
    assert relative_error(out.float(), exact) < 0.05
