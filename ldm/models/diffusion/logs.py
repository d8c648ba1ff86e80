"""What training of a latent diffusion shows: images of a batch, its condition, and samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ldm.models.autoencoder import AutoencoderKL, IdentityFirstStage
from ldm.models.training import colored
from ldm.util import isimage, ismap, log_txt_as_img

WHOLE_BATCH = ("class_label", "cls")  # conditions that are the whole batch


class LatentLogs:
    """A part of :class:`LatentDiffusion`."""

    cond_stage_key: str
    first_stage_key: str
    first_stage_model: Any
    parameterization: str
    decode_first_stage: Callable[..., Tensor]
    denoise_row: Callable[..., Tensor]
    ema_scope: Callable[..., Any]
    get_input: Callable[..., Any]
    get_learned_conditioning: Callable[..., Any]
    noised_row: Callable[..., Tensor]
    progressive_denoising: Callable[..., Any]
    sample: Callable[..., Any]
    shape_of: Callable[..., tuple[int, ...]]

    def sample_log(self, cond: Any, batch_size: int, ddim: bool, ddim_steps: int, **kwargs: Any) -> tuple[Tensor, Any]:
        """Samples and the states on the way, of DDIM in `ddim_steps` or of the whole chain."""
        shape = tuple(kwargs.pop("shape", self.shape_of(batch_size)[1:]))
        if ddim:
            from ldm.models.diffusion.ddim import DDIMSampler

            return DDIMSampler(self).sample(ddim_steps, batch_size, shape, cond, verbose=False, **kwargs)
        return self.sample(  # type: ignore[return-value]
            cond, batch_size, return_intermediates=True, verbose=False, shape=(batch_size, *shape), **kwargs
        )

    def to_rgb(self, x: Tensor) -> Tensor:
        """An image (B, 3, H, W) in [-1, 1] of label maps (B, labels, H, W), in random colors."""
        if not hasattr(self, "colorize"):
            self.colorize = torch.randn(3, x.shape[1], 1, 1, device=x.device)
        return colored(x.float(), self.colorize)

    @torch.no_grad()
    def log_images(  # type: ignore[override]
        self,
        batch: Mapping[str, Any],
        N: int = 8,
        n_row: int = 4,
        sample: bool = True,
        ddim_steps: int | None = 200,
        ddim_eta: float = 1.0,
        return_keys: Sequence[str] | None = None,
        quantize_denoised: bool = True,
        inpaint: bool = True,
        plot_denoise_rows: bool = False,
        plot_progressive_rows: bool = True,
        plot_diffusion_rows: bool = True,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """What training shows of a batch, by name, each (B, 3, H, W) in about [-1, 1].

        Args:
            N: images of the batch; n_row: of them that are shown ever noisier.
            ddim_steps, ddim_eta: of the samples; None: the whole chain instead.
            return_keys: show these alone, where there are any of them.
            quantize_denoised, inpaint: samples with predictions on the codebook; with the middle, and all but it, new.
            plot_denoise_rows, plot_progressive_rows, plot_diffusion_rows: the states of the samples; the predictions
                of the whole chain; latents ever noisier.
            kwargs: of the sampler, such as `unconditional_guidance_scale` (texts are guided away from "").
        """
        kwargs.pop("split", None)
        z, c, x, reconstruction, raw = self.get_input(
            batch, self.first_stage_key, True, force_c_encode=True, return_original_cond=True, bs=N
        )
        count, shape = len(z), tuple(z.shape[1:])
        logs = {"inputs": x, "reconstruction": reconstruction, **self._condition_image(batch, raw, x)}
        if plot_diffusion_rows:
            logs["diffusion_row"] = self.decode_first_stage(self.noised_row(z[:n_row]))
        ddim = ddim_steps is not None and self.parameterization != "x0"  # DDIM needs the noise
        options: dict[str, Any] = {"eta": ddim_eta, **kwargs} if ddim else {}
        if options.get("unconditional_guidance_scale", 1.0) != 1.0 and isinstance(raw, (list, tuple)):
            options["unconditional_conditioning"] = self.get_learned_conditioning([""] * count)

        def drawn(**extra: Any) -> Any:
            with self.ema_scope("Plotting"):
                return self.sample_log(c, count, ddim, ddim_steps or 0, shape=shape, **options, **extra)

        if sample:
            samples, states = drawn()
            logs["samples"] = self.decode_first_stage(samples)
            if plot_denoise_rows:
                row = self.denoise_row(states["x_inter"] if ddim else states)
                logs["denoise_row"] = self.decode_first_stage(row)
            if quantize_denoised and not isinstance(self.first_stage_model, (AutoencoderKL, IdentityFirstStage)):
                quantized = drawn(**{"quantize_x0" if ddim else "quantize_denoised": True})[0]
                logs["samples_x0_quantized"] = self.decode_first_stage(quantized)
            if inpaint:
                h, w = shape[1:]
                mask = torch.ones(count, 1, h, w, device=z.device)
                mask[:, :, h // 4 : 3 * h // 4, w // 4 : 3 * w // 4] = 0.0
                logs["mask"] = mask
                for name, kept in (("inpainting", mask), ("outpainting", 1.0 - mask)):
                    logs[f"samples_{name}"] = self.decode_first_stage(drawn(mask=kept, x0=z)[0])
        if plot_progressive_rows:
            with self.ema_scope("Plotting Progressives"):
                _, predicted = self.progressive_denoising(c, shape, verbose=False, batch_size=count)
            logs["progressive_row"] = self.decode_first_stage(self.denoise_row(predicted))
        wanted = [k for k in return_keys or () if k in logs]
        return {k: logs[k] for k in wanted or logs}

    def _condition_image(self, batch: Mapping[str, Any], raw: Any, x: Tensor) -> dict[str, Tensor]:
        """The condition as images: texts are written out, maps get colors."""
        texts = batch.get("human_label") if self.cond_stage_key in WHOLE_BATCH else raw
        if isinstance(texts, (list, tuple)) and texts and isinstance(texts[0], str):
            return {"conditioning": log_txt_as_img((x.shape[3], x.shape[2]), texts[: len(x)], size=x.shape[3] // 25)}
        if isimage(raw):
            return {"conditioning": raw}
        return {"original_conditioning": self.to_rgb(raw)} if ismap(raw) else {}
