"""Denoising diffusion in the latent space of a first stage (Rombach et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ldm.arguments import Count
from ldm.models.autoencoder import IdentityFirstStage
from ldm.models.diffusion.ancestral import LatentSampling, first
from ldm.models.diffusion.gaussian import DDPM
from ldm.models.diffusion.logs import WHOLE_BATCH, LatentLogs
from ldm.models.diffusion.patches import (
    Fold,
    SplitOptions,
    delta_border,
    get_fold_unfold,
    on_patches,
    patch_boxes,
    patch_weights,
)
from ldm.models.diffusion.wrapper import DiffusionWrapper
from ldm.models.training import frozen, images_of
from ldm.models.vq import VQModelInterface
from ldm.modules.distributions.distributions import DiagonalGaussianDistribution
from ldm.util import UserError, instantiate_from_config
from ldm.util import disabled_train as disabled_train  # published here

# Conditions that reach the conditioner as a batch has them.
AS_THEY_ARE = ("caption", "txt", "coordinates_bbox", "nix")


class LatentDiffusion(LatentLogs, LatentSampling, DDPM):  # type: ignore[misc]
    """Diffusion on the latents of a frozen first stage, conditioned on text, classes, images or layouts.

    Args:
        first_stage_config, cond_stage_config: of the autoencoder and of the conditioner.
        num_timesteps_cond: steps over which the condition is noised along; 1: not at all.
        cond_stage_key: entry of a batch with the condition; cond_stage_trainable: train its encoder, too.
        concat_mode: without a `conditioning_key`, "concat" instead of "crossattn".
        cond_stage_forward: method of the conditioner that encodes, by default ``encode``.
        scale_factor: of the latents; scale_by_std: the first batch sets it.
        args, kwargs: of :class:`DDPM`.
    """

    scale_factor: Tensor
    first_stage_model: Any
    cond_stage_model: Any

    def __init__(
        self,
        first_stage_config: Mapping[str, Any],
        cond_stage_config: Mapping[str, Any] | str,
        num_timesteps_cond: Count | None = None,
        cond_stage_key: str = "image",
        cond_stage_trainable: bool = False,
        concat_mode: bool = True,
        cond_stage_forward: str | None = None,
        conditioning_key: str | None = None,
        scale_factor: float = 1.0,
        scale_by_std: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        start = [kwargs.pop(name, default) for name, default in (("ckpt_path", None), ("ignore_keys", ()))]
        start.append(kwargs.pop("load_only_unet", False))
        self.num_timesteps_cond = 1 if num_timesteps_cond is None else num_timesteps_cond  # the schedule needs it
        if conditioning_key is None:
            conditioning_key = "concat" if concat_mode else "crossattn"
        if cond_stage_config == "__is_unconditional__":
            conditioning_key = None
        super().__init__(*args, conditioning_key=conditioning_key, **kwargs)  # type: ignore[misc]
        self.clip_denoised = False  # latents are not bounded
        self._split: SplitOptions | None = None
        self.cond_stage_key, self.cond_stage_trainable = cond_stage_key, cond_stage_trainable
        self.concat_mode, self.cond_stage_forward = concat_mode, cond_stage_forward
        self.scale_by_std, self._config_scale = scale_by_std, float(scale_factor)
        self.register_buffer("scale_factor", torch.tensor(self._config_scale, device="cpu"), persistent=scale_by_std)
        self.instantiate_first_stage(first_stage_config)
        self.instantiate_cond_stage(cond_stage_config)
        self.begin_from(*start)

    def register_schedule(
        self,
        given_betas: Sequence[float] | None = None,
        beta_schedule: str = "linear",
        timesteps: int = 1000,
        linear_start: float = 1e-4,
        linear_end: float = 2e-2,
        cosine_s: float = 8e-3,
    ) -> None:
        """As DDPM's, and the steps of the condition's noise."""
        super().register_schedule(given_betas, beta_schedule, timesteps, linear_start, linear_end, cosine_s)
        if not 1 <= self.num_timesteps_cond <= self.num_timesteps:
            raise UserError(f"num_timesteps_cond must lie in 1..{self.num_timesteps}, not {self.num_timesteps_cond}")
        self.shorten_cond_schedule = self.num_timesteps_cond > 1
        self.make_cond_schedule()

    def make_cond_schedule(self) -> None:
        """`cond_ids` (T,): steps of the condition's noise, from the first ones to the last, where they stay."""
        count, last = self.num_timesteps_cond, self.num_timesteps - 1
        self.cond_ids = torch.full((self.num_timesteps,), last, dtype=torch.long, device="cpu")
        self.cond_ids[:count] = torch.linspace(0, last, count, device="cpu").round().long()

    def condition_at(self, cond: Any, t: Tensor) -> Any:
        """The condition at steps t (B,): a map like x_0, noised along, with ``num_timesteps_cond`` above 1."""
        if not self.shorten_cond_schedule or cond is None:
            return cond
        return self.q_sample(cond, self.cond_ids.to(t.device)[t])

    def instantiate_first_stage(self, config: Mapping[str, Any]) -> None:
        """Build the autoencoder, frozen."""
        self.first_stage_model = frozen(instantiate_from_config(config))

    def instantiate_cond_stage(self, config: Mapping[str, Any] | str) -> None:
        """Build the conditioner; the first stage itself or none at all for the published markers."""
        if config == "__is_first_stage__":
            self.cond_stage_model = self.first_stage_model
        else:
            module = instantiate_from_config(config)
            self.cond_stage_model = module if module is None or self.cond_stage_trainable else frozen(module)

    def reset_buffers(self) -> None:
        """As DDPM's, and the scale factor where the config gives it."""
        super().reset_buffers()
        if not self.scale_by_std:
            self.scale_factor = torch.tensor(self._config_scale)

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

    def get_first_stage_encoding(self, encoder_posterior: Any, generator: torch.Generator | None = None) -> Tensor:
        """A scaled latent (B, C, h, w) drawn from what :meth:`encode_first_stage` gave."""
        if isinstance(encoder_posterior, DiagonalGaussianDistribution):
            encoder_posterior = encoder_posterior.sample(generator)
        elif not isinstance(encoder_posterior, Tensor):
            raise TypeError(f"no latent can be drawn from {type(encoder_posterior).__name__}")
        return self.scale_factor * encoder_posterior

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

    differentiable_decode_first_stage = decode_first_stage  # published beside a decode without gradients

    @property
    def split_input_params(self) -> SplitOptions | None:
        """How large inputs are cut into patches, or None; set it to a mapping of :class:`SplitOptions`' names."""
        return self._split

    @split_input_params.setter
    def split_input_params(self, values: Mapping[str, Any] | SplitOptions | None) -> None:
        self._split = SplitOptions.read(values) if isinstance(values, Mapping) else values

    @staticmethod
    def delta_border(h: int, w: int) -> Tensor:
        """See :func:`ldm.models.diffusion.patches.delta_border`."""
        return delta_border(h, w)

    def get_weighting(self, h: int, w: int, Ly: int, Lx: int, device: torch.device | str) -> Tensor:
        """See :func:`ldm.models.diffusion.patches.patch_weights`."""
        return patch_weights((h, w), (Ly, Lx), self._split or SplitOptions()).to(device)

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
    def latents(self, batch: Mapping[str, Any], key: str | None = None) -> Tensor:
        """Scaled latents (B, C, h, w) of a batch's images, or of the entry ``latent`` a data set encoded before."""
        if "latent" in batch:
            return self.scale_factor * batch["latent"].to(self.device)
        images = images_of(batch, key or self.first_stage_key).to(self.device)
        return self.get_first_stage_encoding(self.encode_first_stage(images))

    @torch.no_grad()
    def get_input(  # type: ignore[override]
        self,
        batch: Mapping[str, Any],
        k: str,
        return_first_stage_outputs: bool = False,
        force_c_encode: bool = False,
        cond_key: str | None = None,
        return_original_cond: bool = False,
        bs: int | None = None,
    ) -> list[Any]:
        """Latents (B, C, h, w) of the images at `k` of a batch, and the encoded condition.

        Args:
            return_first_stage_outputs: give the images and their reconstructions, too.
            force_c_encode: encode the condition even where its encoder is trained, which encodes it in `forward`.
            cond_key: entry with the condition, by default `cond_stage_key`.
            return_original_cond: give the condition as the batch has it, too.
            bs: take the first so many of the batch.
        """
        z = self.latents(batch, k)[:bs]
        raw = c = self._condition(batch, cond_key or self.cond_stage_key)
        if c is not None and (force_c_encode or not self.cond_stage_trainable):
            c = self.get_learned_conditioning(c)
        out = [z, c if bs is None else first(c, bs)]
        if return_first_stage_outputs:
            reconstructed = self.decode_first_stage(z)
            out += [images_of(batch, k).to(self.device)[:bs] if k in batch else reconstructed, reconstructed]
        if return_original_cond:
            out.append(raw if bs is None or isinstance(raw, Mapping) else first(raw, bs))
        return out

    def _condition(self, batch: Mapping[str, Any], key: str) -> Any:
        """The raw condition of a batch: text, tokens, the batch itself for classes, or a map (B, C, H, W)."""
        if self.cond_stage_model is None or self.model.conditioning_key is None:
            return None
        if key in WHOLE_BATCH:
            return batch
        if key not in batch:
            raise UserError(f"the batch has no '{key}' (cond_stage_key); it has {', '.join(batch)}")
        return batch[key] if key in AS_THEY_ARE else images_of(batch, key).to(self.device)

    def p_losses(  # type: ignore[override]
        self, x_start: Tensor, cond: Any, t: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Training loss of latents x_0 (B, C, h, w) under a condition at steps t (B,), and its parts."""
        return self._losses(x_start, cond, t, noise)

    def forward(self, x: Tensor, c: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of latents x_0 (B, C, h, w) at steps drawn uniformly, under a condition.

        A conditioner that is trained encodes it here.
        """
        t = torch.randint(0, self.num_timesteps, (x.shape[0],), device=x.device)
        if c is not None and self.cond_stage_trainable:
            c = self.get_learned_conditioning(c)
        return self.p_losses(x, self.condition_at(c, t), t, *args, **kwargs)

    def shared_step(self, batch: Mapping[str, Any], **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its parts on one batch; `kwargs` are of :meth:`get_input`."""
        x, c = self.get_input(batch, self.first_stage_key, **kwargs)
        return self(x, c)

    @torch.no_grad()
    def on_train_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """With ``scale_by_std`` the first batch of a fresh run sets the scale factor to 1 / std of its latents."""
        fresh = self.trainer.current_epoch == 0 and self.trainer.global_step == 0 and batch_idx == 0
        if self.scale_by_std and fresh and float(self.scale_factor) == 1.0:
            self.scale_factor.copy_(1.0 / self.latents(batch).flatten().std())

    def trained_parameters(self) -> list[nn.Parameter]:
        """The network's weights, and the conditioner's where it is trained along."""
        params = super().trained_parameters()
        if self.cond_stage_trainable and self.cond_stage_model is not None:
            params += list(self.cond_stage_model.parameters())
        return params


class Layout2ImgDiffusion(LatentDiffusion):
    """Latent diffusion conditioned on bounding boxes, which come as tokens (B, L); the last two say the crop."""

    # A box (x, y, width, height), as shares of the image, to the two tokens of a crop; patches need it.
    bbox_tokenizer: Callable[[tuple[float, float, float, float]], Sequence[int]] | None = None

    def __init__(self, cond_stage_key: str, *args: Any, **options: Any) -> None:
        if cond_stage_key != "coordinates_bbox":
            raise UserError(f"Layout2ImgDiffusion takes cond_stage_key coordinates_bbox, not '{cond_stage_key}'")
        super().__init__(*args, cond_stage_key=cond_stage_key, **options)  # type: ignore[misc]

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
    def log_images(  # type: ignore[override]
        self, batch: Mapping[str, Any], N: int = 8, *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        """As LatentDiffusion's, and images of the boxes where the data set can draw them."""
        logs = super().log_images(batch, N, *args, **kwargs)
        datasets = getattr(getattr(self.trainer, "datamodule", None), "datasets", {})
        dataset = datasets.get("train" if self.training else "validation")
        builders = getattr(dataset, "conditional_builders", {})
        if dataset is not None and self.cond_stage_key in builders:
            builder, batched = builders[self.cond_stage_key], batch[self.cond_stage_key][:N]

            def label(category: int) -> str:
                return dataset.get_textual_label(dataset.get_category_id(category))

            logs["bbox_image"] = torch.stack([builder.plot(t.detach().cpu(), label, (256, 256)) for t in batched])
        return logs


class LatentInpaintDiffusion(LatentDiffusion):
    """What configs of Stable Diffusion's inpainting models name; ``scripts/inpaint.py`` joins what is painted over."""

    def __init__(
        self,
        *args: Any,
        finetune_keys: Sequence[str] | None = None,  # these four say how a training would join it
        keep_finetune_dims: int = 4,
        concat_keys: Sequence[str] = (),
        masked_image_key: str = "",
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)


__all__ = ["DDPM", "DiffusionWrapper", "IdentityFirstStage", "LatentDiffusion", "Layout2ImgDiffusion"]
__all__ += ["LatentInpaintDiffusion"]
