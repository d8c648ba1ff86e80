"""What every source of sentences yields (text, where the objects are in it, relations, centers), and batches of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from layout_predictor.LayoutTransformer.data.tokenizer import PAD_ID, SentenceTokenizer, token_at
from ldm.relations import RELATIONS
from ldm.util import UserError


@dataclass(frozen=True)
class Sample:
    """A sentence with objects 0..n-1.

    spans: characters (start, end) of each object's head noun; relations: (a, "left of", b) over object numbers;
    centers: (n, 2) in fractions of the image, or None where only relations are known; names: of the objects, their
    last word being the head noun.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    relations: tuple[tuple[int, str, int], ...]
    centers: np.ndarray | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Batch:
    """B sentences with P objects and R relations in all.

    tokens (B, L) ids; is_object (B, L) bool; where (P, 2) row and token of each object; centers (P, 2), NaN where
    unknown; relations (R, 3): rows of `where` for a and b, and the relation's index in RELATIONS.
    """

    tokens: Tensor
    is_object: Tensor
    where: Tensor
    centers: Tensor
    relations: Tensor

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
