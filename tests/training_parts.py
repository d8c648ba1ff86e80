"""Small networks and their configs, a training loop, and a model without randomness that main.py can train."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from ldm.data.emoji.sprites import FONT_PATH
from tests.golden_data import ROOT

needs_font = pytest.mark.skipif(
    not FONT_PATH.exists(), reason="needs the Debian package fonts-noto-color-emoji to draw scenes"
)
IDENTITY = {"target": "torch.nn.Identity"}
# Of 16x16 images, to latents (4, 8, 8).
DDCONFIG: dict[str, Any] = {"double_z": True, "z_channels": 4, "resolution": 16, "in_channels": 3, "out_ch": 3}
DDCONFIG |= {"ch": 32, "ch_mult": [1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}
VQ_DDCONFIG = {**DDCONFIG, "double_z": False}
UNET: dict[str, Any] = {"image_size": 8, "in_channels": 4, "out_channels": 4, "model_channels": 32}
UNET |= {"attention_resolutions": [], "num_res_blocks": 1, "channel_mult": [1], "num_heads": 1}


def target(name: str, **params: Any) -> dict[str, Any]:
    """A config section that builds ``ldm.<name>``."""
    return {"target": f"ldm.{name}", "params": params}


def unet(**change: Any) -> dict[str, Any]:
    """The section of a small U-Net."""
    return target("modules.diffusionmodules.openaimodel.UNetModel", **{**UNET, **change})


def transformer_unet(context_dim: int, **change: Any) -> dict[str, Any]:
    """The section of a small U-Net with cross-attention."""
    attention = {"use_spatial_transformer": True, "context_dim": context_dim, "attention_resolutions": [1]}
    return unet(**{"num_heads": 2, "legacy": False, **attention, **change})


def first_stage(kind: str = "AutoencoderKL", **change: Any) -> dict[str, Any]:
    """The section of a small first stage."""
    own = {"ddconfig": DDCONFIG} if kind == "AutoencoderKL" else {"ddconfig": VQ_DDCONFIG, "n_embed": 16}
    return target(f"models.autoencoder.{kind}", **{"embed_dim": 4, "lossconfig": IDENTITY, **own, **change})


def image_run(folder: Path, max_steps: int, **lightning: Any) -> dict[str, Any]:
    """A config that trains a small first stage on six images and their list, which are written to `folder`."""
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    (folder / "list.txt").write_text("\ufeff" + "".join(f"{i}.png\n" for i in range(6)), encoding="utf-8")
    images = target("data.lsun.LSUNBase", txt_file=str(folder / "list.txt"), data_root=str(folder), size=16)
    loss = target("modules.losses.ReconstructionLoss", l1_weight=1.0)
    trainer = {"max_steps": max_steps, "accelerator": "cpu", "enable_model_summary": False}
    return {
        "model": {"base_learning_rate": 1e-4, **first_stage(lossconfig=loss)},
        "data": target("data.base.DataModuleFromConfig", batch_size=2, num_workers=0, train=images),
        "lightning": {"trainer": {**trainer, "check_val_every_n_epoch": None}, **lightning},
    }


def export() -> ModuleType:
    """scripts/export_emoji.py as a module."""
    spec = importlib.util.spec_from_file_location("export_emoji", ROOT / "scripts/export_emoji.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train(optimizer: torch.optim.Optimizer, loss_of: Callable[[], Tensor], steps: int) -> list[float]:
    """The losses of some steps."""
    losses = []
    for _ in range(steps):
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


class Ramp(Dataset[dict[str, Tensor]]):
    """Sample i is a fixed vector that depends on i."""

    def __init__(self, size: int = 64) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        x = torch.sin(torch.arange(4) * (index + 1.0))
        return {"x": x, "y": x.sum()[None]}


class Line(pl.LightningModule):
    """A linear model with the mean squared error and a falling learning rate."""

    def __init__(self, monitor: str | None = None) -> None:
        super().__init__()
        self.monitor, self.learning_rate = monitor, 0.1
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = (self.layer(batch["x"]) - batch["y"]).square().mean()
        self.log("train/loss", loss, on_step=True, sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val/loss", (self.layer(batch["x"]) - batch["y"]).square().mean(), sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Stop(pl.Callback):
    """Ctrl-C before the step after so many."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise KeyboardInterrupt
