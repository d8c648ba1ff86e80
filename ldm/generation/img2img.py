"""Image to image: an image noised part of the way and denoised towards a prompt (SDEdit, Meng et al. 2022)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ldm.errors import UserError
from ldm.generation.chain import Callback, Progress, Steps
from ldm.generation.draw import GeneratedImage, contexts
from ldm.generation.generate import Guard, outcomes
from ldm.generation.images import fit_size, image_tensor, to_images
from ldm.generation.pipeline import Pipeline, open_pipeline
from ldm.generation.record import Outcome
from ldm.generation.settings import GenerateSettings, Sampling, check_settings, fit_to_model
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.models.diffusion.sampling import Generators, noise_like, seeded_generators
from ldm.pixels import read_image
from ldm.spacetime.layout import Layout

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class VariationSettings(GenerateSettings):
    """What to make, and of what."""

    init_image: Path
    strength: float

    def more_parameters(self) -> dict[str, str]:
        """What it takes to make the image again."""
        return {"Denoising strength": f"{self.strength:g}", "Init image": self.init_image.name}


def redraw(
    settings: GenerateSettings,
    init_image: Path,
    strength: float = 0.75,
    guard: Guard = list,
    progress: Progress | None = None,
) -> Iterator[Outcome]:
    """Make variations of an image, and yield each when it is written; files where `settings` names a folder.

    Args:
        settings: as for `generate`, with a preset of None; height and width are the image's.
        init_image: an image file; its sides are cut to what the model can do.
        strength: 0 keeps the image, 1 keeps nothing of it.

    Raises:
        UserError: a setting, a file or a folder that cannot be used, or a sampler other than DDIM.
    """
    if settings.sampler != "ddim":
        raise UserError("img2img works with the DDIM sampler only; leave out --plms")
    if not 0.0 <= strength <= 1.0:
        raise UserError(f"--strength must be from 0 to 1, not {strength}")
    image = read_image(init_image)
    check_settings(settings)
    pipeline = open_pipeline(settings)
    fitted = fit_size(image, 8 * pipeline.backend.factor)
    if fitted.size != image.size:
        sizes = f"{fitted.width}x{fitted.height} instead of {image.width}x{image.height}"
        logger.warning("%s is taken at %s.", init_image, sizes)
    steps = len(DDIMSampler(pipeline.backend).schedule(settings.steps, settings.eta))
    if 0 < strength * steps < 1:
        logger.warning("--strength %g of %d steps is less than one step: the image stays as it is.", strength, steps)
    given = {**vars(settings), "preset": None, "height": fitted.height, "width": fitted.width}
    settings = VariationSettings(**given, init_image=init_image, strength=strength)
    draw = partial(vary, image=image_tensor(fitted), strength=strength)
    return outcomes(settings, progress, guard=guard, pipeline=pipeline, draw=draw)


def vary(
    pipeline: Pipeline,
    prompts: Sequence[str],
    layouts: Sequence[Layout],
    seeds: Sequence[int],
    preset: None,
    sampling: Sampling,
    callback: Callback | None = None,
    *,
    image: Tensor,
    strength: float,
    generator: Generators = None,
    x_T: None = None,
) -> list[GeneratedImage]:
    """Variations of `image` (1, 3, H, W) in [0, 1]: as `ldm.generation.draw.draw`, but from the noised image.

    `generator` draws all noise but that of the image's latents.
    """
    backend, sampling = pipeline.backend, fit_to_model(sampling, pipeline.backend)
    own, sampler = seeded_generators(seeds), DDIMSampler(backend)
    generators: Generators = own if generator is None else generator
    with pipeline.precision(sampling.precision), torch.no_grad():
        latents = backend.encode_image(image.to(backend.device), own)  # (B, C, h, w)
        sampler.make_schedule(sampling.steps, ddim_eta=sampling.eta, verbose=False)
        total = len(sampler.ddim_timesteps)
        if taken := int(strength * sampling.steps):  # of the steps asked for, though some counts give more
            entry = torch.full((len(seeds),), min(taken, total - 1))  # strength 1 begins at the noisiest step
            noise = noise_like(latents.shape, generators, latents.device).to(latents.dtype)
            texts = contexts(backend, prompts)
            assert sampling.scale is not None  # see fit_to_model
            latents = sampler.decode(
                sampler.stochastic_encode(latents, entry, noise=noise),
                texts["conditioning"],
                taken,
                unconditional_guidance_scale=sampling.scale,
                unconditional_conditioning=texts["unconditional_conditioning"],
                generator=generators,
                on_step=Steps(callback, taken),
            )
        images = to_images(backend.decode(latents))
    return [GeneratedImage(*made) for made in zip(prompts, seeds, layouts, images, strict=True)]
