"""Lightning callbacks of training: images, log lines, checkpoints, random numbers, a stop at NaN, frozen parts."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ldm.arguments import Count
from ldm.lightning import Callback, Checkpoint
from ldm.random_state import random_state, restore_random_state
from ldm.util import UserError, atomic_write

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

logger = logging.getLogger(__name__)


class ImageLogger(Callback):
    """Writes what ``module.log_images(batch)`` gives as PNG grids into ``<logdir>/images/<split>``.

    Args:
        batch_frequency: steps between images.
        max_images: images of a batch to show.
        clamp: cut values to [-1, 1]; otherwise values beyond are scaled into it, the largest to the edge.
        increase_log_steps: also at the steps 1, 2, 4, 8, ... below `batch_frequency`.
        log_first_step: also after the first step.
        disabled: write nothing.
        rescale: values are in [-1, 1]; otherwise they are in [0, 1] already.
        log_on_batch_idx: count the batches of an epoch instead of the steps of the run.
        log_images_kwargs: passed on to ``log_images``.
    """

    def __init__(
        self,
        batch_frequency: Count = 1000,
        max_images: Count = 8,
        clamp: bool = True,
        increase_log_steps: bool = True,
        rescale: bool = True,
        disabled: bool = False,
        log_on_batch_idx: bool = False,
        log_first_step: bool = False,
        log_images_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self.batch_frequency, self.max_images, self.clamp = batch_frequency, max_images, clamp
        self.disabled, self.rescale, self.log_on_batch_idx = disabled, rescale, log_on_batch_idx
        self.extra = {1} if log_first_step else set()
        if increase_log_steps:
            self.extra |= {2**n for n in range(int(math.log2(batch_frequency)) + 1)}
        self.kwargs = log_images_kwargs or {}

    def wants(self, step: int) -> bool:
        """Whether images are due after step (or batch) number `step`, counted from 1."""
        return not self.disabled and step > 0 and (step % self.batch_frequency == 0 or step in self.extra)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A grid of training images where one is due."""
        step = trainer.global_step
        if trainer.is_global_zero and self.wants(batch_idx + 1 if self.log_on_batch_idx else step):
            self._log(trainer, pl_module, batch, "train", step)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A grid of the first validation batch."""
        if trainer.is_global_zero and batch_idx == 0 and not trainer.sanity_checking and not self.disabled:
            self._log(trainer, pl_module, batch, "val", trainer.global_step)

    def _log(self, trainer: Trainer, pl_module: Any, batch: Any, split: str, step: int) -> None:
        if not hasattr(pl_module, "log_images"):
            return
        batch = {k: v[: self.max_images] if isinstance(v, (Tensor, list, tuple)) else v for k, v in batch.items()}
        was_training = pl_module.training
        pl_module.eval()
        # Images must not change the numbers that training draws after them.
        with torch.no_grad(), torch.random.fork_rng():
            grids: dict[str, Tensor] = pl_module.log_images(batch, split=split, **self.kwargs)
        pl_module.train(was_training)
        folder = Path(trainer.logger.save_dir if trainer.logger and trainer.logger.save_dir else ".")
        for name, images in grids.items():
            path = folder / "images" / split / f"{name.replace('/', '_')}_{step:07d}.png"
            save_grid(self._in_range(images), path)

    def _in_range(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) with values in [-1, 1]."""
        images = images[: self.max_images].detach().float().cpu()
        images = images if self.rescale else 2 * images - 1
        return images.clamp(-1, 1) if self.clamp else images / images.abs().amax().clamp(min=1)


def save_grid(images: Tensor, path: Path, columns: int = 8) -> None:
    """Images (B, C, H, W) in [-1, 1] as one PNG."""
    from torchvision.utils import save_image

    with atomic_write(path) as temporary:
        save_image(((images.float().cpu() + 1) / 2).clamp(0, 1), temporary, nrow=columns)


class ProgressLog(Callback):
    """One log line every `every` steps: step, rate, and the metrics that the progress bar shows."""

    def __init__(self, every: int = 100) -> None:
        self.every = every
        self._mark = (0, time.monotonic())

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._mark = (trainer.global_step, time.monotonic())

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the line."""
        step, now = trainer.global_step, time.monotonic()
        if step == self._mark[0] or step % self.every:
            return
        rate = (step - self._mark[0]) / (now - self._mark[1])
        metrics = " ".join(f"{k}={float(v):.4g}" for k, v in trainer.progress_bar_metrics.items())
        logger.info("step %d  %.2f it/s  %s", step, rate, metrics)
        self._mark = (step, now)


class LastCheckpoint(Checkpoint):
    """A checkpoint at `path` when training ends by itself, and after the step in which a process gets SIGUSR1."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._asked = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen, where the system has that signal and this is its main thread."""
        if hasattr(signal, "SIGUSR1") and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR1, lambda *_: setattr(self, "_asked", True))

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write what was asked for, once no gradients are half gathered; all processes together."""
        self._asked = anywhere(trainer, self._asked)
        gathered = getattr(pl_module, "accumulate_grad_batches", 1) * trainer.accumulate_grad_batches
        if self._asked and ((batch_idx + 1) % gathered == 0 or trainer.is_last_batch):
            self._asked = False
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it here and not after the fit, since spawned processes end with the fit."""
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path)
        logger.info("checkpoint %s written at step %d", self.path, trainer.global_step)


def anywhere(trainer: Trainer, flag: bool) -> bool:
    """Whether `flag` is set in any process of the run."""
    return trainer.strategy.reduce_boolean_decision(flag, all=False) if trainer.world_size > 1 else flag


class RunConfig(Callback):
    """Writes the config of a run into its folder once training begins, when nothing in it can be refused any more."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text = path, text

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it."""
        if trainer.is_global_zero:
            with atomic_write(self.path) as temporary:
                temporary.write_text(self.text, encoding="utf-8")


class StopAtNaN(Callback):
    """Ends training with a sentence at the first loss that is no finite number, before a checkpoint is written."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Mapping[str, Any] | Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the loss, or with two optimizers at the losses that the model logs."""
        losses = {name: value for name, value in trainer.callback_metrics.items() if name.endswith("loss")}
        if isinstance(outputs, Mapping) and "loss" in outputs:
            losses = {"loss": outputs["loss"]}
        wrong = {name: float(value) for name, value in losses.items() if not math.isfinite(value)}
        if anywhere(trainer, bool(wrong)):
            name, value = next(iter(wrong.items()), ("loss of another process", math.nan))
            raise UserError(
                f"the {name} is {value} at step {trainer.global_step}; the last checkpoint with finite weights stays: "
                "lower model.base_learning_rate, and look at the data"
            )


class NoiseSeed(Callback):
    """The random numbers of training: others in every process; after going on those that would have come next.

    Checkpoints hold the generators of all processes, validation changes none of them, and the first process of a
    fresh run keeps its generator as it is. A run resumed from a checkpoint of another number of processes, or of an
    older release, draws other numbers than at the start.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._saved: Sequence[Mapping[str, Any]] = ()
        self._training: Mapping[str, Any] = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add the generators' states; every process takes part."""
        states: list[Any] = [random_state(pl_module.device)] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(states, states[0])
        checkpoint["random_states"] = states

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Remember them until training starts."""
        self._saved = checkpoint.get("random_states", ())

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Restore the generators, or seed torch's by seed, process and step."""
        rank, step = trainer.global_rank, trainer.global_step
        if len(self._saved) == trainer.world_size:
            restore_random_state(self._saved[rank], pl_module.device)
        elif rank or step:
            torch.manual_seed((self.seed + 1_000_003 * rank + 7_919 * step) % 2**63)
        self._saved = ()

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Remember where training is."""
        self._training = random_state(pl_module.device)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Go back there."""
        restore_random_state(self._training, pl_module.device)


class Freeze(Callback):
    """Trains only the parameters whose names begin with none of `prefixes`.

    Raises:
        UserError: when training starts, if a prefix is the name of nothing, as after a slip of the pen.
    """

    def __init__(self, prefixes: Sequence[str]) -> None:
        self.prefixes = tuple(prefixes)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Before the optimizers are made."""
        parameters = dict(pl_module.named_parameters())
        for prefix in self.prefixes:
            frozen = [value for name, value in parameters.items() if name.startswith(prefix)]
            if not frozen:
                tops = ", ".join(sorted({name.split(".")[0] for name in parameters}))
                raise UserError(f"nothing to freeze is called '{prefix}'; the model has {tops}")
            for value in frozen:
                value.requires_grad_(False)
