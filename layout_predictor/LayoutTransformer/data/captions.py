"""Captions whose noun phrases name an object with a box: sentences with true centers, without relations."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from layout_predictor.LayoutTransformer.data.coco import ImageObjects
from layout_predictor.LayoutTransformer.data.records import read_records, require, word_index, word_spans
from layout_predictor.LayoutTransformer.data.sample import Sample
from ldm.util import UserError

logger = logging.getLogger(__name__)


def read_captions(path: str | Path, objects: Mapping[int, ImageObjects]) -> dict[int, list[Sample]]:
    """Captions by image id, with the centers of the candidates that have a box in the image.

    `path` is the published pickle, {image id: [[caption, words, [word index, category, phrase], ...], ...]}, or
    JSON lines with `image_id`, `caption`, `words` and `candidates` (the same triples). A candidate gets the box
    of the first object of its category; one without is left out, and so is a caption without any.
    """
    samples: dict[int, list[Sample]] = {}
    count = 0
    for image_id, caption, words, candidates, where in _records(path):
        count += 1
        if image_id not in objects:
            continue
        sample = _to_sample(caption, words, candidates, objects[image_id], where)
        if sample is not None:
            samples.setdefault(image_id, []).append(sample)
    kept = sum(map(len, samples.values()))
    logger.info("%s: %d of %d captions name an object with a box", path, kept, count)
    if not kept:
        raise UserError(
            f"no caption of {path} names an object with a box: do captions and annotations belong to the same images?"
        )
    return samples


def _records(path: str | Path) -> Iterator[tuple[int, Any, Any, Any, str]]:
    """(image id, caption, words, candidates, where) of every caption."""
    for where, record in read_records(path):
        if isinstance(record, Mapping):
            require(record, ("image_id", "caption", "words", "candidates"), where)
            yield (*(record[name] for name in ("image_id", "caption", "words", "candidates")), where)
            continue
        if not isinstance(record, tuple) or not isinstance(record[1], (list, tuple)):
            raise UserError(f"{where} is not a list of captions of an image")
        image_id = _image_id(record[0], where)
        for number, caption in enumerate(record[1]):
            place = f"{where}, caption {number}"
            if not isinstance(caption, (list, tuple)) or len(caption) < 2:
                raise UserError(f"{place} is not [caption, words, [word index, category, phrase], ...]")
            yield image_id, caption[0], caption[1], caption[2:], place


def _image_id(key: Any, where: str) -> int:
    try:
        return int(key)
    except (TypeError, ValueError):
        raise UserError(f"{where} is no image id") from None


def _to_sample(caption: Any, words: Any, candidates: Any, image: ImageObjects, where: str) -> Sample | None:
    spans = word_spans(caption, words, f"{where}, field 'words'")
    if not isinstance(candidates, (list, tuple)):
        raise UserError(f"{where}, field 'candidates' is not a list")
    marked: dict[int, tuple[str, np.ndarray]] = {}  # by word: two candidates of one word are one object
    for candidate in candidates:
        if not isinstance(candidate, (list, tuple)) or len(candidate) != 3:
            raise UserError(f"{where}: the candidate {candidate!r} is not [word index, category, phrase]")
        index = word_index(candidate[0], spans, f"{where}, field 'candidates'")
        if not isinstance(candidate[1], (str, int)):
            raise UserError(f"{where}: the category {candidate[1]!r} is neither a name nor a number")
        center = image.center_of(candidate[1])
        if center is not None:
            marked.setdefault(index, (str(candidate[2]), center))
    if not marked:
        return None
    return Sample(
        caption,
        tuple(spans[index] for index in marked),
        (),
        np.stack([center for _, center in marked.values()]),
        tuple(phrase for phrase, _ in marked.values()),
    )
