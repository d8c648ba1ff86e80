"""Counting the bytes of tensors that are alive at once, on any device."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LivePeak(TorchDispatchMode):
    """Counts, inside a `with` block, the storages that operations made and that are still alive.

    What existed before the block (weights, inputs) is not counted, nor is the scratch memory of a kernel.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0  # bytes
        self.peak = 0  # bytes
        self._known: dict[int, weakref.ref[Any]] = {}

    def ignore(self, tensor: torch.Tensor) -> None:
        """Do not count the storage of `tensor`, which was there before."""
        self._remember(tensor.untyped_storage(), 0)

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
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Tensor):
                self.ignore(leaf)  # unless it was counted when it was made
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                self._remember(storage, storage.nbytes())
        return result


@contextmanager
def live_peak() -> Iterator[LivePeak]:
    """A :class:`LivePeak` around a block."""
    with LivePeak() as counter:
        yield counter
