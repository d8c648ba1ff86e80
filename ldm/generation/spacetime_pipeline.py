"""The method as pipelines of the library diffusers, with its conventions; needs that package.

pipe = SpaceTimePipeline.from_pretrained("stabilityai/stable-diffusion-xl-base-1.0", torch_dtype=torch.float16)
image = pipe.to("cuda")("A cat to the left of a dog.").images[0]
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from layout_predictor.inference import load_predictor
from ldm import hub
from ldm.backends.diffusers import Diffusers
from ldm.backends.folders import check_kind
from ldm.backends.schedulers import SchedulerSampler
from ldm.errors import UserError
from ldm.generation.draw import contexts, run_chain, weights_and_losses
from ldm.generation.pipeline import SD_CLIP, ModelChoice, Pipeline
from ldm.generation.settings import Sampling
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.models.diffusion.sampler import Sampler
from ldm.modules.encoders.openai_clip import ClipBundle, load_clip
from ldm.spacetime.layout import Layout
from ldm.spacetime.presets import PRESETS, Preset

Texts = str | Sequence[str]
Layouts = Layout | Mapping[str, Any] | Sequence[Layout | Mapping[str, Any]]  # or what `Layout.from_json` reads
OnStepEnd = Callable[[Any, int, Any, dict[str, Tensor]], "Mapping[str, Tensor] | None"]


@dataclass
class SpaceTimeOutput(BaseOutput):  # type: ignore[misc]  # untyped in the library
    """Images with what led to them; entry b of each is that of image b."""

    images: Any  # as `output_type` says
    nsfw_content_detected: list[bool] | None  # by the safety checker, where the model has one
    layouts: list[Layout]
    weights: list[Any]  # (steps, objects) arrays; None where sampling was plain
    losses: list[dict[str, list[float]]]  # by name, an entry per evaluation of the loss


class _SpaceTime:
    """What makes a pipeline of the library sample with spatial-temporal attention."""

    # U-Net and decoder stay on the card together, since gradients pass through both.
    model_cpu_offload_seq = "text_encoder->text_encoder_2->image_encoder->unet"
    _exclude_from_cpu_offload = ("safety_checker", "vae")

    @torch.no_grad()
    def __call__(
        self: Any,
        prompt: Texts,
        layout: Layouts | None = None,
        preset: str | Preset | None = "per-step",
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float | None = None,
        negative_prompt: Texts | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: OnStepEnd | None = None,
        clip: str | Path = SD_CLIP,
        predictor: Path | None = None,
        block_checkpointing: bool | None = None,
        half_decode: bool = False,
    ) -> SpaceTimeOutput | tuple[Any, ...]:
        """Images of prompts, their objects where the layouts say.

        The pipeline's scheduler samples with the presets "fixed" and "per-step", and without any; the others, whose
        gradient passes through the whole chain, take DDIM.

        Args:
            prompt: a text, or several for as many images.
            layout: where the objects are, one for all prompts or one each; None predicts them from the prompts.
            preset: how the weights come about, a name of `PRESETS` or a preset; None is the plain model.
            height, width: in pixels, multiples of the first stage's factor; by default the model's own.
            guidance_scale: by default 5 for XL and 7.5 for others; up to 1 is none, as in the library.
            negative_prompt: what images shall not show; by default the layout's.
            eta: DDIM's noise, 0 to 1.
            generator: one for all images, or one each.
            latents: starting noise (B, C, h, w), instead of the generator's.
            output_type: "pil", "np", "pt" or "latent".
            callback_on_step_end: called after every step with the pipeline, the step's number, its timestep and
                {"latents": (B, C, h, w)}, as DDIM's whatever the scheduler, which it can read and not change.
            clip: name or file of the CLIP of the loss.
            predictor: file of the layout predictor; the shipped one by default.
            block_checkpointing: recompute blocks in the backward pass, for less memory; None where the card is short.
            half_decode: the loss looks at images of half the size: less memory, a gradient that is only near.

        Raises:
            UserError: what cannot be done, in a sentence.
        """
        backend = Diffusers(self)
        prompts = _each(prompt, num_images_per_prompt)
        size = _size(backend, height, width)
        if isinstance(preset, str) and preset not in PRESETS:
            raise UserError(f"there is no preset '{preset}'; choose {', '.join(PRESETS)} or None")
        method = PRESETS[preset] if isinstance(preset, str) else preset
        choice = ModelChoice(Path(), Path(), embedded=False, diffusers=str(self.config.get("_name_or_path")))
        around = _Around(backend, choice, clip, predictor)
        layouts = [Layout(())] * len(prompts) if method is None else _layouts(layout, prompts, around)
        method = method if any(one.objects for one in layouts) else None
        negatives = [one.negative_prompt or "" for one in layouts]
        if negative_prompt is not None:
            negatives = _each(
                negative_prompt, len(prompts) if isinstance(negative_prompt, str) else num_images_per_prompt
            )
        if len(negatives) != len(prompts):
            raise UserError(
                f"there are {len(negatives)} negative prompts for {len(prompts)} images; give one, or one each"
            )
        guidance = backend.guidance_scale if guidance_scale is None else max(guidance_scale, 1.0)
        ours = method is not None and method.mode == "whole-chain"
        sampler: Sampler = DDIMSampler(backend) if ours else SchedulerSampler(backend)
        total = len(sampler.schedule(num_inference_steps, eta)) * (1 if method is None else method.passes)
        shape = (len(prompts), backend.channels, *(side // backend.factor for side in size))
        if latents is None:  # in the U-Net's type, as the library draws them
            latents = randn_tensor(shape, generator=generator, device=backend.device, dtype=self.unet.dtype)
        elif tuple(latents.shape) != shape:
            raise UserError(f"latents of shape {tuple(latents.shape)} do not fit {shape}")
        chain: dict[str, Any] = {
            "S": num_inference_steps,
            "batch_size": len(prompts),
            "shape": shape[1:],
            "x_T": latents.to(backend.device, torch.float32),
            "unconditional_guidance_scale": guidance,
            "eta": eta,
            "generator": generator,
            "verbose": False,
            **contexts(backend, prompts, negatives, size),
        }
        with _decoder_in_full(self), self.progress_bar(total=total) as bar:

            def after_step(state: Mapping[str, Any]) -> None:
                bar.update()
                if callback_on_step_end is not None:
                    told = {"latents": state["x"]}
                    changed = callback_on_step_end(self, state["i"], state["t"], told) or {}
                    if any(value is not told.get(name) for name, value in changed.items()):
                        raise UserError("callback_on_step_end cannot change what this pipeline goes on with")

            chain["on_step"] = after_step
            if method is None:
                result, finished = None, sampler.sample(**chain)[0]
            else:
                sampling = Sampling(block_checkpointing=block_checkpointing, half_decode=half_decode)
                _, result = run_chain(around, sampler, chain, prompts, layouts, method, sampling)
                assert result is not None
                finished = result.latents
            if output_type == "latent":
                shown, flagged = finished, None
            else:
                images = backend.decode(finished) if result is None else result.images
                shown, flagged = _finished(self, 2 * images - 1, output_type)
        self.maybe_free_model_hooks()
        told = [weights_and_losses(result, b, len(one.objects)) for b, one in enumerate(layouts)]
        output = SpaceTimeOutput(shown, flagged, layouts, [w for w, _ in told], [losses for _, losses in told])
        return output if return_dict else (output.images, flagged)

    def save_pretrained(self: Any, save_directory: Any, **more: Any) -> None:
        """Write a folder of the library's own class, which loads without this project, too."""
        kind = next(one for one in type(self).__mro__ if one.__module__.startswith("diffusers."))
        parts = self.components
        settings = {name: self.config[name] for name in inspect.signature(kind).parameters if name in self.config}
        kind(**{**settings, **parts}).save_pretrained(save_directory, **more)


class SpaceTimePipeline(_SpaceTime, diffusers.StableDiffusionPipeline):  # type: ignore[misc]  # untyped there
    """Stable Diffusion 1 and 2; where a model is XL, `from_pretrained` and `from_pipe` give a `SpaceTimeXLPipeline`.

    All else, such as LoRA, offloading and schedulers, is that of `diffusers.StableDiffusionPipeline`.
    """

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Any:
        """See `diffusers.DiffusionPipeline.from_pretrained`. UserError for a model of another kind."""
        options.setdefault("local_files_only", hub.local_only(source))
        asked = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")
        try:
            index = cls.load_config(source, **{name: options[name] for name in asked if name in options})
        except OSError as error:
            if Path(source).exists() or not hub.unreachable():
                raise
            raise UserError(f"{source} is neither here, nor does the hub answer; give a folder") from error
        check_kind(str(index.get("_class_name")))
        if "text_encoder_2" in index:
            return SpaceTimeXLPipeline.from_pretrained(source, **options)
        return super().from_pretrained(source, **options)

    @classmethod
    def from_pipe(cls, pipeline: Any, **options: Any) -> Any:
        """See `diffusers.DiffusionPipeline.from_pipe`; parts, among them adapters that were loaded, are shared."""
        if "text_encoder_2" in pipeline.components:
            return SpaceTimeXLPipeline.from_pipe(pipeline, **options)
        return super().from_pipe(pipeline, **options)  # type: ignore[misc]  # of the class beside


class SpaceTimeXLPipeline(_SpaceTime, diffusers.StableDiffusionXLPipeline):  # type: ignore[misc]  # untyped there
    """Stable Diffusion XL; see `SpaceTimePipeline`."""


class _Around(Pipeline):
    """What is loaded around the model lasts from one call to the next."""

    @cached_property
    def clip(self) -> ClipBundle:
        return _loaded_clip(self.clip_source, self.device)

    @cached_property
    def predictor(self) -> Any:
        return _loaded_predictor(self.predictor_source)


@lru_cache(maxsize=1)
def _loaded_clip(source: str | Path, device: torch.device) -> ClipBundle:
    return load_clip(source, device)


@lru_cache(maxsize=1)
def _loaded_predictor(source: Path | None) -> Any:
    return load_predictor(source)


def _each(texts: Texts, times: int) -> list[str]:
    """A text for every image. UserError where one is none."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts or not all(isinstance(text, str) for text in texts) or times < 1:
        raise UserError("prompts must be a text or a list of texts, for at least one image each")
    return [text for text in texts for _ in range(times)]


def _size(backend: Diffusers, height: int | None, width: int | None) -> tuple[int, int]:
    """Height and width in pixels. UserError for what the model cannot do."""
    size = height or backend.image_size, width or backend.image_size
    if any(side < 1 or side % backend.factor for side in size):
        raise UserError(f"height and width must be multiples of {backend.factor}, not {size[0]} and {size[1]}")
    if backend.conditioning_key != "crossattn":
        raise UserError("this U-Net paints into images; take scripts/inpaint.py")
    return size


def _layouts(given: Layouts | None, prompts: Sequence[str], pipeline: Pipeline) -> list[Layout]:
    """A layout for every image. UserError for a wrong one, or another number of them."""
    if given is None:
        known = {prompt: pipeline.predict_layout(prompt) for prompt in dict.fromkeys(prompts)}
        return [known[prompt] for prompt in prompts]
    listed = [given] if isinstance(given, Layout | Mapping) else list(given)
    layouts = [one if isinstance(one, Layout) else Layout.from_json(one) for one in listed]
    if not layouts or len(prompts) % len(layouts):
        raise UserError(f"there are {len(layouts)} layouts for {len(prompts)} images; give one, or one a prompt")
    return [layout for layout in layouts for _ in range(len(prompts) // len(layouts))]


@contextmanager
def _decoder_in_full(pipe: Any) -> Iterator[None]:
    """The first stage is in float32 inside where its config wants that and it is in half precision."""
    kind = pipe.vae.dtype
    lifted = kind == torch.float16 and pipe.vae.config.get("force_upcast", False)
    if lifted:
        pipe.vae.to(torch.float32)
    try:
        yield
    finally:
        if lifted:
            pipe.vae.to(kind)


def _finished(pipe: Any, images: Tensor, output_type: str) -> tuple[Any, list[bool] | None]:
    """Images (B, 3, H, W) in [-1, 1] as `output_type` says, after the safety checker or watermark of the pipeline."""
    if output_type not in ("pil", "np", "pt"):
        raise UserError(f"output_type must be pil, np, pt or latent, not {output_type}")
    flagged = None
    if getattr(pipe, "safety_checker", None) is not None:
        images, flagged = pipe.run_safety_checker(images, images.device, pipe.unet.dtype)
    if getattr(pipe, "watermark", None) is not None and output_type == "pil":
        images = pipe.watermark.apply_watermark(images)
    clean = [not bad for bad in flagged or [False] * len(images)]
    return pipe.image_processor.postprocess(images, output_type=output_type, do_denormalize=clean), flagged
