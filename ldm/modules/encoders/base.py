"""What every conditioner offers."""

from __future__ import annotations

from typing import Any

from torch import nn


class AbstractEncoder(nn.Module):
    """What a conditioning stage offers: `encode(list of conditions) -> context`."""

    def encode(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} does not say how to encode its input")
