"""Where batches come from: the grammar's endless series, or the sentences of files.

Batch n is the same in every run, so that a run resumes by its number alone.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from layout_predictor.LayoutTransformer.data.coco import (
    box_statistics,
    read_captions,
    read_objects,
    read_relation_sentences,
)
from layout_predictor.LayoutTransformer.data.grammar import generate
from layout_predictor.LayoutTransformer.data.records import find_file
from layout_predictor.LayoutTransformer.data.sample import DataSection, Sample
from layout_predictor.LayoutTransformer.data.tokenizer import SentenceTokenizer
from layout_predictor.LayoutTransformer.data.vg_msdn import read_images, region_captions, relation_sentences
from ldm.util import UserError, atomic_write

logger = logging.getLogger(__name__)

_BLOCK = 8  # batches that are sorted by length together
_VALID_SERIES = 1_000_003  # added to the seed: no validation sentence is in the training series


@dataclass(frozen=True)
class GeneratedRelations:
    """`count` sentences of the grammar an epoch, fresh ones in every epoch; their invented centers are left out."""

    seed: int
    count: int

    def __len__(self) -> int:
        return self.count

    def epoch(self, number: int) -> list[Sample]:
        """Sentences number * count ... of the series."""
        first = number * self.count
        return [replace(generate(self.seed, first + i), centers=None) for i in range(self.count)]


class Source:
    """Training batches by number, and the validation sentences; batches are made a block at a time."""

    def __init__(self, seed: int, block_steps: int, epoch_steps: int, validation: list[Sample]) -> None:
        self.seed, self.block_steps, self.epoch_steps, self.validation = seed, block_steps, epoch_steps, validation
        self._made: tuple[int, list[list[Sample]]] | None = None

    def batch(self, step: int) -> list[Sample]:
        """Sentences of update number `step` (from 0)."""
        number, place = divmod(step, self.block_steps)
        if self._made is None or self._made[0] != number:
            self._made = (number, self._make_block(number))
        return self._made[1][place]

    def _make_block(self, number: int) -> list[list[Sample]]:
        raise NotImplementedError


class GrammarSource(Source):
    """Batches of generated sentences, those of a few batches sorted by length: little is spent on padding.

    The first `simple_steps` batches are single clauses about two objects.
    """

    def __init__(self, section: DataSection, batch_size: int) -> None:
        validation = [generate(section.seed + _VALID_SERIES, i) for i in range(section.valid_sentences)]
        super().__init__(section.seed, _BLOCK, max(1, section.train_sentences // batch_size), validation)
        self.batch_size, self.simple_steps = batch_size, section.simple_steps

    def _make_block(self, number: int) -> list[list[Sample]]:
        size = _BLOCK * self.batch_size
        simple = number * _BLOCK < self.simple_steps
        samples = [generate(self.seed, number * size + i, simple=simple) for i in range(size)]
        samples.sort(key=lambda sample: len(sample.text))
        batches = [samples[i : i + self.batch_size] for i in range(0, size, self.batch_size)]
        random.Random(f"{self.seed}/order/{number}").shuffle(batches)
        return batches


Relations = list[Sample] | GeneratedRelations  # the same in every epoch, or fresh ones


@dataclass(frozen=True)
class Records:
    """What a data set gives: relation sentences, captions, and the validation sentences of both."""

    relations: Relations
    captions: list[Sample]
    validation: list[Sample]

    def short_enough(self, tokenizer: SentenceTokenizer, max_tokens: int) -> Records:
        """Those of at most `max_tokens` tokens; what is left out is counted in the log."""

        def short(samples: list[Sample]) -> list[Sample]:
            # A byte-level BPE never has more tokens than bytes; the rest is <s>, </s> and a leading blank.
            certain = max_tokens - 3
            kept = [
                sample
                for sample in samples
                if len(sample.text.encode()) <= certain or len(tokenizer.encode(sample.text)[0]) <= max_tokens
            ]
            if len(kept) < len(samples):
                logger.warning("%d sentences of over %d tokens are left out", len(samples) - len(kept), max_tokens)
            return kept

        relations = short(self.relations) if isinstance(self.relations, list) else self.relations
        return Records(relations, short(self.captions), short(self.validation))


class RecordSource(Source):
    """An epoch is every relation sentence once and as many captions, drawn at random without repetition.

    Without relation sentences it is every caption once. Batches of an epoch are of nearly equal size.
    """

    def __init__(self, records: Records, *, seed: int, batch_size: int, processes: int = 1) -> None:
        relations, captions = len(records.relations), len(records.captions)
        self.records, self.captions_drawn = records, min(captions, relations) if relations else captions
        total = relations + self.captions_drawn
        if not total:
            raise UserError("there is no sentence to train on: name a file of captions or of relation sentences")
        steps = -(-total // batch_size)
        if total // steps < processes:
            raise UserError(f"{total} sentences are too few for {processes} processes; lower TRAINING.DEVICES")
        super().__init__(seed, steps, steps, records.validation)

    def _make_block(self, number: int) -> list[list[Sample]]:
        rng = random.Random(f"{self.seed}/epoch/{number}")
        relations = self.records.relations
        stated = relations if isinstance(relations, list) else relations.epoch(number)
        samples = stated + rng.sample(self.records.captions, self.captions_drawn)
        rng.shuffle(samples)
        bounds = np.linspace(0, len(samples), self.epoch_steps + 1).astype(int).tolist()
        # Within a few batches, sentences of like length go together: less padding.
        for first in range(0, self.epoch_steps, _BLOCK):
            block = slice(bounds[first], bounds[min(first + _BLOCK, self.epoch_steps)])
            samples[block] = sorted(samples[block], key=lambda sample: len(sample.text))
        batches = [samples[i:j] for i, j in zip(bounds, bounds[1:], strict=False)]
        rng.shuffle(batches)
        return batches


def split_indices(count: int, valid_part: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation indices of `count` samples: the published shuffle, then a cut."""
    order = np.random.RandomState(0).permutation(count)
    valid = int(valid_part * count)
    return order[valid:], order[:valid]


def build_source(
    section: DataSection,
    *,
    batch_size: int,
    output: Path,
    tokenizer: SentenceTokenizer,
    max_tokens: int,
    processes: int = 1,
) -> Source:
    """The source that a DATA section names.

    Args:
        batch_size: sentences of an update, over all `processes`.
        output: folder of the run; statistics of the boxes are written there.
        max_tokens: sentences of more are left out of the files' sentences.
    """
    if section.name == "grammar":
        return GrammarSource(section, batch_size)
    records = _coco_records(section, output) if section.name == "coco" else _vg_records(section)
    records = records.short_enough(tokenizer, max_tokens)
    counts = (len(records.relations), len(records.captions), len(records.validation))
    logger.info("%d relation sentences and %d captions to train on, %d sentences to validate with", *counts)
    return RecordSource(records, seed=section.seed, batch_size=batch_size, processes=processes)


def missing_files(section: DataSection) -> list[str]:
    """The files that a DATA section names and that are not here."""
    if section.name == "grammar":
        return []
    kinds = ("instances_", "stuff_") if section.name == "coco" else ("",)
    named = [f"{section.annotations}/{kind}{image_set}.json" for image_set in section.image_sets for kind in kinds]
    if section.name == "coco":
        named = named if section.captions else []
        named += [path for path in (section.captions, section.relations) if path not in (None, "generated")]
    return [path for path in named if not find_file(path).is_file()]


def _coco_records(section: DataSection, output: Path) -> Records:
    relations, valid_relations = _relations(section)
    if section.captions is None:
        return Records(relations, [], valid_relations)
    objects = read_objects(section)
    with atomic_write(output / section.statistics) as temporary:
        temporary.write_text(json.dumps(box_statistics(objects), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    captions = read_captions(section.captions, objects)
    by_image = [captions[image_id] for image_id in sorted(captions)]
    train, valid = split_indices(len(by_image), section.valid_part)  # by image: its captions stay together
    held_out = [caption for i in valid for caption in by_image[i]][: section.valid_sentences]
    return Records(relations, [caption for i in train for caption in by_image[i]], valid_relations + held_out)


def _relations(section: DataSection) -> tuple[Relations, list[Sample]]:
    """Relation sentences to train on, and to validate with."""
    if section.relations is None:
        return [], []
    if section.relations == "generated":
        held_out = GeneratedRelations(section.seed + _VALID_SERIES, section.valid_sentences)
        return GeneratedRelations(section.seed, section.train_sentences), held_out.epoch(0)
    try:
        samples = read_relation_sentences(section.relations)
    except UserError as error:
        if not str(error).startswith("there is no file"):
            raise
        raise UserError(f"{error} of relation sentences; --relations generated makes them by a grammar") from None
    train, valid = split_indices(len(samples), section.valid_part)
    return [samples[i] for i in train], [samples[i] for i in valid]


def _vg_records(section: DataSection) -> Records:
    images = read_images(section.annotations, section.image_sets)
    if not images:
        raise UserError(f"there is no image in {', '.join(section.image_sets)} of {section.annotations}")
    generated = section.relations == "generated"

    def sentences(indices: Iterable[int]) -> tuple[list[Sample], list[Sample]]:
        """Relationships and region phrases of some images, as far as the configuration wants them."""
        some = [images[i] for i in indices]
        stated = [] if section.relations is None or generated else some
        captions = [] if section.captions is None else some
        return (
            [sample for image in stated for sample in relation_sentences(image, section.min_area)],
            [sample for image in captions for sample in region_captions(image, section.min_area)],
        )

    train, valid = split_indices(len(images), section.valid_part)
    stated, captions = sentences(train)
    relations, held_out = _relations(section) if generated else (stated, [])
    for i in valid:
        held_out += [sample for kind in sentences([i]) for sample in kind]
    return Records(relations, captions, held_out[: section.valid_sentences])
