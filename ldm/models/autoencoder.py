"""First stages: image to latent and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.arguments import Count, Weight, Whole
from ldm.models.first_stage import FirstStage
from ldm.models.training import one_cycle
from ldm.models.vq import VQModel, VQModelInterface
from ldm.modules import lean
from ldm.modules.distributions.distributions import DiagonalGaussianDistribution
from ldm.util import UserError

__all__ = ["AutoencoderKL", "IdentityFirstStage", "VQModel", "VQModelInterface"]


class AutoencoderKL(FirstStage):
    """Convolutional autoencoder with a Gaussian latent: (B, 3, H, W) in [-1, 1] to (B, embed_dim, H/f, W/f).

    Args:
        ddconfig, lossconfig: see :class:`FirstStage`; without a discriminator the loss is called as
            ``loss(image, reconstruction, posterior)``.
        embed_dim: channels of the latent.
        ckpt_path, ignore_keys: weights to begin from, and prefixes of names in them to leave out.
        fold: side of the square of pixels that the networks see as one with fold^2 times the channels: a cheap first
            halving (or more) of large images; `ddconfig` then has C fold^2 in and out channels.
        weight_decay, total_steps: of AdamW, and length of the one-cycle rate, without a discriminator.
        The others: see :class:`FirstStage`.
    """

    def __init__(
        self,
        ddconfig: Mapping[str, Any],
        lossconfig: Mapping[str, Any],
        embed_dim: Count,
        ckpt_path: str | Path | None = None,
        ignore_keys: Sequence[str] = (),
        image_key: str = "image",
        colorize_nlabels: Count | None = None,
        monitor: str | None = None,
        *,
        fold: Count = 1,
        weight_decay: Weight = 0.0,
        total_steps: Whole | None = None,
    ) -> None:
        super().__init__(ddconfig, lossconfig, image_key, monitor, colorize_nlabels)
        if not ddconfig.get("double_z", True):
            raise UserError("AutoencoderKL needs ddconfig.double_z: the encoder gives mean and log variance")
        if ddconfig["in_channels"] % fold**2 or ddconfig["out_ch"] % fold**2:
            raise UserError(
                f"fold {fold} makes {fold**2} channels of one: multiply ddconfig's in_channels and out_ch by it"
            )
        self.fold = fold
        self.embed_dim, self.weight_decay, self.total_steps = embed_dim, weight_decay, total_steps
        self.quant_conv = lean.Conv2d(2 * ddconfig["z_channels"], 2 * embed_dim, 1)
        self.post_quant_conv = lean.Conv2d(embed_dim, ddconfig["z_channels"], 1)
        if ckpt_path is not None:
            self.init_from_ckpt(ckpt_path, ignore_keys)

    def encode(self, x: Tensor) -> DiagonalGaussianDistribution:
        """The posterior over the latent of images (B, C, H, W) in [-1, 1]."""
        return DiagonalGaussianDistribution(self.quant_conv(self.encoder(F.pixel_unshuffle(x, self.fold))))

    def decode(self, z: Tensor) -> Tensor:
        """Latent (B, embed_dim, h, w) to images (B, C, f h, f w), about [-1, 1]."""
        return F.pixel_shuffle(self.decoder(self.post_quant_conv(z)), self.fold)

    def forward(self, input: Tensor, sample_posterior: bool = True) -> tuple[Tensor, DiagonalGaussianDistribution]:
        """Reconstruction and posterior of images (B, C, H, W)."""
        posterior = self.encode(input)
        return self.decode(posterior.sample() if sample_posterior else posterior.mode()), posterior

    @torch.no_grad()
    def normalize_latents(self, images: Tensor, batch_size: int = 32) -> tuple[Tensor, Tensor]:
        """Fold each latent channel's mean and standard deviation over `images` (B, C, H, W) into the 1x1 convolutions.

        Afterwards every channel of the latent has mean 0 and deviation 1 and reconstructions are the same, so that a
        scale factor of 1 serves all channels. Returns the old mean and deviation (embed_dim,).
        """
        modes = torch.cat([self.encode(part).mode() for part in images.split(batch_size)])
        mean, std = modes.mean((0, 2, 3)), modes.std((0, 2, 3))
        c = self.embed_dim
        # Encoder: z' = (z - mean) / std; the log variance falls by 2 log std.
        self.quant_conv.weight[:c] /= std[:, None, None, None]
        bias = self.quant_conv.bias
        assert bias is not None
        bias[:c] = (bias[:c] - mean) / std
        bias[c:] -= 2 * std.log()
        # Decoder: W z + b = (W std) z' + (W mean + b).
        post = self.post_quant_conv
        assert post.bias is not None
        post.bias += post.weight[:, :, 0, 0] @ mean
        post.weight *= std[None, :, None, None]
        return mean, std

    def reconstruct(self, images: Tensor, split: str) -> tuple[Tensor, DiagonalGaussianDistribution]:
        """Reconstructions, of a sample in training and of the mode otherwise, and the posterior."""
        return self(images, sample_posterior=split == "train")

    def adversarial_loss(
        self, images: Tensor, reconstructions: Tensor, extra: Any, optimizer_idx: int, split: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`LPIPSWithDiscriminator`; `extra` is the posterior."""
        where = (optimizer_idx, self.global_step)
        return self.loss(images, reconstructions, extra, *where, last_layer=self.get_last_layer(), split=split)

    def configure_optimizers(self) -> Any:
        """Adam for the autoencoder and for the discriminator; AdamW (betas 0.9, 0.99) for a plain loss."""
        if self.adversarial:
            own = (self.encoder, self.decoder, self.quant_conv, self.post_quant_conv)
            return self.adversarial_optimizers(own)
        params = [p for n, p in self.named_parameters() if not n.startswith("loss.")]
        optimizer = torch.optim.AdamW(params, lr=self.learning_rate, betas=(0.9, 0.99), weight_decay=self.weight_decay)
        return one_cycle(optimizer, self.learning_rate, self.total_steps, warm_up=0.05)

    @torch.no_grad()
    def log_images(self, batch: Mapping[str, Any], only_inputs: bool = False, **kwargs: Any) -> dict[str, Tensor]:
        """Inputs, reconstructions and decoded noise, each (B, C, H, W) in about [-1, 1]."""
        images = self.get_input(batch, self.image_key).to(self.device)
        if only_inputs:
            return {"inputs": images}
        reconstructions, posterior = self(images, sample_posterior=False)
        samples = self.decode(torch.randn_like(posterior.mode()))
        logs = {"inputs": images, "reconstructions": reconstructions, "samples": samples}
        return {k: self.to_rgb(v) if v.shape[1] > 3 else v for k, v in logs.items()}


class IdentityFirstStage(nn.Module):
    """No first stage: diffusion on the pixels themselves."""

    def __init__(self, *args: Any, vq_interface: bool = False, **kwargs: Any) -> None:
        super().__init__()
        self.vq_interface = vq_interface

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """`x` itself."""
        return x

    encode = decode = forward

    def quantize(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """`x` itself, with empty loss and indices where the VQ interface is asked for."""
        return (x, None, [None, None, None]) if self.vq_interface else x
