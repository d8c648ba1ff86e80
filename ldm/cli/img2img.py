"""Image to image: an image noised part of the way and denoised towards a prompt (SDEdit, Meng et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.cli.common import Progress, StepCounter, no_progress
from ldm.cli.images import fit_size, image_tensor, read_image
from ldm.cli.txt2img import Guarding, finish, open_pipeline, write_grid
from ldm.generation.generate import Outcome, batches, make_recorder
from ldm.generation.images import to_images
from ldm.generation.pipeline import Pipeline
from ldm.generation.settings import GenerateSettings, fit_to_model
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.models.diffusion.sampling import noise_like, seeded_generators
from ldm.spacetime.layout import Layout
from ldm.util import UserError


def redraw(
    settings: GenerateSettings,
    init_image: Path,
    strength: float = 0.75,
    guard: Guarding = list,
    progress: Progress = no_progress,
    notice: Callable[[str], None] = lambda text: None,
) -> list[Outcome]:
    """Make variations of an image; files where `settings` names a folder.

    Args:
        settings: as for :func:`ldm.cli.txt2img.draw`; height and width are the image's.
        init_image: an image file; its sides are cut to what the model can do.
        strength: 0 keeps the image, 1 keeps nothing of it.
        guard, progress, notice: as for :func:`ldm.cli.txt2img.draw`.

    Raises:
        UserError: a setting, a file or a folder that cannot be used, or a sampler other than DDIM.
    """
    if settings.sampler != "ddim":
        raise UserError("img2img works with the DDIM sampler only; leave out --plms")
    if not 0.0 <= strength <= 1.0:
        raise UserError(f"--strength must be from 0 to 1, not {strength}")
    image = read_image(init_image)
    pipeline, choice = open_pipeline(settings)
    if choice.notice:
        notice(choice.notice)
    resized = fit_size(image, 8 * pipeline.factor)
    if resized.size != image.size:
        notice(f"{init_image} is taken at {resized.width}x{resized.height} instead of {image.width}x{image.height}.")
    settings = fit_to_model(replace(settings, height=resized.height, width=resized.width), pipeline)
    recorder = make_recorder(settings, pipeline)
    start = image_tensor(resized).to(pipeline.device)
    outcomes: list[Outcome] = []
    for prompt, numbers, seeds in batches(settings):
        images = vary(pipeline, settings, start, prompt, seeds, strength, progress)
        made = [
            Outcome(prompt, seed, Layout((), prompt), pixels, index=i)
            for i, (seed, pixels) in enumerate(zip(seeds, to_images(images, low=-1), strict=True))
        ]
        outcomes += finish(made, numbers, guard, recorder)
    return write_grid(outcomes, recorder)


@torch.no_grad()
def vary(
    pipeline: Pipeline,
    settings: GenerateSettings,
    image: Tensor,
    prompt: str,
    seeds: Sequence[int],
    strength: float,
    progress: Progress = no_progress,
) -> Tensor:
    """One variation a seed of `image` (1, 3, H, W) in [-1, 1]: (B, 3, H, W), about [-1, 1]."""
    model, generators = pipeline.model, seeded_generators(seeds)
    with pipeline.precision(settings.precision):
        posterior = model.encode_first_stage(image)
        latents = torch.cat([_draw(model, posterior, g) for g in generators])  # (B, C, h, w)
        sampler = DDIMSampler(model)
        sampler.make_schedule(settings.steps, ddim_eta=settings.eta, verbose=False)
        total = len(sampler.ddim_timesteps)
        taken = int(strength * total)
        if taken == 0:
            return model.decode_first_stage(latents)
        entry = torch.full((len(seeds),), min(taken, total - 1))  # strength 1 begins at the noisiest step
        noise = noise_like(latents.shape, generators).to(latents)
        context = pipeline.encode(["", prompt])  # (2, L, C)
        latents = sampler.decode(
            sampler.stochastic_encode(latents, entry, noise=noise),
            context[1:].repeat(len(seeds), 1, 1),
            taken,
            unconditional_guidance_scale=settings.scale if settings.scale is not None else 1.0,
            unconditional_conditioning=context[:1],
            generator=generators,
            callback=StepCounter(progress, "img2img", taken),
        )
        return model.decode_first_stage(latents)


def _draw(model: Any, posterior: Any, generator: torch.Generator) -> Tensor:
    """A latent (1, C, h, w) of the image; a code of a VQ model has nothing to draw."""
    if isinstance(posterior, Tensor):
        return model.get_first_stage_encoding(posterior)
    return model.get_first_stage_encoding(posterior, generator=generator)
