"""Samples of an unconditional model in bulk: what `scripts/sample_diffusion.py` does, as a function."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm.cli.common import Progress, StepCounter, no_progress, set_threads
from ldm.cli.txt2img import Guarding
from ldm.generation.images import ImageArray, save_png, to_images
from ldm.generation.settings import check_writable
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.models.diffusion.sampling import noise_like, seeded_generators
from ldm.suggest import did_you_mean
from ldm.util import UserError, atomic_write, load_config, load_model_from_config, pick_device

logger = logging.getLogger(__name__)

# Of a run or model folder, in the order of preference: as published, then as main.py writes them.
CHECKPOINTS = ("model.ckpt", "model.safetensors", "checkpoints/last.ckpt")


@dataclass(frozen=True)
class SampleSettings:
    """What to sample and how."""

    resume: Path  # folder of a model or run, or a checkpoint in it
    n_samples: int = 50000
    batch_size: int = 10
    custom_steps: int = 50  # of DDIM
    eta: float = 1.0  # of DDIM: 0 deterministic, 1 as noisy as DDPM
    vanilla_sample: bool = False  # all training steps (Ho et al. 2020, algorithm 2) instead of DDIM
    logdir: Path | None = None  # the folder of `resume` by default
    seed: int = 42
    device: str | None = None
    threads: int | None = None
    overrides: tuple[str, ...] = ()  # config entries, key=value


def find_model(resume: Path) -> tuple[Path, Path]:
    """(config, checkpoint) of a run's folder, or of the folder that a checkpoint lies in.

    Raises:
        UserError: one of them is not there.
    """
    if resume.is_file():
        ckpt = resume
        folder = resume.parent.parent if resume.parent.name == "checkpoints" else resume.parent
    elif resume.is_dir():
        folder = resume
        found = [resume / name for name in CHECKPOINTS if (resume / name).is_file()]
        if not found:
            raise UserError(f"folder {resume} holds no checkpoint; put {CHECKPOINTS[0]} into it or name a file")
        ckpt = found[0]
    else:
        raise UserError(f"{resume} does not exist; --resume names the folder of a model or a checkpoint in it")
    config = folder / "config.yaml"
    if not config.is_file():
        raise UserError(f"there is no {config}; put the config of {ckpt.name} there")
    return config, ckpt


def sample_folder(settings: SampleSettings, guard: Guarding = list, progress: Progress = no_progress) -> Path:
    """Write PNG files and one ``.npz`` of all samples; returns the new folder that holds them.

    Args:
        guard: safety checker and watermark, see :class:`ldm.generation.safety.Guard`; published samples have neither.

    Raises:
        UserError: a setting, a model or a folder that cannot be used, or a conditional model.
    """
    for name in ("n_samples", "batch_size"):
        if getattr(settings, name) < 1:
            raise UserError(f"{name} must be at least 1, not {getattr(settings, name)}")
    if not 0 <= settings.eta <= 1:
        raise UserError(f"--eta must be from 0 to 1, not {settings.eta}")
    config_path, ckpt = find_model(settings.resume)
    set_threads(settings.threads)
    sections = load_config(config_path)
    for text in settings.overrides:
        section = text.split("=")[0].split(".")[0]
        if section not in sections:
            raise UserError(f"{config_path} has no section '{section}' to replace{did_you_mean(section, sections)}")
    config = load_config(config_path, settings.overrides)
    model = load_model_from_config(config, ckpt, device=pick_device(settings.device))
    if getattr(model, "cond_stage_model", None) is not None:
        raise UserError(f"{config_path} is of a conditional model, and this script samples unconditional ones only")
    if not settings.vanilla_sample:
        DDIMSampler(model).schedule(settings.custom_steps, settings.eta)  # refuses wrong steps before files are made
    stamp = datetime.datetime.now().strftime("%Y-%m-%d-%H-%M-%S-%f")
    folder = (settings.logdir or config_path.parent) / "samples" / stamp
    check_writable(folder)
    begun, made = time.monotonic(), []
    for first in range(0, settings.n_samples, settings.batch_size):
        numbers = range(first, min(first + settings.batch_size, settings.n_samples))
        images = guard(to_images(sample_batch(model, settings, numbers, progress), low=-1))
        for number, image in zip(numbers, images, strict=True):
            save_png(folder / "img" / f"sample_{number:06d}.png", image)
        made += images
    _save_all(folder, made)
    rate = len(made) / (time.monotonic() - begun)
    logger.info("%d samples, %.2f a second", len(made), rate)
    return folder


def _save_all(folder: Path, images: Sequence[ImageArray]) -> None:
    """All images as one uint8 array (N, H, W, 3), its shape in the file's name as published."""
    array = np.stack(images)
    name = "x".join(str(n) for n in array.shape) + "-samples.npz"
    with atomic_write(folder / "numpy" / name) as temporary:
        np.savez(temporary, array)


@torch.no_grad()
def sample_batch(
    model: Any, settings: SampleSettings, numbers: Sequence[int], progress: Progress = no_progress
) -> Tensor:
    """Images (B, C, H, W), about [-1, 1]; image i depends on seed + i alone."""
    size = model.image_size
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    shape = (model.channels, height, width)
    generators = seeded_generators([settings.seed + number for number in numbers])
    noise = noise_like((len(numbers), *shape), generators)
    if settings.vanilla_sample:
        steps = StepCounter(progress, "sampling", model.num_timesteps)
        latents, _ = model.p_sample_loop(
            noise.shape, x_T=noise, generator=generators, callback=lambda t: steps({"t": t})
        )
    else:
        sampler = DDIMSampler(model)
        total = len(sampler.schedule(settings.custom_steps, settings.eta))
        latents, _ = sampler.sample(
            S=settings.custom_steps,
            batch_size=len(numbers),
            shape=shape,
            eta=settings.eta,
            x_T=noise,
            generator=generators,
            callback=StepCounter(progress, "sampling", total),
            verbose=False,
        )
    return model.decode_first_stage(latents) if hasattr(model, "decode_first_stage") else latents
