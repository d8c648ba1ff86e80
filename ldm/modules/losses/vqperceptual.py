"""The loss of the published VQ autoencoders: pixels, LPIPS, the codebook and a discriminator."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.arguments import Count, Weight, Whole
from ldm.modules.losses.adversarial import AdversarialLoss, Logs, named
from ldm.modules.losses.contperceptual import DummyLoss
from ldm.util import UserError

__all__ = ["DummyLoss", "VQLPIPSWithDiscriminator", "measure_perplexity"]


def measure_perplexity(predicted_indices: Tensor, n_embed: int) -> tuple[Tensor, Tensor]:
    """Perplexity of the codes in use (n_embed at best), and how many of them are used at all."""
    counts = torch.bincount(predicted_indices.flatten(), minlength=n_embed).float()
    shares = counts / counts.sum()
    return torch.exp(-(shares * torch.log(shares + 1e-10)).sum()), (counts > 0).sum().float()


class VQLPIPSWithDiscriminator(AdversarialLoss):
    """Mean of ``|x - r| + LPIPS``, plus the codebook's loss and the adversarial term (Esser et al. 2021).

    Args:
        disc_start: step from which the adversarial terms count.
        codebook_weight: of the quantizer's loss.
        n_classes: size of the codebook, to log how much of it is in use.
        perceptual_loss: "lpips", the only one there is.
        pixel_loss: "l1" or "l2".
        options: see :class:`AdversarialLoss`.
    """

    def __init__(
        self,
        disc_start: Whole,
        codebook_weight: Weight = 1.0,
        n_classes: Count | None = None,
        perceptual_loss: str = "lpips",
        pixel_loss: str = "l1",
        **options: Any,
    ) -> None:
        if perceptual_loss != "lpips":
            raise UserError(f"perceptual_loss '{perceptual_loss}' is not known; the only one is lpips")
        if pixel_loss not in ("l1", "l2"):
            raise UserError(f"pixel_loss '{pixel_loss}' is neither l1 nor l2")
        super().__init__(disc_start, **options)
        self.codebook_weight, self.n_classes, self.squared = codebook_weight, n_classes, pixel_loss == "l2"

    def forward(
        self,
        codebook_loss: Tensor,
        inputs: Tensor,
        reconstructions: Tensor,
        optimizer_idx: int,
        global_step: int,
        last_layer: Tensor | None = None,
        cond: Tensor | None = None,
        split: str = "train",
        predicted_indices: Tensor | None = None,
    ) -> tuple[Tensor, Logs]:
        """The loss of the autoencoder (`optimizer_idx` 0) or discriminator (1), and its parts for the log.

        Args:
            codebook_loss: of the quantizer.
            inputs, reconstructions: (B, C, H, W) in [-1, 1].
            last_layer: the decoder's last weight, where the adversarial term is balanced.
            predicted_indices: of the codes, logged as perplexity and usage where `n_classes` is known.
        """
        if optimizer_idx == 1:
            return self.discriminator_loss(inputs, reconstructions, cond, global_step, split)
        pixels = F.mse_loss if self.squared else F.l1_loss
        perceptual = self.perceptual(inputs, reconstructions)  # (B, 1, 1, 1)
        rec = pixels(reconstructions, inputs, reduction="none") + perceptual  # (B, C, H, W)
        nll, quant = rec.mean(), codebook_loss.mean()
        adversarial, parts = self.generator_loss(nll, reconstructions, cond, last_layer, global_step)
        loss = nll + adversarial + self.codebook_weight * quant
        own = {"total_loss": loss, "quant_loss": quant, "nll_loss": nll, "rec_loss": nll, "p_loss": perceptual.mean()}
        parts = {**own, **parts}
        if predicted_indices is not None and self.n_classes is not None:
            parts["perplexity"], parts["cluster_usage"] = measure_perplexity(predicted_indices, self.n_classes)
        return loss, named(parts, split)
