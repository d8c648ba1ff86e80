"""Vector-quantized first stages (Esser et al. 2021), on taming's quantizer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.arguments import Count, Weight
from ldm.lightning import Callback
from ldm.models.first_stage import FirstStage
from ldm.models.training import AfterStep, scheduled
from ldm.modules import lean
from ldm.modules.ema import LitEma
from ldm.util import UserError

COMMITMENT = 0.25  # weight of the encoder's part in the quantizer's loss


class VQModel(FirstStage):
    """Convolutional autoencoder whose latent is made of codebook entries: (B, 3, H, W) to (B, embed_dim, H/f, W/f).

    Args:
        n_embed, embed_dim: entries of the codebook, and their width.
        ckpt_path, ignore_keys: weights to begin from, and prefixes of names in them to leave out.
        batch_resize_range: (lowest, highest) side that training batches are resized to, in steps of 16.
        scheduler_config: of both optimizers' learning rates.
        lr_g_factor: the autoencoder's learning rate over the discriminator's.
        remap, sane_index_shape: of the quantizer: a file of the indices in use; indices as maps (B, h, w).
        use_ema: keep averaged weights, for validation.
        The others: see :class:`FirstStage`.
    """

    def __init__(
        self,
        ddconfig: Mapping[str, Any],
        lossconfig: Mapping[str, Any],
        n_embed: Count,
        embed_dim: Count,
        ckpt_path: str | Path | None = None,
        ignore_keys: Sequence[str] = (),
        image_key: str = "image",
        colorize_nlabels: int | None = None,
        monitor: str | None = None,
        batch_resize_range: Sequence[int] | None = None,
        scheduler_config: Mapping[str, Any] | None = None,
        lr_g_factor: Weight = 1.0,
        remap: str | None = None,
        sane_index_shape: bool = False,
        use_ema: bool = False,
    ) -> None:
        from taming.modules.vqvae.quantize import VectorQuantizer2

        super().__init__(ddconfig, lossconfig, image_key, monitor, colorize_nlabels)
        if ddconfig.get("double_z", True):
            raise UserError("a VQ model needs ddconfig.double_z: false, since its encoder gives no variance")
        self.n_embed, self.embed_dim = n_embed, embed_dim
        self.batch_resize_range, self.scheduler_config = batch_resize_range, scheduler_config
        self.lr_g_factor, self.use_ema = lr_g_factor, use_ema
        self.quantize = VectorQuantizer2(
            n_embed, embed_dim, beta=COMMITMENT, remap=remap, sane_index_shape=sane_index_shape
        )
        self.quant_conv = lean.Conv2d(ddconfig["z_channels"], embed_dim, 1)
        self.post_quant_conv = lean.Conv2d(embed_dim, ddconfig["z_channels"], 1)
        if use_ema:
            self.model_ema = LitEma(self)
        if ckpt_path is not None:
            self.init_from_ckpt(ckpt_path, ignore_keys)

    def encode_to_prequant(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] to the latent before it is quantized, (B, embed_dim, h, w)."""
        return self.quant_conv(self.encoder(x))

    def encode(self, x: Tensor) -> Any:
        """Images to (latent (B, embed_dim, h, w), the quantizer's loss, (perplexity, one-hot codes, indices))."""
        return self.quantize(self.encode_to_prequant(x))

    def decode(self, quant: Tensor) -> Tensor:
        """Quantized latent (B, embed_dim, h, w) to images (B, C, f h, f w), about [-1, 1]."""
        return self.decoder(self.post_quant_conv(quant))

    def decode_code(self, code_b: Tensor) -> Tensor:
        """Images of codebook indices (B, h, w)."""
        shape = (*code_b.shape, self.embed_dim)
        return self.decode(self.quantize.get_codebook_entry(code_b.flatten(), shape))

    def forward(self, input: Tensor, return_pred_indices: bool = False) -> tuple[Tensor, ...]:
        """Reconstruction and quantizer's loss of images (B, C, H, W); with indices where asked for."""
        quant, difference, (_, _, indices) = self.quantize(self.encode_to_prequant(input))
        reconstruction = self.decode(quant)
        return (reconstruction, difference, indices) if return_pred_indices else (reconstruction, difference)

    @contextlib.contextmanager
    def ema_scope(self, context: str | None = None) -> Iterator[None]:
        """Run a block with the averaged weights, where the model keeps them."""
        with self.model_ema.scope(self) if self.use_ema else contextlib.nullcontext():
            yield

    def get_input(self, batch: Mapping[str, Any], k: str) -> Tensor:
        """As every first stage's; in training, resized to a random side of `batch_resize_range`."""
        x = super().get_input(batch, k)
        if self.batch_resize_range is None or not self.training:
            return x
        low, high = self.batch_resize_range
        sides = range(low, high + 16, 16)
        # The first batches are the largest, so that too little memory shows at once.
        side = high if self.global_step <= 4 else sides[int(torch.randint(len(sides), ()))]
        return x if side == x.shape[2] else F.interpolate(x, size=side, mode="bicubic")

    def reconstruct(self, images: Tensor, split: str) -> tuple[Tensor, Any]:
        """Reconstructions, and (quantizer's loss, indices)."""
        reconstructions, difference, indices = self(images, return_pred_indices=True)
        return reconstructions, (difference, indices)

    def adversarial_loss(
        self, images: Tensor, reconstructions: Tensor, extra: Any, optimizer_idx: int, split: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`VQLPIPSWithDiscriminator`."""
        difference, indices = extra
        options = {"last_layer": self.get_last_layer(), "split": split, "predicted_indices": indices}
        return self.loss(difference, images, reconstructions, optimizer_idx, self.global_step, **options)

    def on_fit_start(self) -> None:
        """Refuse a loss without a codebook term."""
        super().on_fit_start()
        if not self.adversarial:
            raise UserError("a VQ model trains with ldm.modules.losses.VQLPIPSWithDiscriminator; set it as lossconfig")

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """The losses on unseen images under ``val/`` and, with averaged weights, under ``val_ema/``."""
        self._validate(batch, "val")
        if self.use_ema:
            with self.ema_scope():
                self._validate(batch, "val_ema")

    def configure_callbacks(self) -> list[Callback]:
        """What calls :meth:`after_step`."""
        return [AfterStep()]

    def after_step(self) -> None:
        """Move the averaged weights."""
        if self.use_ema:
            self.model_ema(self)

    def configure_optimizers(self) -> Any:
        """Adam for the autoencoder and for the discriminator, with a LambdaLR each where the config has one."""
        own = (self.encoder, self.decoder, self.quantize, self.quant_conv, self.post_quant_conv)
        return scheduled(self.scheduler_config, *self.adversarial_optimizers(own, self.lr_g_factor))

    @torch.no_grad()
    def log_images(
        self, batch: Mapping[str, Any], only_inputs: bool = False, plot_ema: bool = False, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Inputs and reconstructions (also with averaged weights), (B, C, H, W) in about [-1, 1]."""
        images = self.get_input(batch, self.image_key).to(self.device)
        if only_inputs:
            return {"inputs": images}
        logs = {"inputs": images, "reconstructions": self(images)[0]}
        if plot_ema and self.use_ema:
            with self.ema_scope():
                logs["reconstructions_ema"] = self(images)[0]
        return {k: self.to_rgb(v) if v.shape[1] > 3 else v for k, v in logs.items()}


class VQModelInterface(VQModel):
    """A VQ model as first stage of a diffusion model: the latent is quantized by the decoder, not by the encoder."""

    def __init__(self, embed_dim: Count, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, embed_dim=embed_dim, **kwargs)  # type: ignore[misc]

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] to the latent before it is quantized, (B, embed_dim, h, w)."""
        return self.encode_to_prequant(x)

    def decode(self, h: Tensor, force_not_quantize: bool = False) -> Tensor:
        """Latent (B, embed_dim, h, w), quantized unless it is said not to, to images (B, C, f h, f w)."""
        return super().decode(h if force_not_quantize else self.quantize(h)[0])

    def on_fit_start(self) -> None:
        """Refuse training: the interface has no quantizer's loss."""
        raise UserError("a VQModelInterface is a first stage to use; train it as ldm.models.autoencoder.VQModel")
