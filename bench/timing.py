"""Timing calls side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from statistics import median
from typing import Any

Call = Callable[[], object]


def timed(call: Call) -> float:
    """Seconds that `call` takes."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def in_turn(calls: Mapping[str, Call], base: str, rounds: int, once: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """By name {"seconds": [...], "median": s, "ratio": median of the ratios to `base` in the same round}.

    All calls are timed in turn, round after round, so that what else the machine does touches every row alike.

    Args:
        rounds: after one of warming up.
        once: slow calls, which have one round and no warm-up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            if name in once and number != 1:
                continue
            taken = timed(call)
            if number:  # the first round warms up
                seconds[name].append(taken)
    rows = {}
    for name, own in seconds.items():
        ratios = [a / b for a, b in zip(own, seconds[base], strict=name not in once)]
        rows[name] = {"seconds": own, "median": median(own), "ratio": median(ratios)}
    return rows
