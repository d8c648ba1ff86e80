"""The published data: objects of COCO's images (things and stuff), captions, and relation sentences.

Captions have true centers, of the objects that they name; relation sentences only say which object is above, below,
left of or right of which.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from layout_predictor.LayoutTransformer.data.categories import spoken_name
from layout_predictor.LayoutTransformer.data.records import (
    find_file,
    numbers,
    positive,
    read_json,
    read_records,
    require,
    rows,
    table,
    word_index,
    word_spans,
)
from layout_predictor.LayoutTransformer.data.sample import DataSection, Sample
from ldm.relations import RELATIONS
from ldm.util import UserError

logger = logging.getLogger(__name__)

_FIELDS = {
    "images": ("id", "width", "height"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
}


@dataclass(frozen=True)
class ImageObjects:
    """The n objects of an image, things before stuff."""

    categories: tuple[str, ...]
    ids: tuple[int, ...]  # numbers of the categories in the annotation files
    boxes: np.ndarray  # (n, 4) center x, center y, width, height in fractions of the image

    def center_of(self, category: str | int) -> np.ndarray | None:
        """Center (2,) of the first object of a category (its name, or its number), or None."""
        for name, number, box in zip(self.categories, self.ids, self.boxes, strict=True):
            if category in (name, number, spoken_name(name)):
                center: np.ndarray = box[:2]
                return center
        return None


def read_objects(section: DataSection) -> dict[int, ImageObjects]:
    """Objects by image id, from `instances_<set>.json` and `stuff_<set>.json` of every image set.

    Boxes end at the edge of their image. Objects of the category "other" are left out, crowds, those that are too
    small (or all outside), and images with too few or too many.
    """
    found: dict[int, ImageObjects] = {}
    for image_set in section.image_sets:
        objects: dict[int, list[tuple[str, int, list[float]]]] = {}  # category, its number, box
        cut = 0
        for kind in ("instances", "stuff"):
            coco = read_annotations(find_file(section.annotations) / f"{kind}_{image_set}.json")
            for image_id, items in coco.imgToAnns.items():
                width, height = coco.imgs[image_id]["width"], coco.imgs[image_id]["height"]
                for annotation in items:
                    number = annotation["category_id"]
                    name = coco.cats[number]["name"]
                    left, top, w, h = box = _inside(annotation["bbox"], width, height)
                    cut += box != annotation["bbox"]
                    if name != "other" and not annotation.get("iscrowd") and w * h > section.min_area * width * height:
                        box = [(left + w / 2) / width, (top + h / 2) / height, w / width, h / height]
                        objects.setdefault(image_id, []).append((name, number, box))
        if cut:
            logger.warning("%s: %d boxes reach beyond their image and are cut at its edge", image_set, cut)
        before = len(found)
        for image_id, items in objects.items():
            if section.min_objects <= len(items) <= section.max_objects:
                names, ids, boxes = zip(*items, strict=True)
                found[image_id] = ImageObjects(names, ids, np.array(boxes))
        logger.info("%s: %d of %d images with objects are kept", image_set, len(found) - before, len(objects))
    if not found:
        raise UserError(
            f"no image of {', '.join(section.image_sets)} has {section.min_objects} to {section.max_objects} objects "
            f"above {section.min_area:.0%} of its area"
        )
    return found


def _inside(box: list[float], width: float, height: float) -> list[float]:
    """The part of [left, top, width, height] inside the image; of no size where there is none."""
    left, top, w, h = box
    if left >= 0 and top >= 0 and w >= 0 and h >= 0 and left + w <= width and top + h <= height:
        return box
    right, bottom = (min(max(start + size, 0), end) for start, size, end in ((left, w, width), (top, h, height)))
    left, top = min(max(left, 0), width), min(max(top, 0), height)
    return [left, top, max(right - left, 0), max(bottom - top, 0)]


def read_annotations(path: str | Path) -> Any:
    """A checked `pycocotools.coco.COCO`, without the masks, which are most of the memory."""
    from pycocotools.coco import COCO

    data = read_json(path)
    _check_annotations(data, str(path))
    for annotation in data["annotations"]:
        annotation.pop("segmentation", None)
    coco = COCO()
    coco.dataset = data
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # it prints its progress
        coco.createIndex()
    return coco


def _check_annotations(data: Any, source: str) -> None:
    known: dict[str, set[Any]] = {}
    for name, fields in _FIELDS.items():
        records = list(table(data, name, fields, source))
        known[name] = {_id(record["id"], f"{where}, field 'id'") for where, record in records}
        for where, record in records:
            for field in {"width", "height"} & set(fields):
                positive(record[field], f"{where}, field '{field}'")
            if name == "annotations":
                numbers(record["bbox"], 4, f"{where}, field 'bbox'")
                for field, others in (("image_id", "images"), ("category_id", "categories")):
                    if _id(record[field], f"{where}, field '{field}'") not in known[others]:
                        raise UserError(f"{where}, field '{field}': {record[field]!r} is not among the {others}")
            if name == "categories" and not isinstance(record["name"], str):
                raise UserError(f"{where}, field 'name' is {str(record['name'])[:60]!r}, not a text")


def _id(value: Any, where: str) -> Any:
    if not isinstance(value, (int, str)):
        raise UserError(f"{where} is {str(value)[:60]!r}, not a number")
    return value


def box_statistics(objects: Mapping[int, ImageObjects]) -> dict[str, float]:
    """Mean and standard deviation of x, y, w and h over all boxes, and how many there are."""
    boxes = np.concatenate([image.boxes for image in objects.values()])  # (N, 4)
    statistics = {"count": float(len(boxes))}
    for name, values in zip("xywh", boxes.T, strict=True):
        statistics |= {f"{name}_mean": float(values.mean()), f"{name}_std": float(values.std())}
    return statistics


def read_captions(path: str | Path, objects: Mapping[int, ImageObjects]) -> dict[int, list[Sample]]:
    """Captions by image id, with the centers of the candidates that have a box in the image.

    `path` is the published pickle, {image id: [[caption, words, [word index, category, phrase], ...], ...]}, or
    JSON lines with `image_id`, `caption`, `words` and `candidates` (the same triples). A candidate gets the box
    of the first object of its category; one without is left out, and so is a caption without any.
    """
    samples: dict[int, list[Sample]] = {}
    count = 0
    for image_id, caption, words, candidates, where in _caption_records(path):
        count += 1
        if image_id in objects and (sample := _to_sample(caption, words, candidates, objects[image_id], where)):
            samples.setdefault(image_id, []).append(sample)
    kept = sum(map(len, samples.values()))
    logger.info("%s: %d of %d captions name an object with a box", path, kept, count)
    if not kept:
        raise UserError(
            f"no caption of {path} names an object with a box: do captions and annotations belong to the same images?"
        )
    return samples


def _caption_records(path: str | Path) -> Iterator[tuple[int, Any, Any, Any, str]]:
    """(image id, caption, words, candidates, where) of every caption."""
    for where, record in read_records(path):
        if isinstance(record, Mapping):
            require(record, ("image_id", "caption", "words", "candidates"), where)
            image_id = _id(record["image_id"], f"{where}, field 'image_id'")
            yield (image_id, *(record[name] for name in ("caption", "words", "candidates")), where)
            continue
        captions = rows(
            record[1] if isinstance(record, tuple) else None, f"{where} is not a list of captions of an image"
        )
        try:
            image_id = int(record[0])
        except (TypeError, ValueError):
            raise UserError(f"{where} is no image id") from None
        for number, caption in enumerate(captions):
            place = f"{where}, caption {number}"
            shape = f"{place} is not [caption, words, [word index, category, phrase], ...]"
            text, words, *candidates = rows(caption, shape, least=2)
            yield image_id, text, words, candidates, place


def _to_sample(caption: Any, words: Any, candidates: Any, image: ImageObjects, where: str) -> Sample | None:
    spans = word_spans(caption, words, f"{where}, field 'words'")
    marked: dict[int, tuple[str, np.ndarray]] = {}  # by word: two candidates of one word are one object
    for candidate in rows(candidates, f"{where}, field 'candidates' is not a list"):
        shape = f"{where}: the candidate {candidate!r} is not [word index, category, phrase]"
        word, category, phrase = rows(candidate, shape, least=3, most=3)
        index = word_index(word, spans, f"{where}, field 'candidates'")
        if not isinstance(category, (str, int)):
            raise UserError(f"{where}: the category {category!r} is neither a name nor a number")
        center = image.center_of(category)
        if center is not None:
            marked.setdefault(index, (str(phrase), center))
    if not marked:
        return None
    phrases, centers = zip(*marked.values(), strict=True)
    return Sample(caption, tuple(spans[index] for index in marked), (), np.stack(centers), phrases)


def read_relation_sentences(path: str | Path) -> list[Sample]:
    """Sentences with stated relations and no centers, from the published pickle (.pkl) or from JSON lines.

    A pickled record is [sentence, words (each with its trailing blank), indices of the objects' words,
    [[i, j, relation], ...], phrases] with i and j indices of words; a line of JSON has the same under `sentence`
    (or nothing: the words joined), `words`, `objects`, `relations`.

    Raises:
        UserError: names the record and the field that is wrong.
    """
    samples = [_read_record(record, where) for where, record in read_records(path)]
    if not samples:
        raise UserError(f"{path} holds no relation sentence")
    return samples


def _read_record(record: Any, where: str) -> Sample:
    if isinstance(record, (list, tuple)):
        if len(record) < 4:
            raise UserError(f"{where} has {len(record)} fields, not sentence, words, objects, relations and phrases")
        record = dict(zip(("sentence", "words", "objects", "relations"), record, strict=False))
    require(record, ("words", "objects", "relations"), where)
    words = record["words"]
    joined = "".join(words) if isinstance(words, (list, tuple)) and all(isinstance(w, str) for w in words) else None
    text = record.get("sentence", joined)
    spans = word_spans(text, words, f"{where}, field 'words'")
    where_objects = f"{where}, field 'objects'"
    indices = rows(record["objects"], f"{where_objects} is not a list of word indices")
    objects = [word_index(value, spans, where_objects) for value in indices]
    if not objects:
        raise UserError(f"{where_objects} is empty")
    relations = _relations(record["relations"], {index: i for i, index in enumerate(objects)}, where)
    names = tuple(text[slice(*spans[i])] for i in objects)
    return Sample(text, tuple(spans[i] for i in objects), relations, None, names)


def _relations(stated: Any, number: Mapping[int, int], where: str) -> tuple[tuple[int, str, int], ...]:
    """[[i, j, relation], ...] over words as (a, relation, b) over objects."""
    where = f"{where}, field 'relations'"
    found = []
    for item in rows(stated, f"{where} is not a list"):
        i, j, relation = rows(item, f"{where}: {item!r} is not [word index, word index, relation]", least=3, most=3)
        if relation not in RELATIONS:
            raise UserError(f"{where}: {relation!r} is none of {', '.join(RELATIONS)}")
        if not all(type(k) is int and k in number for k in (i, j)):
            raise UserError(f"{where}: {item!r} names a word that is not among the objects")
        found.append((number[i], relation, number[j]))
    return tuple(found)
