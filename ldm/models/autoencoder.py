"""First stages: image to latent and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from ldm.modules.diffusionmodules.model import Decoder, Encoder
from ldm.modules.distributions.distributions import DiagonalGaussianDistribution
from ldm.util import instantiate_from_config, load_into, load_state_dict


class AutoencoderKL(pl.LightningModule):
    """Convolutional autoencoder with a Gaussian latent: (B, 3, H, W) in [-1, 1] to (B, embed_dim, H/f, W/f).

    Args:
        ddconfig: arguments of :class:`Encoder` and :class:`Decoder`.
        lossconfig: target and params of the training loss, called as ``loss(image, reconstruction, posterior)``.
        embed_dim: channels of the latent.
        ckpt_path: weights to begin from.
        ignore_keys: prefixes of names in `ckpt_path` to leave out.
        image_key: entry of a batch that holds the images, (B, H, W, C).
        monitor: metric that checkpoints are ranked by.
        weight_decay: of AdamW.
        total_steps: length of the one-cycle learning rate; constant rate where None.
    """

    def __init__(
        self,
        ddconfig: Mapping[str, Any],
        lossconfig: Mapping[str, Any],
        embed_dim: int,
        ckpt_path: str | Path | None = None,
        ignore_keys: Sequence[str] = (),
        image_key: str = "image",
        colorize_nlabels: int | None = None,
        monitor: str | None = None,
        weight_decay: float = 0.0,
        total_steps: int | None = None,
    ) -> None:
        super().__init__()
        if not ddconfig["double_z"]:
            raise ValueError("AutoencoderKL needs ddconfig.double_z: the encoder gives mean and log variance")
        self.image_key, self.embed_dim, self.monitor = image_key, embed_dim, monitor
        self.weight_decay, self.total_steps = weight_decay, total_steps
        self.learning_rate = 4.5e-6
        self.encoder = Encoder(**ddconfig)
        self.decoder = Decoder(**ddconfig)
        self.loss = instantiate_from_config(lossconfig)
        self.quant_conv = nn.Conv2d(2 * ddconfig["z_channels"], 2 * embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, ddconfig["z_channels"], 1)
        if colorize_nlabels is not None:
            self.register_buffer("colorize", torch.randn(3, colorize_nlabels, 1, 1))
        if ckpt_path is not None:
            self.init_from_ckpt(ckpt_path, ignore_keys)

    def init_from_ckpt(self, path: str | Path, ignore_keys: Sequence[str] = ()) -> None:
        """Load weights by name, leaving out names that begin with one of `ignore_keys`, and the loss's own."""
        state = {k: v for k, v in load_state_dict(path).items() if not k.startswith(tuple(ignore_keys))}
        load_into(self, state, f"checkpoint {path}", (*ignore_keys, "loss."), ("loss.",))

    def encode(self, x: Tensor) -> DiagonalGaussianDistribution:
        """The posterior over the latent of images (B, C, H, W) in [-1, 1]."""
        return DiagonalGaussianDistribution(self.quant_conv(self.encoder(x)))

    def decode(self, z: Tensor) -> Tensor:
        """Latent (B, embed_dim, h, w) to images (B, C, f h, f w), about [-1, 1]."""
        return self.decoder(self.post_quant_conv(z))

    def forward(self, x: Tensor, sample_posterior: bool = True) -> tuple[Tensor, DiagonalGaussianDistribution]:
        """Reconstruction and posterior of images (B, C, H, W)."""
        posterior = self.encode(x)
        return self.decode(posterior.sample() if sample_posterior else posterior.mode()), posterior

    def get_last_layer(self) -> Tensor:
        """The weight that an adversarial loss balances its gradient at."""
        return self.decoder.conv_out.weight

    @torch.no_grad()
    def normalise_latents(self, images: Tensor, batch_size: int = 32) -> tuple[Tensor, Tensor]:
        """Fold each latent channel's mean and standard deviation over `images` (B, C, H, W) into the 1x1 convolutions.

        Afterwards every channel of the latent has mean 0 and deviation 1 while reconstructions stay the same, so
        that one scalar scale factor of 1 serves all channels. Returns the old mean and deviation (embed_dim,).
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

    # ---------------------------------------------------------------------------------------- training

    def get_input(self, batch: Mapping[str, Any], key: str) -> Tensor:
        """Images (B, H, W, C) or (B, H, W) of a batch as (B, C, H, W) float32."""
        x = batch[key]
        x = x[..., None] if x.ndim == 3 else x
        return x.permute(0, 3, 1, 2).contiguous().float()

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """The loss on one batch."""
        return self._step(batch, "train")

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """The same on unseen images; logs ``val/rec_loss`` and ``val/psnr``."""
        return self._step(batch, "val")

    def _step(self, batch: Mapping[str, Any], split: str) -> Tensor:
        images = self.get_input(batch, self.image_key)
        reconstructions, posterior = self(images, sample_posterior=split == "train")
        loss, parts = self.loss(images, reconstructions, posterior)
        logs = {f"{split}/{k}": v for k, v in parts.items()}
        self.log_dict(logs, prog_bar=True, on_step=split == "train", on_epoch=split == "val", batch_size=len(images))
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW as published (betas 0.5, 0.9 suit a discriminator; plain losses take 0.9, 0.99)."""
        params = [p for n, p in self.named_parameters() if not n.startswith("loss.")]
        optimiser = torch.optim.AdamW(
            params, lr=self.learning_rate, betas=(0.9, 0.99), weight_decay=self.weight_decay, fused=True
        )
        if self.total_steps is None:
            return optimiser
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, self.learning_rate, total_steps=self.total_steps + 1, pct_start=0.05
        )
        return [optimiser], [{"scheduler": schedule, "interval": "step"}]

    @torch.no_grad()
    def log_images(self, batch: Mapping[str, Any], only_inputs: bool = False, **kwargs: Any) -> dict[str, Tensor]:
        """Inputs, reconstructions and decoded noise, each (B, C, H, W) in about [-1, 1]."""
        images = self.get_input(batch, self.image_key).to(self.device)
        if only_inputs:
            return {"inputs": images}
        reconstructions, posterior = self(images, sample_posterior=False)
        samples = self.decode(torch.randn_like(posterior.mode()))
        return {"inputs": images, "reconstructions": reconstructions, "samples": samples}


class IdentityFirstStage(nn.Module):
    """No first stage: diffusion on the pixels themselves."""

    def __init__(self, *args: Any, vq_interface: bool = False, **kwargs: Any) -> None:
        super().__init__()
        self.vq_interface = vq_interface

    def encode(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """`x` itself."""
        return x

    def decode(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """`x` itself."""
        return x

    def quantize(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """`x` itself, with empty loss and indices where the VQ interface is asked for."""
        return (x, None, [None, None, None]) if self.vq_interface else x

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """`x` itself."""
        return x
