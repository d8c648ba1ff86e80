"""A first-stage loss that needs no weights from elsewhere: pixel distance and KL."""

from __future__ import annotations

from torch import Tensor, nn

from ldm.modules.distributions.distributions import DiagonalGaussianDistribution


class ReconstructionLoss(nn.Module):
    """``l1 * |x - r| + l2 * (x - r)^2 + kl_weight * KL``, all means over pixels (the KL over latent elements).

    Meant for small worlds of flat colors, where LPIPS and a discriminator have little to add.
    """

    def __init__(self, l1_weight: float = 1.0, l2_weight: float = 1.0, kl_weight: float = 1e-4) -> None:
        super().__init__()
        self.l1_weight, self.l2_weight, self.kl_weight = l1_weight, l2_weight, kl_weight

    def forward(
        self, inputs: Tensor, reconstructions: Tensor, posterior: DiagonalGaussianDistribution
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Images (B, C, H, W) in [-1, 1] twice, and the posterior; gives the loss and its parts for the log."""
        difference = inputs - reconstructions
        l1, l2 = difference.abs().mean(), difference.square().mean()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        loss = self.l1_weight * l1 + self.l2_weight * l2 + self.kl_weight * kl
        # PSNR of images whose range is 2, so that the log reads in decibels.
        parts = {"total_loss": loss, "l1": l1, "l2": l2, "kl": kl, "psnr": 10 * (4 / l2.detach()).log10()}
        return loss, {k: v.detach() for k, v in parts.items()}
