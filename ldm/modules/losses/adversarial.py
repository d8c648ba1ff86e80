"""What the adversarial first-stage losses share: LPIPS and taming's patch discriminator (Esser et al. 2021).

They are called once for the autoencoder (``optimizer_idx=0``) and once for the discriminator (``optimizer_idx=1``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ldm.arguments import Count, Depth, Weight, Whole
from ldm.modules.losses.lpips import LPIPS
from ldm.util import UserError

Logs = dict[str, Tensor]


class AdversarialLoss(nn.Module):
    """Base of the losses with a discriminator.

    Args:
        disc_start: step from which the adversarial terms count.
        pixelloss_weight: accepted for published configs, where it has no effect; pixels weigh 1.
        disc_num_layers, disc_in_channels, disc_ndf, use_actnorm: of the discriminator.
        disc_factor, disc_weight: of both adversarial terms, and of the autoencoder's.
        perceptual_weight: of LPIPS; with 0 no LPIPS is built.
        disc_conditional: the discriminator sees a condition (B, C, H, W) joined to the channels.
        disc_loss: "hinge" or "vanilla".
    """

    perceptual_loss: LPIPS | None

    def __init__(
        self,
        disc_start: Whole,
        pixelloss_weight: Weight = 1.0,
        disc_num_layers: Depth = 3,
        disc_in_channels: Count = 3,
        disc_factor: Weight = 1.0,
        disc_weight: Weight = 1.0,
        perceptual_weight: Weight = 1.0,
        use_actnorm: bool = False,
        disc_conditional: bool = False,
        disc_ndf: Count = 64,
        disc_loss: str = "hinge",
    ) -> None:
        super().__init__()
        from taming.modules.discriminator.model import NLayerDiscriminator, weights_init
        from taming.modules.losses.vqperceptual import hinge_d_loss, vanilla_d_loss

        losses = {"hinge": hinge_d_loss, "vanilla": vanilla_d_loss}
        if disc_loss not in losses:
            raise UserError(f"disc_loss '{disc_loss}' is neither hinge nor vanilla")
        self.disc_loss = losses[disc_loss]
        self.pixel_weight, self.perceptual_weight = pixelloss_weight, perceptual_weight
        self.discriminator_iter_start, self.disc_conditional = disc_start, disc_conditional
        self.disc_factor, self.discriminator_weight = disc_factor, disc_weight
        self.perceptual_loss = LPIPS() if perceptual_weight > 0 else None
        self.discriminator = NLayerDiscriminator(
            input_nc=disc_in_channels, n_layers=disc_num_layers, use_actnorm=use_actnorm, ndf=disc_ndf
        ).apply(weights_init)

    def prepare(self) -> None:
        """Fetch LPIPS's weights before the first step. UserError if they cannot be had."""
        if self.perceptual_loss is not None:
            self.perceptual_loss.prepare()

    def perceptual(self, inputs: Tensor, reconstructions: Tensor) -> Tensor:
        """Weighted LPIPS (B, 1, 1, 1); zero where it is off."""
        if self.perceptual_loss is None:
            return inputs.new_zeros(len(inputs), 1, 1, 1)
        return self.perceptual_weight * self.perceptual_loss(inputs.contiguous(), reconstructions.contiguous())

    def factor(self, global_step: int) -> float:
        """`disc_factor`, or 0 before `disc_start`."""
        return self.disc_factor if global_step >= self.discriminator_iter_start else 0.0

    def judge(self, images: Tensor, cond: Tensor | None) -> Tensor:
        """Logits (B, 1, h, w) of the discriminator for patches of images (B, C, H, W)."""
        if self.disc_conditional:
            if cond is None:
                raise UserError("disc_conditional needs the condition cond (B, C, H, W)")
            images = torch.cat([images, cond], dim=1)
        return self.discriminator(images.contiguous())

    def calculate_adaptive_weight(self, nll_loss: Tensor, g_loss: Tensor, last_layer: Tensor | None = None) -> Tensor:
        """lambda = |grad nll| / (|grad g| + 1e-4) at the decoder's last layer (Esser et al. 2021, eq. 7).

        Zero where no gradients are taken, as in validation, or the adversarial terms are off.
        """
        if last_layer is None or self.disc_factor <= 0 or not (torch.is_grad_enabled() and last_layer.requires_grad):
            return nll_loss.new_zeros(())
        (nll_grad,) = torch.autograd.grad(nll_loss, last_layer, retain_graph=True)
        (g_grad,) = torch.autograd.grad(g_loss, last_layer, retain_graph=True)
        weight = nll_grad.norm() / (g_grad.norm() + 1e-4)
        return weight.clamp(0.0, 1e4).detach() * self.discriminator_weight

    def generator_loss(
        self, nll: Tensor, reconstructions: Tensor, cond: Tensor | None, last_layer: Tensor | None, global_step: int
    ) -> tuple[Tensor, Logs]:
        """The autoencoder's adversarial term, weighted, and its parts for the log."""
        g_loss = -self.judge(reconstructions, cond).mean()
        weight, factor = self.calculate_adaptive_weight(nll, g_loss, last_layer), self.factor(global_step)
        parts = {"d_weight": weight, "disc_factor": torch.tensor(factor), "g_loss": g_loss.detach().mean()}
        return weight * factor * g_loss, parts

    def discriminator_loss(
        self, inputs: Tensor, reconstructions: Tensor, cond: Tensor | None, global_step: int, split: str
    ) -> tuple[Tensor, Logs]:
        """The discriminator's own loss, and its parts for the log under ``<split>/``."""
        real, fake = self.judge(inputs.detach(), cond), self.judge(reconstructions.detach(), cond)
        loss = self.factor(global_step) * self.disc_loss(real, fake)
        parts = {"disc_loss": loss, "logits_real": real.mean(), "logits_fake": fake.mean()}
        return loss, named(parts, split)


def named(parts: dict[str, Any], split: str) -> Logs:
    """`parts` detached, each name behind ``<split>/``."""
    return {f"{split}/{k}": v.detach() for k, v in parts.items()}
