"""Objects of COCO images: things and stuff, from the annotation files of 2017."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from layout_predictor.LayoutTransformer.data.categories import spoken_name
from layout_predictor.LayoutTransformer.data.records import find_file, numbers, positive, read_json, require
from ldm.util import UserError

logger = logging.getLogger(__name__)

_Object = tuple[str, int, list[float]]  # category, its number, box

_FIELDS = {
    "images": ("id", "width", "height"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
}


@dataclass(frozen=True)
class BoxFilter:
    """Which objects and images are kept: `min_area` is a fraction of the image."""

    min_area: float = 0.02
    min_objects: int = 3
    max_objects: int = 8
    left_out: tuple[str, ...] = ("other",)


@dataclass(frozen=True)
class ImageObjects:
    """Objects of an image, things before stuff.

    categories: n names; ids: n category numbers of the annotation files; boxes: (n, 4) center x, center y,
    width, height in fractions of the image.
    """

    categories: tuple[str, ...]
    ids: tuple[int, ...]
    boxes: np.ndarray

    def center_of(self, category: str | int) -> np.ndarray | None:
        """Center (2,) of the first object of a category (its name, or its number), or None."""
        pairs = zip(self.categories, self.ids, strict=True)
        for place, (name, number) in enumerate(pairs):
            if category in (name, number, spoken_name(name)):
                return self.boxes[place, :2]
        return None


def read_objects(
    folder: str | Path, image_sets: Sequence[str] = ("train2017",), keep: BoxFilter | None = None
) -> dict[int, ImageObjects]:
    """Kept objects by image id, from `instances_<set>.json` and `stuff_<set>.json` of every image set."""
    keep = keep or BoxFilter()
    found: dict[int, ImageObjects] = {}
    for image_set in image_sets:
        objects: dict[int, list[_Object]] = {}
        for kind in ("instances", "stuff"):
            path = find_file(folder) / f"{kind}_{image_set}.json"
            _add_objects(objects, path, keep)
        before = len(found)
        for image_id, items in objects.items():
            if keep.min_objects <= len(items) <= keep.max_objects:
                names, ids, boxes = zip(*items, strict=True)
                found[image_id] = ImageObjects(names, ids, np.array(boxes))
        logger.info("%s: %d of %d images with objects are kept", image_set, len(found) - before, len(objects))
    if not found:
        raise UserError(
            f"no image of {', '.join(image_sets)} has {keep.min_objects} to {keep.max_objects} objects above "
            f"{keep.min_area:.0%} of its area"
        )
    return found


def _add_objects(objects: dict[int, list[_Object]], path: Path, keep: BoxFilter) -> None:
    """Add the kept objects of an annotation file to `objects`, by image id."""
    coco = read_annotations(path)
    for image_id, items in coco.imgToAnns.items():
        image = coco.imgs[image_id]
        width, height = image["width"], image["height"]
        for annotation in items:
            name = coco.cats[annotation["category_id"]]["name"]
            left, top, w, h = annotation["bbox"]
            if name in keep.left_out or w * h <= keep.min_area * width * height:
                continue
            box = [(left + w / 2) / width, (top + h / 2) / height, w / width, h / height]
            objects.setdefault(image_id, []).append((name, annotation["category_id"], box))


def read_annotations(path: str | Path) -> Any:
    """A checked `pycocotools.coco.COCO`; masks are left out, since they are most of the memory.

    UserError names the record and the field that is wrong.
    """
    from pycocotools.coco import COCO

    data = read_json(path)
    check_annotations(data, str(path))
    for annotation in data["annotations"]:
        annotation.pop("segmentation", None)
    coco = COCO()
    coco.dataset = data
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # it prints its progress
        coco.createIndex()
    return coco


def check_annotations(data: Any, source: str) -> None:
    """UserError when an annotation file lacks a table, a record lacks a field, or a field is not what it should be."""
    require(data, _FIELDS, source)
    for table, fields in _FIELDS.items():
        if not isinstance(data[table], list):
            raise UserError(f"{source}: '{table}' is not a list of records")
        for number, record in enumerate(data[table]):
            require(record, fields, f"{source}: record {number} of '{table}'")
    for number, image in enumerate(data["images"]):
        for field in ("width", "height"):
            positive(image[field], f"{source}: record {number} of 'images', field '{field}'")
    known = {table: {record["id"] for record in data[table]} for table in ("images", "categories")}
    for number, annotation in enumerate(data["annotations"]):
        where = f"{source}: record {number} of 'annotations', field"
        numbers(annotation["bbox"], 4, f"{where} 'bbox'")
        for field, table in (("image_id", "images"), ("category_id", "categories")):
            if annotation[field] not in known[table]:
                raise UserError(f"{where} '{field}': {annotation[field]!r} is not among the {table}")


def box_statistics(objects: Mapping[int, ImageObjects]) -> dict[str, float]:
    """Mean and standard deviation of x, y, w and h over all boxes, and how many there are."""
    boxes = np.concatenate([image.boxes for image in objects.values()])  # (N, 4)
    statistics = {"count": float(len(boxes))}
    for name, values in zip("xywh", boxes.T, strict=True):
        statistics |= {f"{name}_mean": float(values.mean()), f"{name}_std": float(values.std())}
    return statistics
