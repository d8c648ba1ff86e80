"""Lightning callbacks of `main.py`: pictures during training, checkpoints on a signal, a log line a while."""

from __future__ import annotations

import logging
import signal
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from ldm.util import atomic_write

logger = logging.getLogger(__name__)


class ImageLogger(pl.Callback):
    """Writes what ``module.log_images(batch)`` gives as PNG grids into ``<logdir>/images/<split>``.

    Args:
        batch_frequency: steps between pictures.
        max_images: pictures of a batch to show.
        log_images_kwargs: passed on to ``log_images``.
    """

    def __init__(
        self,
        batch_frequency: int = 1000,
        max_images: int = 8,
        clamp: bool = True,
        log_images_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self.batch_frequency, self.max_images, self.clamp = batch_frequency, max_images, clamp
        self.kwargs = log_images_kwargs or {}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A grid of training pictures every `batch_frequency` steps."""
        step = trainer.global_step
        if trainer.is_global_zero and step and step % self.batch_frequency == 0:
            self._log(trainer, pl_module, batch, "train", step)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A grid of the first validation batch."""
        if trainer.is_global_zero and batch_idx == 0 and not trainer.sanity_checking:
            self._log(trainer, pl_module, batch, "val", trainer.global_step)

    def _log(self, trainer: pl.Trainer, pl_module: Any, batch: Any, split: str, step: int) -> None:
        if not hasattr(pl_module, "log_images"):
            return
        batch = {k: v[: self.max_images] for k, v in batch.items()}
        was_training = pl_module.training
        pl_module.eval()
        with torch.no_grad():
            grids: dict[str, Tensor] = pl_module.log_images(batch, split=split, **self.kwargs)
        pl_module.train(was_training)
        folder = Path(trainer.logger.save_dir if trainer.logger and trainer.logger.save_dir else ".")
        for name, images in grids.items():
            save_grid(images, folder / "images" / split / f"{name}_{step:07d}.png")


def save_grid(images: Tensor, path: Path, columns: int = 8) -> None:
    """Images (B, C, H, W) in [-1, 1] as one PNG."""
    from torchvision.utils import save_image

    with atomic_write(path) as temporary:
        save_image(((images.float().cpu() + 1) / 2).clamp(0, 1), temporary, nrow=columns)


class ProgressLog(pl.Callback):
    """One log line every `every` steps: step, rate, and the metrics that the progress bar shows."""

    def __init__(self, every: int = 100) -> None:
        self.every = every
        self._mark = (0, time.monotonic())

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._mark = (trainer.global_step, time.monotonic())

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the line."""
        step, now = trainer.global_step, time.monotonic()
        if step == self._mark[0] or step % self.every:
            return
        rate = (step - self._mark[0]) / (now - self._mark[1])
        metrics = " ".join(f"{k}={float(v):.4g}" for k, v in trainer.progress_bar_metrics.items())
        logger.info("step %d  %.2f it/s  %s", step, rate, metrics)
        self._mark = (step, now)


class SignalCheckpoint(pl.Callback):
    """On SIGUSR1 the next step ends with a checkpoint at `path`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._asked = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen."""
        signal.signal(signal.SIGUSR1, lambda *_: setattr(self, "_asked", True))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write the checkpoint that was asked for."""
        if self._asked:
            self._asked = False
            trainer.save_checkpoint(self.path)
            logger.info("checkpoint %s written at step %d", self.path, trainer.global_step)
