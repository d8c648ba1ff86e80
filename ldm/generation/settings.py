"""What a run of the method is asked to do, and what of it can be refused before anything is loaded."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ldm.util import UserError

if TYPE_CHECKING:
    from ldm.generation.pipeline import Pipeline

SCHEDULES = ("per-step", "april-2023", "iccv-2023")
S = TypeVar("S", bound="Sampling")
BLENDS = ("conditional", "unconditional")  # attention that the local one is measured against
SAMPLERS = {"ddim": "DDIM", "plms": "PLMS", "dpm_solver": "DPM-Solver"}  # flag: name for people and web UIs


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How images are sampled; None means: as suits the model."""

    sampler: str = "ddim"  # a key of SAMPLERS
    steps: int = 50
    eta: float = 0.0  # DDIM only: 0 deterministic, 1 as noisy as DDPM
    scale: float | None = None  # classifier-free guidance
    height: int | None = None  # pixels
    width: int | None = None  # pixels
    precision: str = "full"  # "full" or "autocast"
    block_checkpointing: bool = False  # recompute the U-Net's blocks in the backward pass: less memory, more time
    keep_activations: bool = False  # keep those of a whole differentiated chain: much more memory, less time
    save_steps: bool = False  # also the predicted image of every step


@dataclass(frozen=True)
class GenerateSettings(Sampling):
    """What to make and how; a value of None means: as it suits the model or the schedule."""

    prompts: tuple[str, ...]
    outdir: Path | None = None  # where the files go; None writes none
    config: Path | None = None
    ckpt: Path | None = None
    clip: str | None = None  # path or published name of the CLIP of the loss
    predictor: Path | None = None  # weights of the layout predictor
    layout: Path | None = None  # objects and centers by hand, instead of the predictor
    all_nouns: bool = False  # control every noun of the prompt, not only COCO's categories
    schedule: str = "per-step"  # one of SCHEDULES
    channels: int | None = None  # of the latents; only checked against the model
    factor: int | None = None  # pixels per latent pixel; only checked against the model
    samples: int = 1  # images of a prompt made together
    iterations: int = 1  # how often every prompt is taken
    columns: int = 0  # images in a row of the grid; 0 takes `samples`
    seed: int = 42  # image number i starts from seed + i
    fixed_code: bool = False  # the same starting noise in every batch
    baseline: bool = False  # also the plain image from the same noise
    skip_grid: bool = False
    skip_save: bool = False
    device: str | None = None
    threads: int | None = None  # of the CPU
    inner_steps: int | None = None  # gradient steps within a denoising step (per-step)
    learning_rate: float | None = None  # of the weights
    rounds: int | None = None  # passes through the whole chain (the published schedules)
    gradient_steps: int | None = None  # last steps that the gradient passes through (the published schedules)
    blend: str | None = None  # one of BLENDS
    pack_weights: bool = False  # less time on a CPU, a second copy of the weights
    command: str | None = None  # how it was called; only recorded


def check_settings(settings: GenerateSettings) -> None:
    """Refuse what no model can do, before anything is loaded. Raises UserError."""
    if not settings.prompts:
        raise UserError("there is no prompt; give one with --prompt or --from-file")
    if any(not prompt.strip() for prompt in settings.prompts):
        raise UserError("the prompt is empty; say what the image should show")
    if not 1 <= settings.steps <= 1000:
        raise UserError(f"the number of steps must be from 1 to 1000, not {settings.steps}; 50 is usual")
    _check_choice("schedule", settings.schedule, SCHEDULES)
    _check_choice("sampler", settings.sampler, tuple(SAMPLERS))
    if settings.blend is not None:
        _check_choice("blend", settings.blend, BLENDS)
    _check_choice("precision", settings.precision, ("full", "autocast"))
    for name in ("samples", "iterations", "threads", "rounds", "inner_steps", "gradient_steps", "height", "width"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise UserError(f"{name.replace('_', ' ')} must be at least 1, not {value}")
    if settings.columns < 0:
        raise UserError(f"images in a row must be 0 or more, not {settings.columns}")
    if settings.eta and settings.sampler != "ddim":
        raise UserError(f"{SAMPLERS[settings.sampler]} is deterministic; leave out --ddim_eta or use DDIM")
    if not (math.isfinite(settings.eta) and settings.eta >= 0):
        raise UserError(f"eta must be 0 or more, not {settings.eta}")
    if settings.scale is not None and not math.isfinite(settings.scale):
        raise UserError(f"the guidance scale must be a finite number, not {settings.scale}")
    if settings.learning_rate is not None and not 0 < settings.learning_rate < math.inf:
        raise UserError(f"the learning rate must be above 0, not {settings.learning_rate}")
    if not 0 <= settings.seed < 2**63:
        raise UserError(f"the seed must be from 0 to {2**63 - 1}, not {settings.seed}")


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UserError(f"{name} '{value}' is unknown; choose {', '.join(choices[:-1])} or {choices[-1]}")


def check_writable(folder: Path) -> None:
    """Make `folder` and see that files can be made in it. Raises UserError where not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as err:
        reason = err.strerror or type(err).__name__
        raise UserError(f"output folder {folder} cannot be written ({reason}); choose another one") from err


def fit_to_model(settings: S, pipeline: Pipeline) -> S:
    """`settings` with the model's own size and guidance where they say nothing.

    Raises:
        UserError: a size that is not a multiple of 8 latent pixels, or latents that the model does not have.
    """
    if isinstance(settings, GenerateSettings):
        latents = (("--f", settings.factor, pipeline.factor), ("--C", settings.channels, pipeline.channels))
        for flag, given, own in latents:
            if given is not None and given != own:
                raise UserError(f"{flag} {given} does not fit the model, which has {own}; leave the flag out")
    multiple = 8 * pipeline.factor
    height, width = settings.height or pipeline.image_size, settings.width or pipeline.image_size
    for flag, size in (("--H", height), ("--W", width)):
        if size % multiple:
            near = max(multiple, round(size / multiple) * multiple)
            raise UserError(f"{flag} {size} is not a multiple of {multiple}, as this model needs; take {near}")
    scale = pipeline.guidance_scale if settings.scale is None else settings.scale
    return replace(settings, height=height, width=width, scale=scale)
