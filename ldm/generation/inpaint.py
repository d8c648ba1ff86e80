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

from ldm.backends.compvis import CompVis
from ldm.errors import UserError
from ldm.generation.chain import start_chain
from ldm.generation.draw import contexts
from ldm.generation.generate import Guard
from ldm.generation.images import image_tensor, save_png, to_images
from ldm.generation.pipeline import choose_model, load_pipeline, start
from ldm.generation.progress import OnWork, Progress, stage, work_of
from ldm.generation.settings import Run, Sampling
from ldm.locks import hold
from ldm.paths import project_file
from ldm.pixels import read_image, read_mask

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
    pairs = [(image, *read_pair(image, mask)) for image, mask in paths]
    with hold(settings.outdir):
        start(settings)
        with stage(progress, "loading the model"):
            backend = open_inpainter(settings)
        for number, (path, image, mask) in enumerate(pairs):
            told, own = work_of(progress, "inpainting"), replace(settings, seed=settings.seed + number)
            painted = inpaint(backend, image, mask, own, told)
            yield save_png(settings.outdir / path.name, guard(to_images(painted))[0])


def open_inpainter(settings: InpaintSettings) -> CompVis:
    """The model that the flags name; else the published inpainting model; else the text-to-image model in place."""
    config, ckpt = settings.config, settings.ckpt
    there = [path for path in map(project_file, (INPAINT_CKPT, INPAINT_ZIPPED)) if path.is_file()]
    if config is None and ckpt is None and there:
        config, ckpt = project_file(INPAINT_CONFIG), there[0]
    choice = choose_model(config, ckpt)
    if config is None and ckpt is None:
        model = "the embedded model of emoji scenes" if choice.embedded else "Stable Diffusion"
        logger.warning(
            "No inpainting model at %s (scripts/download_models.sh fetches it): using %s.", INPAINT_CKPT, model
        )
    return load_pipeline(choice, device=settings.device).backend


@torch.no_grad()
def inpaint(
    backend: CompVis, image: Tensor, mask: Tensor, settings: InpaintSettings, on_work: OnWork | None = None
) -> Tensor:
    """`image` (1, 3, H, W) in [0, 1] with the place where `mask` (1, 1, H, W) is 1 painted anew.

    Raises:
        UserError: the model is conditioned neither on images nor on text.
    """
    height, width = image.shape[-2:]
    # Any size works: what is padded counts as known and is cut off again.
    x = pad_to_multiple(image, 8 * backend.factor).to(backend.device)
    m = pad_to_multiple(mask, 8 * backend.factor, "constant").to(backend.device)
    key = backend.conditioning_key
    if key == "concat":
        given: dict[str, Any] = {"conditioning": masked_condition(backend.model, 2 * x - 1, m)}
    elif key == "crossattn":
        given = {
            **contexts(backend, [settings.prompt], [settings.negative_prompt or ""]),
            "x0": backend.encode_image(x),
            "mask": 1 - F.max_pool2d(m, backend.factor),  # a cell with any pixel to paint is painted
        }
        settings = replace(settings, scale=backend.guidance_scale if settings.scale is None else settings.scale)
    elif key == "hybrid":
        given = text_and_masked(backend, settings.prompt, settings.negative_prompt or "", x, m)
        settings = replace(settings, scale=backend.guidance_scale if settings.scale is None else settings.scale)
    else:
        kind = f"a model with conditioning key '{key}'" if key else "an unconditional model"
        raise UserError(f"{kind} cannot inpaint; give one with conditioning key concat, hybrid or crossattn")
    shape = (backend.channels, x.shape[-2] // backend.factor, x.shape[-1] // backend.factor)
    sampler, chain = start_chain(backend, settings, [settings.seed], shape, on_work=on_work)
    latents, _ = sampler.sample(**chain, **given)
    return ((1 - m) * x + m * backend.decode(latents))[..., :height, :width].cpu()


def text_and_masked(backend: CompVis, prompt: str, negative: str, image: Tensor, mask: Tensor) -> dict[str, Any]:
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
    takes = backend.params["unet_config"]["params"]["in_channels"]
    if takes != backend.channels + beside.shape[1]:
        raise UserError(
            f"this model's U-Net takes {takes} channels and not {backend.channels + beside.shape[1]}, "
            "as inpainting models do; give one that does"
        )
    texts = contexts(backend, [prompt], [negative])
    return {name: {"c_concat": [beside], "c_crossattn": [text]} for name, text in texts.items()}


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
