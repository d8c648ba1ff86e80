"""Images in a benchmark's own folder: other programs' read, ours written."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from ldm.errors import DAMAGED
from ldm.evaluation.benchmarks.benchmark import Benchmark, Case
from ldm.files import atomic_write, read_json
from ldm.generation.images import JPEG_QUALITY
from ldm.util import UserError

logger = logging.getLogger(__name__)
_IMAGES = {".png", ".jpg", ".jpeg", ".webp"}
Place = tuple[int, int]  # number of the case, and label of its image


def find_images(folder: Path, benchmark: Benchmark, cases: Sequence[Case]) -> dict[Place, Path]:
    """The images of a folder by case and label, in order.

    Raises:
        UserError: it has no image where the benchmark's evaluator looks, or one of another prompt.
    """
    numbers = {case.id: number for number, case in enumerate(cases)}
    groups: dict[int, list[tuple[str, Path]]] = {}
    other = []
    for path in sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in _IMAGES and path.name != "grid.png"
    ):
        name = path.relative_to(folder).as_posix()
        found = re.fullmatch(benchmark.pattern, name)
        number = numbers.get(benchmark.id_of(found["id"])) if found else None
        if found and number is None:
            raise UserError(f"{path} is of none of the {len(cases)} prompts; give the prompt file of these images")
        if found and number is not None:
            groups.setdefault(number, []).append((found["label"], path))
        else:
            other.append(name)
    title, form = benchmark.facts["title"], benchmark.facts["format"]
    if not groups:
        seen = f"; it has {other[0]}" if other else ""
        raise UserError(f"{folder} is no folder of {title}'s images, which are DIR/{form}{seen}")
    if other:
        logger.warning("%d images of %s are not where %s looks, the first is %s.", len(other), folder, title, other[0])
    for number, images in groups.items():
        benchmark.check_folder(folder, cases[number], [path for _, path in images])
    most = max(map(len, groups.values()))
    return {
        (number, label): path
        for number, images in sorted(groups.items())
        for label, path in sorted((benchmark.label_of(text, number, most), path) for text, path in images)
    }


def export_images(folder: Path, benchmark: Benchmark, cases: Sequence[Case], images: Mapping[Place, Path]) -> None:
    """Write images where the benchmark's evaluator looks for them; what is there already stays.

    Raises:
        UserError: another image is there, or the evaluator can't read so many.
    """
    written: dict[Path, bytes] = {}
    for (number, label), source in images.items():
        target = folder / benchmark.place(cases[number], number, label)
        written[target] = source.read_bytes() if target.suffix == ".png" else _jpeg(source)
        if cases[number].line:
            written[target.parents[1] / "metadata.jsonl"] = cases[number].line.encode()
    for target, content in written.items():
        if target.exists():
            if target.read_bytes() != content:
                raise UserError(f"{target} is there already and differs; choose another folder for --export")
            continue
        with atomic_write(target) as temporary:
            temporary.write_bytes(content)


def _jpeg(source: Path) -> bytes:
    content = io.BytesIO()
    with Image.open(source) as image:
        image.convert("RGB").save(content, "JPEG", quality=JPEG_QUALITY)
    return content.getvalue()


def check_line(path: Path, text: str) -> None:
    """UserError if the JSON object of a file has another prompt."""
    try:
        own = read_json(path)["prompt"] if path.is_file() else text
    except DAMAGED:
        raise UserError(f"{path} can't be read as a line of the prompt file; restore it") from None
    if own != text:
        raise UserError(f"{path} has the prompt '{own}', but the prompt file has '{text}' there; give its own file")
