"""Visual Genome in the MSDN split: objects, relationships and region phrases of an image, as sentences with centers.

A file (`train.json`, `test.json`) is a list of images, each with `width`, `height`, `objects` (`class` and `box`,
[left, top, right, bottom] in pixels), `relationships` (`sub_id`, `predicate`, `obj_id`, over the objects) and
perhaps `regions` (`phrase`, a text or its words, and `box`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from layout_predictor.LayoutTransformer.data.categories import plural
from layout_predictor.LayoutTransformer.data.records import (
    find_file,
    index,
    numbers,
    positive,
    read_json,
    require,
    rows,
    table,
)
from layout_predictor.LayoutTransformer.data.sample import Sample
from layout_predictor.LayoutTransformer.data.wordlists import phrases, word_file
from ldm.util import UserError

# Predicates that state one of the four relations; the others are said, and state nothing.
PREDICATES = {said: name for name, line in word_file("relations")["predicates"].items() for said in phrases(line)}
_CLAUSES = 3  # relationships in a sentence
_BARE = frozenset(("left of", "right of", "to left of", "to right of"))  # said in full: "to the left of"


@dataclass(frozen=True)
class VGImage:
    """An image with n objects."""

    classes: tuple[str, ...]
    boxes: np.ndarray  # (n, 4) center and size in fractions
    triples: tuple[tuple[int, str, int], ...]  # subject, predicate, object
    regions: tuple[tuple[str, tuple[float, ...]], ...]  # text and (left, top, right, bottom) in fractions


def read_images(folder: str | Path, image_sets: Sequence[str] = ("train",)) -> list[VGImage]:
    """Images of `<set>.json`, in the order of the files. UserError names the record and the field that is wrong.

    Boxes end at the edge of their image.
    """
    images: list[VGImage] = []
    for image_set in image_sets:
        path = find_file(folder) / f"{image_set}.json"
        data = rows(read_json(path), f"{path} is not a list of images")
        images += [_read_image(record, f"{path}: image {number}") for number, record in enumerate(data)]
    return images


def _read_image(record: Any, where: str) -> VGImage:
    require(record, ("width", "height", "objects", "relationships"), where)
    size = [positive(record[field], f"{where}, field '{field}'") for field in ("width", "height")]

    def corners(item: Any, place: str) -> tuple[float, ...]:
        box = numbers(item["box"], 4, f"{place}, field 'box'")
        return tuple(min(max(value / side, 0.0), 1.0) for value, side in zip(box, size * 2, strict=True))

    classes, boxes = [], []
    for place, item in table(record, "objects", ("class", "box"), where):
        left, top, right, bottom = corners(item, place)
        classes.append(_text(item, "class", place))
        boxes.append([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top])
    triples = []
    for place, item in table(record, "relationships", ("sub_id", "predicate", "obj_id"), where):
        subject, other = (
            index(item[f], len(classes), "objects", f"{place}, field '{f}'") for f in ("sub_id", "obj_id")
        )
        triples.append((subject, _text(item, "predicate", place), other))
    told = table(record, "regions", ("phrase", "box"), where) if "regions" in record else ()
    regions = tuple((_text(item, "phrase", place), corners(item, place)) for place, item in told)
    return VGImage(tuple(classes), np.array(boxes).reshape(-1, 4), tuple(triples), regions)


def _text(item: Any, field: str, where: str) -> str:
    value = item[field]
    if isinstance(value, (list, tuple)) and all(isinstance(word, str) for word in value):
        value = " ".join(value)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}, field '{field}' is {str(value)[:60]!r}, not a text")
    return " ".join(value.split())


def relation_sentences(image: VGImage, min_area: float = 0.0) -> list[Sample]:
    """The relationships of an image, a few in a sentence: "The man above the horse, the tree behind the man."."""
    large = image.boxes[:, 2] * image.boxes[:, 3] > min_area  # (n,)
    triples = list(dict.fromkeys(t for t in image.triples if t[0] != t[2] and large[t[0]] and large[t[2]]))
    return [_describe(image, triples[i : i + _CLAUSES]) for i in range(0, len(triples), _CLAUSES)]


def _describe(image: VGImage, triples: Sequence[tuple[int, str, int]]) -> Sample:
    text = ""
    spans: dict[int, tuple[int, int]] = {}  # by object: the head noun of its first mention

    def name(place: int) -> str:
        """The text with "the man", or "another man" for a new object of a class that was named before."""
        noun = image.classes[place]
        twin = place not in spans and any(image.classes[other] == noun for other in spans)
        start = f"{text}{'another' if twin else 'the'} "
        spans.setdefault(place, (len(start) + noun.rfind(" ") + 1, len(start) + len(noun)))
        return start + noun

    for subject, predicate, other in triples:
        text += ", " if text else ""
        text = name(subject)
        text += f" to the {predicate.removeprefix('to ')} " if predicate.lower() in _BARE else f" {predicate} "
        text = name(other)
    places = list(spans)
    said = [(places.index(a), PREDICATES.get(predicate.lower()), places.index(b)) for a, predicate, b in triples]
    relations = tuple((a, relation, b) for a, relation, b in said if relation)
    names = tuple(image.classes[place] for place in places)
    return Sample(f"{text[:1].upper()}{text[1:]}.", tuple(spans.values()), relations, image.boxes[places, :2], names)


def region_captions(image: VGImage, min_area: float = 0.0) -> list[Sample]:
    """Region phrases whose words name an object inside the region, with its center."""
    samples = []
    for text, (left, top, right, bottom) in image.regions:
        x, y, w, h = image.boxes.T
        inside = (left <= x) & (x <= right) & (top <= y) & (y <= bottom) & (w * h > min_area)
        spans: dict[int, tuple[int, int]] = {}  # by object
        for match in re.finditer(r"\S+", text):
            word = match[0].lower().strip(".,")
            for place in np.flatnonzero(inside).tolist():
                if place not in spans and word in (image.classes[place], plural(image.classes[place])):
                    spans[place] = (match.start(), match.start() + len(match[0].rstrip(".,")))
                    break
        if spans:
            names = tuple(image.classes[place] for place in spans)
            samples.append(Sample(text, tuple(spans.values()), (), image.boxes[list(spans), :2], names))
    return samples
