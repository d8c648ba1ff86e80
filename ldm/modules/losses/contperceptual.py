"""Losses of KL autoencoders: the published one with LPIPS and a discriminator, and a plain one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ldm.arguments import Count, Depth, Weight, Whole
from ldm.modules.distributions.distributions import DiagonalGaussianDistribution
from ldm.modules.losses.adversarial import AdversarialLoss, Logs, named


class LPIPSWithDiscriminator(AdversarialLoss):
    """``(|x - r| + LPIPS) / e^s + s``, summed over an image's elements, plus KL and the adversarial term.

    Args:
        disc_start: step from which the adversarial terms count.
        logvar_init: s, the log variance of the pixels (a parameter by name, never trained as published).
        kl_weight: of the KL divergence to N(0, 1), a sum over the latent's elements.
        The others: see :class:`AdversarialLoss`.
    """

    def __init__(
        self,
        disc_start: Whole,
        logvar_init: float = 0.0,
        kl_weight: Weight = 1.0,
        pixelloss_weight: float = 1.0,
        disc_num_layers: Depth = 3,
        disc_in_channels: Count = 3,
        disc_factor: Weight = 1.0,
        disc_weight: Weight = 1.0,
        perceptual_weight: Weight = 1.0,
        use_actnorm: bool = False,
        disc_conditional: bool = False,
        disc_loss: str = "hinge",
        **options: Any,
    ) -> None:
        super().__init__(
            disc_start,
            pixelloss_weight,
            disc_num_layers,
            disc_in_channels,
            disc_factor,
            disc_weight,
            perceptual_weight,
            use_actnorm,
            disc_conditional,
            disc_loss=disc_loss,
            **options,
        )
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
        """The loss of the autoencoder (`optimizer_idx` 0) or discriminator (1), and its parts for the log.

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
        own = {"total_loss": loss, "logvar": self.logvar, "kl_loss": kl, "nll_loss": nll, "rec_loss": rec.mean()}
        parts = {**own, **parts}
        return loss, named(parts, split)


class DummyLoss(nn.Module):
    """Stands where a config needs a loss that is never called."""


class ReconstructionLoss(nn.Module):
    """``l1 * |x - r| + l2 * (x - r)^2 + kl_weight * KL``, all means over pixels (the KL over latent elements).

    It needs no weights from elsewhere; for small worlds of flat colors.
    """

    def __init__(self, l1_weight: Weight = 1.0, l2_weight: Weight = 1.0, kl_weight: Weight = 1e-4) -> None:
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
        psnr = 10 * (4 / l2.detach()).log10()  # in decibels, of images whose range is 2
        parts = {"total_loss": loss, "l1": l1, "l2": l2, "kl": kl, "psnr": psnr}
        return loss, {k: v.detach() for k, v in parts.items()}
