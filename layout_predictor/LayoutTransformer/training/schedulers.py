"""Learning-rate schedules: linear warm-up from a tenth of the peak, a hold, then the decay that names them."""

from __future__ import annotations

from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ldm.util import UserError

_TENTH = 0.1  # where warm-up starts, and where the square-root decay ends, as a part of the peak
# The rate as a part of the peak, by the part of the decay that is done.
DECAYS = {
    "BaseScheduler": lambda done: 1.0,
    "BertScheduler": lambda done: 1 - done,
    "ChrisScheduler": lambda done: 1 - (1 - _TENTH) * done**0.5,
}


@dataclass
class OptimizerSection:
    """Adam and its schedule; warmup, hold and decay are parts of all updates."""

    max_lr: float
    scheduler: str = "BertScheduler"
    min_lr: float = 0.0  # after the warm-up
    warmup: float = 0.0
    hold: float = 0.0
    decay: float = 1.0
    weight_decay: float = 0.01


def learning_rate(section: OptimizerSection, step: int, total_steps: int) -> float:
    """Learning rate of update number `step`, from 0."""
    warmup, hold, decay = (part * total_steps for part in (section.warmup, section.hold, section.decay))
    if step < warmup:
        start = _TENTH * section.max_lr
        return start + (section.max_lr - start) * step / warmup
    past = step - warmup - hold
    if past <= 0 or decay <= 0:
        return section.max_lr
    return max(section.max_lr * DECAYS[section.scheduler](min(past / decay, 1.0)), section.min_lr)


def build_schedule(optimizer: Optimizer, section: OptimizerSection, total_steps: int, *, done: int = 0) -> LambdaLR:
    """The schedule of an optimizer of which `done` updates are behind it; its learning rate is set at once."""
    if section.scheduler not in DECAYS:
        raise UserError(f"unknown SCHEDULER {section.scheduler!r}; known: {', '.join(DECAYS)}")
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"] = 1.0  # what LambdaLR multiplies
    return LambdaLR(optimizer, lambda step: learning_rate(section, step, total_steps), last_epoch=done - 1)
