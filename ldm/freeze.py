"""A Lightning callback that trains a part of a model and leaves the rest as it is."""

from __future__ import annotations

from collections.abc import Sequence

import pytorch_lightning as pl

from ldm.util import UserError


class Freeze(pl.Callback):
    """Takes the gradient from every parameter whose name begins with one of ``prefixes``.

    Raises:
        UserError: when training starts, if a prefix is the name of nothing, as after a slip of the pen.
    """

    def __init__(self, prefixes: Sequence[str]) -> None:
        self.prefixes = tuple(prefixes)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Before the optimizers are made."""
        names = [name for name, _ in pl_module.named_parameters()]
        for prefix in self.prefixes:
            if not any(name.startswith(prefix) for name in names):
                tops = ", ".join(sorted({name.split(".")[0] for name in names}))
                raise UserError(f"nothing to freeze is called '{prefix}'; the model has {tops}")
        for name, parameter in pl_module.named_parameters():
            if name.startswith(self.prefixes):
                parameter.requires_grad_(False)
