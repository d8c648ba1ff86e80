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
from ldm.generation.chain import Callback, start_chain
from ldm.generation.draw import GeneratedImage, contexts, negative_prompts, run_chain, weights_and_losses
from ldm.generation.generate import Guard, outcomes
from ldm.generation.images import fit_size, image_tensor, to_images
from ldm.generation.pipeline import Pipeline, open_pipeline, precision
from ldm.generation.progress import OnWork, Progress
from ldm.generation.record import Outcome
from ldm.generation.settings import GenerateSettings, Sampling, check_settings, fit_to_model
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.models.diffusion.sampling import Generators, seeded_generators
from ldm.pixels import read_image
from ldm.spacetime.layout import Layout
from ldm.spacetime.presets import Preset

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
        settings: as for `generate`; height and width are the image's.
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
    pipeline = open_pipeline(settings, settings.clip, settings.predictor, progress=progress)
    fitted = fit_size(image, 8 * pipeline.backend.factor)
    if fitted.size != image.size:
        sizes = f"{fitted.width}x{fitted.height} instead of {image.width}x{image.height}"
        logger.warning("%s is taken at %s.", init_image, sizes)
    steps = len(DDIMSampler(pipeline.backend).schedule(settings.steps, settings.eta))
    if 0 < strength * steps < 1:
        logger.warning("--strength %g of %d steps is less than one step: the image stays as it is.", strength, steps)
    given = {**vars(settings), "height": fitted.height, "width": fitted.width}
    settings = VariationSettings(**given, init_image=init_image, strength=strength)
    draw = partial(vary, image=image_tensor(fitted), strength=strength)
    return outcomes(settings, progress, guard=guard, pipeline=pipeline, draw=draw)


def vary(
    pipeline: Pipeline,
    prompts: Sequence[str],
    layouts: Sequence[Layout],
    seeds: Sequence[int],
    preset: Preset | None,
    sampling: Sampling,
    callback: Callback | None = None,
    *,
    image: Tensor,
    strength: float,
    generator: Generators = None,
    x_T: None = None,
    on_work: OnWork | None = None,
) -> list[GeneratedImage]:
    """Variations of `image` (1, 3, H, W) in [0, 1]: as `ldm.generation.draw.draw`, but from the noised image.

    `generator` draws all noise but that of the image's latents.
    """
    backend, sampling = pipeline.backend, fit_to_model(sampling, pipeline.backend)
    own = seeded_generators(seeds)
    result = None
    with precision(pipeline.device, sampling.precision):
        with torch.no_grad():
            latents = backend.encode_image(image.to(backend.device), own)  # (B, C, h, w)
        if taken := int(strength * sampling.steps):  # of the steps asked for, though some counts give more
            generators: Generators = own if generator is None else generator
            sampler, chain = start_chain(
                backend, sampling, seeds, latents.shape[1:], callback, preset, generators, None, on_work, taken
            )
            chain |= contexts(backend, prompts, negative_prompts(layouts, sampling), (image.shape[-2], image.shape[-1]))
            assert isinstance(sampler, DDIMSampler)  # see `redraw`
            sampler.make_schedule(sampling.steps, ddim_eta=sampling.eta, verbose=False)
            entry = min(taken, len(sampler.ddim_timesteps) - 1)  # strength 1 begins at the noisiest step
            with torch.no_grad():
                at = torch.full((len(seeds),), entry)
                chain["x_T"] = sampler.stochastic_encode(latents, at, noise=chain["x_T"].to(latents))
            images, result = run_chain(pipeline, sampler, chain, prompts, layouts, preset, sampling, on_work)
        else:
            with torch.no_grad():
                images = backend.decode(latents)
    made = zip(prompts, seeds, layouts, to_images(images), strict=True)
    return [
        GeneratedImage(*entry, *weights_and_losses(result, b, len(layouts[b].objects))) for b, entry in enumerate(made)
    ]
