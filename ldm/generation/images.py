"""Images in and out: files and tensors, PNG with parameters inside, sheets, plots.

Images are uint8 arrays (H, W, 3). Every file is written whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter
from PIL.PngImagePlugin import PngInfo

from ldm.errors import UserError
from ldm.files import atomic_write
from ldm.generation.lettering import Font, lettering
from ldm.spacetime.layout import RADIUS, Layout

if TYPE_CHECKING:
    from torch import Tensor

ImageArray = NDArray[np.uint8]

# One color an object, told apart by most kinds of color blindness (Okabe and Ito, 2008).
COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
JPEG_QUALITY = 95
SUFFIXES = (".png", ".jpg", ".jpeg")  # of what a user can name
# "Key: value" or 'Key: "a value, quoted"'
_PAIR = re.compile(r'(?:^|,)\s*(\w[\w ./-]{0,60}):\s*("(?:\\.|[^"\\])*"|[^,]*)')
LONGEST_TITLE = 600  # characters on a sheet
LONGEST_LABEL = 40  # characters of an object's name in a drawing
MIN_SHEET_SIDE = 384  # images smaller than this are enlarged by a whole factor on sheets and overlays


def to_images(images: Tensor) -> list[ImageArray]:
    """Images (B, 3, H, W) in [0, 1] as B uint8 arrays (H, W, 3), rounded. UserError where a value is not finite."""
    from ldm.models.diffusion.sampling import stop_at_nan

    stop_at_nan(images)
    pixels = (images.detach().float() * 255).round().clamp(0, 255).byte()
    return list(pixels.permute(0, 2, 3, 1).cpu().numpy())


def image_tensor(image: Image.Image) -> Tensor:
    """An RGB image as (1, 3, H, W), or a gray one as (1, 1, H, W), in [0, 1]."""
    import torch

    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255.0)
    return pixels.view(1, image.height, image.width, -1).permute(0, 3, 1, 2).contiguous()


def fit_size(image: Image.Image, multiple: int) -> Image.Image:
    """`image` with both sides cut down to a multiple of `multiple`, by resampling as published (Lanczos)."""
    width, height = (max(multiple, side - side % multiple) for side in image.size)
    return image if (width, height) == image.size else image.resize((width, height), Image.Resampling.LANCZOS)


# ------------------------------------------------------------------------------------------- parameters


def parameters_text(prompt: str, fields: Mapping[str, Any], negative_prompt: str = "") -> str:
    """The text that web UIs read from a PNG's "parameters" chunk.

    Three lines, whatever the texts hold: the prompt, "Negative prompt: ..." where there is one, and "Key: value" pairs
    joined by commas, values with a separator quoted as JSON. None is left out.
    """
    pairs = ", ".join(f"{key}: {_quoted(value)}" for key, value in fields.items() if value is not None)
    prompt, mark = _one_line(prompt), "Negative prompt:"
    prompt = json.dumps(prompt, ensure_ascii=False) if prompt.lstrip().startswith(mark) else prompt
    negative = f"\n{mark} {_one_line(negative_prompt)}" if negative_prompt else ""
    return f"{prompt}{negative}\n{pairs}"


def read_parameters(text: str) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative prompt and fields of a text as web UIs and `parameters_text` write it.

    Raises:
        UserError: it does not end with "Key: value" pairs.
    """
    head, _, last = text.strip().rpartition("\n")
    fields = {key.strip(): value.strip() for key, value in _PAIR.findall(last)}
    if "Steps" not in fields:
        raise UserError("its parameters have another form than web UIs', whose last line is 'Steps: 20, Sampler: ...'")
    prompt, _, negative = f"\n{head}".partition("\nNegative prompt:")
    return _unquoted(prompt.strip()), negative.strip(), {key: _unquoted(value) for key, value in fields.items()}


def _unquoted(text: str) -> str:
    try:
        value = json.loads(text) if text.startswith('"') else text
    except ValueError:
        return text
    return value if isinstance(value, str) else text


def _one_line(text: str) -> str:
    """Whatever ends a line somewhere is a blank."""
    return " ".join(text.replace("\0", " ").splitlines())


def _quoted(value: Any) -> str:
    text = _one_line(str(value))
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ',:"') else text


def save_png(path: Path, image: ImageArray | Image.Image, parameters: str | None = None) -> Path:
    """Write a PNG, with `parameters` in the text chunk of that name; UserError on an unwritable folder."""
    pil = image if isinstance(image, Image.Image) else Image.fromarray(image)
    info = PngInfo()
    if parameters is not None:
        # Pillow makes it an iTXt chunk where latin-1 does not suffice.
        info.add_text("parameters", parameters)
    with atomic_write(path) as temporary:
        pil.save(temporary, format="PNG", pnginfo=info)
    return path


def save_image(path: Path, image: Image.Image) -> Path:
    """Write a PNG or a JPEG, as the name says. Raises UserError for another name, or an unwritable folder."""
    check_image_name(path)
    if path.suffix.lower() == ".png":
        return save_png(path, image)
    with atomic_write(path) as temporary:
        image.save(temporary, format="JPEG", quality=JPEG_QUALITY)
    return path


def check_image_name(path: Path) -> None:
    """Refuse a file name that says neither PNG nor JPEG. Raises UserError."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} has no image's ending; let it end in {', '.join(SUFFIXES)}")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as 64 hex digits; web UIs show the first ten as the model's hash."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


# --------------------------------------------------------------------------------------------- images


def enlarge(image: ImageArray, at_least: int = MIN_SHEET_SIDE) -> Image.Image:
    """The image times the smallest whole factor that brings its shorter side to `at_least` pixels."""
    pil = Image.fromarray(image)
    factor = max(1, math.ceil(at_least / min(pil.size)))
    return pil.resize((pil.width * factor, pil.height * factor), Image.Resampling.LANCZOS)


def draw_layout(image: ImageArray, layout: Layout, radius: float = RADIUS) -> Image.Image:
    """The image, enlarged where small, with each object's region, center and name drawn over it.

    The region is that of the attention mask: a disc is an ellipse on a rectangle. `radius` is that of discs without
    their own.
    """
    base = enlarge(image).convert("RGBA")
    veil = Image.new("RGBA", base.size, (0, 0, 0, 0))
    pen = ImageDraw.Draw(veil)
    width, height = base.size
    line, size = max(2, width // 160), max(12, width // 24)
    for i, thing in enumerate(layout.objects):
        color = COLORS[i % len(COLORS)]
        x, y = thing.x * width, thing.y * height
        if thing.shape is None:
            rx, ry = ((radius if thing.radius is None else thing.radius) * side for side in base.size)
            pen.ellipse((x - rx, y - ry, x + rx, y + ry), fill=color + "38", outline=color + "FF", width=line)
        else:
            layer = Image.new("RGBA", base.size, color)
            layer.putalpha(_tint((thing.shape.coverage(height, width) * 255).round().astype(np.uint8), line))
            veil.alpha_composite(layer)
        pen.ellipse((x - 2 * line, y - 2 * line, x + 2 * line, y + 2 * line), fill=color + "FF")
        _label(pen, (x, y + 3 * line), *lettering(shortened(thing.phrase), size), color, base.size)
    return Image.alpha_composite(base, veil).convert("RGB")


def _tint(coverage: ImageArray, line: int) -> Image.Image:
    """The opacity (mode "L") of a region of coverage (H, W) to 255: low inside, full on a rim of `line` pixels."""
    whole = Image.fromarray(coverage)
    rim = ImageChops.subtract(whole, whole.filter(ImageFilter.MinFilter(2 * line + 1)))
    return ImageChops.lighter(whole.point(lambda value: value * 0x38 // 255), rim)


def _label(
    pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, font: Font, color: str, size: tuple[int, int]
) -> None:
    """Text on a plate of the object's color, centered under `at` and kept inside the image."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    wide, high = right - left, bottom - top
    x = min(max(at[0] - wide / 2, 4), max(size[0] - wide - 4, 4))
    y = min(max(at[1], 4), max(size[1] - high - 4, 4))
    pen.rectangle((x - 4, y - 3, x + wide + 4, y + high + 3), fill=color + "E0")
    pen.text((x - left, y - top), text, fill="white", font=font)


def comparison_sheet(panels: Mapping[str, ImageArray | Image.Image], title: str) -> Image.Image:
    """Images side by side at one size, each under its name, with `title` above them."""
    images = {name: p if isinstance(p, Image.Image) else enlarge(p) for name, p in panels.items()}
    width = max(image.width for image in images.values())
    height = max(image.height for image in images.values())
    gap, bar = 12, max(24, width // 14)
    title, title_font = lettering(shortened(title, LONGEST_TITLE), max(14, bar * 2 // 3))
    _, font = lettering("", max(12, bar // 2))
    sheet_width = len(images) * (width + gap) + gap
    lines = _wrapped(title, title_font, sheet_width - 2 * gap)
    top = gap + len(lines) * bar
    sheet = Image.new("RGB", (sheet_width, top + bar + height + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for row, text in enumerate(lines):
        pen.text((gap, gap + row * bar), text, fill="black", font=title_font)
    for i, (name, image) in enumerate(images.items()):
        x = gap + i * (width + gap)
        pen.text((x, top + bar // 4), name, fill="#404040", font=font)
        sheet.paste(image.resize((width, height), Image.Resampling.LANCZOS), (x, top + bar))
    return sheet


def _wrapped(text: str, font: Font, width: int) -> list[str]:
    """Lines of at most `width` pixels, broken at blanks where there are some."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def shortened(text: str, limit: int = LONGEST_LABEL) -> str:
    """The text, cut where it is longer than `limit`."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def grid(images: Sequence[ImageArray], columns: int | None = None) -> ImageArray:
    """Images of one size in rows, with two black pixels around each, as the published script lays them out.

    Args:
        images: at least one, all (H, W, 3).
        columns: images in a row; the nearest square by default.
    """
    columns = min(columns or math.ceil(math.sqrt(len(images))), len(images))
    rows = math.ceil(len(images) / columns)
    height, width, _ = images[0].shape
    gap = 2
    sheet = np.zeros((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), np.uint8)
    for i, image in enumerate(images):
        y, x = (i // columns) * (height + gap) + gap, (i % columns) * (width + gap) + gap
        sheet[y : y + height, x : x + width] = image
    return sheet


# ------------------------------------------------------------------------------------------------ plots


def plot_weights(path: Path, weights: NDArray[np.floating[Any]], names: Sequence[str]) -> Path:
    """Plot the weights (S, N) of the objects, whose names are given, over the denoising steps."""
    curves = list(zip(names, weights.T, strict=True))
    return _plot(path, curves, "denoising step", "weight of the local description")


def plot_losses(path: Path, curves: Mapping[str, Sequence[float]]) -> Path:
    """Plot every named loss over the evaluations of the loss, in the order they were made."""
    return _plot(path, list(curves.items()), "evaluation of the loss", "CLIP loss")


def _plot(path: Path, curves: Sequence[tuple[str, Any]], x_label: str, y_label: str) -> Path:
    # The object interface with the Agg canvas: no display, and no figure left in pyplot's global list.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
    from matplotlib.text import Text

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    for i, (_, values) in enumerate(curves):
        steps = np.arange(1, len(values) + 1)
        axes.plot(steps, values, label=str(i), color=COLORS[i % len(COLORS)], marker=".")
    for entry, (name, _) in zip(axes.legend().get_texts(), curves, strict=True):
        text, font = lettering(shortened(name), 12)
        entry.set_text(text)
        entry.set_parse_math(False)  # a name with $ is no formula
        if isinstance(file := getattr(font, "path", None), str):
            entry.set_fontproperties(FontProperties(fname=file, size=entry.get_fontsize()))
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    # The parts of a figure know each other, and texts and canvas the renderer: its pixels would wait for the collector.
    for known in (canvas, *figure.findobj(Text)):
        vars(known).update(renderer=None, _renderer=None)
    figure.clear()
    return path
