"""Samples of an unconditional model in bulk."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ldm.backends.compvis import CompVis
from ldm.errors import UserError
from ldm.files import atomic_write
from ldm.generation.chain import Steps, start_chain
from ldm.generation.generate import Guard
from ldm.generation.images import ImageArray, save_png, to_images
from ldm.generation.pipeline import make_sampler, precision, set_threads
from ldm.generation.progress import OnWork, Progress, stage, work_of
from ldm.generation.settings import Run, Sampling, check_counts
from ldm.locks import hold
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.diffusion.sampling import noise_like, seeded_generators
from ldm.suggest import did_you_mean
from ldm.util import load_config, load_model_from_config, pick_device

logger = logging.getLogger(__name__)

# Of a run or model folder, in the order of preference: as published, then as main.py writes them.
CHECKPOINTS = ("model.ckpt", "model.safetensors", "checkpoints/last.ckpt")


@dataclass(frozen=True, kw_only=True)
class SampleSettings(Sampling, Run):
    """What to sample and how, by DDIM."""

    resume: Path  # folder of a model or run, or a checkpoint in it
    n_samples: int = 50000
    batch_size: int = 10
    eta: float = 1.0
    vanilla_sample: bool = False  # all training steps (Ho et al. 2020, algorithm 2) instead of DDIM
    logdir: Path | None = None  # the folder of `resume` by default
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


def open_unconditional(settings: SampleSettings) -> CompVis:
    """The model with its overrides. Raises UserError where it cannot be loaded or is conditional."""
    path, ckpt = find_model(settings.resume)
    set_threads(settings.threads)
    sections = load_config(path)
    for text in settings.overrides:
        section = text.split("=")[0].split(".")[0]
        if section not in sections:
            raise UserError(f"{path} has no section '{section}' to replace{did_you_mean(section, sections)}")
    config = load_config(path, settings.overrides)
    model = load_model_from_config(config, ckpt, device=pick_device(settings.device))
    if getattr(model, "cond_stage_model", None) is not None:
        raise UserError(f"{path} is of a conditional model, and this script samples unconditional ones only")
    return CompVis(model, config, guidance_scale=1.0)


def sample_folder(settings: SampleSettings, guard: Guard = list, progress: Progress | None = None) -> Path:
    """Write PNG files and one .npz of all samples; returns the new folder that holds them.

    Args:
        guard: safety checker and watermark, see `ldm.generation.safety.Guard`; published samples have neither.

    Raises:
        UserError: a setting, a model or a folder that cannot be used, or a conditional model.
    """
    check_counts(settings, "n_samples", "batch_size")
    if not 0 <= settings.eta <= 1:
        raise UserError(f"--eta must be from 0 to 1, not {settings.eta}")
    with stage(progress, "loading the model"):
        backend = open_unconditional(settings)
    if not settings.vanilla_sample:
        make_sampler("ddim", backend).schedule(settings.steps, settings.eta)  # refuses before files are made
    stamp = datetime.datetime.now().strftime("%Y-%m-%d-%H-%M-%S-%f")
    folder = (settings.logdir or find_model(settings.resume)[0].parent) / "samples" / stamp
    with hold(folder):
        _fill(folder, backend, settings, guard, progress)
    return folder


def _fill(folder: Path, backend: CompVis, settings: SampleSettings, guard: Guard, progress: Progress | None) -> None:
    begun, made = time.monotonic(), list[ImageArray]()
    try:
        for first in range(0, settings.n_samples, settings.batch_size):
            numbers = range(first, min(first + settings.batch_size, settings.n_samples))
            images = guard(to_images(sample_batch(backend, settings, numbers, work_of(progress, "sampling"))))
            for number, image in zip(numbers, images, strict=True):
                save_png(folder / "img" / f"sample_{number:06d}.png", image)
                made.append(image)
        array = np.stack(made)  # (N, H, W, 3)
        name = "x".join(str(n) for n in array.shape) + "-samples.npz"  # as published
        with atomic_write(folder / "numpy" / name) as temporary:
            np.savez(temporary, array)
    except BaseException:
        if made:
            logger.warning("%d samples are in %s, without their .npz.", len(made), folder)
        raise
    logger.info("%d samples, %.2f a second", len(made), len(made) / (time.monotonic() - begun))


@torch.no_grad()
def sample_batch(
    backend: CompVis, settings: SampleSettings, numbers: Sequence[int], on_work: OnWork | None = None
) -> Tensor:
    """Images (B, C, H, W) in [0, 1]; image i depends on seed + i alone."""
    model, size = backend.model, backend.model.image_size
    shape = (model.channels, *((size, size) if isinstance(size, int) else size))
    seeds = [settings.seed + number for number in numbers]
    with precision(backend.device, settings.precision):
        if settings.vanilla_sample:
            generators, steps = seeded_generators(seeds), Steps(None, model.num_timesteps, on_work=on_work)
            noise = noise_like((len(seeds), *shape), generators)
            given = (None, noise.shape) if isinstance(model, LatentDiffusion) else (noise.shape,)
            options = {"x_T": noise, "generator": generators, "callback": lambda t: steps({"t": t}), "verbose": False}
            latents = model.p_sample_loop(*given, **options)
        else:
            sampler, chain = start_chain(backend, settings, seeds, shape, on_work=on_work)
            latents, _ = sampler.sample(**chain)
        return backend.decode(latents)
