"""Learning-rate multipliers by step, for ``torch.optim.lr_scheduler.LambdaLR``."""

from __future__ import annotations

import math
from collections.abc import Sequence


class LambdaWarmUpCosineScheduler:
    """Linear warm-up from `lr_start` to `lr_max`, then a half cosine to `lr_min` at `max_decay_steps`.

    Use with a base learning rate of 1.
    """

    def __init__(
        self,
        warm_up_steps: int,
        lr_min: float,
        lr_max: float,
        lr_start: float,
        max_decay_steps: int,
        verbosity_interval: int = 0,
    ) -> None:
        self.warm_up_steps, self.max_decay_steps = warm_up_steps, max_decay_steps
        self.lr_min, self.lr_max, self.lr_start = lr_min, lr_max, lr_start

    def schedule(self, n: int) -> float:
        """The multiplier at step `n`."""
        if n < self.warm_up_steps:
            return (self.lr_max - self.lr_start) / self.warm_up_steps * n + self.lr_start
        t = min((n - self.warm_up_steps) / (self.max_decay_steps - self.warm_up_steps), 1.0)
        return self.lr_min + 0.5 * (self.lr_max - self.lr_min) * (1 + math.cos(t * math.pi))

    def __call__(self, n: int) -> float:
        return self.schedule(n)


class LambdaWarmUpCosineScheduler2:
    """Cycles of warm-up from `f_start` to `f_max` and half cosine to `f_min`; every argument has one entry a cycle.

    Use with a real base learning rate. After the last cycle the multiplier stays at its last ``f_min``.
    """

    def __init__(
        self,
        warm_up_steps: Sequence[int],
        f_min: Sequence[float],
        f_max: Sequence[float],
        f_start: Sequence[float],
        cycle_lengths: Sequence[int],
        verbosity_interval: int = 0,
    ) -> None:
        lengths = {len(warm_up_steps), len(f_min), len(f_max), len(f_start), len(cycle_lengths)}
        if len(lengths) != 1:
            raise ValueError(f"every list needs one entry a cycle; their lengths are {sorted(lengths)}")
        self.lr_warm_up_steps, self.cycle_lengths = list(warm_up_steps), list(cycle_lengths)
        self.f_min, self.f_max, self.f_start = list(f_min), list(f_max), list(f_start)

    def _locate(self, n: int) -> tuple[int, int]:
        """The cycle of step `n` and the step within it; a boundary belongs to the cycle that ends there."""
        begin = 0
        for cycle, length in enumerate(self.cycle_lengths):
            if n <= begin + length:
                return cycle, n - begin
            begin += length
        return len(self.cycle_lengths) - 1, self.cycle_lengths[-1]

    def _warm_up(self, cycle: int, n: int) -> float:
        return (self.f_max[cycle] - self.f_start[cycle]) / self.lr_warm_up_steps[cycle] * n + self.f_start[cycle]

    def schedule(self, n: int) -> float:
        """The multiplier at step `n`."""
        cycle, n = self._locate(n)
        if n < self.lr_warm_up_steps[cycle]:
            return self._warm_up(cycle, n)
        warm_up = self.lr_warm_up_steps[cycle]
        t = min((n - warm_up) / (self.cycle_lengths[cycle] - warm_up), 1.0)
        return self.f_min[cycle] + 0.5 * (self.f_max[cycle] - self.f_min[cycle]) * (1 + math.cos(t * math.pi))

    def __call__(self, n: int) -> float:
        return self.schedule(n)


class LambdaLinearScheduler(LambdaWarmUpCosineScheduler2):
    """As :class:`LambdaWarmUpCosineScheduler2` with a straight fall from ``f_max`` over the whole cycle."""

    def schedule(self, n: int) -> float:
        """The multiplier at step `n`."""
        cycle, n = self._locate(n)
        if n < self.lr_warm_up_steps[cycle]:
            return self._warm_up(cycle, n)
        length = self.cycle_lengths[cycle]
        return self.f_min[cycle] + (self.f_max[cycle] - self.f_min[cycle]) * (length - n) / length
