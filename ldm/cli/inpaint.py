"""Inpainting of a folder of images and masks: what `scripts/inpaint.py` does, as a function.

A model that is conditioned on the masked image (`inpainting_big`, conditioning key "concat") is given it as
published. A text-to-image model keeps the noised latents outside the mask at every step instead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.cli.common import Progress, StepCounter, no_progress, set_threads
from ldm.cli.images import image_tensor, mask_tensor, pad_to_multiple, read_image
from ldm.cli.txt2img import Guarding
from ldm.generation.images import save_png, to_images
from ldm.generation.pipeline import Pipeline, choose_model, load_pipeline
from ldm.generation.settings import check_writable
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.models.diffusion.sampling import noise_like, seeded_generators
from ldm.paths import project_file
from ldm.util import UserError

logger = logging.getLogger(__name__)

INPAINT_CONFIG = Path("models/ldm/inpainting_big/config.yaml")
INPAINT_CKPT = Path("models/ldm/inpainting_big/last.ckpt")
INPAINT_ZIPPED = Path("models/ldm/inpainting_big/model.ckpt")  # its name in the published archive
MASK_ENDING = "_mask.png"


@dataclass(frozen=True)
class InpaintSettings:
    """What to paint and how."""

    indir: Path  # holds pairs: name.png and name_mask.png, white where to paint
    outdir: Path
    steps: int = 50
    config: Path | None = None
    ckpt: Path | None = None
    prompt: str = ""  # for text-to-image models: what the painted place should show
    scale: float | None = None  # classifier-free guidance, for text-to-image models
    seed: int = 42  # of the first image; the next has the next
    device: str | None = None
    threads: int | None = None


def find_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """(image, mask) files of a folder, by name.

    Raises:
        UserError: no folder, no mask in it, or a mask without its image.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; --indir names one with pairs such as dog.png and dog{MASK_ENDING}")
    masks = sorted(folder.glob(f"*{MASK_ENDING}"))
    if not masks:
        raise UserError(f"folder {folder} holds no mask; put pairs such as dog.png and dog{MASK_ENDING} into it")
    pairs = [(mask.with_name(mask.name.removesuffix(MASK_ENDING) + ".png"), mask) for mask in masks]
    for image, mask in pairs:
        if not image.is_file():
            raise UserError(f"mask {mask} has no image beside it; add {image.name}")
    return pairs


def read_pair(image_path: Path, mask_path: Path) -> tuple[Tensor, Tensor]:
    """An image (1, 3, H, W) in [-1, 1] and its mask (1, 1, H, W), 1 where to paint.

    Raises:
        UserError: a file that is no image, or two of different size.
    """
    image, mask = read_image(image_path), read_image(mask_path, "L")
    if image.size != mask.size:
        sizes = [f"{i.width}x{i.height}" for i in (mask, image)]
        raise UserError(f"mask {mask_path} is {sizes[0]} but its image is {sizes[1]}; make them the same size")
    return image_tensor(image), mask_tensor(mask)


def inpaint_folder(
    settings: InpaintSettings,
    guard: Guarding = list,
    progress: Progress = no_progress,
    notice: Callable[[str], None] = lambda text: None,
) -> Iterator[Path]:
    """Paint every pair of the folder; yields the path of each result as it is written.

    Args:
        guard: safety checker and watermark, see :class:`ldm.generation.safety.Guard`; published results have neither.
        progress, notice: as for :func:`ldm.cli.txt2img.draw`.

    Raises:
        UserError: a folder, image, mask or model that cannot be used.
    """
    pairs = [(image, *read_pair(image, mask)) for image, mask in find_pairs(settings.indir)]
    check_writable(settings.outdir)
    set_threads(settings.threads)
    pipeline = open_inpainter(settings, notice)
    for number, (path, image, mask) in enumerate(pairs):
        painted = inpaint(pipeline, image, mask, settings, settings.seed + number, progress)
        yield save_png(settings.outdir / path.name, guard(to_images(painted, low=-1))[0])


def open_inpainter(settings: InpaintSettings, notice: Callable[[str], None]) -> Pipeline:
    """The model that the flags name; else the published inpainting model; else the text-to-image model in place."""
    config, ckpt = settings.config, settings.ckpt
    there = [path for path in map(project_file, (INPAINT_CKPT, INPAINT_ZIPPED)) if path.is_file()]
    if config is None and ckpt is None and there:
        config, ckpt = project_file(INPAINT_CONFIG), there[0]
    choice = choose_model(config, ckpt)
    if config is None and ckpt is None:
        model = "the embedded model of emoji scenes" if choice.embedded else "Stable Diffusion"
        notice(f"No inpainting model at {INPAINT_CKPT} (scripts/download_models.sh fetches it): using {model}.")
    return load_pipeline(choice, device=settings.device)


@torch.no_grad()
def inpaint(
    pipeline: Pipeline,
    image: Tensor,
    mask: Tensor,
    settings: InpaintSettings,
    seed: int,
    progress: Progress = no_progress,
) -> Tensor:
    """`image` (1, 3, H, W) in [-1, 1] with the place where `mask` (1, 1, H, W) is 1 painted anew.

    Raises:
        UserError: the model is conditioned neither on images nor on text.
    """
    height, width = image.shape[-2:]
    # Any size works: what is padded counts as known and is cut off again.
    multiple = 8 * pipeline.factor
    x = pad_to_multiple(image, multiple).to(pipeline.device)
    m = pad_to_multiple(mask, multiple, "constant").to(pipeline.device)
    generators = seeded_generators([seed])
    sampler = DDIMSampler(pipeline.model)
    shape = (pipeline.channels, x.shape[-2] // pipeline.factor, x.shape[-1] // pipeline.factor)
    key = pipeline.model.model.conditioning_key
    if key == "concat":
        chain: dict[str, Any] = {"conditioning": masked_condition(pipeline.model, x, m)}
    elif key == "crossattn":
        chain = text_condition(pipeline, settings, x, m)
    else:
        kind = f"a model with conditioning key '{key}'" if key else "an unconditional model"
        raise UserError(f"{kind} cannot inpaint; give one with conditioning key concat or crossattn")
    latents, _ = sampler.sample(
        S=settings.steps,
        batch_size=1,
        shape=shape,
        x_T=noise_like((1, *shape), generators),
        generator=generators,
        callback=StepCounter(progress, "inpainting", len(sampler.schedule(settings.steps))),
        verbose=False,
        **chain,
    )
    painted = pipeline.model.decode_first_stage(latents).clamp(-1, 1)
    result = (1 - m) * x + m * painted
    return result[..., :height, :width].cpu()


def masked_condition(model: Any, image: Tensor, mask: Tensor) -> Tensor:
    """The published condition (1, C + 1, h, w): latents of the masked image, and the mask in [-1, 1].

    What is masked is black, which is -1.
    """
    masked = (1 - mask) * (image + 1) - 1
    code = model.get_learned_conditioning(masked)  # (1, C, h, w)
    small = F.interpolate(2 * mask - 1, size=code.shape[-2:])  # (1, 1, h, w)
    return torch.cat([code, small], dim=1)


def text_condition(pipeline: Pipeline, settings: InpaintSettings, image: Tensor, mask: Tensor) -> dict[str, Any]:
    """What the sampler needs to paint by a prompt: contexts, the image's latents, and where they are kept."""
    model = pipeline.model
    posterior = model.encode_first_stage(image)
    latents = model.get_first_stage_encoding(posterior if isinstance(posterior, Tensor) else posterior.mode())
    context = pipeline.encode(["", settings.prompt])  # (2, L, C)
    return {
        "conditioning": context[1:],
        "unconditional_conditioning": context[:1],
        "unconditional_guidance_scale": pipeline.guidance_scale if settings.scale is None else settings.scale,
        "x0": latents,
        "mask": 1 - F.max_pool2d(mask, pipeline.factor),  # a cell with any pixel to paint is painted
    }
