"""Is the detector to be believed? Its agreement with the truth of fresh scenes, and with labels by eye."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ldm.categories import NAMES
from ldm.data.emoji.degrade import degrade
from ldm.data.emoji.scene import IMAGE_SIZE, make_scene, scene_rng
from ldm.errors import DAMAGED
from ldm.evaluation.run.manifest import load_image
from ldm.evaluation.score.detectors import Detector
from ldm.evaluation.score.metrics import Box
from ldm.files import read_json, write_json
from ldm.generation.images import ImageArray
from ldm.util import UserError, atomic_write

Truth = list[tuple[str, float, float]]  # name, x, y
MATCH_RADIUS = 0.12  # within which a detection is the object it should be; a sprite's half side is 0.12 to 0.23
_TEST_SEED = 7_000_003  # a series of scenes that no training split uses


@dataclass(frozen=True)
class Matches:
    """How detections of one or more images agree with the truth; ``distances`` of the matched centers."""

    matched: int
    detected: int
    present: int
    distances: tuple[float, ...] = ()

    def __add__(self, other: Matches) -> Matches:
        return Matches(
            self.matched + other.matched,
            self.detected + other.detected,
            self.present + other.present,
            self.distances + other.distances,
        )

    def to_json(self, pixels: int = IMAGE_SIZE) -> dict[str, Any]:
        """Precision, recall, and the mean center error in pixels of a ``pixels``-wide image."""
        error = float(np.mean(self.distances)) * pixels if self.distances else None
        precision, recall = ratio(self.matched, self.detected), ratio(self.matched, self.present)
        return {"precision": precision, "recall": recall, "center_error_px": error}


def ratio(hits: int, total: int) -> dict[str, Any]:
    """Counts and value as JSON; the value is None where nothing was counted."""
    return {"hits": hits, "total": total, "value": hits / total if total else None}


def match(boxes: Iterable[Box], truth: Sequence[tuple[str, float, float]], radius: float = MATCH_RADIUS) -> Matches:
    """Pair boxes with objects of the same category within ``radius``, the surest box choosing first.

    Args:
        boxes: of one image.
        truth: name, x and y of every object in it.
    """
    found, free = sorted(boxes, key=lambda item: -item.score), list(truth)
    distances = []
    for box in found:
        gaps = [(math.dist(box.center, (x, y)), i) for i, (name, x, y) in enumerate(free) if name == box.name]
        if gaps and min(gaps)[0] < radius:
            distances.append(min(gaps)[0])
            del free[min(gaps)[1]]
    return Matches(len(distances), len(found), len(truth), tuple(distances))


def agreement(detector: Detector, scenes: Iterable[tuple[ImageArray, Truth]]) -> Matches:
    """The detector's matches with the truth, over all images."""
    found = (match(detector.detect(image, NAMES), truth) for image, truth in scenes)
    return sum(found, Matches(0, 0, 0))


def fresh_scenes(count: int, degraded: bool = False, close_ups: float = 0.0) -> Iterator[tuple[ImageArray, Truth]]:
    """Scenes that no training run saw, with their truth. UserError if the font is not installed.

    `close_ups` is the share of the scenes of one object that show it large.
    """
    for index in range(count):
        rng = scene_rng(_TEST_SEED, index)
        scene = make_scene(rng, close_ups=close_ups)
        image = degrade(scene.image, rng, clean_rate=0.0) if degraded else scene.image
        yield image, [(item.name, item.x, item.y) for item in scene.objects]


# ------------------------------------------------------------------------------------------ labels by eye


def read_labels(path: Path) -> list[tuple[ImageArray, Truth]]:
    """The images and labels of a file {"images": [{"file": relative path, "objects": [{"name", "x", "y"}]}]}.

    Raises:
        UserError: it or an image is missing or of another form, a category is unknown, or a center outside [0, 1].
    """
    try:
        labels = [
            (path.parent / item["file"], [(o["name"], float(o["x"]), float(o["y"])) for o in item["objects"]])
            for item in read_json(path)["images"]
        ]
    except OSError as error:
        raise UserError(f"The labels {path} can't be read; start some with `scripts/evaluate.py sheet`.") from error
    except DAMAGED as error:
        raise UserError(
            f"The labels {path} are not of the form that `scripts/evaluate.py sheet` writes: {error!r}."
        ) from error
    scenes = []
    for file, objects in labels:
        for name, x, y in objects:
            if name not in NAMES or not (0 <= x <= 1 and 0 <= y <= 1):
                raise UserError(f"{path} labels {file} with '{name}' at ({x:g}, {y:g}), which can't be.")
        if (image := load_image(file)) is None:
            raise UserError(f"The labeled image {file} can't be read; restore it.")
        scenes.append((image, objects))
    return scenes


def pick_images(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """A random choice of the PNG files below a folder, in random order, so that labeling is blind to the method.

    Raises:
        UserError: there are fewer.
    """
    files = sorted(folder.rglob("[0-9]*.png"))
    if len(files) < count:
        raise UserError(f"{folder} holds {len(files)} images, fewer than the {count} to be labeled.")
    return random.Random(seed).sample(files, count)


def contact_sheet(images: Sequence[ImageArray], columns: int = 5, zoom: int = 2) -> Image.Image:
    """The images enlarged and numbered, with marks at every tenth of the side, for labeling by eye."""
    side, gap = images[0].shape[0] * zoom, 22
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (side + gap), rows * (side + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, image in enumerate(images):
        left, top = index % columns * (side + gap) + gap, index // columns * (side + gap) + gap
        sheet.paste(Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST), (left, top))
        draw.text((left, top - 20), f"#{index}", fill="red")
        for tenth in range(1, 10):
            at = side * tenth // 10
            draw.line((left + at, top - 5, left + at, top), fill="black")
            draw.line((left - 5, top + at, left, top + at), fill="black")
            draw.text((left + at - 3, top - 16), str(tenth), fill="gray")
            draw.text((left - 14, top + at - 6), str(tenth), fill="gray")
    return sheet


def start_labels(files: Sequence[Path], labels: Path) -> None:
    """Copy images beside a new label file that lists them without objects. UserError if it exists."""
    if labels.exists():
        raise UserError(f"{labels} exists already; choose another name, so that no labels are lost.")
    folder = labels.with_suffix("")
    entries = []
    for index, file in enumerate(files):
        target = folder / f"{index:02d}.png"
        with atomic_write(target) as temporary:
            temporary.write_bytes(file.read_bytes())
        entries.append({"file": f"{folder.name}/{target.name}", "source": file.parent.name, "objects": []})
    write_json(labels, {"images": entries})
