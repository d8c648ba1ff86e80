"""The bivariate Gaussian mixture that the head writes at every token.

30 numbers a token: five components for each of pi, u_x, u_y, sigma_x, sigma_y, rho, in this order. Centers are in
fractions of the image, x to the right and y down.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

COMPONENTS = 5
RHO_LIMIT = 0.95  # keeps the covariance invertible
NORMALIZER_FLOOR = 1e-5
DENSITY_FLOOR = 1e-5


class Mixture(NamedTuple):
    """Parameters of the mixture, each (..., COMPONENTS)."""

    pi: Tensor  # weights, sum to one
    u_x: Tensor  # means, fractions of the width
    u_y: Tensor  # means, fractions of the height
    sigma_x: Tensor  # standard deviations, positive
    sigma_y: Tensor
    rho: Tensor  # correlation, within +-RHO_LIMIT


NUMBERS = len(Mixture._fields) * COMPONENTS  # of a token


def split_mixture(raw: Tensor) -> Mixture:
    """Turn the head's raw numbers (..., 30) into mixture parameters."""
    pi, u_x, u_y, sigma_x, sigma_y, rho = raw.chunk(len(Mixture._fields), dim=-1)  # 6 x (..., 5)
    return Mixture(pi.softmax(-1), u_x, u_y, sigma_x.exp(), sigma_y.exp(), rho.tanh().clamp(-RHO_LIMIT, RHO_LIMIT))


def density(mixture: Mixture, centers: Tensor) -> Tensor:
    """Mixture density (...) at `centers` (..., 2)."""
    x, y = centers[..., :1], centers[..., 1:2]  # (..., 1)
    dx = (x - mixture.u_x) / mixture.sigma_x  # (..., 5)
    dy = (y - mixture.u_y) / mixture.sigma_y
    one_minus = 1 - mixture.rho**2
    exponent = (dx**2 + dy**2 - 2 * mixture.rho * dx * dy) / (2 * one_minus)
    normalizer = 2 * math.pi * mixture.sigma_x * mixture.sigma_y * one_minus.sqrt()
    return (mixture.pi * torch.exp(-exponent) / normalizer.clamp(min=NORMALIZER_FLOOR)).sum(-1)


def pick_centers(mixture: Mixture, *, sample: bool = False, generator: torch.Generator | None = None) -> Tensor:
    """One center (..., 2) per mixture: the mean of one component (the published GREEDY choice).

    The component is the most probable one, or with `sample` a draw from pi by `generator`.
    """
    if sample:
        flat = mixture.pi.reshape(-1, COMPONENTS)
        choice = torch.multinomial(flat, 1, generator=generator).view(*mixture.pi.shape[:-1], 1)
    else:
        choice = mixture.pi.argmax(-1, keepdim=True)  # (..., 1)
    return torch.cat([mixture.u_x.gather(-1, choice), mixture.u_y.gather(-1, choice)], dim=-1)
