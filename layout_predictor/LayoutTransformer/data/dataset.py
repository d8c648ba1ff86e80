"""Where batches come from: the grammar's endless series, or a file of relation sentences."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from layout_predictor.LayoutTransformer.data.grammar import generate
from layout_predictor.LayoutTransformer.data.sample import Sample
from layout_predictor.LayoutTransformer.training.losses import RELATIONS
from ldm.util import UserError

_BLOCK = 8  # batches that are sorted by length together


class GrammarSource:
    """Batches of generated sentences; batch number n is the same in every run with the same seed.

    Sentences of a few batches are sorted by length, so that little is spent on padding; the batches of such a
    block come in random order. The first `simple_steps` batches are single clauses about two objects.
    """

    def __init__(self, seed: int, batch_size: int, *, simple_steps: int = 0) -> None:
        self.seed, self.batch_size, self.simple_steps = seed, batch_size, simple_steps
        self._block: tuple[int, list[list[Sample]]] | None = None

    def batch(self, step: int) -> list[Sample]:
        """Sentences of update number `step` (from 0)."""
        number, place = divmod(step, _BLOCK)
        if self._block is None or self._block[0] != number:
            self._block = (number, self._make_block(number))
        return self._block[1][place]

    def _make_block(self, number: int) -> list[list[Sample]]:
        size = _BLOCK * self.batch_size
        simple = number * _BLOCK < self.simple_steps
        samples = [generate(self.seed, number * size + i, simple=simple) for i in range(size)]
        samples.sort(key=lambda sample: len(sample.text))
        batches = [samples[i : i + self.batch_size] for i in range(0, size, self.batch_size)]
        random.Random(f"{self.seed}/order/{number}").shuffle(batches)
        return batches


def split_indices(count: int, valid_part: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation indices of `count` samples: the published shuffle, then a cut."""
    order = np.random.RandomState(0).permutation(count)
    valid = int(valid_part * count)
    return order[valid:], order[:valid]


def read_relation_sentences(path: str | Path) -> list[Sample]:
    """Sentences with stated relations and no centres, from JSON lines.

    A line has `words` (each with its trailing blank), `objects` (indices of words) and `relations`
    ([word index, relation, ...] as [i, j, relation]). UserError names the line and the field that is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no file of relation sentences at {path}")
    samples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            samples.append(_from_record(json.loads(line)))
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: not valid JSON ({error.msg})") from None
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(f"{path}, line {number}: wrong or missing field ({error})") from None
    return samples


def _from_record(record: Mapping[str, Any]) -> Sample:
    words, objects = record["words"], record["objects"]
    starts = [0]
    for word in words:
        starts.append(starts[-1] + len(word))
    spans = tuple((starts[i], starts[i] + len(words[i].rstrip())) for i in objects)
    number = {word_index: i for i, word_index in enumerate(objects)}
    relations = tuple((number[i], relation, number[j]) for i, j, relation in record["relations"])
    for _, relation, _ in relations:
        if relation not in RELATIONS:
            raise ValueError(f"relation {relation!r}")
    names = tuple(words[i].strip() for i in objects)
    return Sample("".join(words), spans, relations, None, names)
