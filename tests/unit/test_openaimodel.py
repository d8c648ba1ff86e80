"""The U-Nets and schedules against the published implementation, and the properties they promise."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm.modules.diffusionmodules import util
from ldm.modules.diffusionmodules.openaimodel import AttentionBlock, Downsample, EncoderUNetModel, UNetModel, Upsample
from ldm.util import UserError
from tests.golden_data import DEVICE, fill_, golden, listing, relative_error, tensor

BAR = 1e-4
UNETS = (
    "unet_sd",
    "unet_sd_depth2",
    "unet_updown_scaleshift",
    "unet_attnblock",
    "unet_attnblock_neworder",
    "unet_codebook",
)
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
SD_V1: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": 2,
    "attention_resolutions": [4, 2, 1],
    "channel_mult": [1, 2, 4, 4],
    "num_heads": 8,
    "use_spatial_transformer": True,
    "transformer_depth": 1,
    "context_dim": 768,
    "use_checkpoint": True,
    "legacy": False,
}


# ------------------------------------------------------------------- U-Nets


@pytest.mark.parametrize("use_checkpoint", [False, True])
@pytest.mark.parametrize("case", UNETS)
def test_unet_is_the_published_one(case: str, use_checkpoint: bool) -> None:
    config, arrays = golden(f"ldm/{case}")
    model = fill_(UNetModel(**{**config, "use_checkpoint": use_checkpoint}))
    x = tensor(1, f"{case}/x", (2, config["in_channels"], 16, 16)).requires_grad_()
    context = tensor(1, f"{case}/context", (2, 7, config["context_dim"])) if "context_dim" in config else None
    y = torch.tensor([3, 7], device=DEVICE) if "num_classes" in config else None
    out = model(x, torch.tensor([981, 1], device=DEVICE), context, y)
    (grad,) = torch.autograd.grad((out**2).sum(), x)
    assert relative_error(out, arrays["out"]) < BAR
    assert relative_error(grad, arrays["grad_x"]) < BAR


@pytest.mark.parametrize("pool", ["adaptive", "attention", "spatial", "spatial_v2"])
def test_encoder_unet_is_the_published_one(pool: str) -> None:
    config, arrays = golden(f"ldm/encoder_unet_{pool}")
    model = fill_(EncoderUNetModel(**config))
    out = model(tensor(1, "encunet/x", (2, 3, 16, 16)), torch.tensor([10, 500]))
    assert relative_error(out, arrays["out"]) < BAR


def test_state_dict_of_stable_diffusion_v1() -> None:
    prefix = "model.diffusion_model."
    expected = listing("statedicts/configs__stable-diffusion__v1-inference.tsv")
    with torch.device("meta"):
        entries = UNetModel(**SD_V1).state_dict()
    got = {name: (tuple(v.shape), str(v.dtype).removeprefix("torch.")) for name, v in entries.items()}
    assert got == {k.removeprefix(prefix): v for k, v in expected.items() if k.startswith(prefix)}


def test_rectangles_and_batches() -> None:
    model = fill_(UNetModel(**TINY))
    x, t = tensor(1, "x", (2, 4, 8, 12)), torch.tensor([981, 37])
    context = tensor(1, "c", (2, 5, 6))
    with torch.no_grad():
        both = model(x, t, context)
        singles = [model(x[i : i + 1], t[i : i + 1], context[i : i + 1]) for i in range(2)]
    assert both.shape == x.shape
    assert relative_error(torch.cat(singles), both) < 1e-5


def test_half_precision_weights_keep_the_dtype_of_the_input() -> None:
    model = UNetModel(**TINY, use_fp16=True)
    assert model.dtype == torch.float16
    out = model(torch.zeros(1, 4, 8, 8), torch.tensor([1]), torch.zeros(1, 5, 6, dtype=torch.float16))
    assert out.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"), [({"context_dim": None}, "belong together"), ({"num_heads": -1}, "has to be set")]
)
def test_contradictory_arguments_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        UNetModel(**{**TINY, **change})


def test_missing_inputs_are_refused() -> None:
    model, x = UNetModel(**TINY), torch.zeros(1, 4, 8, 8)
    with pytest.raises(ValueError, match="timesteps"):
        model(x)
    with pytest.raises(ValueError, match="class labels"):
        model(x, torch.tensor([1]), torch.zeros(1, 5, 6), y=torch.tensor([0]))
    for pool, message in (("median", "unknown pool"), ("attention", "num_head_channels")):
        with pytest.raises(UserError, match=message):
            EncoderUNetModel(8, 3, 32, 2, 1, [], channel_mult=(1,), pool=pool)
    with pytest.raises(UserError, match="do not divide"):
        AttentionBlock(32, num_heads=5)


@pytest.mark.parametrize(("dims", "up", "down"), [(1, (16,), (4,)), (2, (16, 16), (4, 4)), (3, (8, 16, 16), (8, 4, 4))])
@pytest.mark.parametrize("use_conv", [True, False])
def test_resampling(dims: int, up: tuple[int, ...], down: tuple[int, ...], use_conv: bool) -> None:
    x = torch.randn(1, 4, *(8,) * dims)
    assert Upsample(4, use_conv, dims)(x).shape == (1, 4, *up)
    assert Downsample(4, use_conv, dims)(x).shape == (1, 4, *down)


# ---------------------------------------------------------------- schedules


@pytest.mark.parametrize("schedule", ["linear", "cosine", "sqrt_linear", "sqrt"])
def test_beta_schedules_are_the_published_ones(schedule: str) -> None:
    arrays = golden("ldm/schedules")[1]
    betas = util.make_beta_schedule(schedule, 1000, linear_start=0.00085, linear_end=0.012)
    assert relative_error(betas, arrays[f"betas_{schedule}"]) < 1e-7


def test_sampling_schedules_are_the_published_ones() -> None:
    arrays = golden("ldm/schedules")[1]
    for method in ("uniform", "quad"):
        for count in (7, 10, 20, 50, 100):
            steps = util.make_ddim_timesteps(method, count, 1000, verbose=False)
            np.testing.assert_array_equal(steps, arrays[f"ddim_{method}_{count}"])
    cumulative = np.cumprod(1 - util.make_beta_schedule("linear", 1000, 0.00085, 0.012))
    steps = util.make_ddim_timesteps("uniform", 50, 1000, verbose=False)
    for eta in (0.0, 0.5, 1.0):
        for table in (cumulative, torch.from_numpy(cumulative).float()):
            got = util.make_ddim_sampling_parameters(table, steps, eta, verbose=False)
            for name, values in zip(("sig", "a", "ap"), got, strict=True):
                assert relative_error(values, arrays[f"{name}_{eta}"]) < 1e-5


@pytest.mark.parametrize("method", ["uniform", "quad"])
def test_every_step_count_stays_inside_the_schedule(method: str) -> None:
    for count in range(1, 1001):
        steps = util.make_ddim_timesteps(method, count, 1000, verbose=False)
        assert steps.min() >= 1, count
        assert steps.max() <= 999, count
        if method == "uniform":
            assert (np.diff(steps) > 0).all(), count
            assert len(steps) >= min(count, 999), count
        else:
            assert (np.diff(steps) >= 0).all(), count
            assert len(steps) == count


@pytest.mark.parametrize(
    ("method", "count", "message"),
    [("uniform", 0, "between 1 and 1000"), ("uniform", 1001, "between 1 and 1000"), ("cubic", 10, "spacing")],
)
def test_impossible_sampling_schedules_are_refused(method: str, count: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        util.make_ddim_timesteps(method, count, 1000)


def test_unknown_beta_schedule_is_refused() -> None:
    with pytest.raises(UserError, match="beta schedule"):
        util.make_beta_schedule("sigmoid", 10)


def test_verbose_goes_to_the_log(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.INFO):
        steps = util.make_ddim_timesteps("uniform", 4, 1000)
        util.make_ddim_sampling_parameters(np.linspace(1, 0.01, 1000), steps, 0.5)
    assert len(caplog.records) == 2
    assert capsys.readouterr().out == ""


# ------------------------------------------------------------ small helpers


def test_timestep_embedding_is_the_published_one() -> None:
    arrays, t = golden("ldm/schedules")[1], torch.tensor([0, 1, 37, 981])
    assert relative_error(util.timestep_embedding(t, 32), arrays["temb"]) < 1e-6
    assert relative_error(util.timestep_embedding(t, 33), arrays["temb_odd"]) < 1e-6
    assert torch.equal(util.timestep_embedding(t, 3, repeat_only=True), t[:, None].repeat(1, 3))


def test_extract_noise_and_mean() -> None:
    table, t = torch.arange(10.0), torch.tensor([3, 9])
    assert util.extract_into_tensor(table, t, (2, 4, 8, 8)).tolist() == [[[[3.0]]], [[[9.0]]]]
    shared = util.noise_like((3, 4, 8, 8), "cpu", repeat=True)
    assert torch.equal(shared[0], shared[2])
    single = util.noise_like((3, 4, 8, 8), "cpu")
    assert not torch.equal(single[0], single[2])
    assert torch.equal(util.mean_flat(torch.ones(2, 3, 4)), torch.ones(2))


def test_group_norm_computes_in_float32() -> None:
    norm, x = util.normalization(64), 100 + torch.randn(1, 64, 8, 8)
    out = norm(x.half())
    assert out.dtype == torch.float16
    torch.testing.assert_close(out.float(), norm(x.half().float()), rtol=1e-3, atol=1e-3)
    assert norm.double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize("flag", [True, False])
def test_checkpoint_reaches_closures_with_frozen_weights(flag: bool) -> None:
    layer = torch.nn.Linear(3, 3).requires_grad_(False)
    w = torch.tensor(2.0, requires_grad=True)

    def function(x: Tensor) -> Tensor:
        return (w * layer(x)).tanh()

    x = torch.ones(1, 3)
    out = util.checkpoint(function, (x,), None, flag)
    (grad,) = torch.autograd.grad(out.sum(), w)
    expected = ((1 - (2 * layer(x)).tanh() ** 2) * layer(x)).sum()
    torch.testing.assert_close(grad, expected)
