"""Images and masks from a user's files, as they look in a viewer."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

# No format that runs another program (EPS), and none that is no image.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "TGA")
MAX_PIXELS = 180_000_000  # more are taken for a file made to fill the memory
PAINTED = 128  # the least brightness, or opacity, of 255 at which a mask paints


def read_image(path: str | Path) -> Image.Image:
    """The image in a file as 8-bit RGB: turned as its EXIF data say, on white where it is transparent, first frame.

    Raises:
        UserError: no file, no image, a damaged one, or one of over `MAX_PIXELS`.
    """
    return _on(_load(path), "white").convert("RGB")


def read_mask(path: str | Path) -> Image.Image:
    """The mask in a file as mode "L", 255 where to paint and 0 elsewhere: what is at least half white or half opaque.

    Raises:
        UserError: as `read_image`, or the mask paints nothing.
    """
    gray = read_gray_mask(path)
    light = gray.point(_painted)
    if not light.getbbox():
        brightest = gray.getextrema()[1]
        raise UserError(
            f"the mask {path} paints nothing: its brightest pixel is {brightest} of 255, and {PAINTED} or more paints; "
            "draw in white what is to be painted, on black or on nothing"
        )
    return light


def read_texts(path: str | Path) -> dict[str, str]:
    """The texts in an image's file, by their names; no pixel is read. The comment of EXIF is called "parameters".

    Raises:
        UserError: as `read_image`.
    """
    with _opened(path) as image:
        texts = {str(key): value for key, value in image.info.items() if isinstance(value, str)}
        comment = image.getexif().get_ifd(0x8769).get(0x9286, b"")  # UserComment
        if isinstance(comment, bytes) and len(comment) > 8:
            kind, comment = comment[:8], comment[8:]
            coding = "utf-16-be" if kind.startswith(b"UNICODE") else "utf-8"
            texts.setdefault("parameters", comment.decode(coding, errors="replace"))
        return texts


def read_gray_mask(path: str | Path) -> Image.Image:
    """The mask in a file as mode "L", from 0 for what is left to 255 for what is painted, turned as its EXIF data say.

    Where it has transparent parts, what is opaque paints, whatever its color; but of opaque parts that are black and
    white only the white ones. Without, what is white paints. Raises UserError as `read_image`.
    """
    image = _load(path)
    if image.mode == "RGBA":
        opaque = image.getchannel("A").point(_painted)
        inside = image.convert("L").histogram(opaque)
        one_color = not any(inside[:PAINTED]) or not any(inside[PAINTED:])
        if opaque.getextrema() != (255, 255) and one_color:
            return image.getchannel("A")
    return _on(image, "black").convert("L")


def _painted(value: int) -> int:
    return 255 if value >= PAINTED else 0


def _load(path: str | Path) -> Image.Image:
    """The first frame, turned, as 8-bit RGB, or RGBA where anything may be transparent."""
    from PIL import ImageOps

    with _opened(path) as image:
        image.load()
        return _eight_bits(_turned(image, ImageOps))


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """The image of a file, whose pixels are not read yet; whatever is raised inside is told as a UserError."""
    from PIL import Image, UnidentifiedImageError

    path = Path(path)
    if path.exists() and not path.is_file():  # a pipe would never begin
        kind = "a folder" if path.is_dir() else "no file on a disk"
        raise UserError(f"{path} is {kind}; give the path of an image file")
    Image.init()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd EXIF data, and of large images, which are refused below
            with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                yield image
    except FileNotFoundError as error:
        raise UserError(f"image {path} does not exist; give the path of an image file") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} has over {MAX_PIXELS // 1_000_000} million pixels; make it smaller first") from error
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not an image that can be read{_instead(path)}") from error
    except Exception as error:  # a damaged file makes Pillow's readers raise almost anything
        raise UserError(f"{path} is not an image that can be read: it is truncated or damaged") from error


def _turned(image: Image.Image, ops: Any) -> Image.Image:
    try:
        return ops.exif_transpose(image) or image
    except Exception:  # damaged EXIF data: the image as it is stored
        return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """RGB, or RGBA where the file has transparency; 16 bits and floating point scaled to 8 bits."""
    import numpy as np
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        values = np.nan_to_num(np.asarray(image).astype(np.float64))
        if image.mode == "F":
            values = values * (255.0 if values.max(initial=0) <= 1 else 1.0)
        elif image.mode.startswith("I;16") or values.max(initial=0) > 255:
            values = values / 257.0
        return Image.fromarray(values.clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        premultiplied = {"La": "LA", "RGBa": "RGBA"}
        return image.convert(premultiplied.get(image.mode, image.mode)).convert("RGBA")
    return image.convert("RGB")


def _on(image: Image.Image, color: str) -> Image.Image:
    """An RGBA image laid on a color; any other as it is."""
    from PIL import Image

    if image.mode != "RGBA":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, color), image)


def _instead(path: Path) -> str:
    """What a file is that is no image, and what to do."""
    with path.open("rb") as handle:
        start = handle.read(512)
    text = start.lstrip().lower()
    if not start:
        return ": it is empty"
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return ": it is a web page; download the image itself"
    if text.startswith((b"<svg", b"<?xml")):
        return ": it is a drawing in XML; save it as PNG"
    if text.startswith(b"version https://git-lfs"):
        return ": it is a pointer of git-lfs; fetch the image with `git lfs pull`"
    return "; give a PNG, JPEG, WebP, GIF, BMP or TIFF file"
