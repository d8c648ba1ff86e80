"""Learning-rate multipliers by step, for ``torch.optim.lr_scheduler.LambdaLR``."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ldm.arguments import Whole


class LambdaWarmUpCosineScheduler2:
    """Cycles of warm-up from `f_start` to `f_max` and half cosine to `f_min`; every argument has one entry a cycle.

    Use with a real base learning rate. After the last cycle the multiplier stays at its last ``f_min``.
    """

    def __init__(
        self,
        warm_up_steps: Sequence[Whole],
        f_min: Sequence[float],
        f_max: Sequence[float],
        f_start: Sequence[float],
        cycle_lengths: Sequence[int],
        verbosity_interval: Whole = 0,
    ) -> None:
        lengths = {len(warm_up_steps), len(f_min), len(f_max), len(f_start), len(cycle_lengths)}
        if len(lengths) != 1:
            raise ValueError(f"every list needs one entry a cycle; their lengths are {sorted(lengths)}")
        self.cycles = list(zip(warm_up_steps, f_min, f_max, f_start, cycle_lengths, strict=True))

    def schedule(self, n: int) -> float:
        """The multiplier at step `n`; a boundary belongs to the cycle that ends there."""
        for cycle in self.cycles:
            if n <= cycle[-1]:
                break
            n -= cycle[-1]
        else:
            n = cycle[-1]
        warm_up, low, high, start, length = cycle
        if n < warm_up:
            return (high - start) / warm_up * n + start
        return low + self._remaining(high - low, n, warm_up, length)

    def _remaining(self, height: float, n: int, warm_up: int, length: int) -> float:
        """What is left of `height` at step `n` of a cycle, after its warm-up."""
        return 0.5 * height * (1 + math.cos(min((n - warm_up) / (length - warm_up), 1.0) * math.pi))

    def __call__(self, n: int) -> float:
        return self.schedule(n)


class LambdaLinearScheduler(LambdaWarmUpCosineScheduler2):
    """As :class:`LambdaWarmUpCosineScheduler2` with a straight fall from ``f_max`` over the whole cycle."""

    def _remaining(self, height: float, n: int, warm_up: int, length: int) -> float:
        return height * (length - n) / length


class LambdaWarmUpCosineScheduler(LambdaWarmUpCosineScheduler2):
    """Linear warm-up from `lr_start` to `lr_max`, then a half cosine to `lr_min` at `max_decay_steps`.

    Use with a base learning rate of 1.
    """

    def __init__(
        self,
        warm_up_steps: Whole,
        lr_min: float,
        lr_max: float,
        lr_start: float,
        max_decay_steps: Whole,
        verbosity_interval: Whole = 0,
    ) -> None:
        super().__init__([warm_up_steps], [lr_min], [lr_max], [lr_start], [max_decay_steps])
