"""Classifiers of noisy latents, for the evaluation of a diffusion model or its guidance."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.arguments import Count, Weight
from ldm.lightning import LightningModule
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.training import frozen, images_of, scheduled
from ldm.modules.diffusionmodules.openaimodel import EncoderUNetModel, UNetModel
from ldm.util import UserError, instantiate_from_config, load_config, load_into, load_state_dict
from ldm.util import disabled_train as disabled_train  # published here

NETWORKS: dict[str, type[nn.Module]] = {"class_label": EncoderUNetModel, "segmentation": UNetModel}


def find_config(path: str | Path) -> Path:
    """The config of a diffusion model: a YAML file, or a run's ``config.yaml`` or newest ``configs/*-project.yaml``."""
    path = Path(path)
    if path.is_file():
        return path
    found = [path / "config.yaml"] if (path / "config.yaml").is_file() else sorted(path.glob("configs/*-project.yaml"))
    if not found:
        raise UserError(f"no config of a diffusion model at {path}; name a YAML file or the folder of a run")
    return found[-1]  # the names begin with the date


class NoisyLatentImageClassifier(LightningModule):
    """Predicts the class of an image, or of each pixel, from its noised latent.

    The network has the shape of the diffusion model's own: the downward half for classes ("class_label"), all of it
    for "segmentation".

    Args:
        diffusion_path: config of the diffusion model, or the folder of its run.
        ckpt_path, diffusion_ckpt_path: weights of the classifier, and of the model whose first stage encodes.
        pool: head of the classifier, see :class:`EncoderUNetModel`.
        label_key: entry of a batch with the labels, and kind of the network; by default the model's cond_stage_key.
        scheduler_config, weight_decay: of the learning rate and of AdamW.
        log_steps: noise levels in the images and in the validation's accuracies.
        monitor: metric that checkpoints are ranked by.
    """

    diffusion_model: Any

    def __init__(
        self,
        diffusion_path: str | Path,
        num_classes: Count,
        ckpt_path: str | Path | None = None,
        pool: str = "attention",
        label_key: str | None = None,
        diffusion_ckpt_path: str | Path | None = None,
        scheduler_config: Mapping[str, Any] | None = None,
        weight_decay: Weight = 1e-2,
        log_steps: int = 10,
        monitor: str = "val/loss",
    ) -> None:
        super().__init__()
        self.num_classes, self.monitor = num_classes, monitor
        self.scheduler_config, self.weight_decay, self.learning_rate = scheduler_config, weight_decay, 1e-4
        config = load_config(find_config(diffusion_path))
        if "model" not in config:
            raise UserError(f"the config of {diffusion_path} has no 'model' section")
        self.diffusion_config, self.diffusion_ckpt_path = config.model, diffusion_ckpt_path
        self.load_diffusion()
        self.label_key = label_key or self.diffusion_model.cond_stage_key
        if self.label_key not in NETWORKS:
            raise UserError(f"label_key '{self.label_key}' is none of {', '.join(NETWORKS)}; set label_key")
        if not 1 <= log_steps <= self.diffusion_model.num_timesteps:
            raise UserError(f"log_steps must lie in 1..{self.diffusion_model.num_timesteps}, not {log_steps}")
        self.log_steps, self.log_time_interval = log_steps, self.diffusion_model.num_timesteps // log_steps
        self.load_classifier(ckpt_path, pool)

    def load_diffusion(self) -> None:
        """Build the diffusion model, frozen."""
        config, ckpt = self.diffusion_config, self.diffusion_ckpt_path
        model = instantiate_from_config(config, ckpt_path=None if ckpt is None else str(ckpt))
        if not isinstance(model, LatentDiffusion):
            raise UserError(f"a classifier of noisy latents needs a latent diffusion model, not {config.target}")
        self.diffusion_model = frozen(model)

    def load_classifier(self, ckpt_path: str | Path | None, pool: str) -> None:
        """Build a network of the diffusion model's shape, from its latents to classes; load its weights."""
        config, network = self.diffusion_config.params.unet_config.params, NETWORKS[self.label_key]
        options = {**config, "in_channels": config["out_channels"], "out_channels": self.num_classes, "pool": pool}
        known = inspect.signature(network).parameters  # the encoder half has no context
        self.model = network(**{k: v for k, v in options.items() if k in known})
        if ckpt_path is not None:
            self.init_from_ckpt(ckpt_path)

    def init_from_ckpt(self, path: str | Path, ignore_keys: Sequence[str] = (), only_model: bool = False) -> None:
        """Load the classifier's weights by name (those under ``model.`` of a training checkpoint, and no others)."""
        state = {k: v for k, v in load_state_dict(path).items() if not k.startswith(tuple(ignore_keys))}
        own = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
        load_into(self.model, own or state, f"checkpoint {path}", ignore_keys)

    def get_x_noisy(self, x: Tensor, t: Tensor, noise: Tensor | None = None) -> Tensor:
        """Latents x_0 (B, C, h, w) noised to steps t (B,)."""
        return self.diffusion_model.q_sample(x, t, noise)

    def forward(self, x_noisy: Tensor, t: Tensor) -> Tensor:
        """Logits (B, classes), or (B, classes, h, w) for segmentations, of x_t (B, C, h, w) at steps t (B,)."""
        return self.model(x_noisy, t)

    def get_input(self, batch: Mapping[str, Any], k: str) -> Tensor:
        """Images (B, C, H, W) at `k` of a batch."""
        return images_of(batch, k)

    def get_conditioning(self, batch: Mapping[str, Any], k: str | None = None) -> Tensor:
        """The labels (B,) of a batch, or segmentations (B, H, W, classes) as (B, classes, h, w) of latent size."""
        k = self.label_key if k is None else k
        if k not in batch:
            raise UserError(f"the batch has no labels '{k}'; it has {', '.join(batch)}")
        targets = torch.as_tensor(batch[k], device=self.device)
        if self.label_key == "segmentation":
            encoder = getattr(self.diffusion_model.first_stage_model, "encoder", None)
            factor = 1 if encoder is None else 2 ** (encoder.num_resolutions - 1)
            maps = targets.permute(0, 3, 1, 2).float()  # (B, classes, H, W)
            size = (maps.shape[2] // factor, maps.shape[3] // factor)
            return F.interpolate(maps, size=size, mode="nearest")
        return targets.long()

    @staticmethod
    def compute_top_k(logits: Tensor, labels: Tensor, k: int, reduction: str = "mean") -> Tensor:
        """Share of labels (B, ...) among the k best classes of logits (B, classes, ...); "none": 0 or 1 for each."""
        best = logits.topk(min(k, logits.shape[1]), dim=1).indices
        hits = (best == labels[:, None]).any(1).float()
        return hits if reduction == "none" else hits.mean()

    def shared_step(self, batch: Mapping[str, Any], t: int | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Loss, logits, x_t and targets of a batch, at step `t` or at steps drawn uniformly."""
        x = self.diffusion_model.latents(batch)  # (B, C, h, w)
        targets = self.get_conditioning(batch)
        targets = targets.argmax(1) if targets.ndim == 4 else targets
        steps = self.diffusion_model.num_timesteps
        if t is None:
            times = torch.randint(0, steps, (len(x),), device=x.device)
        else:
            times = torch.full((len(x),), t, device=x.device, dtype=torch.long)
        x_noisy = self.get_x_noisy(x, times)
        logits = self(x_noisy, times)
        return F.cross_entropy(logits, targets), logits, x_noisy, targets

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """The loss on one batch."""
        loss, logits, _, targets = self.shared_step(batch)
        self.write_logs(loss, logits, targets)
        return loss

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """The loss on unseen images, and the accuracy at each of `log_steps` noise levels."""
        loss, logits, _, targets = self.shared_step(batch)
        self.write_logs(loss, logits, targets)
        for t in self.noise_levels():
            _, logits, _, targets = self.shared_step(batch, t)
            self.log(f"val/top1@t{t}", self.compute_top_k(logits, targets, 1), batch_size=len(targets))
        return loss

    def noise_levels(self) -> range:
        """The steps that images and accuracies are made at."""
        return range(0, self.log_steps * self.log_time_interval, self.log_time_interval)

    def write_logs(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Log loss and accuracies, under ``train/`` or ``val/``."""
        split = "train" if self.training else "val"
        shares = {f"{split}/top{k}": self.compute_top_k(logits.detach(), targets, k) for k in (1, 5)}
        parts = {f"{split}/loss": loss.detach(), **shares}
        self.log_dict(parts, prog_bar=True, on_step=split == "train", on_epoch=split == "val", batch_size=len(targets))

    def configure_optimizers(self) -> Any:
        """AdamW, with a LambdaLR where the config has a scheduler."""
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        return scheduled(self.scheduler_config, optimizer)

    @torch.no_grad()
    def log_images(self, batch: Mapping[str, Any], N: int = 8, **kwargs: Any) -> dict[str, Tensor]:
        """Images, and for every noise level their decoded x_t; for segmentations also what is predicted."""
        batch = {k: v[:N] for k, v in batch.items()}
        logs = {}
        if self.diffusion_model.first_stage_key in batch:
            logs["inputs"] = batch[self.diffusion_model.first_stage_key].permute(0, 3, 1, 2)
        for t in self.noise_levels():
            _, logits, x_noisy, _ = self.shared_step(batch, t)
            logs[f"inputs@t{t}"] = self.diffusion_model.decode_first_stage(x_noisy)
            if self.label_key == "segmentation":
                shade = logits.argmax(1, keepdim=True) / max(self.num_classes - 1, 1)  # (B, 1, h, w) in [0, 1]
                logs[f"pred@t{t}"] = 2.0 * shade - 1.0
        return logs
