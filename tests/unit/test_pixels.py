"""Images and masks of every kind that users have: as a viewer shows them, or one sentence."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ldm import pixels
from ldm.data.image_folder import read_rgb
from ldm.errors import UserError
from ldm.pixels import read_image, read_mask

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()


def corner(path: Path) -> tuple[int, ...]:
    return read_image(path).getpixel((0, 0))  # type: ignore[return-value]


def test_turned_as_the_camera_says(tmp_path: Path) -> None:
    image = Image.new("RGB", (96, 64), GREEN)
    image.paste(RED, (0, 48, 16, 64))  # below at the left; above at the left when turned clockwise
    image.save(tmp_path / "a.png", exif=exif(6))
    assert read_image(tmp_path / "a.png").size == (64, 96) and corner(tmp_path / "a.png") == RED
    assert read_rgb(tmp_path / "a.png").shape == (96, 64, 3)
    image.save(tmp_path / "b.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff damaged")
    assert read_image(tmp_path / "b.jpg").size == (96, 64)


def palette() -> Image.Image:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([*GREEN, *RED] + [0] * 762)
    return image


@pytest.mark.parametrize(
    ("make", "options", "color"),
    [
        (lambda: Image.new("RGBA", (8, 8), (*GREEN, 0)), {}, WHITE),  # a hidden color stays hidden
        (lambda: Image.new("RGBA", (8, 8), (255, 0, 0, 128)), {}, (255, 127, 127)),
        (lambda: Image.new("LA", (8, 8), (0, 0)), {}, WHITE),
        (palette, {}, GREEN),
        (palette, {"transparency": 0}, WHITE),
        (lambda: Image.new("RGB", (8, 8), GREEN), {"transparency": GREEN}, WHITE),
        (lambda: Image.new("1", (8, 8), 1), {}, WHITE),
        (lambda: Image.fromarray(np.full((8, 8), 0x8080, np.uint16)), {}, (128, 128, 128)),
        (lambda: Image.fromarray(np.full((8, 8), 65535, np.uint16)), {}, WHITE),
    ],
)
def test_modes(
    make: Callable[[], Image.Image], options: dict[str, object], color: tuple[int, ...], tmp_path: Path
) -> None:
    make().save(tmp_path / "a.png", **options)  # type: ignore[arg-type]
    assert max(abs(a - b) for a, b in zip(corner(tmp_path / "a.png"), color, strict=True)) <= 1


def test_other_formats(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    assert corner(tmp_path / "a.jpg")[0] > 200 and corner(tmp_path / "a.jpg")[1] < 60
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "a.tiff")
    assert corner(tmp_path / "a.tiff") == (128, 128, 128)
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, GREEN)]
    for name in ("a.gif", "a.webp", "b.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert corner(tmp_path / name)[1] < 60  # the first frame


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"\n<!DOCTYPE html><html>", "it is a web page"),
        (b"<svg xmlns=", "drawing in XML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image that can be read; give a PNG"),
        (b"GIF89a", "is not an image that can be read"),
    ],
)
def test_what_is_no_image(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_image(tmp_path / "a.png")


def test_missing_folder_and_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(pipe := tmp_path / "pipe.png")
    for path, message in ((tmp_path / "none.png", "not exist"), (tmp_path, "is a folder"), (pipe, "is no file")):
        with pytest.raises(UserError, match=message):
            read_image(path)
    Image.new("1", (60_000, 60_000)).save(tmp_path / "bomb.png")
    with pytest.raises(UserError, match="million pixels"):
        read_image(tmp_path / "bomb.png")
    monkeypatch.setattr(pixels, "MAX_PIXELS", 63)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="million pixels"):
        read_image(tmp_path / "a.png")


def strokes(mode: str, ground: object, color: object) -> Image.Image:
    image = Image.new(mode, (8, 8), ground)  # type: ignore[arg-type]
    image.paste(color, (2, 2, 6, 6))  # type: ignore[call-overload]
    return image


@pytest.mark.parametrize(
    ("mode", "ground", "color"),
    [
        ("L", 0, 255),
        ("RGB", (0, 0, 0), WHITE),
        ("RGBA", (0, 0, 0, 255), (255, 255, 255, 255)),
        ("RGBA", (255, 255, 255, 0), (255, 255, 255, 255)),  # white on nothing
        ("RGBA", (0, 0, 0, 0), (0, 0, 0, 255)),  # black strokes on nothing
        ("RGBA", (0, 0, 0, 0), (255, 0, 0, 255)),
        ("LA", (0, 0), (0, 255)),
    ],
)
def test_masks_paint_by_alpha_or_brightness(mode: str, ground: object, color: object, tmp_path: Path) -> None:
    strokes(mode, ground, color).save(tmp_path / "a.png")
    mask = np.asarray(read_mask(tmp_path / "a.png"))
    assert mask.sum() == 255 * 16 and mask[3, 3] == 255


def test_black_and_white_on_nothing_paints_white(tmp_path: Path) -> None:
    image = strokes("RGBA", (0, 0, 0, 0), (0, 0, 0, 255))
    image.paste((255, 255, 255, 255), (3, 3, 5, 5))
    image.save(tmp_path / "a.png")
    assert np.asarray(read_mask(tmp_path / "a.png")).sum() == 255 * 4


@pytest.mark.parametrize(("mode", "color"), [("L", 1), ("RGB", RED), ("RGBA", (0, 0, 0, 255)), ("RGBA", (9, 9, 9, 0))])
def test_a_mask_that_paints_nothing_is_told(mode: str, color: object, tmp_path: Path) -> None:
    Image.new(mode, (8, 8), color).save(tmp_path / "a.png")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="paints nothing"):
        read_mask(tmp_path / "a.png")


def files() -> list[bytes]:
    """A small image in every format."""
    found = []
    for name in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "TGA"):
        for mode in ("RGB", "L", "P"):
            if (name, mode) not in {("JPEG", "P"), ("PPM", "P"), ("WEBP", "P"), ("TGA", "P")}:
                buffer = io.BytesIO()
                Image.linear_gradient("L").resize((9, 7)).convert(mode).save(buffer, name)
                found.append(buffer.getvalue())
    return found


FILES = files()


@given(st.sampled_from(FILES), st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=4))), st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_is_an_image_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, changes: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.png"
    for place, new in changes:
        content = content[:place] + new + content[place + len(new) :]
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert read_image(path).mode == "RGB"
        assert read_mask(path).mode == "L"
    except UserError as error:
        assert "\n" not in str(error)
