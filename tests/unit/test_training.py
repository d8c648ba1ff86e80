"""Training by `main.py` on emoji scenes: both first stages with a discriminator, latent diffusion with and without
a trained conditioner. Each takes some steps, and its loss on unseen scenes falls."""

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
from ldm.util import instantiate_from_config, load_state_dict
from tests import tiny_world
from tests.unit.test_emoji import needs_font

SEED = 23
DDCONFIG = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 64,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 16,
    "ch_mult": [1, 1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "num_groups": 4,
}
DISCRIMINATOR = {"disc_start": 40, "perceptual_weight": 0.0, "disc_ndf": 8, "disc_num_layers": 2, "disc_weight": 0.1}


def scenes(size: int, split: str) -> dict[str, Any]:
    return {"target": "ldm.data.emoji.scenes.EmojiScenes", "params": {"size": size, "seed": 5, "split": split}}


def run_of(model: dict[str, Any], folder: Path, steps: int, rate: float) -> Path:
    """Train `model` for some steps of 8 scenes, with validation in the middle and at the end; the run's folder."""
    config = {
        "model": {"base_learning_rate": rate / 8, **model},  # scaled by the batch, as published
        "data": {
            "target": "main.DataModuleFromConfig",
            "params": {
                "batch_size": 8,
                "num_workers": 0,
                "train": scenes(64, "train"),
                "validation": scenes(16, "validation"),
            },
        },
        "lightning": {
            "trainer": {
                "max_steps": steps,
                "check_val_every_n_epoch": None,
                "val_check_interval": steps // 8,
                "accelerator": "cpu",
                "log_every_n_steps": 1,
                "enable_model_summary": False,
            },
            "callbacks": {
                "image_logger": {
                    "target": "main.ImageLogger",
                    "params": {"batch_frequency": steps // 2, "max_images": 4, "increase_log_steps": False},
                }
            },
        },
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
    common = {"embed_dim": 4, "monitor": "val/rec_loss"}
    if kind == "kl":
        target, name, own = "AutoencoderKL", "LPIPSWithDiscriminator", {"kl_weight": 1e-6}
        params: dict[str, Any] = {**common, "ddconfig": DDCONFIG}
    else:
        target, name, own = "VQModel", "VQLPIPSWithDiscriminator", {"codebook_weight": 1.0}
        params = {**common, "ddconfig": {**DDCONFIG, "double_z": False}, "n_embed": 64}
    params["lossconfig"] = {"target": f"ldm.modules.losses.{name}", "params": {**DISCRIMINATOR, **own}}
    return {"target": f"ldm.models.autoencoder.{target}", "params": params}


@needs_font
@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_first_stages_with_a_discriminator(kind: str, tmp_path: Path) -> None:
    model = first_stage(kind)
    run = run_of(model, tmp_path, 64, 3e-3)
    errors = metric(run, "val/rec_loss")
    untrained = metric(run, "train/rec_loss")[0]
    assert errors[-1] < min(0.6 * untrained, errors[0]), errors
    assert min(metric(run, "train/disc_loss")) == 0.0 < metric(run, "train/disc_loss")[-1]  # it begins at disc_start
    moved = changed(run, model)
    assert all(any(n.startswith(part) for n in moved) for part in ("encoder.", "decoder.", "loss.discriminator."))
    assert (run / "checkpoints" / "best.ckpt").is_file()
    assert list(run.rglob("reconstructions*.png"))


@needs_font
@pytest.mark.parametrize("trained_along", [True, False])
def test_latent_diffusion_with_and_without_a_trained_conditioner(trained_along: bool, tmp_path: Path) -> None:
    model = copy.deepcopy(tiny_world.CONFIG["model"])
    model["params"] |= {  # type: ignore[index]
        "cond_stage_trainable": trained_along,
        "scale_by_std": True,
        "image_size": 16,
        "use_ema": True,
        "ema_decay": 0.9,
        "monitor": "val/loss_simple_ema",
        "log_every_t": 500,
    }
    run = run_of(model, tmp_path, 32, 4e-3)  # type: ignore[arg-type]
    for name in ("val/loss_simple", "val/loss_simple_ema"):
        errors = metric(run, name)
        assert errors[-1] < 0.8 * errors[0], (name, errors)
    moved = changed(run, model)  # type: ignore[arg-type]
    assert any(name.startswith("cond_stage_model.") for name in moved) == trained_along
    assert not any(name.startswith("first_stage_model.") for name in moved)
    assert any(name.startswith("model.") for name in moved) and "scale_factor" in moved
    assert list(run.rglob("samples*.png"))
