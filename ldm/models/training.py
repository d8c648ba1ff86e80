"""What the models share around training: images of a batch, frozen parts, and schedules of the learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from ldm.lightning import Callback
from ldm.util import UserError, disabled_train, instantiate_from_config

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

Module = TypeVar("Module", bound=nn.Module)


def images_of(batch: Mapping[str, Any], key: str) -> Tensor:
    """Images (B, H, W, C) or (B, H, W) of a batch as (B, C, H, W) float32. UserError where it has none."""
    if key not in batch:
        raise UserError(f"a batch has no '{key}' but {', '.join(batch)}; look at first_stage_key or image_key")
    x = batch[key]
    x = x[..., None] if x.ndim == 3 else x
    return x.permute(0, 3, 1, 2).contiguous().float()


def colored(labels: Tensor, colors: Tensor) -> Tensor:
    """An image (B, 3, H, W) in [-1, 1] of label maps (B, labels, H, W), in colors (3, labels, 1, 1)."""
    x = F.conv2d(labels, colors)
    return 2.0 * (x - x.min()) / (x.max() - x.min()) - 1.0


class AfterStep(Callback):
    """Calls ``module.after_step()`` before a checkpoint of the step is written.

    A module's own ``on_train_batch_end`` runs after the callbacks: what it changes would be missing in checkpoints.
    """

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        """Let the module do what follows each batch."""
        pl_module.after_step()


def frozen(module: Module) -> Module:
    """`module` in eval mode for good, without gradients for its weights."""
    module.eval().requires_grad_(False)
    module.train = disabled_train.__get__(module)  # type: ignore[method-assign]
    return module


def scheduled(config: Mapping[str, Any] | None, *optimizers: torch.optim.Optimizer) -> Any:
    """What Lightning takes: the optimizers, with a LambdaLR each where there is the config of a scheduler."""
    if config is None:
        return optimizers[0] if len(optimizers) == 1 else list(optimizers)
    schedule = instantiate_from_config(config).schedule
    rates = [LambdaLR(optimizer, lr_lambda=schedule) for optimizer in optimizers]
    return list(optimizers), [{"scheduler": rate, "interval": "step", "frequency": 1} for rate in rates]


def one_cycle(optimizer: torch.optim.Optimizer, rate: float, total_steps: int | None, warm_up: float) -> Any:
    """What Lightning takes: the optimizer, with one cycle of the rate over `total_steps` where they are given."""
    if total_steps is None:
        return optimizer
    schedule = OneCycleLR(optimizer, rate, total_steps=total_steps + 1, pct_start=warm_up)
    return [optimizer], [{"scheduler": schedule, "interval": "step"}]
