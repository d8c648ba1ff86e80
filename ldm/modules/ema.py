"""Exponential moving average of a model's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn


class LitEma(nn.Module):
    """Averages of those weights of `model` that require gradients.

    That of ``a.b.c`` is the buffer ``abc``, as checkpoints have it.

    Args:
        decay: of the average, in [0, 1].
        use_num_upates: (published spelling) warm up to ``min(decay, (1 + n) / (10 + n))`` after n updates.
    """

    decay: Tensor
    num_updates: Tensor

    def __init__(self, model: nn.Module, decay: float = 0.9999, use_num_upates: bool = True) -> None:
        super().__init__()
        if not 0.0 <= decay <= 1.0:
            raise ValueError(f"EMA decay must lie in [0, 1], not {decay}")
        self.m_name2s_name = {n: n.replace(".", "") for n, p in model.named_parameters() if p.requires_grad}
        self.register_buffer("decay", torch.tensor(decay, dtype=torch.float32))
        self.register_buffer("num_updates", torch.tensor(0 if use_num_upates else -1, dtype=torch.int))
        for name, parameter in model.named_parameters():
            if name in self.m_name2s_name:
                self.register_buffer(self.m_name2s_name[name], parameter.clone().detach())
        self._stored: list[Tensor] = []

    @torch.no_grad()
    def forward(self, model: nn.Module) -> None:
        """Move the averages towards the present weights of `model`."""
        decay = self.decay
        if self.num_updates >= 0:
            self.num_updates += 1
            decay = torch.minimum(decay, (1 + self.num_updates) / (10 + self.num_updates))
        shadow = dict(self.named_buffers())
        for name, parameter in model.named_parameters():
            if name in self.m_name2s_name:
                average = shadow[self.m_name2s_name[name]]
                average.lerp_(parameter.to(average.dtype), float(1.0 - decay))

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Overwrite the weights of `model` with their averages."""
        shadow = dict(self.named_buffers())
        for name, parameter in model.named_parameters():
            if name in self.m_name2s_name:
                parameter.copy_(shadow[self.m_name2s_name[name]])

    def store(self, parameters: Iterable[nn.Parameter]) -> None:
        """Remember the present values of `parameters`."""
        self._stored = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def restore(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give `parameters` the values remembered by :meth:`store`."""
        for stored, parameter in zip(self._stored, parameters, strict=True):
            parameter.copy_(stored)
        self._stored = []

    @contextlib.contextmanager
    def scope(self, model: nn.Module) -> Iterator[None]:
        """Run a block with the averaged weights in `model`, then put the trained ones back."""
        self.store(model.parameters())
        self.copy_to(model)
        try:
            yield
        finally:
            self.restore(model.parameters())
