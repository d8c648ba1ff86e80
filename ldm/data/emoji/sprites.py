"""The categories of the emoji world and their images, drawn from the Noto Color Emoji font.

Only training and the detector's check need the font; running the shipped model does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ldm.util import UserError

FONT_PATH = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONT_PIXELS = 109  # the only size at which this bitmap font can be drawn
SIDES = (22, 30)  # pixels of a sprite's longer side, least and most
CLOSE_UP_SIDES = (32, 50)  # the same where one object fills the image


@dataclass(frozen=True)
class Category:
    """One kind of object: COCO name, emoji, plural, true color words and the verb group it takes."""

    name: str
    emoji: str
    plural: str
    colors: tuple[str, ...]
    kind: str  # "vehicle", "animal", "food" or "thing"


CATEGORIES: tuple[Category, ...] = (
    Category("motorcycle", "\U0001f3cd", "motorcycles", ("red",), "vehicle"),
    Category("airplane", "\u2708", "airplanes", ("blue", "gray"), "vehicle"),
    Category("bus", "\U0001f68c", "buses", ("gray", "blue"), "vehicle"),
    Category("boat", "\u26f5", "boats", ("orange", "red"), "vehicle"),
    Category("traffic light", "\U0001f6a6", "traffic lights", ("black", "dark"), "thing"),
    Category("bird", "\U0001f426", "birds", ("blue",), "animal"),
    Category("cat", "\U0001f431", "cats", ("yellow", "orange"), "animal"),
    Category("dog", "\U0001f436", "dogs", ("white", "brown"), "animal"),
    Category("elephant", "\U0001f418", "elephants", ("gray",), "animal"),
    Category("zebra", "\U0001f993", "zebras", ("white", "black"), "animal"),
    Category("umbrella", "\u2602", "umbrellas", ("purple",), "thing"),
    Category("sports ball", "\u26bd", "sports balls", ("white", "black"), "thing"),
    Category("kite", "\U0001fa81", "kites", ("colorful", "orange"), "thing"),
    Category("banana", "\U0001f34c", "bananas", ("yellow",), "food"),
    Category("apple", "\U0001f34e", "apples", ("red",), "food"),
    Category("broccoli", "\U0001f966", "broccolis", ("green",), "food"),
    Category("carrot", "\U0001f955", "carrots", ("orange",), "food"),
    Category("pizza", "\U0001f355", "pizzas", ("yellow", "orange"), "food"),
    Category("donut", "\U0001f369", "donuts", ("brown",), "food"),
    Category("cake", "\U0001f382", "cakes", ("white", "pink"), "food"),
    Category("couch", "\U0001f6cb", "couches", ("blue",), "thing"),
    Category("teddy bear", "\U0001f9f8", "teddy bears", ("brown",), "thing"),
    Category("tv", "\U0001f4fa", "tvs", ("black", "dark"), "thing"),
    Category("clock", "\U0001f550", "clocks", ("white",), "thing"),
)
NAMES: tuple[str, ...] = tuple(category.name for category in CATEGORIES)
LABELS: dict[str, int] = {name: index for index, name in enumerate(NAMES)}


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(str(FONT_PATH), FONT_PIXELS)
    except OSError as error:
        raise UserError(
            f"Drawing the emoji scenes needs the font {FONT_PATH}; install the Debian package fonts-noto-color-emoji."
        ) from error


@cache
def _glyph(label: int) -> Image.Image:
    """A category's emoji at the font's own size, cropped to its ink (RGBA)."""
    canvas = Image.new("RGBA", (FONT_PIXELS * 2, FONT_PIXELS * 2))
    ImageDraw.Draw(canvas).text((20, 20), CATEGORIES[label].emoji, font=_font(), embedded_color=True)
    box = canvas.getchannel("A").getbbox()
    if box is None:
        raise UserError(f"The font {FONT_PATH} draws nothing for {CATEGORIES[label].name}; install a current one.")
    return canvas.crop(box)


@cache
def sprite(label: int, side: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The image of category ``label`` with its longer side at ``side`` pixels, ready for compositing.

    Returns colors times opacity, (h, w, 3) in [0, 255], and transparency 1 - opacity, (h, w, 1). Both are
    shared: do not write into them. Raises UserError if the font is not installed.
    """
    glyph = _glyph(label)
    scale = side / max(glyph.size)
    size = (max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale)))
    pixels = np.asarray(glyph.resize(size, Image.Resampling.LANCZOS), dtype=np.float32)  # (h, w, 4)
    opacity = pixels[..., 3:] / np.float32(255)
    return pixels[..., :3] * opacity, 1 - opacity
