"""Images of the emoji world's categories, drawn from the Noto Color Emoji font.

Only training and the detector's check need the font; running the shipped model does not.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ldm.categories import CATEGORIES
from ldm.errors import UserError

FONT_PATH = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONT_PIXELS = 109  # the only size at which this bitmap font can be drawn
SIDES = (22, 30)  # pixels of a sprite's longer side, least and most
CLOSE_UP_SIDES = (32, 50)  # the same where one object fills the image


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
