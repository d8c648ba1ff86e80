"""What stands in for Lightning's classes where a process leaves Lightning out: enough to build models and to sample."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import nn

from ldm.errors import UserError

TRAINING = (
    *("trainer", "fabric", "logger", "log", "log_dict", "optimizers", "lr_schedulers", "manual_backward"),
    *("current_epoch", "global_step", "global_rank", "local_rank", "save_hyperparameters", "hparams"),
)


class LightningModule(nn.Module):
    """A module that knows where it is. UserError where it is asked for something of training."""

    @property
    def device(self) -> torch.device:
        """That of the weights; the CPU where there are none."""
        return next((value.device for value in chain(self.parameters(), self.buffers())), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights; torch's default where there are none."""
        kinds = (value.dtype for value in self.parameters() if value.is_floating_point())
        return next(kinds, torch.get_default_dtype())

    def __getattr__(self, name: str) -> Any:
        if name in TRAINING:
            raise UserError(
                f"'{name}' of a {type(self).__name__} is for training, and this process left Lightning out to sample; "
                "train with main.py, or in a program that does not call ldm.lightning.leave_out"
            )
        return super().__getattr__(name)


class LightningDataModule:
    """Data without a trainer."""

    trainer = None


class Callback:
    """What nobody calls."""


class Checkpoint(Callback):
    """What nobody calls, either."""
