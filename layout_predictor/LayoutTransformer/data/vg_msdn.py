"""Visual Genome in the MSDN split: objects, relationships and region phrases of an image, as sentences with centers.

A file (`train.json`, `test.json`) is a list of images, each with `width`, `height`, `objects` (`class` and `box`,
[left, top, right, bottom] in pixels), `relationships` (`sub_id`, `predicate`, `obj_id`, over the objects) and
perhaps `regions` (`phrase`, a text or its words, and `box`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from layout_predictor.LayoutTransformer.data.categories import plural
from layout_predictor.LayoutTransformer.data.records import find_file, numbers, positive, read_json, require
from layout_predictor.LayoutTransformer.data.sample import Sample
from ldm.util import UserError

logger = logging.getLogger(__name__)

# Predicates that state one of the four relations; the others are said, and state nothing.
PREDICATES = {
    "above": "above", "over": "above", "on top of": "above", "below": "below", "under": "below",
    "beneath": "below", "underneath": "below", "left of": "left of", "to the left of": "left of",
    "to left of": "left of", "right of": "right of", "to the right of": "right of", "to right of": "right of",
}  # fmt: skip
_CLAUSES = 3  # relationships in a sentence
_BARE = frozenset(("left of", "right of", "to left of", "to right of"))  # said in full: "to the left of"


@dataclass(frozen=True)
class VGImage:
    """classes: n names; boxes: (n, 4) center and size in fractions; triples: (subject, predicate, object);
    regions: (text, (left, top, right, bottom) in fractions)."""

    classes: tuple[str, ...]
    boxes: np.ndarray
    triples: tuple[tuple[int, str, int], ...]
    regions: tuple[tuple[str, tuple[float, ...]], ...]


def read_images(folder: str | Path, image_sets: Sequence[str] = ("train",)) -> list[VGImage]:
    """Images of `<set>.json`, in the order of the files. UserError names the record and the field that is wrong."""
    images: list[VGImage] = []
    for image_set in image_sets:
        path = find_file(folder) / f"{image_set}.json"
        data = read_json(path)
        if not isinstance(data, list):
            raise UserError(f"{path} is not a list of images")
        images += [_read_image(record, f"{path}: image {number}") for number, record in enumerate(data)]
    return images


def _read_image(record: Any, where: str) -> VGImage:
    require(record, ("width", "height", "objects", "relationships"), where)
    width = positive(record["width"], f"{where}, field 'width'")
    height = positive(record["height"], f"{where}, field 'height'")
    for table in ("objects", "relationships", "regions"):
        if not isinstance(record.get(table, []), list):
            raise UserError(f"{where}, field '{table}' is not a list")
    classes, boxes = [], []
    for number, item in enumerate(record["objects"]):
        place = f"{where}, object {number}"
        require(item, ("class", "box"), place)
        left, top, right, bottom = _corners(item["box"], width, height, f"{place}, field 'box'")
        classes.append(_text(item["class"], f"{place}, field 'class'"))
        boxes.append([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top])
    triples = [
        _read_triple(item, len(classes), f"{where}, relationship {number}")
        for number, item in enumerate(record["relationships"])
    ]
    regions = []
    for number, item in enumerate(record.get("regions", [])):
        place = f"{where}, region {number}"
        require(item, ("phrase", "box"), place)
        box = _corners(item["box"], width, height, f"{place}, field 'box'")
        regions.append((_text(item["phrase"], f"{place}, field 'phrase'"), box))
    return VGImage(tuple(classes), np.array(boxes).reshape(-1, 4), tuple(triples), tuple(regions))


def _corners(value: Any, width: float, height: float, where: str) -> tuple[float, ...]:
    left, top, right, bottom = numbers(value, 4, where)
    return left / width, top / height, right / width, bottom / height


def _text(value: Any, where: str) -> str:
    if isinstance(value, (list, tuple)) and all(isinstance(word, str) for word in value):
        value = " ".join(value)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where} is {str(value)[:60]!r}, not a text")
    return " ".join(value.split())


def _read_triple(item: Any, count: int, where: str) -> tuple[int, str, int]:
    require(item, ("sub_id", "predicate", "obj_id"), where)
    for field in ("sub_id", "obj_id"):
        value = item[field]
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < count:
            raise UserError(f"{where}, field '{field}': {value!r} is no index of one of the {count} objects")
    return item["sub_id"], _text(item["predicate"], f"{where}, field 'predicate'"), item["obj_id"]


# ----------------------------------------------------------------------------- sentences


def relation_sentences(image: VGImage, min_area: float = 0.0) -> list[Sample]:
    """The relationships of an image, a few in a sentence: "The man above the horse, the tree behind the man."."""
    large = image.boxes[:, 2] * image.boxes[:, 3] > min_area  # (n,)
    triples = list(dict.fromkeys(t for t in image.triples if t[0] != t[2] and large[t[0]] and large[t[2]]))
    return [_describe(image, triples[i : i + _CLAUSES]) for i in range(0, len(triples), _CLAUSES)]


class _Sentence:
    """A growing sentence that remembers where it first names each object."""

    def __init__(self, image: VGImage) -> None:
        self.image, self.text = image, ""
        self.spans: dict[int, tuple[int, int]] = {}  # by object: the head noun of its first mention

    def name(self, place: int) -> None:
        """Name an object: "the man", or "another man" for a new one of a class that was named before."""
        name = self.image.classes[place]
        twin = place not in self.spans and any(self.image.classes[other] == name for other in self.spans)
        self.text += "another " if twin else "the "
        start = len(self.text) + name.rfind(" ") + 1
        self.text += name
        self.spans.setdefault(place, (start, len(self.text)))


def _describe(image: VGImage, triples: Sequence[tuple[int, str, int]]) -> Sample:
    sentence = _Sentence(image)
    for subject, predicate, other in triples:
        sentence.text += ", " if sentence.text else ""
        sentence.name(subject)
        said = f"to the {predicate.removeprefix('to ')}" if predicate.lower() in _BARE else predicate
        sentence.text += f" {said} "
        sentence.name(other)
    places = list(sentence.spans)
    relations = tuple(
        (places.index(a), PREDICATES[said.lower()], places.index(b))
        for a, said, b in triples
        if said.lower() in PREDICATES
    )
    return Sample(
        f"{sentence.text[:1].upper()}{sentence.text[1:]}.",
        tuple(sentence.spans.values()),
        relations,
        image.boxes[places, :2],
        tuple(image.classes[place] for place in places),
    )


def region_captions(image: VGImage, min_area: float = 0.0) -> list[Sample]:
    """Region phrases whose words name an object inside the region, with its center."""
    samples = []
    for text, (left, top, right, bottom) in image.regions:
        spans, places, names = [], [], []
        position = 0
        for word in text.split():
            start = text.index(word, position)
            position = start + len(word)
            for place, (name, (x, y, w, h)) in enumerate(zip(image.classes, image.boxes, strict=True)):
                inside = left <= x <= right and top <= y <= bottom and w * h > min_area
                if inside and place not in places and word.lower().strip(".,") in (name, plural(name)):
                    spans.append((start, start + len(word.rstrip(".,"))))
                    places.append(place)
                    names.append(name)
                    break
        if places:
            samples.append(Sample(text, tuple(spans), (), image.boxes[places, :2], tuple(names)))
    return samples
