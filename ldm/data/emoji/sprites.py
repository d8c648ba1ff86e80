"""Images of the emoji world's categories, drawn from the Noto Color Emoji font.

Only training and the detector's check need the font; running the shipped model does not.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from ldm.categories import CATEGORIES
from ldm.errors import UserError

FONT_PATH = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONT_PIXELS = 109  # the only size at which this bitmap font can be drawn
# Pixels of a sprite's longer side, least and most, by the number of objects in the scene.
SIDES = {1: (44, 60), 2: (44, 60), 3: (40, 54), 4: (34, 46), 5: (32, 42)}
CLOSE_UP_SIDES = (64, 100)  # the same where one object fills the image
SIZES = {"small": (24, 36), "large": (66, 84)}  # the same of an object of a size that its caption may state
SHADOW_BLUR = 3.0  # standard deviation in pixels


@cache
def _glyph(label: int, font_path: Path) -> Image.Image:
    """A category's emoji at the font's own size, cropped to its ink (RGBA)."""
    try:
        font = ImageFont.truetype(str(font_path), FONT_PIXELS)
    except OSError as error:
        raise UserError(
            f"Drawing the emoji scenes needs the font {font_path}; install the Debian package fonts-noto-color-emoji."
        ) from error
    canvas = Image.new("RGBA", (FONT_PIXELS * 2, FONT_PIXELS * 2))
    ImageDraw.Draw(canvas).text((20, 20), CATEGORIES[label].emoji, font=font, embedded_color=True)
    box = canvas.getchannel("A").getbbox()
    if box is None:
        raise UserError(f"The font {font_path} draws nothing for {CATEGORIES[label].name}; install a current one.")
    return canvas.crop(box)


@cache
def sprite(label: int, side: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The image of category `label` with its longer side at `side` pixels, ready for compositing.

    Returns colors times opacity, (h, w, 3) in [0, 255], and transparency 1 - opacity, (h, w, 1). Both are
    shared: do not write into them. Raises UserError if the font is not installed.
    """
    glyph = _glyph(label, FONT_PATH)
    scale = side / max(glyph.size)
    size = (max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale)))
    pixels = np.asarray(glyph.resize(size, Image.Resampling.LANCZOS), dtype=np.float32)  # (h, w, 4)
    opacity = pixels[..., 3:] / np.float32(255)
    return pixels[..., :3] * opacity, 1 - opacity


@cache
def shadow(label: int, side: int) -> tuple[NDArray[np.float32], int]:
    """The soft shadow of a sprite: darkness (h + 2 m, w + 2 m, 1) in [0, 1], and m in pixels. Do not write."""
    margin = round(3 * SHADOW_BLUR)
    opacity = 1 - sprite(label, side)[1][..., 0]
    padded = Image.fromarray((np.pad(opacity, margin) * 255).astype(np.uint8))
    blurred = padded.filter(ImageFilter.GaussianBlur(SHADOW_BLUR))
    return np.asarray(blurred, dtype=np.float32)[..., None] / np.float32(255), margin
