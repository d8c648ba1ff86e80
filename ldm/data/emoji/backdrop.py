"""Backgrounds of emoji scenes: plain, gradients, ground under a sky, simple textures."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldm.categories import BACKGROUNDS

IMAGE_SIZE = 128
KINDS = {"plain": 40, "gradient": 22, "ground": 20, "texture": 18}  # shares of the scenes
Pixels = NDArray[np.float32]
_LINE = np.linspace(0, 1, IMAGE_SIZE, dtype=np.float32)
_X, _Y = _LINE[None, :], _LINE[:, None]


@dataclass(frozen=True)
class Backdrop:
    """A background (128, 128, 3) in [0, 255], and its color word where one color fills it."""

    pixels: Pixels
    color: str | None


def draw_backdrop(rng: random.Random) -> Backdrop:
    """A background; `rng` decides everything."""
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    name, first = _soft_color(rng)
    if kind == "plain":
        return Backdrop(np.broadcast_to(first, (IMAGE_SIZE, IMAGE_SIZE, 3)).copy(), name)
    if kind == "texture":
        wave = _texture(rng)[..., None] * np.float32(rng.uniform(4, 9))
        return Backdrop((first + wave).clip(0, 255), name)
    _, second = _soft_color(rng)
    if kind == "gradient":
        slope_x, slope_y = rng.choice(((1.0, 0.0), (0.0, 1.0), (0.5, 0.5)))
        share = (slope_x * _X + slope_y * _Y)[..., None]
        return Backdrop(first + share * (second - first), None)
    horizon, softness = rng.uniform(0.4, 0.75), rng.uniform(0.01, 0.04)
    ground = 1 / (1 + np.exp((horizon - _Y) / np.float32(softness)))[..., None]  # (128, 1, 1)
    light = (1 - _Y)[..., None] * np.float32(14)  # the sky is brighter at the top, the ground darker in front
    shaded = first + ground * (second - first) + light  # (128, 1, 3)
    return Backdrop(np.repeat(shaded, IMAGE_SIZE, axis=1).clip(0, 255), None)


def _soft_color(rng: random.Random) -> tuple[str, Pixels]:
    name = rng.choice(list(BACKGROUNDS))
    shade = rng.uniform(-12, 12)
    channels = [channel + shade + rng.uniform(-6, 6) for channel in BACKGROUNDS[name]]
    return name, np.array(channels, np.float32).clip(0, 255)


def _texture(rng: random.Random) -> Pixels:
    """Soft stripes, checks or dots: (128, 128) in [-1, 1]."""
    cycles, angle = rng.uniform(4, 9), rng.choice((0.0, 0.25, 0.5, 0.75)) * np.pi
    along = np.cos(angle) * _X + np.sin(angle) * _Y
    across = np.cos(angle) * _Y - np.sin(angle) * _X
    first, second = (np.sin(2 * np.pi * cycles * line).astype(np.float32) for line in (along, across))
    kind = rng.choice(("stripes", "checks", "dots"))
    if kind == "stripes":
        return first
    return first * second if kind == "checks" else np.maximum(first, 0) * np.maximum(second, 0) * 2 - 0.5
