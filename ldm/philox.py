"""The noise that `torch.randn(..., device="cuda")` draws for a seed, computed on any device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

BLOCK = 256  # threads of a block in torch's kernel
RESIDENT_BLOCKS = 864  # that an A100 holds at once; other cards differ from it above 221,184 (or fewer) elements
_MASK = 0xFFFFFFFF


class PhiloxGenerator:
    """A generator of normal noise, Philox 4x32-10 (Salmon et al., 2011), in the order of torch's CUDA kernels.

    `calls` is how often each thread has drawn its four numbers so far: the state, beside the seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed, self.calls = seed, 0

    def randn(self, shape: Sequence[int]) -> torch.Tensor:
        """The next noise of `shape`, float32 on the CPU; its last digits differ between cards, too."""
        import numpy as np
        import torch

        count, threads = math.prod(shape), self._threads(shape)
        first = self.calls
        self.skip(shape)
        drawn = [self._four_normals(number, min(threads, count)) for number in range(first, self.calls)]
        return torch.from_numpy(np.concatenate(drawn)[:count].reshape(tuple(shape)))

    def skip(self, shape: Sequence[int]) -> None:
        """Go on as if noise of `shape` were drawn."""
        self.calls += math.ceil(math.prod(shape) / (4 * self._threads(shape)))

    @staticmethod
    def _threads(shape: Sequence[int]) -> int:
        return BLOCK * min(math.ceil(math.prod(shape) / BLOCK), RESIDENT_BLOCKS)

    def _four_normals(self, call: int, threads: int) -> Any:
        """(4 * threads,) float32: the first number of every thread, then the second, ... (curand_normal4)."""
        import numpy as np

        thread = np.arange(threads, dtype=np.uint64)
        bits = philox(self.seed, (call & _MASK, call >> 32, thread, 0))  # 4 of (threads,)
        normals = []
        # In single precision as curand has it; only the functions are more exact here.
        unit = np.float32(2**-32)
        turn = unit * np.float32(2 * math.pi)
        for a, b in (bits[:2], bits[2:]):
            u = a.astype(np.float32) * unit + unit / 2
            v = (b.astype(np.float32).astype(np.float64) * turn + turn / 2).astype(np.float32)  # rounded once
            radius = np.sqrt(-2 * np.log(u.astype(np.float64)))
            normals += [radius * np.sin(v, dtype=np.float64), radius * np.cos(v, dtype=np.float64)]
        return np.concatenate(normals).astype(np.float32)


def philox(seed: int, counter: Sequence[Any]) -> list[Any]:
    """Philox 4x32-10: four words of 32 bits, as uint64 arrays, for a counter of four such words and a seed as key."""
    import numpy as np

    words = [np.asarray(word, np.uint64) for word in counter]
    low, high = seed & _MASK, seed >> 32 & _MASK
    for _ in range(10):
        first, third = words[0] * np.uint64(0xD2511F53), words[2] * np.uint64(0xCD9E8D57)
        words = [
            third >> np.uint64(32) ^ words[1] ^ np.uint64(low),
            third & np.uint64(_MASK),
            first >> np.uint64(32) ^ words[3] ^ np.uint64(high),
            first & np.uint64(_MASK),
        ]
        low, high = low + 0x9E3779B9 & _MASK, high + 0xBB67AE85 & _MASK
    return words
