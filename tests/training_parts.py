"""A model and data without any randomness, for runs of main.py that are compared number by number."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset


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
