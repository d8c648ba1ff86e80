"""Denoising diffusion in the latent space of a first stage (Rombach et al. 2022)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ldm.models.autoencoder import IdentityFirstStage
from ldm.models.diffusion.gaussian import DDPM, DiffusionWrapper, noise_buffers
from ldm.models.diffusion.options import LatentOptions, LossOptions, ModelOptions, NoiseOptions, StartOptions, take
from ldm.models.diffusion.patches import Fold, SplitOptions, get_fold_unfold, on_patches, patch_boxes
from ldm.models.training import frozen, images_of
from ldm.models.vq import VQModelInterface
from ldm.modules.distributions.distributions import DiagonalGaussianDistribution
from ldm.util import UserError, instantiate_from_config
from ldm.util import disabled_train as disabled_train  # published here

# Conditions that reach the conditioner as a batch has them, and those that are the whole batch.
AS_THEY_ARE = ("caption", "txt", "coordinates_bbox", "nix")
WHOLE_BATCH = ("class_label", "cls")


class LatentDiffusion(DDPM):
    """Diffusion on the latents of a frozen first stage, conditioned on text, classes, images or layouts."""

    scale_factor: Tensor
    first_stage_model: Any
    cond_stage_model: Any

    groups = (NoiseOptions, LossOptions, ModelOptions, StartOptions, LatentOptions)

    def __init__(
        self,
        first_stage_config: Mapping[str, Any],
        cond_stage_config: Mapping[str, Any] | str,
        unet_config: Mapping[str, Any],
        **options: Any,
    ) -> None:
        latent, start = take(LatentOptions, options), take(StartOptions, options)
        unconditional = cond_stage_config == "__is_unconditional__"
        if options.get("conditioning_key") is None and not unconditional:
            options["conditioning_key"] = "concat" if latent.concat_mode else "crossattn"
        super().__init__(unet_config, **options)
        if not 1 <= latent.num_timesteps_cond <= self.num_timesteps:
            raise UserError(f"num_timesteps_cond must lie in 1..{self.num_timesteps}, not {latent.num_timesteps_cond}")
        self.latent = latent
        self.clip_denoised = False  # latents are not bounded
        self._split: SplitOptions | None = None
        self.cond_stage_key, self.cond_stage_trainable = latent.cond_stage_key, latent.cond_stage_trainable
        self.cond_stage_forward = latent.cond_stage_forward
        scale = torch.tensor(float(latent.scale_factor), device="cpu")
        self.register_buffer("scale_factor", scale, persistent=latent.scale_by_std)
        self.first_stage_model = frozen(instantiate_from_config(first_stage_config))
        self.cond_stage_model = self._cond_stage(cond_stage_config)
        self.begin_from(start)

    def _cond_stage(self, config: Mapping[str, Any] | str) -> nn.Module | None:
        """The conditioner; the first stage itself or none at all for the published markers."""
        if config == "__is_first_stage__":
            return self.first_stage_model
        if config == "__is_unconditional__":
            return None
        module = instantiate_from_config(config)
        return module if self.cond_stage_trainable else frozen(module)

    def reset_buffers(self) -> None:
        """As DDPM's, and the scale factor where the config gives it."""
        super().reset_buffers()
        if not self.latent.scale_by_std:
            self.scale_factor = torch.tensor(float(self.latent.scale_factor))
        if not isinstance(self.logvar, nn.Parameter):
            self.logvar = torch.full((self.num_timesteps,), self.objective.logvar_init)

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
        """Posterior (or code) of images (B, 3, H, W) in [-1, 1]; patch by patch where the input is split."""
        split = self._split
        if split is None or not split.patch_distributed_vq:
            return self.first_stage_model.encode(x)
        gaussian = False

        def encode(patch: Tensor, _: int) -> Tensor:
            nonlocal gaussian
            code = self.first_stage_model.encode(patch)
            gaussian = isinstance(code, DiagonalGaussianDistribution)
            return code.parameters if gaussian else code

        merged = on_patches(encode, x, split, df=split.vqf)
        return DiagonalGaussianDistribution(merged) if gaussian else merged

    def get_first_stage_encoding(self, posterior: Any, generator: torch.Generator | None = None) -> Tensor:
        """A scaled latent (B, C, h, w) drawn from what :meth:`encode_first_stage` gave."""
        if isinstance(posterior, DiagonalGaussianDistribution):
            posterior = posterior.sample(generator)
        elif not isinstance(posterior, Tensor):
            raise TypeError(f"no latent can be drawn from {type(posterior).__name__}")
        return self.scale_factor * posterior

    def decode_first_stage(
        self, z: Tensor, predict_cids: bool = False, force_not_quantize: bool = False, **kwargs: Any
    ) -> Tensor:
        """Images (B, 3, f h, f w), about [-1, 1], of scaled latents (B, C, h, w); differentiable in z.

        With `predict_cids`, z holds indices (B, h, w) of the codebook, or logits (B, entries, h, w) over it; with
        `force_not_quantize`, a VQ interface decodes the latents as they are.
        """
        if predict_cids:
            indices = z.argmax(1) if z.ndim == 4 else z  # (B, h, w)
            width = self.first_stage_model.embed_dim
            z = self.first_stage_model.quantize.get_codebook_entry(indices.flatten(), (*indices.shape, width))
        else:
            z = z / self.scale_factor
        if isinstance(self.first_stage_model, VQModelInterface):
            kwargs["force_not_quantize"] = predict_cids or force_not_quantize
        split = self._split
        if split is None or not split.patch_distributed_vq:
            return self.first_stage_model.decode(z, **kwargs)
        return on_patches(lambda patch, _: self.first_stage_model.decode(patch, **kwargs), z, split, uf=split.vqf)

    @property
    def split_input_params(self) -> SplitOptions | None:
        """How large inputs are cut into patches, or None; set it to a mapping of :class:`SplitOptions`' names."""
        return self._split

    @split_input_params.setter
    def split_input_params(self, values: Mapping[str, Any] | SplitOptions | None) -> None:
        self._split = SplitOptions.read(values) if isinstance(values, Mapping) else values

    def get_fold_unfold(
        self, x: Tensor, kernel_size: Sequence[int], stride: Sequence[int], uf: int = 1, df: int = 1
    ) -> tuple[Fold, Fold, Tensor, Tensor]:
        """See :func:`ldm.models.diffusion.patches.get_fold_unfold`."""
        return get_fold_unfold(x, kernel_size, stride, self._split or SplitOptions(), uf, df)

    def _apply_on_patches(self, x: Tensor, t: Tensor, cond: Mapping[str, Any], split: SplitOptions) -> Tensor:
        """The network patch by patch; conditions that are maps are cut along with x (B, C, h, w)."""
        maps = [x, *cond.get("c_concat", ())]
        widths = [m.shape[1] for m in maps]
        boxes = patch_boxes(x.shape[2:], split)

        def call(patch: Tensor, index: int) -> Tensor:
            part, *concat = patch.split(widths, dim=1)
            contexts = [self._context_of_patch(c, boxes[index]) for c in cond.get("c_crossattn", ())]
            return self.model(part, t, c_concat=concat, c_crossattn=contexts)

        return on_patches(call, torch.cat(maps, dim=1), split)

    def _context_of_patch(self, context: Tensor, box: tuple[float, float, float, float]) -> Tensor:
        """The context of one patch: by default that of the whole image."""
        return context

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

        `cond` is a tensor, a list of tensors, or {"c_concat": [...], "c_crossattn": [...]}; `weights` (N, images) are
        those of the control's objects at this step.
        """
        if not isinstance(cond, Mapping):
            tensors = [] if cond is None else list(cond) if isinstance(cond, (list, tuple)) else [cond]
            key = "c_concat" if self.model.conditioning_key == "concat" else "c_crossattn"
            cond = {key: tensors}
        if self._split is not None:
            if control is not None:
                raise UserError("spatial control does not go with patches; leave out split_input_params")
            return self._apply_on_patches(x_noisy, t, cond, self._split)
        output = self.model(x_noisy, t, **cond, control=control, weights=weights, **kwargs)
        return output[0] if isinstance(output, tuple) and not return_ids else output

    @torch.no_grad()
    def latents(self, batch: Mapping[str, Any]) -> Tensor:
        """Scaled latents (B, C, h, w) of a batch's images, or of the entry ``latent`` a data set encoded before."""
        if "latent" in batch:
            return self.scale_factor * batch["latent"].to(self.device)
        images = images_of(batch, self.first_stage_key).to(self.device)
        return self.get_first_stage_encoding(self.encode_first_stage(images))

    def get_input(self, batch: Mapping[str, Any], key: str) -> tuple[Tensor, Any]:
        """Latents (B, C, h, w) and the raw condition of a batch."""
        return self.latents(batch), self._condition(batch)

    def _condition(self, batch: Mapping[str, Any]) -> Any:
        """The raw condition of a batch: text, tokens, the batch itself for classes, or a map (B, C, H, W)."""
        if self.cond_stage_model is None or self.model.conditioning_key is None:
            return None
        if self.cond_stage_key in WHOLE_BATCH:
            return batch
        if self.cond_stage_key not in batch:
            raise UserError(f"the batch has no '{self.cond_stage_key}' (cond_stage_key); it has {', '.join(batch)}")
        if self.cond_stage_key in AS_THEY_ARE:
            return batch[self.cond_stage_key]
        return images_of(batch, self.cond_stage_key).to(self.device)

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of latents x_0 (B, C, h, w) at steps drawn uniformly, under an encoded condition.

        With ``num_timesteps_cond`` above 1 the condition, a map like x_0, is noised along (:meth:`condition_steps`).
        """
        t = torch.randint(0, self.num_timesteps, (x.shape[0],), device=x.device)
        if self.latent.num_timesteps_cond > 1 and cond is not None:
            cond = self.q_sample(cond, self.condition_steps(t))
        return self.p_losses(x, cond, t)

    def condition_steps(self, t: Tensor) -> Tensor:
        """Steps (B,) of the condition's noise at steps t (B,): from the first ones to the last, where they stay."""
        count = self.latent.num_timesteps_cond
        ids = torch.full((self.num_timesteps,), count - 1, dtype=torch.long)
        ids[:count] = torch.linspace(0, self.num_timesteps - 1, count).round().long()
        return ids.to(t.device)[t]

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
        self, batch: Mapping[str, Any], *, ddim_steps: int = 20, guidance_scale: float = 1.0, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Reconstructions and DDIM samples for a batch's conditions, each (B, 3, H, W) in about [-1, 1]."""
        from ldm.models.diffusion.ddim import DDIMSampler

        latents, condition = self.get_input(batch, self.first_stage_key)
        context = self.get_learned_conditioning(condition)
        logs = {"reconstruction": self.decode_first_stage(latents)}
        if self.parameterization == "x0":  # the other samplers need the noise
            with self.ema_scope("Plotting"):
                samples, _ = self.p_sample_loop(latents.shape, context)
            return {**logs, "samples": self.decode_first_stage(samples)}
        options: dict[str, Any] = {}
        if guidance_scale != 1.0 and isinstance(condition, (list, tuple)):
            empty = self.get_learned_conditioning([""] * len(condition))
            options = {"unconditional_guidance_scale": guidance_scale, "unconditional_conditioning": empty}
        with self.ema_scope("Plotting"):
            size = (len(latents), latents.shape[1:])
            samples, _ = DDIMSampler(self).sample(ddim_steps, *size, context, verbose=False, **options)
        logs["samples"] = self.decode_first_stage(samples)
        return logs


class Layout2ImgDiffusion(LatentDiffusion):
    """Latent diffusion conditioned on bounding boxes, which come as tokens (B, L); the last two say the crop."""

    # A box (x, y, width, height), as shares of the image, to the two tokens of a crop; patches need it.
    bbox_tokenizer: Callable[[tuple[float, float, float, float]], Sequence[int]] | None = None

    def __init__(self, cond_stage_key: str, *args: Any, **options: Any) -> None:
        if cond_stage_key != "coordinates_bbox":
            raise UserError(f"Layout2ImgDiffusion takes cond_stage_key coordinates_bbox, not '{cond_stage_key}'")
        super().__init__(*args, cond_stage_key=cond_stage_key, **options)

    def _context_of_patch(self, context: Tensor, box: tuple[float, float, float, float]) -> Tensor:
        """Tokens (B, L) with the patch as their crop, encoded; a context that is encoded already stays."""
        if context.is_floating_point():
            return context
        if self.bbox_tokenizer is None:
            raise UserError("patches of a layout need bbox_tokenizer, which gives the two tokens of a crop; set it")
        crop = torch.tensor(list(self.bbox_tokenizer(box)), device=context.device, dtype=context.dtype)
        tokens = torch.cat([context[:, : -len(crop)], crop.expand(len(context), -1)], dim=1)  # (B, L)
        return self.get_learned_conditioning(tokens)

    @torch.no_grad()
    def log_images(self, batch: Mapping[str, Any], **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """As LatentDiffusion's, and images of the boxes where the data set can draw them."""
        logs = super().log_images(batch, **kwargs)
        datasets = getattr(getattr(self.trainer, "datamodule", None), "datasets", {})
        dataset = datasets.get("train" if self.training else "validation")
        builders = getattr(dataset, "conditional_builders", {})
        if dataset is not None and self.cond_stage_key in builders:
            builder, batched = builders[self.cond_stage_key], batch[self.cond_stage_key]

            def label(category: int) -> str:
                return dataset.get_textual_label(dataset.get_category_id(category))

            logs["bbox_image"] = torch.stack([builder.plot(t.detach().cpu(), label, (256, 256)) for t in batched])
        return logs


class LatentInpaintDiffusion(LatentDiffusion):
    """What configs of Stable Diffusion's inpainting models name: mask and masked image are joined to the latents.

    `scripts/inpaint.py` does that; the arguments say how a training would, and are only taken.
    """

    def __init__(
        self,
        *args: Any,
        finetune_keys: Sequence[str] | None = None,
        keep_finetune_dims: int = 4,
        concat_keys: Sequence[str] = ("mask", "masked_image"),
        masked_image_key: str = "masked_image",
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)


__all__ = [
    "DDPM",
    "DiffusionWrapper",
    "IdentityFirstStage",
    "LatentDiffusion",
    "LatentInpaintDiffusion",
    "Layout2ImgDiffusion",
    "noise_buffers",
]
