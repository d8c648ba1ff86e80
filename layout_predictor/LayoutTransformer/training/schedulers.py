"""Learning-rate schedules: linear warm-up, a hold at the peak, then a decay that names the class.

Lengths are fractions of the total number of updates. Warm-up starts at a tenth of the peak.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch.optim import Optimizer

from layout_predictor.LayoutTransformer.training.config import OptimiserSection
from ldm.util import UserError

_TENTH = 0.1  # where warm-up starts, and where the square-root decay ends, as a part of the peak


class BaseScheduler:
    """Warm-up and hold; the peak is kept until the end.

    Args:
        optimizer: its learning rate is set at once to that of update 0.
        total_steps: updates in the whole training.
        max_lr: peak; min_lr: floor after the warm-up; warmup, hold, decay: fractions of total_steps.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        total_steps: int,
        max_lr: float,
        min_lr: float = 0.0,
        warmup: float = 0.0,
        hold: float = 0.0,
        decay: float = 1.0,
    ) -> None:
        if total_steps < 1:
            raise UserError(f"a schedule needs at least one step, not {total_steps}")
        self.optimizer = optimizer
        self.max_lr, self.min_lr = max_lr, min_lr
        self.warmup, self.hold, self.decay = (part * total_steps for part in (warmup, hold, decay))
        self.step_number = 0
        self._apply()

    def lr_at(self, step: float) -> float:
        """Learning rate after `step` updates."""
        if step < self.warmup:
            start = _TENTH * self.max_lr
            return start + (self.max_lr - start) * step / self.warmup
        past = step - self.warmup - self.hold
        if past <= 0 or self.decay <= 0:
            return self.max_lr
        return max(self._decayed(min(past / self.decay, 1.0)), self.min_lr)

    def _decayed(self, progress: float) -> float:
        """Learning rate at `progress` (0 to 1) of the decay."""
        return self.max_lr

    def _apply(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr_at(self.step_number)

    def step(self) -> float:
        """Count an update, set the learning rate for the next one and return it."""
        self.step_number += 1
        self._apply()
        return self.lr_at(self.step_number)

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint needs: the number of updates."""
        return {"step_number": self.step_number}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from a checkpoint."""
        self.step_number = int(state["step_number"])
        self._apply()


class BertScheduler(BaseScheduler):
    """Linear decay to zero, no lower than min_lr."""

    def _decayed(self, progress: float) -> float:
        return self.max_lr * (1 - progress)


class ChrisScheduler(BaseScheduler):
    """Decay with the square root of the progress, to a tenth of the peak."""

    def _decayed(self, progress: float) -> float:
        return self.max_lr * (1 - (1 - _TENTH) * progress**0.5)


SCHEDULERS: dict[str, type[BaseScheduler]] = {
    "BaseScheduler": BaseScheduler,
    "BertScheduler": BertScheduler,
    "ChrisScheduler": ChrisScheduler,
}


def build_scheduler(optimizer: Optimizer, section: OptimiserSection, total_steps: int) -> BaseScheduler:
    """A schedule from an optimiser's section of the configuration."""
    if section.scheduler not in SCHEDULERS:
        raise UserError(f"unknown SCHEDULER {section.scheduler!r}; known: {', '.join(SCHEDULERS)}")
    return SCHEDULERS[section.scheduler](
        optimizer,
        total_steps=total_steps,
        max_lr=section.max_lr,
        min_lr=section.min_lr,
        warmup=section.warmup,
        hold=section.hold,
        decay=section.decay,
    )
