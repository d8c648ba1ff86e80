"""Seconds of calls side by side, and counts of what a call computes, moves and keeps alive."""

from __future__ import annotations

import itertools
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

Call = Callable[[], object]
# Operations that only give another view of the same memory, or allocate it.
FREE = """view _unsafe_view expand permute transpose t unsqueeze squeeze select slice split unbind alias detach
as_strided empty new_empty empty_like _reshape_alias chunk"""


def seconds(call: Call) -> float:
    """Seconds that `call` takes."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def in_turn(calls: Mapping[str, Call], base: str, rounds: int, once: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """By name {"seconds": [...], "median": s, "ratio": median of the ratios to `base` in the same round}.

    Calls are timed in turn, round after round, so that what else the machine does touches every row alike.

    Args:
        rounds: after one of warming up.
        once: slow calls, which have one round and no warm-up.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            if name in once and number != 1:
                continue
            spent = seconds(call)
            if number:  # the first round warms up
                taken[name].append(spent)
    rows = {}
    for name, own in taken.items():
        ratios = [a / b for a, b in zip(own, taken[base], strict=name not in once)]
        rows[name] = {"seconds": own, "median": median(own), "ratio": median(ratios)}
    return rows


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class LivePeak(TorchDispatchMode):
    """Counts, inside a `with` block, the bytes of storages that operations made and that are still alive.

    What existed before (weights, inputs) is not counted, nor is the scratch memory of a kernel.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0  # bytes
        self.peak = 0  # bytes
        self._known: dict[int, weakref.ref[Any]] = {}

    def _remember(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata
        if key in self._known:
            return

        def forget(_: object) -> None:
            del self._known[key]
            self.live -= size

        self._known[key] = weakref.ref(storage, forget)
        self.live += size
        self.peak = max(self.peak, self.live)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._remember(tensor.untyped_storage(), 0)  # was there before, unless it was counted when it was made
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            self._remember(storage, storage.nbytes())
        return result


class CardPeak:
    """The same, inside its `with` block, as the allocator of a card of CUDA has it: with scratch memory."""

    peak = 0  # bytes

    def __enter__(self) -> CardPeak:
        torch.cuda.reset_peak_memory_stats()
        self.before = torch.cuda.memory_allocated()
        return self

    def __exit__(self, *_: object) -> None:
        self.peak = torch.cuda.max_memory_allocated() - self.before


@dataclass(frozen=True)
class Work:
    """What a call does. flops: two a multiply-add. bytes: of the inputs and outputs of every operation."""

    flops: float
    bytes: float
    operations: float


class _Traffic(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.operations = 0, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ not in FREE.split():
            self.operations += 1
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in _tensors((args, kwargs, result)))
        return result


def count_work(call: Call) -> Work:
    """The work of `call`, which runs once. Layers must not be packed: PyTorch's counter does not know them then."""
    with FlopCounterMode(display=False) as flops, _Traffic() as traffic:
        call()
    return Work(flops.get_total_flops(), traffic.bytes, traffic.operations)


def fit(works: Sequence[Work], taken: Sequence[float]) -> tuple[list[float], list[float]]:
    """Costs (s a flop, s a byte, s an operation), none negative, that explain the seconds best; the seconds they give.

    Least squares of the relative error, so that short calls count as much as long ones. With three costs, trying every
    choice of those that are 0 finds the best.
    """
    times = np.array(taken)
    table = np.array([(work.flops, work.bytes, work.operations) for work in works]) / times[:, None]
    best, error = np.zeros(3), np.inf
    for kept in itertools.product((False, True), repeat=3):
        columns = table[:, kept]
        if not columns.any():
            continue
        scale = columns.max(axis=0)
        some = np.linalg.lstsq(columns / scale, np.ones(len(times)), rcond=None)[0] / scale
        wrong = float(np.square(columns @ some - 1).sum())
        if (some >= 0).all() and wrong < error:
            best, error = np.zeros(3), wrong
            best[list(kept)] = some
    return best.tolist(), (table @ best * times).tolist()
