"""Denoising diffusion in the latent space of a first stage (Rombach et al. 2022)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ldm.models.autoencoder import IdentityFirstStage
from ldm.models.diffusion.gaussian import DDPM, DiffusionWrapper, noise_buffers
from ldm.models.diffusion.options import LatentOptions, LossOptions, ModelOptions, NoiseOptions, take
from ldm.modules.distributions.distributions import DiagonalGaussianDistribution
from ldm.util import disabled_train, instantiate_from_config


class LatentDiffusion(DDPM):
    """Diffusion on the latents of a frozen first stage, conditioned on text, classes, images or layouts."""

    scale_factor: Tensor
    first_stage_model: Any
    cond_stage_model: Any

    groups = (NoiseOptions, LossOptions, ModelOptions, LatentOptions)

    def __init__(
        self,
        first_stage_config: Mapping[str, Any],
        cond_stage_config: Mapping[str, Any] | str,
        unet_config: Mapping[str, Any],
        **options: Any,
    ) -> None:
        latent = take(LatentOptions, options)
        unconditional = cond_stage_config == "__is_unconditional__"
        if options.get("conditioning_key") is None and not unconditional:
            options["conditioning_key"] = "concat" if latent.concat_mode else "crossattn"
        ckpt_path, ignore_keys = options.pop("ckpt_path", None), options.pop("ignore_keys", ())
        super().__init__(unet_config, **options)
        self.latent = latent
        self.cond_stage_key, self.cond_stage_trainable = latent.cond_stage_key, latent.cond_stage_trainable
        self.cond_stage_forward = latent.cond_stage_forward
        scale = torch.tensor(float(latent.scale_factor), device="cpu")
        self.register_buffer("scale_factor", scale, persistent=latent.scale_by_std)
        self.first_stage_model = self._frozen(instantiate_from_config(first_stage_config))
        self.cond_stage_model = self._cond_stage(cond_stage_config)
        if ckpt_path is not None:
            self.init_from_ckpt(ckpt_path, ignore_keys)

    @staticmethod
    def _frozen(module: nn.Module) -> nn.Module:
        module.eval().requires_grad_(False)
        module.train = disabled_train.__get__(module)  # type: ignore[method-assign]
        return module

    def _cond_stage(self, config: Mapping[str, Any] | str) -> nn.Module | None:
        """The conditioner; the first stage itself or none at all for the published markers."""
        if config == "__is_first_stage__":
            return self.first_stage_model
        if config == "__is_unconditional__":
            return None
        module = instantiate_from_config(config)
        return module if self.cond_stage_trainable else self._frozen(module)

    def reset_buffers(self) -> None:
        """As DDPM's, and the scale factor where the config gives it."""
        super().reset_buffers()
        if not self.latent.scale_by_std:
            self.scale_factor = torch.tensor(float(self.latent.scale_factor))
        self.logvar = self.logvar if isinstance(self.logvar, nn.Parameter) else torch.full(
            (self.num_timesteps,), self.objective.logvar_init
        )

    # --------------------------------------------------------------------------------------- both stages

    def get_learned_conditioning(self, c: Any) -> Any:
        """What the conditioner makes of `c`, such as a list of prompts: (B, L, D)."""
        if self.cond_stage_model is None:
            return None
        if self.cond_stage_forward is not None:
            return getattr(self.cond_stage_model, self.cond_stage_forward)(c)
        if callable(getattr(self.cond_stage_model, "encode", None)):
            c = self.cond_stage_model.encode(c)
            return c.mode() if isinstance(c, DiagonalGaussianDistribution) else c
        return self.cond_stage_model(c)

    def encode_first_stage(self, x: Tensor) -> Any:
        """Posterior (or code) of images (B, 3, H, W) in [-1, 1]."""
        return self.first_stage_model.encode(x)

    def get_first_stage_encoding(self, posterior: Any, generator: torch.Generator | None = None) -> Tensor:
        """A scaled latent (B, C, h, w) drawn from what :meth:`encode_first_stage` gave."""
        if isinstance(posterior, DiagonalGaussianDistribution):
            posterior = posterior.sample(generator)
        elif not isinstance(posterior, Tensor):
            raise TypeError(f"no latent can be drawn from {type(posterior).__name__}")
        return self.scale_factor * posterior

    def decode_first_stage(self, z: Tensor, **kwargs: Any) -> Tensor:
        """Images (B, 3, f h, f w), about [-1, 1], of scaled latents (B, C, h, w); differentiable in z."""
        return self.first_stage_model.decode(z / self.scale_factor, **kwargs)

    def apply_model(
        self,
        x_noisy: Tensor,
        t: Tensor,
        cond: Any = None,
        return_ids: bool = False,
        control: Any = None,
        weights: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The network's output for x_t (B, C, h, w) at steps t (B,).

        Args:
            cond: a tensor, a list of tensors, or {"c_concat": [...], "c_crossattn": [...]}.
            control: spatial control of the cross-attention (:class:`ldm.spacetime.control.SpatialControl`).
            weights: of the control's objects at this step, (N, images).
        """
        if not isinstance(cond, Mapping):
            tensors = [] if cond is None else list(cond) if isinstance(cond, (list, tuple)) else [cond]
            key = "c_concat" if self.model.conditioning_key == "concat" else "c_crossattn"
            cond = {key: tensors}
        output = self.model(x_noisy, t, **cond, control=control, weights=weights, **kwargs)
        return output[0] if isinstance(output, tuple) and not return_ids else output

    # ------------------------------------------------------------------------------------------ training

    @torch.no_grad()
    def latents(self, batch: Mapping[str, Any]) -> Tensor:
        """Scaled latents (B, C, h, w) of a batch's images, or of the entry ``latent`` a data set encoded before."""
        if "latent" in batch:
            return self.scale_factor * batch["latent"].to(self.device)
        images = DDPM.get_input(self, batch, self.first_stage_key).to(self.device)
        return self.get_first_stage_encoding(self.encode_first_stage(images))

    def get_input(self, batch: Mapping[str, Any], key: str) -> tuple[Tensor, Any]:
        """Latents (B, C, h, w) and the raw condition of a batch."""
        condition = None
        if self.cond_stage_model is not None:
            if self.cond_stage_key in ("caption", "txt", "class_label", "cls", "coordinates_bbox"):
                condition = batch if self.cond_stage_key in ("class_label", "cls") else batch[self.cond_stage_key]
            else:
                condition = DDPM.get_input(self, batch, self.cond_stage_key).to(self.device)
        return self.latents(batch), condition

    def shared_step(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its parts on one batch; the conditioner is trained along where the config says so."""
        latents, condition = self.get_input(batch, self.first_stage_key)
        with contextlib.nullcontext() if self.cond_stage_trainable else torch.no_grad():
            condition = self.get_learned_conditioning(condition)
        return self(latents, condition)

    @torch.no_grad()
    def on_train_batch_start(self, batch: Any, batch_idx: int, *args: Any) -> None:
        """With ``scale_by_std`` the first batch of a fresh run sets the scale factor to 1 / std of its latents."""
        fresh = self.trainer.current_epoch == 0 and self.trainer.global_step == 0 and batch_idx == 0
        if self.latent.scale_by_std and fresh and float(self.scale_factor) == 1.0:
            self.scale_factor.copy_(1.0 / self.latents(batch).flatten().std())

    def trained_parameters(self) -> list[nn.Parameter]:
        """The network's weights, and the conditioner's where it is trained along."""
        params = super().trained_parameters()
        if self.cond_stage_trainable and self.cond_stage_model is not None:
            params += list(self.cond_stage_model.parameters())
        return params

    @torch.no_grad()
    def log_images(
        self,
        batch: Mapping[str, Any],
        ddim_steps: int = 20,
        guidance_scale: float = 1.0,
        split: str = "train",
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """Reconstructions and DDIM samples for a batch's conditions, each (B, 3, H, W) in about [-1, 1]."""
        from ldm.models.diffusion.ddim import DDIMSampler

        latents, condition = self.get_input(batch, self.first_stage_key)
        context = self.get_learned_conditioning(condition)
        logs = {"reconstruction": self.decode_first_stage(latents)}
        options: dict[str, Any] = {}
        if guidance_scale != 1.0 and isinstance(condition, (list, tuple)):
            empty = self.get_learned_conditioning([""] * len(condition))
            options = {"unconditional_guidance_scale": guidance_scale, "unconditional_conditioning": empty}
        with self.ema_scope("Plotting"):
            samples, _ = DDIMSampler(self).sample(
                S=ddim_steps, batch_size=len(latents), shape=latents.shape[1:], conditioning=context,
                verbose=False, **options,
            )
        logs["samples"] = self.decode_first_stage(samples)
        return logs


__all__ = ["DDPM", "DiffusionWrapper", "IdentityFirstStage", "LatentDiffusion", "noise_buffers"]
