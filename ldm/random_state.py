"""The states of the random generators that training draws from, as a checkpoint can hold them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import torch


def random_state(device: torch.device | None = None) -> dict[str, Any]:
    """The states of Python's, numpy's and torch's generators, and of that of `device` where it is a GPU."""
    import numpy as np
    import torch

    kind, keys, *rest = cast(Any, np.random.get_state())
    state = {"python": random.getstate(), "numpy": (kind, keys.tolist(), *rest), "torch": torch.get_rng_state()}
    if device is not None and device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: Mapping[str, Any], device: torch.device | None = None) -> None:
    """Go on with the generators as :func:`random_state` gave them."""
    import numpy as np
    import torch

    version, keys, rest = state["python"]
    random.setstate((version, tuple(keys), rest))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if device is not None and device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block whose draws from the CPU's generators depend on `seed` alone, and change none that follow."""
    import numpy as np
    import torch

    state = random_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        restore_random_state(state)
