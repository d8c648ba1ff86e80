"""What the autoencoders share: checkpoints, batches, images, and training with or without a discriminator."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ldm.arguments import wrong_value
from ldm.lightning import LightningModule
from ldm.models.training import colored, images_of
from ldm.modules.diffusionmodules.model import Decoder, Encoder
from ldm.modules.losses.adversarial import AdversarialLoss
from ldm.modules.losses.contperceptual import DummyLoss
from ldm.suggest import did_you_mean
from ldm.util import UserError, instantiate_from_config, load_into, load_state_dict
from ldm.weights import fit_names

# Published configs name taming's loss; ours is the same one, and fetches nothing when it is built.
LOSSES = {"taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator": "ldm.modules.losses.VQLPIPSWithDiscriminator"}


def check_ddconfig(ddconfig: Mapping[str, Any]) -> None:
    """UserError for keys that neither :class:`Encoder` nor :class:`Decoder` knows, missing ones, and wrong values."""
    parameters = [p for part in (Encoder, Decoder) for p in inspect.signature(part).parameters.values()]
    arguments = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    for key in ddconfig:
        if key not in arguments:
            raise UserError(f"ddconfig knows no key '{key}'{did_you_mean(key, arguments)}")
    for parameter in parameters:
        needed = parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
        if needed and parameter.name not in ddconfig:
            raise UserError(f"ddconfig lacks {parameter.name}; see {Encoder.__module__}.Encoder")
    for part in (Encoder, Decoder):
        if wrong := wrong_value(part, ddconfig):
            raise UserError(f"ddconfig: {wrong}")


class FirstStage(LightningModule):
    """An encoder, a decoder and a loss; subclasses say what lies between.

    With an :class:`AdversarialLoss` the autoencoder and the discriminator have an optimizer each and take turns on
    every batch (Esser et al. 2021). Both see the same reconstruction, and one batch counts as one step of the
    trainer, as `disc_start` and `max_steps` expect.

    Args:
        ddconfig: arguments of :class:`Encoder` and :class:`Decoder`.
        lossconfig: target and params of the training loss.
        image_key: entry of a batch that holds the images, (B, H, W, C).
        monitor: metric that checkpoints are ranked by.
        colorize_nlabels: labels of segmentations, which get a random color each in images.
    """

    encoder: Encoder
    decoder: Decoder
    quant_conv: nn.Conv2d
    post_quant_conv: nn.Conv2d
    colorize: Tensor
    betas = (0.5, 0.9)  # of Adam, with a discriminator
    accumulate_grad_batches = 1  # batches a step of the optimizers, with a discriminator; without, it is the trainer's

    def __init__(
        self,
        ddconfig: Mapping[str, Any],
        lossconfig: Mapping[str, Any],
        image_key: str = "image",
        monitor: str | None = None,
        colorize_nlabels: int | None = None,
    ) -> None:
        super().__init__()
        check_ddconfig(ddconfig)
        self.image_key, self.monitor = image_key, monitor
        self.learning_rate = 4.5e-6
        self.encoder = Encoder(**ddconfig)
        self.decoder = Decoder(**ddconfig)
        target = lossconfig.get("target", "")
        self.loss = instantiate_from_config({**lossconfig, "target": LOSSES.get(target, target)})
        self.adversarial = isinstance(self.loss, AdversarialLoss)
        self.automatic_optimization = not self.adversarial
        if colorize_nlabels is not None:
            self.register_buffer("colorize", torch.randn(3, colorize_nlabels, 1, 1))

    def init_from_ckpt(self, path: str | Path, ignore_keys: Sequence[str] = ()) -> None:
        """Load weights by name, but the loss's own and those that begin with one of `ignore_keys`.

        Not into a model on the meta device, which is built for a checkpoint that holds all its weights.
        """
        if self.quant_conv.weight.is_meta:
            return
        found = fit_names(load_state_dict(path), self.state_dict())
        state = {k: v for k, v in found.items() if not k.startswith(tuple(ignore_keys))}
        training_only = ("loss.", "model_ema.")
        load_into(self, state, f"checkpoint {path}", (*ignore_keys, *training_only), training_only)

    def get_last_layer(self) -> Tensor:
        """The weight that an adversarial loss balances its gradient at."""
        return self.decoder.conv_out.weight

    def get_input(self, batch: Mapping[str, Any], k: str) -> Tensor:
        """Images (B, C, H, W) at `k` of a batch."""
        return images_of(batch, k)

    def to_rgb(self, x: Tensor) -> Tensor:
        """An image (B, 3, H, W) in [-1, 1] of label maps (B, labels, H, W), in random colors."""
        if not hasattr(self, "colorize"):
            raise UserError("images of segmentations need colorize_nlabels, the number of labels, in the config")
        return colored(x, self.colorize)

    @abstractmethod
    def reconstruct(self, images: Tensor, split: str) -> tuple[Tensor, Any]:
        """Reconstructions (B, C, H, W), and what else the loss needs."""

    @abstractmethod
    def adversarial_loss(
        self, images: Tensor, reconstructions: Tensor, extra: Any, optimizer_idx: int, split: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the autoencoder (`optimizer_idx` 0) or of the discriminator (1), and its parts."""

    def on_fit_start(self) -> None:
        """Refuse a loss that cannot train, before any data are read; fetch what the loss needs."""
        if isinstance(self.loss, (nn.Identity, DummyLoss)):
            raise UserError(
                f"lossconfig {type(self.loss).__name__} trains nothing; "
                "use ldm.modules.losses.LPIPSWithDiscriminator or another loss"
            )
        if isinstance(self.loss, AdversarialLoss):
            self.loss.prepare()

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor | None:
        """The loss on one batch; with a discriminator, both optimizers' turns."""
        if not self.adversarial:
            return self._plain_step(batch, "train")
        images = self.get_input(batch, self.image_key)
        reconstructions, extra = self.reconstruct(images, "train")
        optimizers: Any = self.optimizers()
        # Only the autoencoder's turns move the trainer's step. The loop sets these hooks anew for every batch.
        optimizers[1]._on_before_step = optimizers[1]._on_after_step = lambda: None
        due = (batch_idx + 1) % self.accumulate_grad_batches == 0 or self.trainer.is_last_batch
        for index, optimizer in enumerate(optimizers):
            self.toggle_optimizer(optimizer)
            loss, parts = self.adversarial_loss(images, reconstructions, extra, index, "train")
            self.manual_backward(loss / self.accumulate_grad_batches)
            if due:
                optimizer.step()
                optimizer.zero_grad()
            self.untoggle_optimizer(optimizer)
            self.log_dict(parts, prog_bar=index == 0, on_step=True, on_epoch=False, batch_size=len(images))
        for scheduler in self._schedulers() if due else ():
            scheduler.step()
        return None

    def _schedulers(self) -> list[Any]:
        schedulers = self.lr_schedulers()
        return [] if schedulers is None else schedulers if isinstance(schedulers, list) else [schedulers]

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor | None:
        """The losses on unseen images, logged under ``val/``."""
        return self._validate(batch, "val")

    def _validate(self, batch: Mapping[str, Any], split: str) -> Tensor | None:
        if not self.adversarial:
            return self._plain_step(batch, split)
        images = self.get_input(batch, self.image_key)
        reconstructions, extra = self.reconstruct(images, split)
        for index in (0, 1):
            _, parts = self.adversarial_loss(images, reconstructions, extra, index, split)
            self.log_dict(parts, on_step=False, on_epoch=True, batch_size=len(images), sync_dist=True)
        return None

    def _plain_step(self, batch: Mapping[str, Any], split: str) -> Tensor:
        images = self.get_input(batch, self.image_key)
        reconstructions, extra = self.reconstruct(images, split)
        loss, parts = self.loss(images, reconstructions, extra)
        logs = {f"{split}/{k}": v for k, v in parts.items()}
        self.log_dict(logs, prog_bar=True, on_step=split == "train", on_epoch=split != "train", batch_size=len(images))
        return loss

    def adversarial_optimizers(self, own: Sequence[nn.Module], factor: float = 1.0) -> list[torch.optim.Optimizer]:
        """Adam for the modules `own`, at `factor` times the learning rate, and for the discriminator."""
        weights = [p for module in own for p in module.parameters()]
        return [
            torch.optim.Adam(weights, lr=factor * self.learning_rate, betas=self.betas),
            torch.optim.Adam(self.loss.discriminator.parameters(), lr=self.learning_rate, betas=self.betas),
        ]
