"""Relation sentences: which object is above, below, left of or right of which; nothing about exact places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from layout_predictor.LayoutTransformer.data.grammar import generate
from layout_predictor.LayoutTransformer.data.records import read_records, require, rows, word_index, word_spans
from layout_predictor.LayoutTransformer.data.sample import Sample
from ldm.relations import RELATIONS
from ldm.util import UserError


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
        if i not in number or j not in number:
            raise UserError(f"{where}: {item!r} names a word that is not among the objects")
        found.append((number[i], relation, number[j]))
    return tuple(found)
