"""Makes images look like a sampler's predicted x_0 on its way, which the gradients of CLIP are taken at."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def half_denoised(images: Tensor, strength: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] at `strength` (B,) in [0, 1]; 0 leaves one as it is.

    A second image of the batch shows through, blocks run into each other, contrast is lost, each by a random amount.
    """
    strength = strength.view(-1, 1, 1, 1)  # (B, 1, 1, 1)
    # The second image is not a neighbor, which may be the twin with the opposite relation.
    out = torch.lerp(images, images.roll(2, 0), 0.3 * torch.rand_like(strength) * strength)
    out = torch.lerp(out, _coarse(out), torch.rand_like(strength) * strength)
    return torch.lerp(out, out.mean((2, 3), keepdim=True), 0.6 * torch.rand_like(strength) * strength)


def random_strength(batch: int, device: torch.device, untouched: float = 0.4) -> Tensor:
    """Strengths (B,): 0 for about a share `untouched` of the images, uniform in [0, 1] for the others."""
    return torch.rand(batch, device=device) * (torch.rand(batch, device=device) >= untouched)


def _coarse(images: Tensor) -> Tensor:
    """Each image averaged over blocks of 2, 4 or 8 pixels and interpolated back."""
    small = [F.avg_pool2d(images, factor) for factor in (2, 4, 8)]
    size = list(images.shape[-2:])
    versions = torch.stack([F.interpolate(s, size, mode="bilinear", align_corners=False) for s in small])
    batch = torch.arange(len(images), device=images.device)
    return versions[torch.randint(3, (len(images),), device=images.device), batch]
