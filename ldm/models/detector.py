"""A small detector of emoji: a heat map of centers per category (Zhou et al., "Objects as Points", 2019).

It measures generated images for `scripts/evaluate.py`; sampling does not need it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.arguments import Count, Whole
from ldm.categories import CATEGORIES, NAMES
from ldm.lightning import LightningModule
from ldm.models.training import one_cycle
from ldm.paths import ROOT
from ldm.util import load_config, load_model_from_config

DEFAULT_CONFIG = ROOT / "configs" / "emoji" / "detector.yaml"
DEFAULT_WEIGHTS = ROOT / "models" / "emoji" / "detector.safetensors"
THRESHOLD = 0.4  # of the heat, for something to count as detected
SAME_PLACE = 0.1  # detections closer than this (share of the image) are one object: the surer one stays


@dataclass(frozen=True)
class Detection:
    """A category's name, a score in [0, 1], and the center in [0, 1] (x to the right, y down)."""

    name: str
    score: float
    x: float
    y: float


def suppress(detections: list[Detection], radius: float = SAME_PLACE) -> list[Detection]:
    """Of detections within `radius` of each other, of whatever category, the surest; surest first."""
    kept: list[Detection] = []
    for found in sorted(detections, key=lambda detection: -detection.score):
        if all((found.x - other.x) ** 2 + (found.y - other.y) ** 2 >= radius**2 for other in kept):
            kept.append(found)
    return kept


class _Block(nn.Module):
    """Residual pair of 3x3 convolutions, the second dilated so that a cell sees a whole sprite."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation),
            nn.GroupNorm(8, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x + self.body(x))  # (B, width, h, w)


class EmojiDetector(LightningModule):
    """Centers and categories of the objects in an image of the emoji world.

    Args:
        width, dilations: channels of the body, and the dilation of each of its residual blocks.
        total_steps: length of the one-cycle learning rate; constant rate where None.
        monitor: logged metric by which the trainer keeps the best checkpoint.
    """

    def __init__(
        self,
        width: Count = 48,
        dilations: tuple[Count, ...] = (1, 2, 4, 2),
        total_steps: Whole | None = None,
        monitor: str | None = None,
    ) -> None:
        super().__init__()
        self.total_steps, self.monitor = total_steps, monitor
        self.learning_rate = 2e-3
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, width // 2, 3, stride=2, padding=1),
            nn.GroupNorm(8, width // 2),
            nn.SiLU(),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
        )
        self.body = nn.Sequential(*(_Block(width, dilation) for dilation in dilations))
        self.heat = nn.Conv2d(width, len(CATEGORIES), 1)
        self.offset = nn.Conv2d(width, 2, 1)
        assert self.heat.bias is not None
        nn.init.constant_(self.heat.bias, -4.6)  # starts at a heat of 0.01, as most cells hold nothing

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in [0, 1] to heat logits (B, categories, H/8, W/8) and offsets (B, 2, H/8, W/8)."""
        features = self.body(self.stem(images * 2 - 1))
        return self.heat(features), self.offset(features)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Focal loss of the heat (eq. 1 of the paper) plus absolute error of the offset, per object."""
        logits, offset = self(batch["image"])
        heat, mask = batch["heat"], batch["mask"]
        probability = logits.sigmoid()
        at_center = heat == 1
        hit = (1 - probability) ** 2 * F.logsigmoid(logits)
        miss = (1 - heat) ** 4 * probability**2 * F.logsigmoid(-logits)
        objects = mask.sum().clamp(min=1)
        focal = -torch.where(at_center, hit, miss).sum() / objects
        error = ((offset - batch["offset"]).abs() * mask[:, None]).sum() / objects
        return focal + error

    @torch.no_grad()
    def detect(self, images: Tensor, threshold: float = THRESHOLD) -> list[list[Detection]]:
        """Objects of each of the images (B, 3, H, W) in [0, 1], surest first, with a score of at least `threshold`."""
        logits, offset = (values.cpu() for values in self(images))
        heat, peaks = _peaks(logits, threshold)
        height, width = heat.shape[-2:]
        found: list[list[Detection]] = [[] for _ in images]
        for image, label, row, column in peaks.nonzero().tolist():
            dx, dy = offset[image, :, row, column].clamp(0, 1).tolist()
            score = heat[image, label, row, column].item()
            found[image].append(Detection(NAMES[label], score, (column + dx) / width, (row + dy) / height))
        return [suppress(detections) for detections in found]

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Logs the loss, and recall and precision with a center in the right cell or one beside it."""
        self.log("val/loss", self.loss(batch), batch_size=len(batch["image"]))
        _, peaks = _peaks(self(batch["image"])[0], THRESHOLD)
        truth = batch["heat"] == 1
        near_peak = F.max_pool2d(peaks.float(), 3, stride=1, padding=1) > 0
        near_truth = F.max_pool2d(truth.float(), 3, stride=1, padding=1) > 0
        recall = (truth & near_peak).sum() / truth.sum().clamp(min=1)
        precision = (peaks & near_truth).sum() / peaks.sum().clamp(min=1)
        self.log_dict({"val/recall": recall, "val/precision": precision}, batch_size=len(batch["image"]))

    def configure_optimizers(self) -> Any:
        """AdamW; the learning rate follows one cycle over ``total_steps``."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=1e-4)
        return one_cycle(optimizer, self.learning_rate, self.total_steps, warm_up=0.1)


def _peaks(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """The heat (B, C, h, w), and where it has a maximum of at least `threshold`."""
    heat = logits.sigmoid()
    return heat, (heat == F.max_pool2d(heat, 3, stride=1, padding=1)) & (heat >= threshold)


def load_detector(weights: str | Path | None = None, config: str | Path | None = None) -> EmojiDetector:
    """The trained detector, frozen; shipped weights and config by default. UserError on a bad file."""
    return load_model_from_config(load_config(config or DEFAULT_CONFIG), weights or DEFAULT_WEIGHTS)
