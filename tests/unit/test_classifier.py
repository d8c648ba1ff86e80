"""Classifiers of noisy latents: classes and segmentations, training, and wrong inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ldm.models.diffusion.classifier import NoisyLatentImageClassifier, find_config
from ldm.util import UserError
from tests.golden_data import tensor
from tests.training_parts import UNET, first_stage, target, train, transformer_unet

WIDTH = {"attention_resolutions": [2], "channel_mult": [1, 1], "num_heads": -1, "num_head_channels": 16}


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run's folder with the config of a tiny class-conditional model."""
    params = {
        "first_stage_config": first_stage(),
        "unet_config": transformer_unet(6, **WIDTH),
        "cond_stage_config": target(
            "modules.encoders.modules.ClassEmbedder", embed_dim=6, n_classes=3, key="class_label"
        ),
        "cond_stage_key": "class_label",
        "conditioning_key": "crossattn",
        "use_ema": False,
        "channels": 4,
        "image_size": 8,
        "timesteps": 20,
    }
    config = {"model": target("models.diffusion.ddpm.LatentDiffusion", **params)}
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "2022-01-01-project.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def batch(**extra: Any) -> dict[str, Any]:
    """An image a class, and the latents that a data set encoded of them before: a pattern a class."""
    images = torch.linspace(-1, 1, 3)[:, None, None, None].expand(3, 16, 16, 3)
    return {"image": images, "latent": tensor(1, "latent", (3, 4, 8, 8)), "class_label": torch.arange(3), **extra}


@pytest.mark.parametrize("pool", ["attention", "adaptive", "spatial"])
def test_classes_are_learned(run_folder: Path, pool: str) -> None:
    torch.manual_seed(0)
    model = NoisyLatentImageClassifier(run_folder, num_classes=3, pool=pool, log_steps=4)
    assert not any(p.requires_grad for p in model.diffusion_model.parameters())
    assert model.train().diffusion_model.training is False
    model.learning_rate = 3e-3
    losses = train(model.configure_optimizers(), lambda: model.shared_step(batch(), t=0)[0], 24)
    assert losses[-1] < 0.95 * losses[0]
    _, logits, x_noisy, targets = model.shared_step(batch(), t=0)
    assert logits.shape == (3, 3) and x_noisy.shape == (3, 4, 8, 8)
    assert model.compute_top_k(logits, targets, 5) == 1
    logs = model.log_images(batch(), N=2)
    assert set(logs) == {"inputs", "inputs@t0", "inputs@t5", "inputs@t10", "inputs@t15"}
    assert logs["inputs@t5"].shape == (2, 3, 16, 16)


def test_segmentations(run_folder: Path) -> None:
    model = NoisyLatentImageClassifier(run_folder, num_classes=5, label_key="segmentation", log_steps=2)
    segmentation = torch.zeros(3, 16, 16, 5)
    segmentation[..., 2] = 1
    # The network's context is none of the batch's: a U-Net without one is what segmentations need.
    model.model = type(model.model)(**{**UNET, **WIDTH, "out_channels": 5})
    loss, logits, _, targets = model.shared_step(batch(segmentation=segmentation))
    assert logits.shape == (3, 5, 8, 8) and targets.shape == (3, 8, 8)
    assert (targets == 2).all() and loss > 0
    assert model.log_images(batch(segmentation=segmentation))["pred@t10"].shape == (3, 1, 8, 8)


def test_weights_and_wrong_inputs(run_folder: Path, tmp_path: Path) -> None:
    model = NoisyLatentImageClassifier(run_folder, num_classes=3)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "c.ckpt")
    again = NoisyLatentImageClassifier(run_folder, num_classes=3, ckpt_path=tmp_path / "c.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(model.model.parameters(), again.model.parameters(), strict=True))
    for message, options in (
        ("another architecture", {"num_classes": 4, "ckpt_path": tmp_path / "c.ckpt"}),
        ("label_key 'caption' is none of", {"label_key": "caption"}),
        ("log_steps", {"log_steps": 21}),
    ):
        with pytest.raises(UserError, match=message):
            NoisyLatentImageClassifier(run_folder, **{"num_classes": 3, **options})
    with pytest.raises(UserError, match="no labels 'class_label'"):
        model.shared_step({"image": batch()["image"]})
    with pytest.raises(UserError, match="no config of a diffusion model"):
        find_config(tmp_path / "configs" / "none")
