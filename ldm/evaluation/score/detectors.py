"""Detectors behind one protocol: images and the names that are asked for, to boxes by these names.

emoji                        the embedded detector (emoji:FILE for other weights)
transformers:FOLDER          DETR, OWL-ViT, OWLv2, Grounding DINO, Mask2Former (with masks), ...; a folder, or a name
                             on the Hugging Face hub
torchvision:MODEL            e.g. fasterrcnn_resnet50_fpn with the weights that torchvision downloads;
                             torchvision:MODEL=FILE with those of a file
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from layout_predictor.inference.nouns import category_of
from ldm import boundary, hub
from ldm.categories import NAMES
from ldm.evaluation.score.metrics import Box
from ldm.generation.images import ImageArray
from ldm.models.detector import THRESHOLD as EMOJI_THRESHOLD
from ldm.models.detector import load_detector
from ldm.util import UserError, load_into, load_state_dict

_INSTANCES = 100  # of a Mask2Former that are looked at
EMOJI_HALF_SIDE = 0.2  # of the nominal box around a center: the embedded detector finds centers only
THRESHOLD = 0.3  # least score that counts; GenEval's for Mask2Former
ZERO_SHOT_THRESHOLD = 0.1  # OWL-ViT's scores are lower


class Detector(Protocol):
    """Finds objects in images."""

    @property
    def name(self) -> str:
        """For the report."""

    @property
    def categories(self) -> Sequence[str] | None:
        """What it can find; None for whatever it is asked for."""

    def detect(self, image: ImageArray, names: Sequence[str]) -> list[Box]:
        """Boxes of what one (H, W, 3) uint8 image shows of `names`, called by these names; nothing else."""


def open_detector(
    spec: str, device: str | None = None, threshold: float | None = None, together: bool = False
) -> Detector:
    """The detector of a word as at the head of this file.

    Args:
        together: an OWL-ViT or OWLv2 is asked for all names at once, so that a place has the one that fits it best.

    Raises:
        UserError: there is no such kind, or the model can't be loaded.
    """
    kind, _, rest = spec.partition(":")
    if kind == "emoji":
        return EmojiBoxes(Path(rest) if rest else None, threshold)
    if kind == "transformers" and rest:
        return TransformersDetector(rest, device, threshold, together)
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


class _Found(NamedTuple):
    """What a model found; the sides (left, top, right, bottom) are in units of the image's size."""

    name: str
    score: float
    sides: Sequence[float]
    mask: NDArray[np.bool_] | None = None


def _boxes(found: Iterable[_Found], names: Sequence[str], size: tuple[int, int] = (1, 1)) -> list[Box]:
    """The boxes that mean one of `names`, under that name."""
    asked, (width, height) = {canonical(name): name for name in names}, size
    return [
        Box(meant, float(score), left / width, top / height, right / width, bottom / height, mask)
        for name, score, (left, top, right, bottom), mask in found
        if (meant := name if name in names else asked.get(canonical(name)))
    ]


def _pixels(image: ImageArray) -> torch.Tensor:
    """(H, W, 3) uint8 to (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255


class EmojiBoxes:
    """The embedded detector. It gives centers; the boxes are nominal squares around them."""

    name = "embedded emoji detector (centers; boxes are nominal)"
    categories = NAMES

    def __init__(self, weights: Path | None = None, threshold: float | None = None) -> None:
        self.model, self.threshold = load_detector(weights), EMOJI_THRESHOLD if threshold is None else threshold

    def detect(self, image: ImageArray, names: Sequence[str]) -> list[Box]:
        """See `Detector`."""
        half = EMOJI_HALF_SIDE
        [found] = self.model.detect(_pixels(image)[None].to(self.model.device), self.threshold)
        sides = [(d.x - half, d.y - half, d.x + half, d.y + half) for d in found]
        return _boxes([_Found(d.name, d.score, box) for d, box in zip(found, sides, strict=True)], names)


class TransformersDetector:
    """Any object-detection or zero-shot object-detection model of transformers, and Mask2Former for instances.

    A zero-shot model is asked for the prompt's names, each by itself, or all `together`.
    """

    def __init__(
        self, source: str, device: str | None = None, threshold: float | None = None, together: bool = False
    ) -> None:
        if source.startswith((".", "/", "~")) and not Path(source).expanduser().is_dir():
            raise UserError(f"the detector 'transformers:{source}' can't be loaded: there is no such folder")
        try:
            import transformers
            from transformers.models.auto.modeling_auto import (
                MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES,
                MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES,
            )

            kind = transformers.AutoConfig.from_pretrained(source, local_files_only=hub.local_only(source)).model_type
            self.zero_shot = kind in MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES
            self.masks, self.together = kind == "mask2former", together and kind in ("owlvit", "owlv2")
            if not self.zero_shot and not self.masks and kind not in MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES:
                raise UserError(f"'{source}' is a {kind} model, which detects no objects; name DETR, OWL-ViT or alike")
            task: Any = "image-segmentation" if self.masks else "object-detection"
            task = "zero-shot-object-detection" if self.zero_shot else task
            self.pipeline: Any = transformers.pipeline(task, model=source, device=device or "cpu")
        except UserError:
            raise
        # Whatever is wrong with a folder, a network or a missing library, transformers says it in many classes.
        except Exception as error:
            raise UserError(
                f"the detector 'transformers:{source}' can't be loaded: {boundary.reason(error)}"
            ) from error
        self.name = f"{kind} ({Path(source).name})"
        self.categories = None if self.zero_shot else tuple(self.pipeline.model.config.id2label.values())
        # Grounding DINO takes phrases that end with a full stop.
        self.ending = "." if "grounding" in kind else ""
        self.threshold = threshold if threshold is not None else ZERO_SHOT_THRESHOLD if self.zero_shot else THRESHOLD

    def detect(self, image: ImageArray, names: Sequence[str]) -> list[Box]:
        """See `Detector`."""
        if self.zero_shot and not names:
            return []
        if self.masks:
            found = self._instances(image)
        elif self.together:
            found = self._best_names(image, list(dict.fromkeys(names)))
        else:
            labels = [name + self.ending for name in dict.fromkeys(names)]
            asked = {"candidate_labels": labels} if self.zero_shot else {}
            sides = ("xmin", "ymin", "xmax", "ymax")
            found = [
                _Found(item["label"].removesuffix(self.ending), item["score"], [item["box"][side] for side in sides])
                for item in self.pipeline(Image.fromarray(image), threshold=self.threshold, **asked)
            ]
        return _boxes(found, names, (image.shape[1], image.shape[0]))

    @torch.no_grad()
    def _best_names(self, image: ImageArray, names: list[str]) -> list[_Found]:
        """What OWL-ViT finds for all names in one pass: every place has one name."""
        loaded = self.pipeline
        inputs = {
            **loaded.tokenizer(names, padding=True, return_tensors="pt"),
            **loaded.image_processor(Image.fromarray(image), return_tensors="pt"),
        }
        outputs = loaded.model(**{key: value.to(loaded.device) for key, value in inputs.items()})
        [found] = loaded.image_processor.post_process_object_detection(
            outputs, threshold=self.threshold, target_sizes=torch.tensor([image.shape[:2]], device=loaded.device)
        )
        rows = zip(*(found[key].tolist() for key in ("labels", "scores", "boxes")), strict=True)
        return [_Found(names[label], score, box) for label, score, box in rows]

    @torch.no_grad()
    def _instances(self, image: ImageArray) -> list[_Found]:
        """Instances of a Mask2Former (Cheng et al., 2022), scored by class and mask, with the boxes of the masks."""
        loaded = self.pipeline
        inputs = loaded.image_processor(images=Image.fromarray(image), return_tensors="pt").to(loaded.device)
        outputs = loaded.model(**inputs)
        scores = outputs.class_queries_logits[0].softmax(-1)[:, :-1]  # (Q, C); the last class is none
        scores, places = scores.flatten().topk(min(_INSTANCES, scores.numel()))
        used = inputs["pixel_mask"][0]  # the processor pads
        sides = [int(used.any(1 - axis).sum()) for axis in (0, 1)]
        logits = F.interpolate(outputs.masks_queries_logits, used.shape, mode="bilinear")[..., : sides[0], : sides[1]]
        classes, found = outputs.class_queries_logits.shape[-1] - 1, []
        for score, place in zip(scores.tolist(), places.tolist(), strict=True):
            one = logits[:, place // classes][:, None]  # (1, 1, h, w)
            one = F.interpolate(one, image.shape[:2], mode="bilinear")[0, 0]
            mask = (one > 0).cpu().numpy()
            score *= float(one.sigmoid()[one > 0].mean()) if mask.any() else 0.0
            if score > self.threshold:
                rows, columns = (np.flatnonzero(mask.any(1 - axis)) for axis in (0, 1))
                corners = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
                found.append(_Found(loaded.model.config.id2label[place % classes], score, corners, mask))
        return found


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
                    f"the weights of torchvision:{model} can't be downloaded ({boundary.reason(error)}); "
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
        boxes = [_Found(self.categories[label], score, box) for label, score, box in rows if score >= self.threshold]
        return _boxes(boxes, names, (image.shape[1], image.shape[0]))
