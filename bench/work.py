"""How much a call computes: floating-point operations, bytes moved, operations started."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

# What only gives another view of the same memory, or none at all.
FREE = frozenset(
    {
        "view",
        "_unsafe_view",
        "expand",
        "permute",
        "transpose",
        "t",
        "unsqueeze",
        "squeeze",
        "select",
        "slice",
        "split",
        "unbind",
        "alias",
        "detach",
        "as_strided",
        "empty",
        "new_empty",
        "empty_like",
        "_reshape_alias",
        "chunk",
    }
)


@dataclass(frozen=True)
class Work:
    """What a call does. flops: two a multiply-add. bytes: of the inputs and outputs of every operation."""

    flops: float
    bytes: float
    operations: float

    def row(self) -> tuple[float, float, float]:
        """(flops, bytes, operations)."""
        return self.flops, self.bytes, self.operations


class _Traffic(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.operations = 0, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ not in FREE:
            self.operations += 1
            for leaf in tree_leaves((args, kwargs, result)):
                if isinstance(leaf, torch.Tensor):
                    self.bytes += leaf.numel() * leaf.element_size()
        return result


def count_work(call: Callable[[], object]) -> Work:
    """The work of `call`, which runs once. Layers must not be packed: PyTorch's counter does not know them then."""
    with FlopCounterMode(display=False) as flops, _Traffic() as traffic:
        call()
    return Work(flops.get_total_flops(), traffic.bytes, traffic.operations)


def fit(works: Sequence[Work], seconds: Sequence[float]) -> tuple[list[float], list[float]]:
    """Costs (s a flop, s a byte, s an operation), none negative, that explain the seconds best; the seconds they give.

    Least squares of the relative error, so that short calls count as much as long ones. With three costs, trying every
    choice of those that are 0 finds the best.
    """
    times = np.array(seconds)
    table = np.array([work.row() for work in works]) / times[:, None]
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
