"""What a detector, CLIP and a depth network see in images, kept so that no image is looked at twice."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from layout_predictor.inference.nouns import category_of
from ldm import boundary
from ldm.evaluation.benchmarks.benchmark import Benchmark, Case
from ldm.evaluation.benchmarks.boxes import Detection
from ldm.evaluation.benchmarks.lmd import ASK
from ldm.evaluation.benchmarks.t2i_compbench import Depth, resized
from ldm.evaluation.run.manifest import load_image
from ldm.evaluation.score.clip import classify_color, crop_of
from ldm.evaluation.score.detectors import Detector, open_detector
from ldm.evaluation.score.metrics import Box
from ldm.files import read_kept, write_json
from ldm.generation.images import ImageArray, save_png
from ldm.modules.encoders.openai_clip import ClipBundle, load_clip
from ldm.util import UserError


@dataclass(frozen=True)
class Seen:
    """An image's size (width, height), its detections in pixels, and its depth map where one is needed."""

    size: tuple[int, int]
    detections: tuple[Detection, ...]
    depth: Depth | None = None


@dataclass
class Looker:
    """Looks at the images of a benchmark.

    Attributes:
        folder: what was seen is kept in a folder below it, another one for other judges.
        detector: a word of `open_detector`.
        colors: the CLIP that judges colors; None leaves them out.
        depth: folder or hub name of a depth network of transformers, where the benchmark needs one.
    """

    benchmark: Benchmark
    folder: Path
    detector: str
    colors: str | None = None
    depth: str | None = None
    device: str | None = None

    @cached_property
    def kept(self) -> Path:
        """Where what these judges saw is kept."""
        identity = [self.detector, self.benchmark.limit, self.colors, self.benchmark.depth and self.depth]
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:8]
        return self.folder / f"seen-{re.sub('[^a-z0-9]+', '-', self.detector.lower())}-{digest}"

    @cached_property
    def finder(self) -> Detector:
        """The loaded detector."""
        together = self.benchmark.facts.get("together", False)
        return open_detector(self.detector, self.device, self.benchmark.limit, together)

    @cached_property
    def clip(self) -> ClipBundle | None:
        """The loaded CLIP."""
        return load_clip(self.colors, self.device) if self.colors else None

    @cached_property
    def depth_network(self) -> Any:
        """The loaded pipeline. UserError if it can't be loaded."""
        import transformers

        try:
            return transformers.pipeline("depth-estimation", model=self.depth, device=self.device or "cpu")
        except Exception as error:  # see TransformersDetector
            raise UserError(f"the depth network '{self.depth}' can't be loaded: {boundary.reason(error)}") from error

    def check(self, cases: Sequence[Case]) -> None:
        """Load all judges. UserError for one that can't be, naming what the detector can't find."""
        known = self.finder.categories
        if known is not None:
            names = dict.fromkeys(name for case in cases for name in case.names)
            other = self.benchmark.facts.get("names", {})
            bare = {name: other.get(name, name.removeprefix(ASK)) for name in names}
            if lacking := [name for name in names if not _is_among(bare[name], known)]:
                listed = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
                raise UserError(
                    f"{self.finder.name} has no class for {len(lacking)} of {len(names)} names ({listed}); choose a "
                    "detector that finds what it is asked for, as transformers:google/owlv2-base-patch16-ensemble"
                )
        if any(colored(case) for case in cases) and self.clip is None:
            raise UserError("colors are judged by a CLIP; name one with --colors, as ViT-L/14")
        if self.benchmark.depth:
            _ = self.depth_network

    def look(self, key: str, path: Path, case: Case) -> Seen | None:
        """What the image at `path` shows; None if it is missing or damaged. `key` names it uniquely."""
        kept = self.kept / f"{key}.json"
        image = load_image(path)
        if image is None:
            return None
        depth_file = kept.with_suffix(".png")
        digest = hashlib.sha256(image.tobytes()).hexdigest()[:16]
        content = read_kept(kept)
        if content.get("image") != digest or content.get("names") != list(case.names):
            boxes = self._detect(image, case)
            if self.benchmark.depth:
                save_png(depth_file, self._depth(image))
            rows = [[one.name, one.score, list(one.box), one.color] for one in boxes]
            content = {"image": digest, "names": list(case.names), "detections": rows}
            write_json(kept, content)
        detections = tuple(Detection(*row) for row in content["detections"])
        depth = load_image(depth_file) if self.benchmark.depth else None
        height, width = image.shape[:2]
        return Seen((width, height), detections, None if depth is None else depth[..., 0] / 255)

    def _detect(self, image: ImageArray, case: Case) -> list[Detection]:
        height, width = image.shape[:2]
        ask = self.benchmark.ask if self.finder.categories is None else "{}"
        asked = {ask.format(name): name for name in case.names}
        boxes = self.finder.detect(image, list(asked))
        colors = self._colors(image, boxes, case)
        return [
            Detection(
                asked[box.name],
                box.score,
                [round(value, 4) for value in box.corners((width, height))],
                colors.get(number),
            )
            for number, box in enumerate(boxes)
        ]

    def _colors(self, image: ImageArray, boxes: Sequence[Box], case: Case) -> dict[int, str]:
        """Colors of the boxes whose class has one in the prompt, by number."""
        names = {clause["class"] for clause in colored(case)}
        if self.clip is None:
            return {}
        return {
            number: classify_color(self.clip, crop_of(image, box), box.name)
            for number, box in enumerate(boxes)
            if box.name in names
        }

    def _depth(self, image: ImageArray) -> ImageArray:
        """The depth in 8 bits, 255 nearest, at the size of the resized image; (H, W, 3)."""
        found: Tensor = self.depth_network(Image.fromarray(image))["predicted_depth"].squeeze().float().cpu()
        sides = [round(side * resized(image.shape[1], image.shape[0])) for side in image.shape[:2]]
        found = F.interpolate(found[None, None], sides, mode="bicubic", align_corners=False)[0, 0]
        low, high = found.min(), found.max()
        scaled = ((found - low) / (high - low).clamp(min=1e-8) * 255).byte().numpy()
        return np.repeat(scaled[..., None], 3, axis=2)


def colored(case: Case) -> list[dict[str, Any]]:
    """The clauses of a case that want a color."""
    clauses = case.asked.get("include", ()) if isinstance(case.asked, dict) else ()
    return [clause for clause in clauses if "color" in clause]


def _is_among(name: str, known: Sequence[str]) -> bool:
    """Whether a name, without its article, is a class or a synonym of one."""
    words = re.sub("^an? ", "", name).lower().split()
    found = category_of(words)
    whole = found[0] if found and found[1] == len(words) else " ".join(words)
    return whole in known or any((other := category_of(one.lower().split())) and other[0] == whole for one in known)
