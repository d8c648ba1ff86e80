"""Letters on images: a font that has those of a text, or a spelling of the text in letters that every font has."""

from __future__ import annotations

import importlib.util
import itertools
import re
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_MATPLOTLIB: Any = importlib.util.find_spec("matplotlib")  # it is not loaded for its font
# A font that is always there, and files that systems have, the most common first.
FONTS = (
    str(Path(_MATPLOTLIB.origin).with_name("mpl-data") / "fonts" / "ttf" / "DejaVuSans.ttf"),
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "msyh.ttc",
    "msgothic.ttc",
    "malgun.ttf",
    "NotoSans-Regular.ttf",
    "NotoEmoji-Regular.ttf",
    "Symbola.ttf",
)


def lettering(text: str, size: int) -> tuple[str, Font]:
    """What to draw of a text, and the font that has all its letters; `size` in pixels.

    Where no font has them, those that lack are spelled: transliterated, by the name of a symbol, or as an escape.
    """
    default = ImageFont.load_default(size=size)
    if text.isascii() and text.isprintable():
        return text, default
    # The parts of a sequence of emoji stand side by side; control characters are blanks.
    kinds = {letter: unicodedata.category(letter) for letter in text}
    kept = (letter for letter in text if kinds[letter] != "Cf" and letter != "\ufe0f")
    text = unicodedata.normalize("NFC", "".join(" " if kinds[letter][0] in "CZ" else letter for letter in kept))
    installed = (_installed(name, size) for name in FONTS)
    for font in itertools.chain([default], installed):
        if font and all(_has(font, letter) for letter in set(text)):
            return text, font
    return "".join(letter if _has(default, letter) else _spelled(letter) for letter in text), default


@lru_cache
def _installed(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _has(font: Font, letter: str) -> bool:
    """Whether a letter is drawn as itself, and not as the box for one that lacks."""
    if letter == " ":
        return True
    drawn, missing = (font.getmask(one) for one in (letter, "\U0010ffff"))
    return (drawn.size, bytes(drawn)) != (missing.size, bytes(missing))


def _spelled(letter: str) -> str:
    plain = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode().strip()
    if plain:
        return plain
    name = unicodedata.name(letter, "")
    if found := re.search(r"(?:LETTER|SYLLABLE|CHARACTER|VOWEL SIGN) (?:SMALL )?(\w+)", name):
        return found[1].capitalize() if "CAPITAL" in name else found[1].lower()
    if unicodedata.category(letter) == "So":
        return f"[{name.lower()}]"
    if unicodedata.category(letter).startswith("M"):  # what is put on other letters
        return ""
    return letter.encode("unicode_escape").decode()
