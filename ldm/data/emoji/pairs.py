"""Images with true texts, for training the small CLIP of the emoji world."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldm.arguments import Count, Fraction, Weight, Whole
from ldm.categories import BACKGROUND_CAPTIONS, NAMES
from ldm.data.emoji.captions import phrase, relation_between, relation_caption, true_caption
from ldm.data.emoji.degrade import degrade
from ldm.data.emoji.scene import IMAGE_SIZE, Scene, SceneObject, make_scene, overlap, scene_rng, swap_first_two
from ldm.data.emoji.scenes import SceneDataset, channels_first
from ldm.relations import OPPOSITE, with_article

CLIP_SIZE = 64  # pixels a side of the images that CLIP sees
HALF_SIDE = 0.2  # of the crop that the method's local loss looks at
NO_LABEL = -1
Pixels = NDArray[np.uint8]


def crop_box(x: float, y: float, half_side: float = HALF_SIDE, size: int = IMAGE_SIZE) -> tuple[int, int, int, int]:
    """The method's local crop: the square around (x, y), cut to the image (left, top, right, bottom)."""
    left, right = int(size * max(x - half_side, 0)), int(size * min(x + half_side, 1))
    top, bottom = int(size * max(y - half_side, 0)), int(size * min(y + half_side, 1))
    return left, top, right, bottom


def crop(image: Pixels, box: tuple[int, int, int, int], size: int = CLIP_SIZE) -> Pixels:
    """A part of the image resized bilinearly to `size` x `size`."""
    return np.asarray(Image.fromarray(image).crop(box).resize((size, size), Image.Resampling.BILINEAR))


def whole(image: Pixels) -> Pixels:
    """The image as CLIP sees it, (64, 64, 3): means of 2x2 pixels."""
    return np.asarray(Image.fromarray(image).resize((CLIP_SIZE, CLIP_SIZE), Image.Resampling.BOX))


class EmojiClipPairs(SceneDataset):
    """Whole scenes with true captions, and crops with the name of the object in them.

    A sample is ``{"image": float32 (3, 64, 64) in [0, 1], "caption": str, "label": int}``: the label is the
    category of the object that a crop is centered on, -1 for scenes and for crops of background.

    Samples 2k and 2k + 1 of some pairs are twins: the same two objects in each other's place under the same
    wording with the relation turned round. Read in order (``shuffle_train: false``) twins share a batch, and
    each is the other's hardest negative.

    Args:
        size, seed, split, close_ups: see :class:`SceneDataset`.
        scene_rate: share of samples that are whole scenes; the others are crops.
        twin_rate: share of the scenes that come as twins.
        background_rate: share of the crops that show no object.
        degrade_strength: 0 for clean images; 1 imitates generated ones.
        jitter: largest shift of a crop's center, as a share of the image.
    """

    def __init__(
        self,
        size: Count = 1_000_000,
        seed: Whole = 0,
        split: str = "train",
        scene_rate: Fraction = 0.4,
        twin_rate: Fraction = 0.4,
        background_rate: Fraction = 0.08,
        degrade_strength: Weight = 1.0,
        jitter: Weight = 0.08,
        close_ups: Fraction = 0.0,
    ) -> None:
        super().__init__(size, seed, split, close_ups)
        self.scene_rate, self.twin_rate, self.background_rate = scene_rate, twin_rate, background_rate
        self.degrade_strength, self.jitter = degrade_strength, jitter

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.check(index)
        pair, member = divmod(index, 2)
        rng = scene_rng(self.seed, pair)
        is_scene, is_twin = rng.random() < self.scene_rate, rng.random() < self.twin_rate
        if is_scene and is_twin:
            image, text = self._twin(rng, member)
            label = NO_LABEL
        else:
            rng = scene_rng(self.seed, (1 << 38) + index)
            image, text, label = self._scene(rng) if is_scene else self._crop(rng)
        # A crop may be cut from a degraded scene, be degraded itself, or both.
        if is_scene or rng.random() < 0.5:
            image = self._degrade(image, rng)
        return {"image": channels_first(image), "caption": text, "label": label}

    def _scene(self, rng: random.Random) -> tuple[Pixels, str, int]:
        scene = self.make(rng)
        return whole(scene.image), true_caption(scene.objects, rng), NO_LABEL

    def _twin(self, rng: random.Random, member: int) -> tuple[Pixels, str]:
        """Member 0 or 1 of a pair of scenes; both draw the same random numbers, so the wording agrees."""
        while True:  # large objects near the edge may not fit into each other's place
            scene = make_scene(rng, rng.sample(NAMES, 2))
            swapped, moved = swap_first_two(scene)
            relations = relation_between(*scene.objects), relation_between(*moved)
            if relations[1] == OPPOSITE[relations[0]]:
                break
        image = (scene.image, swapped)[member]
        first, second = scene.objects
        return whole(image), relation_caption(first, second, relations[member], rng)

    def _degrade(self, image: Pixels, rng: random.Random) -> Pixels:
        return degrade(image, rng, strength=self.degrade_strength) if self.degrade_strength > 0 else image

    def _crop(self, rng: random.Random) -> tuple[Pixels, str, int]:
        scene = self.make(rng)
        if rng.random() < 0.5:
            scene = replace(scene, image=self._degrade(scene.image, rng))
        if rng.random() < self.background_rate:
            box = _empty_box(scene.objects, rng)
            if box is not None:
                return crop(scene.image, box), rng.choice(BACKGROUND_CAPTIONS), NO_LABEL
        return self._object_crop(scene, rng)

    def _object_crop(self, scene: Scene, rng: random.Random) -> tuple[Pixels, str, int]:
        item = rng.choice(scene.objects)
        reach = self.jitter * (2 if rng.random() < 0.15 else 1)  # now and then only part of the object shows
        x = min(max(item.x + rng.uniform(-reach, reach), 0.0), 1.0)
        y = min(max(item.y + rng.uniform(-reach, reach), 0.0), 1.0)
        return crop(scene.image, crop_box(x, y)), crop_caption(item, rng), item.label


def crop_caption(item: SceneObject, rng: random.Random) -> str:
    """What the method asks of a crop: "A photo of <object>", named as prompts do but without "the"."""
    words = phrase(item, rng, plain=rng.random() < 0.7).removeprefix("the ")
    if rng.random() < 0.5:
        words = with_article(item.name)
    return f"A photo of {words}"


def _empty_box(objects: Sequence[SceneObject], rng: random.Random) -> tuple[int, int, int, int] | None:
    """A crop that all but misses every object, or None where none was found."""
    for _ in range(30):
        box = crop_box(rng.random(), rng.random())
        if all(overlap(box, item.box) < 0.03 for item in objects):
            return box
    return None
