"""Detectors behind one protocol: images and the names that are asked for, to boxes by these names.

emoji                        the embedded detector (emoji:FILE for other weights)
transformers:FOLDER          DETR, OWL-ViT, Grounding DINO, ...; a folder, or a name on the Hugging Face hub
torchvision:MODEL            e.g. fasterrcnn_resnet50_fpn with the weights that torchvision downloads;
                             torchvision:MODEL=FILE with those of a file
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from layout_predictor.inference.nouns import category_of
from ldm.evaluation.score.metrics import Box
from ldm.generation.images import ImageArray
from ldm.models.detector import THRESHOLD as EMOJI_THRESHOLD
from ldm.models.detector import load_detector
from ldm.util import UserError, load_into, load_state_dict

EMOJI_HALF_SIDE = 0.2  # of the nominal box around a center: the embedded detector finds centers only
THRESHOLD = 0.3  # least score that counts; GenEval's for Mask2Former
ZERO_SHOT_THRESHOLD = 0.1  # OWL-ViT's scores are lower


class Detector(Protocol):
    """Finds objects in images."""

    @property
    def name(self) -> str:
        """For the report."""

    def detect(self, image: ImageArray, names: Sequence[str]) -> list[Box]:
        """Boxes of what one (H, W, 3) uint8 image shows of `names`, called by these names; nothing else."""


def open_detector(spec: str, device: str | None = None, threshold: float | None = None) -> Detector:
    """The detector of a word as at the head of this file.

    Raises:
        UserError: there is no such kind, or the model can't be loaded.
    """
    kind, _, rest = spec.partition(":")
    if kind == "emoji":
        return EmojiBoxes(Path(rest) if rest else None, threshold)
    if kind == "transformers" and rest:
        return TransformersDetector(rest, device, threshold)
    if kind == "torchvision" and rest:
        model, _, file = rest.partition("=")
        return TorchvisionDetector(model, Path(file) if file else None, device, threshold)
    raise UserError(f"there is no detector '{spec}'; write emoji, transformers:FOLDER or torchvision:MODEL")


@lru_cache(maxsize=4096)
def canonical(name: str) -> str:
    """A name under which synonyms meet: COCO's category ("man" is "person"), or the words in lower case."""
    words = name.lower().replace("-", " ").split()
    found = category_of(words)
    return found[0] if found else " ".join(words)


Found = tuple[str, float, Sequence[float]]  # name, score, and left, top, right, bottom in units of `size`


def _boxes(found: Iterable[Found], names: Sequence[str], size: tuple[int, int] = (1, 1)) -> list[Box]:
    """The boxes that mean one of `names`, under that name."""
    asked, (width, height) = {canonical(name): name for name in names}, size
    return [
        Box(meant, float(score), left / width, top / height, right / width, bottom / height)
        for name, score, (left, top, right, bottom) in found
        if (meant := name if name in names else asked.get(canonical(name)))
    ]


def _pixels(image: ImageArray) -> torch.Tensor:
    """(H, W, 3) uint8 to (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255


class EmojiBoxes:
    """The embedded detector. It gives centers; the boxes are nominal squares around them."""

    name = "embedded emoji detector (centers; boxes are nominal)"

    def __init__(self, weights: Path | None = None, threshold: float | None = None) -> None:
        self.model, self.threshold = load_detector(weights), EMOJI_THRESHOLD if threshold is None else threshold

    def detect(self, image: ImageArray, names: Sequence[str]) -> list[Box]:
        """See `Detector`."""
        half = EMOJI_HALF_SIDE
        [found] = self.model.detect(_pixels(image)[None].to(self.model.device), self.threshold)
        return _boxes(((d.name, d.score, (d.x - half, d.y - half, d.x + half, d.y + half)) for d in found), names)


class TransformersDetector:
    """Any object-detection or zero-shot object-detection model of transformers, through its pipeline.

    A zero-shot model is asked for the prompt's names, each by itself.
    """

    def __init__(self, source: str, device: str | None = None, threshold: float | None = None) -> None:
        if source.startswith((".", "/", "~")) and not Path(source).expanduser().is_dir():
            raise UserError(f"the detector 'transformers:{source}' can't be loaded: there is no such folder")
        try:
            import transformers
            from transformers.models.auto.modeling_auto import (
                MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES,
                MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES,
            )

            kind = transformers.AutoConfig.from_pretrained(source).model_type
            self.zero_shot = kind in MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES
            if not self.zero_shot and kind not in MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES:
                raise UserError(f"'{source}' is a {kind} model, which detects no objects; name DETR, OWL-ViT or alike")
            task: Any = "zero-shot-object-detection" if self.zero_shot else "object-detection"
            self.pipeline: Any = transformers.pipeline(task, model=source, device=device or "cpu")
        except UserError:
            raise
        # Whatever is wrong with a folder, a network or a missing library, transformers says it in many classes.
        except Exception as error:
            raise UserError(f"the detector 'transformers:{source}' can't be loaded: {_first_line(error)}") from error
        self.name = f"{kind} ({Path(source).name})"
        # Grounding DINO takes phrases that end with a full stop.
        self.ending = "." if "grounding" in kind else ""
        self.threshold = threshold if threshold is not None else ZERO_SHOT_THRESHOLD if self.zero_shot else THRESHOLD

    def detect(self, image: ImageArray, names: Sequence[str]) -> list[Box]:
        """See `Detector`."""
        asked = {}
        if self.zero_shot:
            if not names:
                return []
            asked["candidate_labels"] = [name + self.ending for name in dict.fromkeys(names)]
        sides = ("xmin", "ymin", "xmax", "ymax")
        found = [
            (item["label"].removesuffix(self.ending), item["score"], [item["box"][side] for side in sides])
            for item in self.pipeline(Image.fromarray(image), threshold=self.threshold, **asked)
        ]
        return _boxes(found, names, (image.shape[1], image.shape[0]))


class TorchvisionDetector:
    """A detection model of torchvision with COCO's categories."""

    def __init__(
        self, model: str, file: Path | None = None, device: str | None = None, threshold: float | None = None
    ) -> None:
        from torchvision.models import detection, get_model_weights, list_models

        known = list_models(module=detection)
        if model not in known:
            raise UserError(f"torchvision has no detection model '{model}'; it has {', '.join(known)}")
        published: Any = get_model_weights(model).DEFAULT  # type: ignore[attr-defined]
        self.categories: list[str] = published.meta["categories"]
        build: Callable[..., Any] = getattr(detection, model)
        if file is None:
            try:
                network = build(weights=published)
            except (OSError, RuntimeError) as error:
                raise UserError(
                    f"the weights of torchvision:{model} can't be downloaded ({_first_line(error)}); "
                    f"name a file with torchvision:{model}=FILE"
                ) from error
        else:
            network = build(weights=None, weights_backbone=None, num_classes=len(self.categories))
            load_into(network, load_state_dict(file), str(file))
        self.network = network.eval().requires_grad_(False).to(device or "cpu")
        self.name, self.device = f"torchvision {model}", device or "cpu"
        self.threshold = THRESHOLD if threshold is None else threshold

    def detect(self, image: ImageArray, names: Sequence[str]) -> list[Box]:
        """See `Detector`."""
        [found] = self.network([_pixels(image).to(self.device)])
        rows = zip(*(found[key].tolist() for key in ("labels", "scores", "boxes")), strict=True)
        boxes = [(self.categories[label], score, box) for label, score, box in rows if score >= self.threshold]
        return _boxes(boxes, names, (image.shape[1], image.shape[0]))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
