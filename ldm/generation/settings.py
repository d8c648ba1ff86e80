"""What a run is asked to do, and what of it can be refused before anything is loaded. Imports nothing heavy."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ldm.errors import UserError

if TYPE_CHECKING:
    import torch

    from ldm.backends.base import Backend
    from ldm.spacetime.layout import LayoutObject

PRESET_NAMES = ("per-step", "april-2023", "iccv-2023", "fixed")
BLENDS = ("conditional", "unconditional")  # attention that the local one is measured against
SAMPLERS = {"ddim": "DDIM", "plms": "PLMS", "dpm_solver": "DPM-Solver"}  # flag: name for people and web UIs
DTYPES = ("float32", "float16", "bfloat16")
PRECISIONS = ("full", "autocast")
LAYOUT_FORMS = ("ours", "lmd", "gligen", "coco", "7bench")  # that are written, see ldm.generation.layouts
NOISES = ("per-image", "published")  # one generator of the CPU an image, or the one that a CUDA card would draw from

S = TypeVar("S", bound="Sampling")


@dataclass(frozen=True, kw_only=True)
class Run:
    """What every script is asked."""

    outdir: Path | None = None  # where the files go; None writes none
    config: Path | None = None
    ckpt: Path | None = None
    model: str | None = None  # a folder of diffusers or a hub name, instead of config and ckpt
    dtype: str | None = None  # of such a model, one of DTYPES
    offload: bool = False  # of such a model: on the card is only the part that runs
    lora: Sequence[str] = ()  # of such a model: FILE, or FILE:SCALE
    seed: int = 42  # image number i starts from seed + i
    device: str | None = None
    threads: int | None = None  # of the CPU
    pack_weights: bool | None = None  # on a CPU: less time, more memory; None for large models where it is there


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How images are sampled; None means: as suits the model."""

    sampler: str = "ddim"  # a key of SAMPLERS
    steps: int = 50
    eta: float = 0.0  # DDIM only: 0 deterministic, 1 as noisy as DDPM
    scale: float | None = None  # classifier-free guidance
    negative_prompt: str | None = None  # what images shall not show; None is the layout's, or nothing
    height: int | None = None  # pixels
    width: int | None = None  # pixels
    precision: str | None = None  # one of PRECISIONS; as published, autocast on CUDA and full elsewhere
    # Recompute the U-Net's blocks in the backward pass: less memory, more time. None: where a card has no room.
    block_checkpointing: bool | None = None
    half_decode: bool = False  # the loss looks at images of half the size: less memory, a gradient that is only near
    keep_activations: bool = False  # keep those of a whole differentiated chain: much more memory, less time
    best_of: int = 1  # images of as many seeds, of which the one with the least loss is kept
    save_steps: bool = False  # also the predicted image of every step
    save_rounds: bool = False  # also the image of every pass through the whole chain (the published presets)


@dataclass(frozen=True)
class GenerateSettings(Sampling, Run):
    """What to make and how; None means: as suits the model or the preset."""

    prompts: tuple[str, ...]
    clip: str | None = None  # path or published name of the CLIP of the loss
    predictor: Path | None = None  # weights of the layout predictor
    layout: Path | None = None  # a layout file, instead of the predictor; see ldm.generation.layouts
    layout_id: str | None = None  # of several layouts in the file; by default the one of the prompt
    objects: tuple[LayoutObject, ...] = ()  # a layout without a file
    all_nouns: bool = False  # control every noun of the prompt, not only COCO's categories
    preset: str | None = "per-step"  # one of PRESET_NAMES; None is the plain model
    channels: int | None = None  # of the latents; only checked against the model
    factor: int | None = None  # pixels per latent pixel; only checked against the model
    samples: int = 1  # images of a prompt made together
    iterations: int = 1  # how often every prompt is taken
    columns: int = 0  # images in a row of the grid; 0 takes `samples`
    grouped: bool = False  # each prompt makes one image at a time, and `samples` prompts share a batch
    noise: str = "per-image"  # one of NOISES
    fixed_code: bool = False  # the same starting noise in every batch
    baseline: bool = False  # also the plain image from the same noise
    skip_grid: bool = False
    skip_save: bool = False
    inner_steps: int | None = None  # gradient steps within a denoising step (per-step)
    learning_rate: float | None = None  # of the weights
    rounds: int | None = None  # passes through the whole chain (the published presets)
    gradient_steps: int | None = None  # last steps that the gradient passes through (the published presets)
    blend: str | None = None  # one of BLENDS
    share_overlaps: bool | None = None  # where regions overlap, their weights are shared out
    command: str | None = None  # how it was called; only recorded

    def more_parameters(self) -> dict[str, str]:
        """Further fields of an image's parameters text."""
        return {}


def check_settings(settings: GenerateSettings) -> None:
    """Refuse what no model can do, before anything is loaded. Raises UserError."""
    s = settings
    if not s.prompts:
        raise UserError("there is no prompt; give one with --prompt or --from-file")
    if any(not prompt.strip() for prompt in s.prompts):
        raise UserError("the prompt is empty; say what the image should show")
    if not 1 <= s.steps <= 1000:
        raise UserError(f"the number of steps must be from 1 to 1000, not {s.steps}; 50 is usual")
    for name, value, choices in (
        ("preset", s.preset, PRESET_NAMES),
        ("sampler", s.sampler, tuple(SAMPLERS)),
        ("blend", s.blend, BLENDS),
        ("precision", s.precision, PRECISIONS),
        ("dtype", s.dtype, DTYPES),
        ("noise", s.noise, NOISES),
    ):
        if value is not None and value not in choices:
            raise UserError(f"{name} '{value}' is unknown; choose {', '.join(choices[:-1])} or {choices[-1]}")
    check_counts(
        s, "samples", "iterations", "rounds", "inner_steps", "gradient_steps", "height", "width", "threads", "best_of"
    )
    if s.layout is not None and s.objects:
        raise UserError("--layout and --box or --at exclude each other; give one of them")
    if s.layout_id is not None and s.layout is None:
        raise UserError("--layout-id chooses a layout of the file that --layout names; name one")
    if s.best_of > 1 and (s.noise == "published" or s.fixed_code):
        raise UserError("--best_of draws from several seeds; leave out --noise published and --fixed_code")
    if s.columns < 0:
        raise UserError(f"images in a row must be 0 or more, not {s.columns}")
    if s.eta and s.sampler != "ddim":
        raise UserError(f"{SAMPLERS[s.sampler]} is deterministic; leave out --ddim_eta or use DDIM")
    if not (math.isfinite(s.eta) and s.eta >= 0):
        raise UserError(f"eta must be 0 or more, not {s.eta}")
    if s.scale is not None and not math.isfinite(s.scale):
        raise UserError(f"the guidance scale must be a finite number, not {s.scale}")
    if s.learning_rate is not None and not 0 < s.learning_rate < math.inf:
        raise UserError(f"the learning rate must be above 0, not {s.learning_rate}")
    if not 0 <= s.seed < 2**63:
        raise UserError(f"the seed must be from 0 to {2**63 - 1}, not {s.seed}")


def check_counts(settings: object, *names: str) -> None:
    """Refuse settings of these names that are given and below 1. Raises UserError."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise UserError(f"{name.replace('_', ' ')} must be at least 1, not {value}")


def check_writable(folder: Path) -> None:
    """Make `folder` and see that files can be made in it. Raises UserError where not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as err:
        reason = err.strerror or type(err).__name__
        raise UserError(f"output folder {folder} cannot be written ({reason}); choose another one") from err


def own_precision(device: torch.device) -> str:
    """What a device runs models in where nobody says it."""
    return "autocast" if device.type == "cuda" else "full"


def fit_to_model(settings: S, backend: Backend) -> S:
    """`settings` with the model's own size and guidance, and its device's precision, where they say nothing.

    Raises:
        UserError: a size that is not a multiple of 8 latent pixels, latents that the model does not have, or a model
            that needs an image and a mask.
    """
    if getattr(backend, "conditioning_key", None) in ("concat", "hybrid"):
        raise UserError("this model paints into images; give it an image and a mask with scripts/inpaint.py")
    for flag, name in (("--f", "factor"), ("--C", "channels")):
        given, own = getattr(settings, name, None), getattr(backend, name)
        if given is not None and given != own:
            raise UserError(f"{flag} {given} does not fit the model, which has {own}; leave the flag out")
    multiple = 8 * backend.factor
    height, width = settings.height or backend.image_size, settings.width or backend.image_size
    for flag, size in (("--H", height), ("--W", width)):
        if size % multiple:
            near = max(multiple, round(size / multiple) * multiple)
            raise UserError(f"{flag} {size} is not a multiple of {multiple}, as this model needs; take {near}")
    scale = backend.guidance_scale if settings.scale is None else settings.scale
    precision = settings.precision or own_precision(backend.device)
    own = {name: getattr(backend, name) for name in ("factor", "channels") if hasattr(settings, name)}
    return replace(settings, height=height, width=width, scale=scale, precision=precision, **own)
