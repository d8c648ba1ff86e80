"""Inpainting of a folder of images and masks.

A model that is conditioned on the masked image (`inpainting_big`, conditioning key "concat") is given it as
published. A text-to-image model keeps the noised latents outside the mask at every step instead.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.backends.base import Backend
from ldm.errors import UserError
from ldm.generation.chain import start_chain
from ldm.generation.draw import contexts, negative_prompts, run_chain
from ldm.generation.generate import Guard
from ldm.generation.images import image_tensor, save_png, to_images
from ldm.generation.layouts import layouts_by_hand
from ldm.generation.pipeline import Pipeline, choose_model, load_pipeline, open_pipeline, pack_weights, precision, start
from ldm.generation.progress import OnWork, Progress, stage, work_of
from ldm.generation.settings import Run, Sampling
from ldm.locks import hold
from ldm.paths import project_file
from ldm.pixels import read_image, read_mask
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.spacetime.presets import PRESETS

logger = logging.getLogger(__name__)

INPAINT_CONFIG = Path("models/ldm/inpainting_big/config.yaml")
INPAINT_CKPT = Path("models/ldm/inpainting_big/last.ckpt")
INPAINT_ZIPPED = Path("models/ldm/inpainting_big/model.ckpt")  # its name in the published archive
MASK_ENDING = "_mask.png"


@dataclass(frozen=True, kw_only=True)
class InpaintSettings(Sampling, Run):
    """What to paint and how; image i of the folder starts from seed + i."""

    indir: Path  # holds pairs: name.png and name_mask.png, white where to paint
    outdir: Path
    prompt: str = ""  # for text-to-image models: what the painted place should show
    layout: Path | None = None  # and where its objects are; see `ldm.generation.layouts`
    layout_id: str | None = None  # of several layouts in the file
    objects: tuple[LayoutObject, ...] = ()  # a layout without a file
    preset: str = "per-step"  # how the weights of a layout come about
    clip: str | None = None  # path or published name of the CLIP of the loss


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
    """An image (1, 3, H, W) in [0, 1] and its mask (1, 1, H, W), 1 where to paint; see `ldm.pixels`.

    Raises:
        UserError: a file that is no image, a mask that paints nothing, or two of different size.
    """
    image, mask = read_image(image_path), read_mask(mask_path)
    if image.size != mask.size:
        sizes = [f"{i.width}x{i.height}" for i in (mask, image)]
        raise UserError(f"mask {mask_path} is {sizes[0]} but its image is {sizes[1]}; make them the same size")
    return image_tensor(image), image_tensor(mask)


def inpaint_folder(settings: InpaintSettings, guard: Guard = list, progress: Progress | None = None) -> Iterator[Path]:
    """Paint every pair of the folder; yields the path of each result as it is written.

    Args:
        guard: safety checker and watermark, see `ldm.generation.safety.Guard`; published results have neither.

    Raises:
        UserError: a folder, image, mask or model that cannot be used.
    """
    paths = find_pairs(settings.indir)
    for target in (settings.outdir / path.name for path, _ in paths):
        if target.exists() and any(target.samefile(given) for pair in paths for given in pair):
            raise UserError(f"the result would overwrite {target}, which is painted from; choose another --outdir")
    file = layouts_by_hand(settings.layout, settings.objects)
    layout = Layout(()) if file is None else file.choose(settings.prompt or None, settings.layout_id)
    settings = replace(settings, prompt=settings.prompt or layout.prompt or "")
    pairs = [(image, *read_pair(image, mask)) for image, mask in paths]
    with hold(settings.outdir):
        start(settings)
        with stage(progress, "loading the model"):
            pipeline = open_inpainter(settings)
        for number, (path, image, mask) in enumerate(pairs):
            told, own = work_of(progress, "inpainting"), replace(settings, seed=settings.seed + number)
            painted = inpaint(pipeline, image, mask, own, told, layout)
            yield save_png(settings.outdir / path.name, guard(to_images(painted))[0])


def open_inpainter(settings: InpaintSettings) -> Pipeline:
    """The model that the flags name; else the published inpainting model; else the text-to-image model in place."""
    config, ckpt = settings.config, settings.ckpt
    if settings.model is not None:
        return open_pipeline(settings, settings.clip)
    there = [path for path in map(project_file, (INPAINT_CKPT, INPAINT_ZIPPED)) if path.is_file()]
    if config is None and ckpt is None and there:
        config, ckpt = project_file(INPAINT_CONFIG), there[0]
    choice = choose_model(config, ckpt)
    if config is None and ckpt is None:
        model = "the embedded model of emoji scenes" if choice.embedded else "Stable Diffusion"
        logger.warning(
            "No inpainting model at %s (scripts/download_models.sh fetches it): using %s.", INPAINT_CKPT, model
        )
    pipeline = load_pipeline(choice, device=settings.device, clip=settings.clip)
    pack_weights(pipeline, settings.pack_weights)
    return pipeline


def inpaint(
    pipeline: Pipeline,
    image: Tensor,
    mask: Tensor,
    settings: InpaintSettings,
    on_work: OnWork | None = None,
    layout: Layout | None = None,
) -> Tensor:
    """`image` (1, 3, H, W) in [0, 1] with the place where `mask` (1, 1, H, W) is 1 painted anew.

    Args:
        layout: where the objects of the prompt are, in fractions of the whole image.

    Raises:
        UserError: the model is conditioned neither on images nor on text, or a layout does not go with it or the image.
    """
    backend, layout = pipeline.backend, layout or Layout(())
    preset = PRESETS[settings.preset] if layout.objects else None
    with precision(pipeline.device, settings.precision):
        with torch.no_grad():
            x, m, given, settings = _conditions(backend, image, mask, settings, layout)
        shape = (backend.channels, x.shape[-2] // backend.factor, x.shape[-1] // backend.factor)
        sampler, chain = start_chain(backend, settings, [settings.seed], shape, preset=preset, on_work=on_work)
        painted, _ = run_chain(pipeline, sampler, chain | given, [settings.prompt], [layout], preset, settings, on_work)
    height, width = image.shape[-2:]
    return ((1 - m) * x + m * painted)[..., :height, :width].cpu()


def _conditions(
    backend: Any, image: Tensor, mask: Tensor, settings: InpaintSettings, layout: Layout
) -> tuple[Tensor, Tensor, dict[str, Any], InpaintSettings]:
    """Image and mask in a size that the model can do, what the sampler is given of them, and the settings to take."""
    # Any size works: what is padded counts as known and is cut off again.
    x = pad_to_multiple(image, 8 * backend.factor).to(backend.device)
    m = pad_to_multiple(mask, 8 * backend.factor, "constant").to(backend.device)
    key = backend.conditioning_key
    if layout.objects and key == "concat":
        raise UserError("this model reads no text, so a layout does nothing; name a text-to-image model with --ckpt")
    if layout.objects and x.shape != image.shape:
        multiple = 8 * backend.factor
        raise UserError(f"with a layout the sides of an image must be multiples of {multiple}; scale or crop it")
    if key == "concat":
        given: dict[str, Any] = {"conditioning": masked_condition(backend.model, 2 * x - 1, m)}
    elif key == "crossattn":
        given = {
            **contexts(backend, [settings.prompt], negative_prompts([layout], settings), (x.shape[-2], x.shape[-1])),
            "x0": backend.encode_image(x),
            "mask": 1 - F.max_pool2d(m, backend.factor),  # a cell with any pixel to paint is painted
        }
        settings = replace(settings, scale=backend.guidance_scale if settings.scale is None else settings.scale)
    elif key == "hybrid":
        given = text_and_masked(backend, settings.prompt, negative_prompts([layout], settings)[0], x, m)
        settings = replace(settings, scale=backend.guidance_scale if settings.scale is None else settings.scale)
    else:
        kind = f"a model with conditioning key '{key}'" if key else "an unconditional model"
        raise UserError(f"{kind} cannot inpaint; give one with conditioning key concat, hybrid or crossattn")
    return x, m, given, settings


def text_and_masked(backend: Backend, prompt: str, negative: str, image: Tensor, mask: Tensor) -> dict[str, Any]:
    """The sampler's conditions for the inpainting models of Stable Diffusion: the text as context, and (1, 1 + C, h, w)
    beside the noisy latents, the mask in {0, 1} and the latents of the image with gray in its place.

    Args:
        image: (1, 3, H, W) in [0, 1].
        mask: (1, 1, H, W), 1 where to paint.

    Raises:
        UserError: a U-Net with another number of channels.
    """
    latents = backend.encode_image(image * (1 - mask) + 0.5 * mask)
    beside = torch.cat([F.interpolate(mask, size=latents.shape[-2:]), latents], dim=1)
    if backend.in_channels != backend.channels + beside.shape[1]:
        raise UserError(
            f"this model's U-Net takes {backend.in_channels} channels and not {backend.channels + beside.shape[1]}, "
            "as inpainting models do; give one that does"
        )
    texts = contexts(backend, [prompt], [negative], (image.shape[-2], image.shape[-1]))
    return {name: backend.beside(text, beside) for name, text in texts.items()}


def pad_to_multiple(x: Tensor, multiple: int, mode: str = "replicate") -> Tensor:
    """(B, C, H, W) grown to the right and below until both sides are multiples; `mode` as in `F.pad`."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % multiple, 0, -height % multiple), mode=mode)


def masked_condition(model: Any, image: Tensor, mask: Tensor) -> Tensor:
    """The published condition (1, C + 1, h, w): latents of the masked image, and the mask in [-1, 1].

    Args:
        image: (1, 3, H, W) in [-1, 1]; what is masked becomes black, which is -1.
        mask: (1, 1, H, W), 1 where to paint.
    """
    masked = (1 - mask) * (image + 1) - 1
    code = model.get_learned_conditioning(masked)  # (1, C, h, w)
    small = F.interpolate(2 * mask - 1, size=code.shape[-2:])  # (1, 1, h, w)
    return torch.cat([code, small], dim=1)
