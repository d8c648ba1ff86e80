"""Layout files: our own form, and what other programs write, told by its content.

- Ours: `{"objects": [...]}`, see `ldm.spacetime.layout`; also the settings.json of an image.
- LMD: `[["a cat", [x, y, width, height]], ...]` in 512 x 512, alone or as "gen_boxes" beside "bg_prompt" and
  "neg_prompt"; or its cache of a language model's answers, `{"prompt": ["[('a cat', ...)] Background prompt: ..."]}`.
- GLIGEN: `{"phrases": [...], "boxes": [[left, top, right, bottom], ...]}` in fractions.
- COCO: `{"images": [...], "annotations": [...], "categories": [...]}`.
- 7Bench, C-Bench and O-Bench: CSV with id, prompt, obj1, bbox1, ... in 512 x 512.
"""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ldm.errors import DAMAGED, UserError
from ldm.files import parse_json, write_json, write_text
from ldm.generation.lmd import SIDE, in_image, read_answer
from ldm.pixels import read_gray_mask
from ldm.relations import with_article
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.spacetime.shapes import Box, Mask, cut
from ldm.suggest import did_you_mean

logger = logging.getLogger(__name__)

Found = Iterator[tuple[str, Layout]]
_MOST_BOXES = 8  # of a row of 7Bench


@dataclass(frozen=True)
class LayoutFile:
    """The layouts of a file: `kind` says what wrote it, `entries` are the layouts under what chooses one."""

    path: Path
    kind: str
    entries: Sequence[tuple[str, Layout]]

    def choose(self, prompt: str | None = None, which: str | None = None) -> Layout:
        """The layout under `which`; without it the one of that prompt, or the only one.

        Raises:
            UserError: there is none.
        """
        if which is not None:
            fitting = [layout for key, layout in self.entries if key == which]
        else:
            fitting = [layout for _, layout in self.entries if layout.prompt == prompt] if prompt else []
            fitting = fitting or [layout for _, layout in self.entries if len(self.entries) == 1]
        if fitting:
            return fitting[0]
        keys = [key for key, _ in self.entries]
        listed = ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "")
        if which is None:
            wanted, means = "this prompt", ""
        else:
            wanted, means = f"--layout-id {which}", did_you_mean(which, keys)
        raise UserError(
            f"layout file {self.path} ({self.kind}) has {len(keys)} layouts and none for {wanted}{means}; "
            f"choose one with --layout-id: {listed}"
        )


def layouts_by_hand(path: Path | None, objects: tuple[LayoutObject, ...]) -> LayoutFile | None:
    """What a user gave: a file, or objects without one; None for neither. Raises UserError as `read_layouts`."""
    if objects:
        return LayoutFile(Path(), "--box and --at", [("0", Layout(objects))])
    return None if path is None else read_layouts(path)


def read_layout(path: Path) -> Layout:
    """The only layout in a file. Raises UserError as `read_layouts` and `LayoutFile.choose`."""
    return read_layouts(path).choose()


def read_layouts(path: Path) -> LayoutFile:
    """All layouts in a file of any of the forms above; masks are image files beside it.

    Raises:
        UserError: a file that cannot be read or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        header = text.partition("\n")[0]
        if "obj1" in header and "bbox1" in header and not header.lstrip().startswith(("{", "[")):
            return LayoutFile(path, "7Bench's rows", list(_from_rows(text, path)))
        content = parse_json(text)
    except OSError as error:
        raise UserError(f"layout file {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"layout file {path} is not valid JSON: {error}") from error
    for kind, has, read in _FORMS:
        if has(content):
            try:
                return LayoutFile(path, kind, list(read(content)))
            except DAMAGED as error:
                raise UserError(f"layout file {path} looks like {kind} but is damaged: {error!r}") from error
    if isinstance(content, dict) and "layout" in content and "objects" not in content:
        content = content["layout"]
    return LayoutFile(path, "a layout", [("0", Layout.from_json(content, partial(_read_region, path.parent)))])


def _read_region(folder: Path, name: str) -> Mask:
    """The mask in an image file, white where the region is and gray where it fades; `name` is relative to `folder`."""
    weights = np.asarray(read_gray_mask(folder / name), dtype=np.float64) / 255
    mask = Mask(weights, name)
    if weights.min() == weights.max():
        logger.warning("The mask %s is of one gray: its object acts everywhere, by %.3g.", folder / name, weights.max())
    return mask


# -------------------------------------------------------------------------------------------------- reading


def placed(boxes: Iterable[tuple[str, Sequence[float]]], width: float, height: float, **texts: Any) -> Layout:
    """The layout of named boxes (left, top, right, bottom) in an image of that size; what leaves the image is cut off.

    Raises:
        UserError: a box is empty or outside the image.
    """
    objects = []
    for number, (phrase, box) in enumerate(boxes, start=1):
        left, top, right, bottom = (float(value) / side for value, side in zip(box, (width, height) * 2, strict=True))
        if not str(phrase).strip():
            raise UserError(f"layout: object {number} has no phrase")
        try:
            objects.append(LayoutObject.shaped(str(phrase).strip(), Box(*cut(left, top, right, bottom))))
        except UserError as error:
            raise UserError(f"layout: the box of object {number} ({phrase}) {error}") from None
    return Layout(tuple(objects), **texts)


def boxes_of_row(row: Mapping[str, str | None], where: str) -> list[tuple[str, tuple[int, int, int, int]]]:
    """Names and boxes in pixels of a row of 7Bench, C-Bench or O-Bench. UserError with `where` for a damaged one."""
    objects = []
    for number in range(1, _MOST_BOXES + 1):
        name, text = row.get(f"obj{number}"), row.get(f"bbox{number}")
        if bool(name) != bool(text):
            raise UserError(f"{where} lacks '{'bbox' if name else 'obj'}{number}'; restore the file")
        if name and text:
            box = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*", text)
            if box is None:
                raise UserError(f"{where} has the box '{text}'; write x0,y0,x1,y1 in pixels")
            left, top, right, bottom = map(int, box.groups())
            objects.append((name, (left, top, right, bottom)))
    return objects


def _from_rows(text: str, path: Path) -> Found:
    rows = csv.DictReader(io.StringIO(text))
    for row in rows:
        where = f"{path}, line {rows.line_num}"
        boxes = [one for one in boxes_of_row(row, where) if one[1][0] < one[1][2] and one[1][1] < one[1][3]]
        yield row.get("id") or str(rows.line_num), placed(boxes, SIDE, SIDE, prompt=row.get("prompt") or None)


def _from_boxes(content: Any) -> Found:
    """LMD's boxes, x, y, width and height each."""
    given = content if isinstance(content, dict) else {"gen_boxes": content}
    boxes = in_image([(str(name), tuple(map(float, box))) for name, box in given["gen_boxes"]])
    background, negative = given.get("bg_prompt") or "", given.get("neg_prompt") or None
    prompt = given.get("prompt") or ""
    if not prompt and background:
        prompt = f"{background} with {', '.join(name for name, _ in boxes)}" if boxes else background
    yield "0", _with_sizes(boxes, prompt or None, negative)


def _from_answers(content: Any) -> Found:
    """LMD's cache: of each prompt the first answer."""
    for prompt, answers in content.items():
        answer = read_answer(answers[0])
        yield prompt, _with_sizes(answer.boxes, prompt, answer.negative or None)


def _with_sizes(boxes: Iterable[tuple[str, Sequence[float]]], prompt: str | None, negative: str | None) -> Layout:
    corners = [(name, (x, y, x + w, y + h)) for name, (x, y, w, h) in boxes]
    return placed(corners, SIDE, SIDE, prompt=prompt, negative_prompt=negative)


def _from_phrases(content: Any) -> Found:
    """GLIGEN's."""
    phrases, boxes = content["phrases"], content.get("boxes", content.get("locations"))
    if len(phrases) != len(boxes):
        raise UserError(f"layout: {len(phrases)} phrases and {len(boxes)} boxes; give one for each")
    negative = content.get("negative_prompt") or None
    named = list(zip(phrases, boxes, strict=True))
    yield "0", placed(named, 1, 1, prompt=content.get("prompt"), negative_prompt=negative)


def _from_annotations(content: Any) -> Found:
    """COCO's; crowds are no objects."""
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    of_image: dict[Any, list[tuple[str, Sequence[float]]]] = {}
    for entry in content["annotations"]:
        x, y, w, h = entry["bbox"]
        if not entry.get("iscrowd") and w > 0 and h > 0:
            of_image.setdefault(entry["image_id"], []).append((names[entry["category_id"]], (x, y, x + w, y + h)))
    for image in content["images"]:
        boxes = of_image.get(image["id"], [])
        layout = placed([(with_article(name), box) for name, box in boxes], image["width"], image["height"])
        named = [replace(thing, name=name) for thing, (name, _) in zip(layout.objects, boxes, strict=True)]
        yield str(image["id"]), Layout(tuple(named), image.get("caption"))


def _is_boxes(content: Any) -> bool:
    return isinstance(content, list) and all(
        isinstance(one, list) and len(one) == 2 and isinstance(one[0], str) and isinstance(one[1], list)
        for one in content
    )


def _has(*keys: str) -> Callable[[Any], bool]:
    return lambda content: isinstance(content, dict) and all(key in content for key in keys)


def _is_cache(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(own, list) and own and isinstance(own[0], str) for own in content.values())
        and any("Background prompt:" in own[0] for own in content.values())
    )


_FORMS: tuple[tuple[str, Callable[[Any], bool], Callable[[Any], Found]], ...] = (
    ("LMD's boxes", _is_boxes, _from_boxes),
    ("LMD's boxes", _has("gen_boxes"), _from_boxes),
    ("GLIGEN's phrases and boxes", _has("phrases"), _from_phrases),
    ("COCO's annotations", _has("images", "annotations", "categories"), _from_annotations),
    ("LMD's cache", _is_cache, _from_answers),
)

# -------------------------------------------------------------------------------------------------- writing


def write_layout(path: Path, layout: Layout, kind: str = "ours") -> None:
    """Write a layout in one of the `LAYOUT_FORMS` of `ldm.generation.settings`.

    Forms other than ours hold phrases and boxes: a region becomes the box around it. What is lost is told.

    Raises:
        UserError: the form holds fewer objects, or the file cannot be written.
    """
    if kind == "ours":
        write_json(path, layout.to_json())
        return
    lost = {key for thing in layout.objects for key in thing.to_json()} - {"phrase", "box", "name"}
    if lost:
        listed = ", ".join(sorted(lost - {"x", "y"} | ({"disc"} if "x" in lost else set())))
        logger.warning("%s holds phrases and boxes; left out, or replaced by the box around it: %s.", path, listed)
    names = [thing.phrase for thing in layout.objects]
    fractions = [thing.bounds() for thing in layout.objects]
    pixels = [[round(value * SIDE) for value in box] for box in fractions]
    sizes = [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in pixels]
    texts = {"prompt": layout.prompt or "", "negative_prompt": layout.negative_prompt or ""}
    if kind == "7bench":
        if len(names) > _MOST_BOXES:
            raise UserError(f"7Bench's rows hold at most {_MOST_BOXES} objects, not {len(names)}; choose another form")
        row = {"id": "000", "category": "", "prompt": texts["prompt"]}
        for number, (name, box) in enumerate(zip(names, pixels, strict=True), start=1):
            row |= {f"obj{number}": name, f"bbox{number}": ",".join(map(str, box))}
        if not names:
            row |= {"obj1": "", "bbox1": ""}
        out = io.StringIO()
        writer = csv.DictWriter(out, row)
        writer.writeheader()
        writer.writerow(row)
        write_text(path, out.getvalue())
        return
    if kind == "lmd":
        boxes = [list(one) for one in zip(names, sizes, strict=True)]
        content: dict[str, Any] = {"prompt": texts["prompt"], "gen_boxes": boxes, "bg_prompt": texts["prompt"]}
        content["neg_prompt"] = texts["negative_prompt"]
    elif kind == "gligen":
        content = {"prompt": texts["prompt"], "phrases": names, "boxes": [list(box) for box in fractions]}
        content["negative_prompt"] = texts["negative_prompt"]
    else:
        kinds = list(dict.fromkeys(thing.name or thing.phrase for thing in layout.objects))
        content = {
            "images": [{"id": 1, "width": SIDE, "height": SIDE, "file_name": "", "caption": texts["prompt"]}],
            "annotations": [
                {"id": i, "image_id": 1, "category_id": kinds.index(thing.name or thing.phrase) + 1, "bbox": box}
                | {"area": box[2] * box[3], "iscrowd": 0}
                for i, (thing, box) in enumerate(zip(layout.objects, sizes, strict=True), start=1)
            ],
            "categories": [{"id": i, "name": name} for i, name in enumerate(kinds, start=1)],
        }
    write_json(path, content)
