"""The diagonal Gaussian that an autoencoder's encoder gives."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor


class AbstractDistribution(ABC):
    """What can be sampled, and has a mode."""

    @abstractmethod
    def sample(self) -> Any:
        """A sample."""

    @abstractmethod
    def mode(self) -> Any:
        """The likeliest value."""


class DiracDistribution(AbstractDistribution):
    """All of the mass at `value`."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def sample(self) -> Any:
        """The value."""
        return self.value

    def mode(self) -> Any:
        """The value."""
        return self.value


class DiagonalGaussianDistribution:
    """N(mean, std^2) per element, from moments (B, 2C, H, W): mean, then log variance.

    The log variance is clamped to [-30, 20]. With `deterministic` the variance is zero: `sample` is the mode.
    """

    def __init__(self, parameters: Tensor, deterministic: bool = False) -> None:
        self.parameters = parameters
        self.mean, logvar = parameters.chunk(2, dim=1)  # each (B, C, H, W)
        self.logvar = logvar.clamp(-30.0, 20.0)
        self.deterministic = deterministic
        self.std = torch.zeros_like(self.mean) if deterministic else torch.exp(0.5 * self.logvar)
        self.var = self.std**2

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw z (B, C, H, W); `generator` is a CPU one, so that devices agree."""
        device = generator.device if generator is not None else self.mean.device
        noise = torch.randn(self.mean.shape, generator=generator, device=device, dtype=self.mean.dtype)
        return self.mean + self.std * noise.to(self.mean.device)

    def kl(self, other: DiagonalGaussianDistribution | None = None) -> Tensor:
        """KL divergence in nats per sample (B,) to `other`, by default to N(0, 1)."""
        if self.deterministic:
            return torch.zeros(self.mean.shape[0], device=self.mean.device)
        if other is None:
            terms = self.mean**2 + self.var - 1.0 - self.logvar
        else:
            terms = (self.mean - other.mean) ** 2 / other.var + self.var / other.var - 1.0
            terms = terms - self.logvar + other.logvar
        return 0.5 * terms.flatten(1).sum(1)

    def nll(self, sample: Tensor, dims: tuple[int, ...] = (1, 2, 3)) -> Tensor:
        """Negative log likelihood in nats of `sample` (B, C, H, W), summed over `dims`."""
        if self.deterministic:
            return torch.zeros(self.mean.shape[0], device=self.mean.device)
        terms = math.log(2.0 * math.pi) + self.logvar + (sample - self.mean) ** 2 / self.var
        return 0.5 * terms.sum(dim=dims)

    def mode(self) -> Tensor:
        """The mean (B, C, H, W)."""
        return self.mean


def normal_kl(mean1: Tensor, logvar1: Tensor | float, mean2: Tensor, logvar2: Tensor | float) -> Tensor:
    """KL(N(mean1, e^logvar1) || N(mean2, e^logvar2)), elementwise with broadcasting."""
    log1, log2 = (torch.as_tensor(v, dtype=mean1.dtype, device=mean1.device) for v in (logvar1, logvar2))
    return 0.5 * (log2 - log1 - 1.0 + torch.exp(log1 - log2) + (mean1 - mean2) ** 2 * torch.exp(-log2))
