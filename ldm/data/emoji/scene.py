"""Scenes of the emoji world: one to five sprites on a soft background, with what is where known exactly."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ldm.categories import LABELS, NAMES
from ldm.data.emoji.backdrop import IMAGE_SIZE, Backdrop, draw_backdrop
from ldm.data.emoji.captions import caption
from ldm.data.emoji.sprites import CLOSE_UP_SIDES, SIDES, SIZES, shadow, sprite

COUNT_WEIGHTS = (32, 38, 16, 9, 5)  # shares of scenes with 1 to 5 objects
SHADOW_OFFSET, SHADOW_DARKNESS = 3, np.float32(0.35)  # pixels to the right and down; share of the light that it takes
SIZED = 0.1  # share of objects, in scenes of up to three, that are small, and of those that are large
MIXED_SIZES = (SIDES[1], SIDES[3])
MAX_OVERLAP = 0.08  # of the smaller of two bounding boxes
Image = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, right and bottom exclusive


@dataclass(frozen=True)
class SceneObject:
    """One sprite: name, center in [0, 1] (x to the right, y down), longer side and box in pixels, size word."""

    name: str
    x: float
    y: float
    side: int
    box: Box
    size: str = ""  # "small" or "large", or "" where it is of no such size

    @property
    def label(self) -> int:
        """The category's number."""
        return LABELS[self.name]


@dataclass(frozen=True)
class Scene:
    """An image (128, 128, 3) uint8 and the truth about it."""

    image: Image
    objects: tuple[SceneObject, ...]
    caption: str
    backdrop: Backdrop


def scene_rng(seed: int, index: int) -> random.Random:
    """The generator of scene ``index`` of the series ``seed``: independent of every other."""
    return random.Random((seed << 40) ^ index)


def make_scene(rng: random.Random, names: Sequence[str] | None = None, close_ups: float = 0.0) -> Scene:
    """Draws a random scene. About a millisecond once the sprites are cached.

    Args:
        rng: decides everything; the same state gives the same scene.
        names: the categories to show (1 to 5, distinct); drawn at random when left out.
        close_ups: share of the scenes of one object in which it fills most of the image, as the subject of
            a photograph does.

    Raises:
        UserError: if the font is not installed.
    """
    if names is None:
        names = rng.sample(NAMES, rng.choices(tuple(SIDES), COUNT_WEIGHTS)[0])
    close = close_ups > 0 and len(names) == 1 and rng.random() < close_ups
    objects = _place(names, rng, CLOSE_UP_SIDES if close else SIDES[len(names)])
    backdrop = draw_backdrop(rng)
    return Scene(_paint(backdrop, objects), objects, caption(objects, rng, backdrop.color), backdrop)


def swap_first_two(scene: Scene) -> tuple[Image, tuple[SceneObject, ...]]:
    """The first two objects in each other's place on the same background: the opposite relation."""
    first, second, *rest = scene.objects
    moved = (_centered(first, second.x, second.y), _centered(second, first.x, first.y), *rest)
    return _paint(scene.backdrop, moved), moved


def _centered(item: SceneObject, x: float, y: float) -> SceneObject:
    """The object with its center as near to (x, y) as its size lets it stay inside."""
    left, top, right, bottom = item.box
    width, height = right - left, bottom - top
    new_left = min(max(round(x * IMAGE_SIZE - width / 2), 0), IMAGE_SIZE - width)
    new_top = min(max(round(y * IMAGE_SIZE - height / 2), 0), IMAGE_SIZE - height)
    return _at(item, new_left, new_top, width, height)


def _at(item: SceneObject, left: int, top: int, width: int, height: int) -> SceneObject:
    center = ((left + width / 2) / IMAGE_SIZE, (top + height / 2) / IMAGE_SIZE)
    return replace(item, x=center[0], y=center[1], box=(left, top, left + width, top + height))


def overlap(first: Box, second: Box) -> float:
    """Shared area of two boxes as a share of the smaller box, in [0, 1]."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / min(areas)


def _place(names: Sequence[str], rng: random.Random, sides: tuple[int, int]) -> tuple[SceneObject, ...]:
    """Places a sprite of each category fully inside and with little overlap, starting afresh when stuck."""
    while True:
        placed: list[SceneObject] = []
        for name in names:
            item = _try_place(name, placed, rng, sides)
            if item is None:
                break
            placed.append(item)
        else:
            return tuple(placed)


def _try_place(
    name: str, placed: Sequence[SceneObject], rng: random.Random, sides: tuple[int, int]
) -> SceneObject | None:
    size = rng.choices(("", *SIZES), (1 - 2 * SIZED, SIZED, SIZED))[0] if sides in MIXED_SIZES else ""
    side = rng.randint(*SIZES.get(size, sides))
    height, width = sprite(LABELS[name], side)[0].shape[:2]
    for _ in range(20):
        left = int(rng.random() * (IMAGE_SIZE - width + 1))
        top = int(rng.random() * (IMAGE_SIZE - height + 1))
        box = (left, top, left + width, top + height)
        if all(overlap(box, other.box) <= MAX_OVERLAP for other in placed):
            return _at(SceneObject(name, 0.0, 0.0, side, box, size), left, top, width, height)
    return None


def _paint(backdrop: Backdrop, objects: Sequence[SceneObject]) -> Image:
    """The objects with their shadows over the background: (128, 128, 3) uint8."""
    canvas = backdrop.pixels.copy()
    for item in objects:
        left, top, right, bottom = item.box
        dark, margin = shadow(item.label, item.side)
        first_x, first_y = left - margin + SHADOW_OFFSET, top - margin + SHADOW_OFFSET
        x, y = max(first_x, 0), max(first_y, 0)
        region = canvas[y : first_y + dark.shape[0], x : first_x + dark.shape[1]]
        seen = dark[y - first_y :, x - first_x :][: region.shape[0], : region.shape[1]]
        region *= 1 - SHADOW_DARKNESS * seen
        colors, transparency = sprite(item.label, item.side)
        region = canvas[top:bottom, left:right]
        region *= transparency
        region += colors
    return (canvas + 0.5).clip(0, 255).astype(np.uint8)
