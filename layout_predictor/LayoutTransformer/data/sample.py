"""What is trained on, what every source of sentences yields, and batches of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from layout_predictor.LayoutTransformer.data.tokenizer import PAD_ID, SentenceTokenizer, token_at
from ldm.relations import RELATIONS
from ldm.util import UserError


@dataclass
class DataSection:
    """What is trained on. Paths are as seen from the working directory or from the project."""

    tokenizer: str  # a tokenizer.json, a folder with one, or the name of one on the Hugging Face hub
    name: str = "grammar"  # or "coco", or "vg_msdn"
    seed: int = 1
    train_sentences: int = 4000  # generated sentences an epoch
    valid_sentences: int = 400  # generated ones, and at most so many captions
    simple_steps: int = 0  # grammar: updates on single clauses about two objects, before everything else
    annotations: str = "data/coco/annotations"  # the folder of the annotation files
    image_sets: list[str] = field(default_factory=lambda: ["train2017"])
    relations: str | None = None  # coco: a file, or "generated"; vg_msdn: anything, for the relationships
    captions: str | None = None  # coco: a file; vg_msdn: anything, for the region phrases
    statistics: str = "sta_dict.json"  # written into the output folder
    min_area: float = 0.02  # of an object's box, as a part of the image
    min_objects: int = 3  # in an image
    max_objects: int = 8
    valid_part: float = 0.1


@dataclass(frozen=True)
class Sample:
    """A sentence with objects 0..n-1."""

    text: str
    spans: tuple[tuple[int, int], ...]  # characters (start, end) of each object's head noun
    relations: tuple[tuple[int, str, int], ...]  # (a, "left of", b) over object numbers
    centers: np.ndarray | None = None  # (n, 2) in fractions of the image; None where only relations are known
    names: tuple[str, ...] = ()  # of the objects, their last word being the head noun


@dataclass(frozen=True)
class Batch:
    """B sentences with P objects and R relations in all."""

    tokens: Tensor  # (B, L) ids
    is_object: Tensor  # (B, L) bool
    where: Tensor  # (P, 2) row and token of each object
    centers: Tensor  # (P, 2), NaN where unknown
    relations: Tensor  # (R, 3) rows of `where` for a and b, and the relation's index in RELATIONS

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        return Batch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def collate(samples: Sequence[Sample], tokenizer: SentenceTokenizer, max_tokens: int) -> Batch:
    """Pad to the longest sentence. UserError when one is longer than `max_tokens`."""
    encoded = [tokenizer.encode(sample.text) for sample in samples]
    length = max(len(ids) for ids, _ in encoded)
    if length > max_tokens:
        raise UserError(f"a sentence has {length} tokens, the layout model takes at most {max_tokens}; shorten it")
    tokens = torch.full((len(samples), length), PAD_ID)
    where: list[tuple[int, int]] = []
    centers: list[list[float]] = []
    relations: list[tuple[int, int, int]] = []
    for row, (sample, (ids, offsets)) in enumerate(zip(samples, encoded, strict=True)):
        tokens[row, : len(ids)] = torch.tensor(ids)
        first = len(where)
        where += [(row, token_at(offsets, start)) for start, _ in sample.spans]
        unknown = [[float("nan")] * 2] * len(sample.spans)
        centers += unknown if sample.centers is None else sample.centers.tolist()
        relations += [(first + a, first + b, RELATIONS.index(name)) for a, name, b in sample.relations]
    positions = torch.tensor(where, dtype=torch.long).view(-1, 2)
    is_object = torch.zeros_like(tokens, dtype=torch.bool)
    is_object[positions[:, 0], positions[:, 1]] = True
    return Batch(
        tokens,
        is_object,
        positions,
        torch.tensor(centers, dtype=torch.float32).view(-1, 2),
        torch.tensor(relations, dtype=torch.long).view(-1, 3),
    )
