"""The two losses of the layout predictor, over a whole batch at once."""

from __future__ import annotations

import torch
from torch import Tensor

from layout_predictor.LayoutTransformer.model.mixture import DENSITY_FLOOR, density, split_mixture

MARGIN = 0.2  # a satisfied relation is pushed no further than this, in fractions of the image


def relation_hinge(first: Tensor, second: Tensor, relation: Tensor) -> Tensor:
    """Hinge (R,) of R stated relations "first REL second".

    first, second: raw mixture parameters (R, 30); relation (R,) indices into `ldm.relations.RELATIONS`. For "a above b"
    it is max(max_k u_y^a - min_k u_y^b, -MARGIN): every component of a above every one of b. The others alike; right of
    and below with a and b swapped.
    """
    a, b = split_mixture(first), split_mixture(second)
    swap = ((relation == 1) | (relation == 3)).unsqueeze(-1)  # (R, 1)
    vertical = (relation < 2).unsqueeze(-1)
    u_a = torch.where(vertical, a.u_y, a.u_x)  # (R, 5)
    u_b = torch.where(vertical, b.u_y, b.u_x)
    nearer, farther = torch.where(swap, u_b, u_a), torch.where(swap, u_a, u_b)
    return (nearer.amax(-1) - farther.amin(-1)).clamp(min=-MARGIN)


def position_nll(raw: Tensor, centers: Tensor) -> Tensor:
    """Negative log density (P,) of the mixtures `raw` (P, 30) at the true `centers` (P, 2)."""
    return -(density(split_mixture(raw), centers) + DENSITY_FLOOR).log()


def layout_loss(
    hinge: Tensor, nll: Tensor, *, batch_size: float, position_weight: float = 0.1, relation_weight: float = 1.0
) -> Tensor:
    """relation_weight * sum of hinges + position_weight * sum of position terms, per sentence (a scalar)."""
    return (relation_weight * hinge.sum() + position_weight * nll.sum()) / batch_size
