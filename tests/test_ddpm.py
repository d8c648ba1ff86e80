"""Diffusion model, averages and learning rates against the published numbers, and the loading of checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ldm.lr_scheduler import LambdaLinearScheduler, LambdaWarmUpCosineScheduler, LambdaWarmUpCosineScheduler2
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.modules.ema import LitEma
from ldm.util import UserError, load_config, load_model_from_config, save_safetensors
from tests.golden_data import ROOT, fill_, golden, listing, relative_error, tensor


def build(config: dict[str, Any]) -> LatentDiffusion:
    model = LatentDiffusion(**config)
    fill_(model.model, prefix="model.")
    fill_(model.first_stage_model, prefix="first_stage_model.")
    return model


def losses(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    model = build(config).train()
    x0, noise = tensor(1, "ld/x0", (2, 4, 8, 8)), tensor(1, "ld/noise", (2, 4, 8, 8))
    loss, parts = model.p_losses(x0, tensor(1, "ld/c", (2, 7, 48)), torch.tensor([10, 900]), noise)
    return {"loss": loss, **{f"loss_{k.replace('/', '_')}": v for k, v in parts.items()}}


def test_golden_latent_diffusion() -> None:
    config, arrays = golden("ldm/latent_diffusion")
    model = build(config).eval()
    x0, noise = tensor(1, "ld/x0", (2, 4, 8, 8)), tensor(1, "ld/noise", (2, 4, 8, 8))
    x_T, c = tensor(1, "ld/xT", (2, 4, 8, 8)), tensor(1, "ld/c", (2, 7, 48))
    with torch.no_grad():
        out = {
            "q_sample": model.q_sample(x0, torch.tensor([10, 900]), noise),
            "apply_model": model.apply_model(x_T, torch.tensor([981, 21]), c),
            "decoded": model.decode_first_stage(torch.from_numpy(arrays["plms_10"])),
            **losses(config),
        }
    for name, value in out.items():
        assert relative_error(value, arrays[name]) < 1e-4, name
    for name in (n for n in arrays if n.startswith("buf_")):
        np.testing.assert_allclose(getattr(model, name.removeprefix("buf_")), arrays[name], rtol=1e-5, err_msg=name)


def test_golden_x0_l1_loss() -> None:
    config, arrays = golden("ldm/latent_diffusion_x0_l1")
    assert relative_error(losses(config)["loss"], arrays["loss"]) < 1e-4


def test_golden_ema() -> None:
    _, arrays = golden("ldm/ema")
    model = fill_(nn.Linear(3, 2))
    ema = LitEma(model)
    assert len(ema.state_dict()) == 4
    for i in range(5):
        with torch.no_grad():
            model.weight += 0.1 * (i + 1)
        ema(model)
        assert relative_error(ema.weight, arrays["weight"][i]) < 1e-5
    trained = model.weight.detach().clone()
    with ema.scope(model):
        assert torch.equal(model.weight, ema.weight)
    assert torch.equal(model.weight, trained)


def test_golden_learning_rates() -> None:
    _, arrays = golden("ldm/lr")
    cycles = ([10, 5], [0.1, 0.1], [1, 0.5], [0, 0.1], [30, 30])
    # The published lists are named by their arguments: warm-up, f_start, f_max, f_min, cycle lengths.
    kwargs = dict(zip(("warm_up_steps", "f_start", "f_max", "f_min", "cycle_lengths"), cycles, strict=True))
    schedules = {
        "cosine": LambdaWarmUpCosineScheduler(10, 0.1, 1.0, 0.0, 50),
        "cosine2": LambdaWarmUpCosineScheduler2(**kwargs),
        "linear": LambdaLinearScheduler(**kwargs),
    }
    for name, schedule in schedules.items():
        values = [schedule(n) for n in range(len(arrays[name]))]
        np.testing.assert_allclose(values, arrays[name], rtol=1e-6, atol=1e-9, err_msg=name)
    # The second cycle ends here; afterwards its last value stays.
    assert schedules["linear"](10_000) == pytest.approx(0.1)


def test_v1_inference_equals_its_listing() -> None:
    config = load_config(ROOT / "configs/stable-diffusion/v1-inference.yaml")
    with torch.device("meta"):
        model = LatentDiffusion(**config.model.params)
    own = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    text = {k: v for k, v in own.items() if k.startswith("cond_stage_model.")}
    assert len(text) == 197
    expected = listing("statedicts/configs__stable-diffusion__v1-inference.tsv")
    assert {k: v for k, v in own.items() if k not in text} == {k: shape for k, (shape, _) in expected.items()}


@pytest.fixture(scope="module")
def tiny() -> dict[str, Any]:
    first_stage = {
        "embed_dim": 4,
        "lossconfig": {"target": "torch.nn.Identity"},
        "ddconfig": {
            "double_z": True, "z_channels": 4, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32,
            "ch_mult": [1, 1], "num_res_blocks": 1, "attn_resolutions": [],
        },
    }  # fmt: skip
    unet = {
        "image_size": 8, "in_channels": 4, "out_channels": 4, "model_channels": 32, "attention_resolutions": [1],
        "num_res_blocks": 1, "channel_mult": [1], "num_heads": 2, "use_spatial_transformer": True,
        "context_dim": 8, "legacy": False,
    }  # fmt: skip
    return {
        "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
        "params": {
            "first_stage_config": {"target": "ldm.models.autoencoder.AutoencoderKL", "params": first_stage},
            "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": unet},
            "cond_stage_config": {"target": "torch.nn.Identity"},
            "conditioning_key": "crossattn",
            "use_ema": False,
            "channels": 4,
            "scale_factor": 0.5,
        },
    }


def test_load_uses_ema_weights_and_exact_schedules(tiny: dict[str, Any], tmp_path: Path) -> None:
    model = load_model_from_config({"model": tiny}, None)
    state = {k: v.half() for k, v in model.state_dict().items()}
    name = "model.diffusion_model.out.2.bias"
    state["model_ema." + name.removeprefix("model.").replace(".", "")] = torch.full_like(state[name], 0.25)
    save_safetensors(tmp_path / "m.safetensors", state)
    loaded = load_model_from_config({"model": tiny}, tmp_path / "m.safetensors")
    assert torch.equal(loaded.state_dict()[name], torch.full((4,), 0.25))
    assert torch.equal(loaded.alphas_cumprod, model.alphas_cumprod)  # not rounded by the half-precision file
    assert loaded.scale_factor == 0.5
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())


def test_load_refuses_other_names_and_shapes(tiny: dict[str, Any], tmp_path: Path) -> None:
    state = load_model_from_config({"model": tiny}, None).state_dict()
    name = "model.diffusion_model.out.2.bias"
    cases = {
        "lacks 1 names": {k: v for k, v in state.items() if k != name},
        "has unexpected 1 names": {**state, "surplus": torch.zeros(1)},
        "another architecture": {**state, name: torch.zeros(7)},
    }
    for message, broken in cases.items():
        save_safetensors(tmp_path / "m.safetensors", broken)
        with pytest.raises(UserError, match=message):
            load_model_from_config({"model": tiny}, tmp_path / "m.safetensors")
    save_safetensors(tmp_path / "m.safetensors", cases["has unexpected 1 names"])
    load_model_from_config({"model": tiny}, tmp_path / "m.safetensors", allow_unexpected=["surplus"])


def test_unknown_config_key_names_the_nearest(tiny: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="did you mean 'scale_factor'"):
        LatentDiffusion(**{**tiny["params"], "scale_facter": 1.0})


def test_min_snr_weights_are_one_at_high_noise(tiny: dict[str, Any]) -> None:
    model = LatentDiffusion(**{**tiny["params"], "snr_gamma": 5.0})
    weights = model._snr_weights(torch.tensor([0, 500, 999]))
    assert weights[0] < 0.01
    assert torch.equal(weights[1:], torch.ones(2))
