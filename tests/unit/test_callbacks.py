"""The callbacks of training: images, a checkpoint on a signal, noise of each process."""

from __future__ import annotations

import os
import signal
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ldm.callbacks import ImageLogger, LastCheckpoint, NoiseSeed, ProgressLog, save_grid
from ldm.util import UserError, instantiate_from_config

BATCH = {"image": torch.zeros(6, 8, 8, 3), "caption": list("abcdef"), "note": 3}


class Trainer(types.SimpleNamespace):
    """What the callbacks read of a trainer."""

    def __init__(self, folder: Path, step: int = 0, **values: Any) -> None:
        logger = types.SimpleNamespace(save_dir=str(folder))
        counts: dict[str, Any] = {"global_step": step, "world_size": 1, "global_rank": 0}
        counts |= {"accumulate_grad_batches": 1, "is_last_batch": False, "callback_metrics": {}}
        super().__init__(is_global_zero=True, sanity_checking=False, logger=logger, saved=[], **counts, **values)
        self.progress_bar_metrics: dict[str, Any] = {}

    def save_checkpoint(self, path: Path) -> None:
        self.saved.append(path)


class Module(torch.nn.Module):
    """Gives images beyond [-1, 1], and draws noise while doing so."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, Any]] = []

    def log_images(self, batch: dict[str, Any], split: str, value: float = 3.0) -> dict[str, torch.Tensor]:
        assert not self.training and not torch.is_grad_enabled()
        self.seen.append({"split": split, **batch})
        torch.randn(3)
        return {"samples/a": torch.full((8, 3, 4, 4), value)}


def test_images_at_their_steps(tmp_path: Path) -> None:
    module, logger = Module(), ImageLogger(4, 2, increase_log_steps=False)
    state = torch.random.get_rng_state()
    for step in range(9):
        logger.on_train_batch_end(Trainer(tmp_path, step), module, None, BATCH, step)
    logger.on_validation_batch_end(Trainer(tmp_path, 9), module, None, BATCH, 0)
    logger.on_validation_batch_end(Trainer(tmp_path, 9), module, None, BATCH, 1)
    written = sorted(f"{path.parent.name} {path.stem}" for path in tmp_path.glob("images/*/*.png"))
    assert written == ["train samples_a_0000004", "train samples_a_0000008", "val samples_a_0000009"]
    assert module.training and torch.equal(state, torch.random.get_rng_state())
    assert len(module.seen[0]["image"]) == 2 and module.seen[0]["caption"] == ["a", "b"]
    assert module.seen[0]["note"] == 3
    with Image.open(tmp_path / "images" / "train" / "samples_a_0000004.png") as image:
        assert image.size == (14, 8) and image.getpixel((3, 3)) == (255, 255, 255)  # two images, clamped


def test_when_images_are_due() -> None:
    early = ImageLogger(batch_frequency=8)
    assert [step for step in range(17) if early.wants(step)] == [1, 2, 4, 8, 16]
    first = ImageLogger(batch_frequency=8, increase_log_steps=False, log_first_step=True)
    assert [step for step in range(17) if first.wants(step)] == [1, 8, 16]
    assert not ImageLogger(batch_frequency=8, disabled=True).wants(8)
    with pytest.raises(UserError, match="batch_frequency must be a whole number from 1 on, not 0"):
        instantiate_from_config({"target": "main.ImageLogger", "params": {"batch_frequency": 0}})


def test_ranges(tmp_path: Path) -> None:
    def grey(value: float, **options: bool) -> int:
        logger = ImageLogger(1, log_images_kwargs={"value": value}, **options)  # type: ignore[arg-type]
        logger.on_train_batch_end(Trainer(tmp_path, 1), Module(), None, BATCH, 0)
        with Image.open(tmp_path / "images" / "train" / "samples_a_0000001.png") as image:
            return image.getpixel((3, 3))[0]  # type: ignore[index]

    assert abs(grey(0.5) - 191) <= 1 and abs(grey(0.5, rescale=False) - 127) <= 1
    assert grey(3.0, clamp=False) == 255 and abs(grey(0.5, clamp=False) - 191) <= 1


def test_modules_without_images_and_other_processes_write_none(tmp_path: Path) -> None:
    logger = ImageLogger(1)
    logger.on_train_batch_end(Trainer(tmp_path, 1), torch.nn.Identity(), None, BATCH, 0)
    other = Trainer(tmp_path, 1)
    other.is_global_zero = False
    logger.on_train_batch_end(other, Module(), None, BATCH, 0)
    assert not list(tmp_path.rglob("*.png"))


def test_grid(tmp_path: Path) -> None:
    save_grid(torch.zeros(3, 1, 4, 4), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (20, 8) and image.getpixel((3, 3)) == (128, 128, 128)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="the system has no SIGUSR1")
def test_signal_writes_one_checkpoint_after_the_step(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    callback, trainer = LastCheckpoint(tmp_path / "last.ckpt"), Trainer(tmp_path, 5)
    try:
        callback.on_fit_start(trainer, None)  # type: ignore[arg-type]
        callback.on_train_batch_end(trainer, None, None, None, 0)
        assert not trainer.saved
        os.kill(os.getpid(), signal.SIGUSR1)
        for _ in range(2):
            callback.on_train_batch_end(trainer, None, None, None, 0)
        assert trainer.saved == [tmp_path / "last.ckpt"]
        callback.on_train_end(trainer, None)  # type: ignore[arg-type]
        assert trainer.saved == 2 * [tmp_path / "last.ckpt"]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_signal_to_another_process_counts(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, 5)
    trainer.world_size = 2
    trainer.strategy = types.SimpleNamespace(reduce_boolean_decision=lambda mine, all: True)
    LastCheckpoint(tmp_path / "last.ckpt").on_train_batch_end(trainer, None, None, None, 0)
    assert trainer.saved == [tmp_path / "last.ckpt"]


def test_noise_differs_by_process_and_after_going_on(tmp_path: Path) -> None:
    def drawn(rank: int, step: int) -> float:
        torch.manual_seed(23)
        trainer = Trainer(tmp_path, step)
        trainer.global_rank = rank
        NoiseSeed(23).on_train_start(trainer, None)  # type: ignore[arg-type]
        return float(torch.rand(()))

    torch.manual_seed(23)
    first = float(torch.rand(()))
    assert drawn(0, 0) == first  # a fresh run of one process is as it was
    assert len({drawn(0, 0), drawn(1, 0), drawn(0, 9), drawn(1, 9)}) == 4
    assert drawn(1, 9) == drawn(1, 9)


def test_progress_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = ProgressLog(every=2)
    log.on_train_start(Trainer(tmp_path), None)  # type: ignore[arg-type]
    with caplog.at_level("INFO"):
        for step in range(1, 5):
            trainer = Trainer(tmp_path, step)
            trainer.progress_bar_metrics = {"loss": torch.tensor(0.5)}
            log.on_train_batch_end(trainer, None, None, None, 0)
    assert [r.message.split("  ")[0] for r in caplog.records] == ["step 2", "step 4"]
    assert "loss=0.5" in caplog.text
