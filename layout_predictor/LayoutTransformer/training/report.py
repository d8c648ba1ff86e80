"""What a run says while it trains: losses of the last updates, tensorboard scalars, a progress bar."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

logger = logging.getLogger(__name__)

KEYS = ("loss", "hinge", "nll")


class Report:
    """Sums of the losses since the last report, and where they go.

    Args:
        folder: of the run; tensorboard's events go there.
        tensorboard: whether scalars are written at all.
        active: false in every process but the main one: nothing is written or shown.
    """

    def __init__(self, folder: Path, *, tensorboard: bool, active: bool) -> None:
        self.active = active
        self.running = dict.fromkeys(KEYS, 0.0)
        self.writer = _tensorboard(folder) if tensorboard and active else None

    def add(self, values: Mapping[str, float]) -> None:
        """Count an update."""
        for key, value in values.items():
            self.running[key] += value

    def take_means(self, steps: int) -> dict[str, float]:
        """Means over the last `steps` updates; counting starts again."""
        means = {key: value / steps for key, value in self.running.items()}
        self.running = dict.fromkeys(KEYS, 0.0)
        return means

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Write scalars under `group`/ where tensorboard is on."""
        if self.writer is not None:
            for key, value in values.items():
                self.writer.add_scalar(f"{group}/{key}", value, step)
            self.writer.flush()

    @contextlib.contextmanager
    def progress(self, first: int, total: int) -> Iterator[Any]:
        """A bar over updates `first` to `total`, with log lines above it; none where stderr is no terminal."""
        if not self.active:
            yield tqdm(disable=True)
            return
        with logging_redirect_tqdm(), tqdm(total=total, initial=first, unit="step", disable=None) as bar:
            yield bar


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.warning("tensorboard is not installed: scalars go to the log file only")
        return None
    return SummaryWriter(str(folder))
