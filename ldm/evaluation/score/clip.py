"""Scores by CLIP: how well image and sentence agree, and which color an object has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ldm import boundary, hub
from ldm.evaluation.prompts.prompt import COLORS, EvalPrompt
from ldm.evaluation.score.metrics import Box
from ldm.generation.images import ImageArray
from ldm.modules.encoders.openai_clip import ClipBundle, load_clip
from ldm.util import UserError

ClipScore = Callable[[ImageArray, str], float]
_GRAY = 0x99  # around an object whose color is judged, as in GenEval
_COLOR_TEXTS = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")


def open_clip(source: str | None) -> tuple[ClipScore | None, ClipBundle | None, tuple[str, ...]]:
    """The CLIP score, the CLIP that judges colors, and lines about both for the report; see `open_clip_score`."""
    if source is None:
        return None, None, ("No CLIP was named, so there is no CLIP score and no judgement of colors.",)
    clip_score, line = open_clip_score(source)
    if not Path(source).is_file():
        return clip_score, None, (f"CLIP score: {line}.", "Colors are judged by a CLIP in OpenAI's format only.")
    return clip_score, load_clip(source), (f"CLIP score: {line}; colors by the same CLIP on the crop of the box.",)


def open_clip_score(source: str) -> tuple[ClipScore, str]:
    """The CLIP score of a model, and one line saying how it is computed.

    Args:
        source: a file in OpenAI's format (the project's own formula), or a folder or hub name of transformers' CLIP,
            which torchmetrics opens.

    Raises:
        UserError: it can't be opened, or torchmetrics is not installed and `source` is no file.
    """
    if Path(source).is_file():
        return bundle_score(load_clip(source)), f"100 max(cos, 0) by {Path(source).name}, torchmetrics' formula"
    try:
        from torchmetrics.multimodal.clip_score import CLIPScore
    except ImportError:
        raise UserError(
            f"the CLIP score of '{source}' needs torchmetrics; install it, or name a CLIP file with --clip-score"
        ) from None
    try:
        from transformers import CLIPModel, CLIPProcessor

        where: Any = {"local_files_only": hub.local_only(source)}
        model, processor = CLIPModel.from_pretrained(source, **where), CLIPProcessor.from_pretrained(source, **where)
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError) as error:
        raise UserError(f"the CLIP '{source}' can't be loaded: {boundary.reason(error)}") from None
    metric = CLIPScore(model_name_or_path=lambda: (_plain_features(model), processor))

    @torch.no_grad()
    def score(image: ImageArray, text: str) -> float:
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))  # (3, H, W) uint8
        return float(metric(pixels, text))

    return score, f"torchmetrics' CLIPScore with {Path(source).name}"


def _plain_features(model: Any) -> Any:
    """The model with features as tensors, which torchmetrics expects and transformers 5 wraps in an output."""
    for name in ("get_image_features", "get_text_features"):
        method = getattr(model, name)

        def features(*inputs: Any, method: Callable[..., Any] = method) -> Any:
            found = method(*inputs)
            return getattr(found, "pooler_output", found)

        setattr(model, name, features)
    return model


def bundle_score(bundle: ClipBundle) -> ClipScore:
    """CLIPScore as torchmetrics defines it, 100 max(cos(image, text), 0) (Hessel et al., 2021, without their 2.5)."""

    def score(image: ImageArray, text: str) -> float:
        cosine = float((embed_image(bundle, image) @ embed_texts(bundle, [text]).T).item())
        return 100 * max(cosine, 0.0)

    return score


# -------------------------------------------------------------------------------------------------- colors


def color_facts(
    bundle: ClipBundle, image: ImageArray, boxes: Sequence[Box], prompt: EvalPrompt
) -> tuple[bool | None, ...]:
    """For every object whether CLIP gives its crop the demanded color, of the ten of GenEval.

    Attribute binding as in GenEval (Ghosh et al., 2023, section 3): zero-shot classification of the crop of the surest
    box, gray outside its mask where the detector gives one, each color described by three texts whose embeddings are
    averaged. None where no color is demanded or the object is not there.
    """
    judged: list[bool | None] = []
    for item in prompt.objects:
        of_name = [box for box in boxes if box.name == item.name]
        if item.color is None or not of_name:
            judged.append(None)
            continue
        crop = crop_of(image, max(of_name, key=lambda box: box.score))
        judged.append(classify_color(bundle, crop, item.name) == item.color)
    return tuple(judged)


def crop_of(image: ImageArray, box: Box) -> ImageArray:
    """The pixels of a box, at least one, cut to the image; gray outside the box's mask, where it has one."""
    if box.mask is not None:
        image = np.where(box.mask[..., None], image, np.uint8(_GRAY))
    height, width = image.shape[:2]
    left, right = (min(max(round(x * width), 0), width) for x in (box.left, box.right))
    top, bottom = (min(max(round(y * height), 0), height) for y in (box.top, box.bottom))
    left, top = min(left, width - 1), min(top, height - 1)
    return image[top : max(bottom, top + 1), left : max(right, left + 1)]


def classify_color(bundle: ClipBundle, crop: ImageArray, name: str) -> str:
    """The color of `COLORS` whose texts are nearest to the crop."""
    texts = [text.format(color=color, name=name) for color in COLORS for text in _COLOR_TEXTS]
    classes = embed_texts(bundle, texts).unflatten(0, (len(COLORS), -1)).mean(1)  # (colors, D)
    side = min(crop.shape[:2])
    top, left = ((length - side) // 2 for length in crop.shape[:2])
    square = crop[top : top + side, left : left + side]  # CLIP's own center crop
    similarity = embed_image(bundle, square) @ F.normalize(classes, dim=-1).T  # (1, colors)
    return COLORS[int(similarity.argmax())]


@torch.no_grad()
def embed_image(bundle: ClipBundle, image: ImageArray) -> Tensor:
    """An image (H, W, 3) of any size to a unit vector (1, D), brought to the CLIP's square by bicubic resizing."""
    side = bundle.resolution
    resized = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
    pixels = torch.from_numpy(resized.copy())[None].float() / 255  # (1, R, R, 3)
    pixels = (pixels - torch.tensor(bundle.mean)) / torch.tensor(bundle.std)
    features = bundle.model.encode_image(pixels.permute(0, 3, 1, 2).to(_device(bundle)))
    return F.normalize(features.float().cpu(), dim=-1)


@torch.no_grad()
def embed_texts(bundle: ClipBundle, texts: Sequence[str]) -> Tensor:
    """Texts to unit vectors (B, D)."""
    features = bundle.model.encode_text(bundle.tokenize(list(texts)).to(_device(bundle)))
    return F.normalize(features.float().cpu(), dim=-1)


def _device(bundle: ClipBundle) -> torch.device:
    return next(bundle.model.parameters()).device
