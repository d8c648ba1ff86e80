"""Training by `main.py` on emoji scenes: first stages with a discriminator, latent diffusion, and a decoder alone."""

from __future__ import annotations

import copy
import csv
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml

import main
from ldm.models.autoencoder import AutoencoderKL
from ldm.util import UserError, instantiate_from_config, load_config, load_state_dict, save_safetensors
from tests import tiny_world
from tests import training_parts as parts
from tests.golden_data import ROOT
from tests.training_parts import export, needs_font

SEED = 23
DDCONFIG = {**parts.DDCONFIG, "resolution": 64, "ch": 16, "ch_mult": [1, 1, 2], "num_groups": 4}
DISCRIMINATOR = {"disc_start": 40, "perceptual_weight": 0.0, "disc_ndf": 8, "disc_num_layers": 2, "disc_weight": 0.1}


def run_of(model: dict[str, Any], folder: Path, steps: int, rate: float) -> Path:
    """Train `model` for some steps of 8 scenes, with validation in the middle and at the end; the run's folder."""

    def scenes(size: int, split: str) -> dict[str, Any]:
        return parts.target("data.emoji.scenes.EmojiScenes", size=size, seed=5, split=split)

    data = {"batch_size": 8, "num_workers": 0, "train": scenes(64, "train"), "validation": scenes(16, "validation")}
    trainer = {"max_steps": steps, "check_val_every_n_epoch": None, "val_check_interval": steps // 8}
    trainer |= {"accelerator": "cpu", "log_every_n_steps": 1, "enable_model_summary": False}
    images = {"batch_frequency": steps // 2, "max_images": 4, "increase_log_steps": False}
    images["log_images_kwargs"] = {"plot_progressive_rows": False, "inpaint": False, "ddim_steps": 5}  # a chain is long
    callbacks = {"image_logger": {"target": "main.ImageLogger", "params": images}}
    config = {
        "model": {"base_learning_rate": rate / 8, **model},  # scaled by the batch, as published
        "data": {"target": "main.DataModuleFromConfig", "params": data},
        "lightning": {"trainer": trainer, "callbacks": callbacks},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    flags = ["--base", str(folder / "run.yaml"), "--logdir", str(folder), "--seed", str(SEED), "--threads", "1"]
    assert main.main(["-t", *flags]) == 0
    return folder / "run"


def metric(run: Path, name: str) -> list[float]:
    """The values of a logged metric, in order."""
    with (run / "metrics" / "version_0" / "metrics.csv").open() as handle:
        return [float(row[name]) for row in csv.DictReader(handle) if row.get(name)]


def changed(run: Path, model: dict[str, Any]) -> set[str]:
    """Names of the weights that differ from those that the run began with."""
    pl.seed_everything(SEED, verbose=False)
    before, after = instantiate_from_config(model).state_dict(), load_state_dict(run / "checkpoints" / "last.ckpt")
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def first_stage(kind: str) -> dict[str, Any]:
    params: dict[str, Any] = {"ddconfig": {**DDCONFIG, "double_z": kind == "kl"}, "monitor": "val/rec_loss"}
    if kind == "kl":
        loss = parts.target("modules.losses.LPIPSWithDiscriminator", **DISCRIMINATOR, kl_weight=1e-6)
        return parts.first_stage(**params, lossconfig=loss)
    loss = parts.target("modules.losses.VQLPIPSWithDiscriminator", **DISCRIMINATOR, codebook_weight=1.0)
    return parts.first_stage("VQModel", **params, lossconfig=loss, n_embed=64)


@needs_font
@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_first_stages_with_a_discriminator(kind: str, tmp_path: Path) -> None:
    model = first_stage(kind)
    run = run_of(model, tmp_path, 64, 3e-3)
    errors = metric(run, "val/rec_loss")
    untrained = metric(run, "train/rec_loss")[0]
    assert errors[-1] < 0.6 * untrained, errors
    assert min(metric(run, "train/disc_loss")) == 0.0 < metric(run, "train/disc_loss")[-1]  # it begins at disc_start
    moved = changed(run, model)
    assert all(any(n.startswith(part) for n in moved) for part in ("encoder.", "decoder.", "loss.discriminator."))
    assert (run / "checkpoints" / "best.ckpt").is_file()
    assert list(run.rglob("reconstructions*.png"))


@needs_font
@pytest.mark.parametrize("trained_along", [True, False])
def test_latent_diffusion_with_and_without_a_trained_conditioner(trained_along: bool, tmp_path: Path) -> None:
    model = copy.deepcopy(tiny_world.CONFIG["model"])
    own = {"cond_stage_trainable": trained_along, "scale_by_std": True, "image_size": 16, "log_every_t": 500}
    own |= {"use_ema": True, "ema_decay": 0.9, "monitor": "val/loss_simple_ema"}
    model["params"] |= own  # type: ignore[index]
    run = run_of(model, tmp_path, 32, 4e-3)  # type: ignore[arg-type]
    for name in ("val/loss_simple", "val/loss_simple_ema"):
        errors = metric(run, name)
        assert errors[-1] < 0.9 * errors[0], (name, errors)
    moved = changed(run, model)  # type: ignore[arg-type]
    assert any(name.startswith("cond_stage_model.") for name in moved) == trained_along
    assert not any(name.startswith("first_stage_model.") for name in moved)
    assert any(name.startswith("model.") for name in moved) and "scale_factor" in moved
    assert list(run.rglob("samples*.png"))


CONFIGS = [str(ROOT / "configs/emoji" / name) for name in ("first_stage.yaml", "decoder.yaml")]
SMALL = ["model.params.ddconfig.ch=8", "data.params.batch_size=2", "data.params.validation.params.size=2"]


def tiny_first_stage() -> AutoencoderKL:
    config = load_config(CONFIGS[0], ["model.params.ddconfig.ch=8"])
    torch.manual_seed(0)
    model = instantiate_from_config(config.model)
    assert isinstance(model, AutoencoderKL)
    return model


@needs_font
def test_the_decoder_learns_and_the_encoder_stays(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "start.safetensors", tiny_first_stage().state_dict())
    steps = [f"model.params.ckpt_path={tmp_path / 'start.safetensors'}", "lightning.trainer.max_steps=2"]
    assert main.main(["--base", *CONFIGS, "-t", "--name", "decoder", "--logdir", str(tmp_path), *SMALL, *steps]) == 0
    before = load_state_dict(tmp_path / "start.safetensors")
    after = load_state_dict(tmp_path / "decoder/checkpoints/last.ckpt")
    for name, value in before.items():
        assert torch.equal(value, after[name]) == name.startswith(("encoder.", "quant_conv.")), name


def test_a_prefix_of_nothing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_safetensors(tmp_path / "start.safetensors", tiny_first_stage().state_dict())
    start = f"model.params.ckpt_path={tmp_path / 'start.safetensors'}"
    wrong = [start, "lightning.callbacks.freeze.params.prefixes=[encodr]"]
    assert main.main(["--base", *CONFIGS, "-t", "--name", "x", "--logdir", str(tmp_path), *SMALL, *wrong]) == 2
    assert "nothing to freeze is called 'encodr'; the model has decoder, encoder" in capsys.readouterr().err


def test_another_encoder_is_refused(tmp_path: Path) -> None:
    module, model, other = export(), tiny_first_stage(), tiny_first_stage()
    with torch.no_grad():
        other.decoder.conv_out.weight += 1
    save_safetensors(tmp_path / "decoder.safetensors", {k: v.half() for k, v in other.state_dict().items()})
    module.replace_first_stage(model, tmp_path / "decoder.safetensors")
    assert torch.allclose(model.decoder.conv_out.weight, other.decoder.conv_out.weight, atol=1e-2)
    with torch.no_grad():
        other.encoder.conv_in.weight += 1
    save_safetensors(tmp_path / "other.safetensors", other.state_dict())
    with pytest.raises(UserError, match="another encoder"):
        module.replace_first_stage(model, tmp_path / "other.safetensors")
