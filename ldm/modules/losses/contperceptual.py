"""The loss of the published KL autoencoders: pixels, LPIPS, KL and a discriminator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ldm.modules.distributions.distributions import DiagonalGaussianDistribution
from ldm.modules.losses.adversarial import AdversarialLoss, Logs, named


class LPIPSWithDiscriminator(AdversarialLoss):
    """``(|x - r| + LPIPS) / e^s + s``, summed over an image's elements, plus KL and the adversarial term.

    Args:
        disc_start: step from which the adversarial terms count.
        logvar_init: s, the log variance of the pixels (a parameter by name, never trained as published).
        kl_weight: of the KL divergence to N(0, 1), a sum over the latent's elements.
        options: see :class:`AdversarialLoss`.
    """

    def __init__(self, disc_start: int, logvar_init: float = 0.0, kl_weight: float = 1.0, **options: Any) -> None:
        super().__init__(disc_start, **options)
        self.kl_weight = kl_weight
        self.logvar = nn.Parameter(torch.full((), float(logvar_init)), requires_grad=False)

    def forward(
        self,
        inputs: Tensor,
        reconstructions: Tensor,
        posteriors: DiagonalGaussianDistribution,
        optimizer_idx: int,
        global_step: int,
        last_layer: Tensor | None = None,
        cond: Tensor | None = None,
        split: str = "train",
        weights: Tensor | None = None,
    ) -> tuple[Tensor, Logs]:
        """The loss of the autoencoder (`optimizer_idx` 0) or of the discriminator (1), and its parts.

        Args:
            inputs, reconstructions: (B, C, H, W) in [-1, 1].
            last_layer: the decoder's last weight, where the adversarial term is balanced.
            weights: of the elements, broadcast against `inputs`.
        """
        if optimizer_idx == 1:
            return self.discriminator_loss(inputs, reconstructions, cond, global_step, split)
        batch = len(inputs)
        rec = (inputs - reconstructions).abs() + self.perceptual(inputs, reconstructions)  # (B, C, H, W)
        elements = rec / self.logvar.exp() + self.logvar
        nll = elements.sum() / batch
        weighted = nll if weights is None else (weights * elements).sum() / batch
        kl = posteriors.kl().sum() / batch
        adversarial, parts = self.generator_loss(nll, reconstructions, cond, last_layer, global_step)
        loss = weighted + self.kl_weight * kl + adversarial
        parts = {
            "total_loss": loss,
            "logvar": self.logvar,
            "kl_loss": kl,
            "nll_loss": nll,
            "rec_loss": rec.mean(),
            **parts,
        }
        return loss, named(parts, split)


class DummyLoss(nn.Module):
    """Stands where a config needs a loss that is never called."""
