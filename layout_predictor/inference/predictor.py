"""A loaded predictor and the one-call form of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from layout_predictor.inference.checkpoints import DEFAULT_WEIGHTS, load_model
from layout_predictor.inference.objects import FoundObject, find_objects
from layout_predictor.inference.separate import separate
from layout_predictor.LayoutTransformer.data.batch import collate
from layout_predictor.LayoutTransformer.data.sample import Sample
from layout_predictor.LayoutTransformer.data.tokenizer import SentenceTokenizer
from layout_predictor.LayoutTransformer.model.mixture import Mixture, pick_centres, split_mixture
from layout_predictor.LayoutTransformer.model.network import LayoutModel
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.util import UserError

__all__ = ["DEFAULT_WEIGHTS", "Prediction", "Predictor", "load_predictor", "predict_layout"]

Centre = tuple[float, float]


@dataclass(frozen=True)
class Prediction:
    """A sentence's layout, and what it was made of: the objects as found, and a mixture (n, 5) over centres."""

    layout: Layout
    found: tuple[FoundObject, ...]
    mixture: Mixture | None  # None without objects


class Predictor:
    """A layout model with its tokenizer, ready for sentences."""

    def __init__(self, model: LayoutModel, tokenizer: SentenceTokenizer) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer

    @torch.no_grad()
    def raw_mixtures(self, samples: Sequence[Sample]) -> torch.Tensor:
        """Raw mixture parameters (P, 30) of all objects of the sentences, in order.

        Raises: UserError when a sentence is longer than the model takes.
        """
        batch = collate(samples, self.tokenizer, self.model.config.max_tokens)
        batch = batch.to(self.model.object_embedding.device)
        features = self.model.encode(batch.tokens, batch.is_object)  # (B, L, H)
        return self.model.head(features[batch.where[:, 0], batch.where[:, 1]])

    def mixtures(self, sentence: str, spans: Sequence[tuple[int, int]]) -> Mixture:
        """Mixture (n, 5) of each object, given the characters (start, end) of the head nouns."""
        return split_mixture(self.raw_mixtures([Sample(sentence, tuple(spans), ())]))

    def centres(
        self, sentence: str, spans: Sequence[tuple[int, int]], *, sample: bool = False, seed: int = 0
    ) -> list[Centre]:
        """Centres (x, y) of the objects, kept apart and inside the picture; with `sample` drawn by `seed`."""
        return _centres(self.mixtures(sentence, spans), sample=sample, seed=seed) if spans else []

    def centres_of(self, samples: Sequence[Sample], *, batch_size: int = 64) -> list[list[Centre]]:
        """The same for many sentences with known objects, several at a time."""
        found: list[list[Centre]] = []
        for start in range(0, len(samples), batch_size):
            part = samples[start : start + batch_size]
            raw = self.raw_mixtures(part).split([len(sample.spans) for sample in part])
            found += [_centres(split_mixture(rows)) for rows in raw]
        return found

    def predict(
        self, sentence: str, *, all_nouns: bool = False, sample: bool = False, seed: int = 0
    ) -> Prediction:
        """The layout of a sentence with its mixtures; it is empty when no object is found."""
        if not sentence.strip():
            raise UserError("the sentence is empty; write one that names the objects of the picture")
        found = tuple(find_objects(sentence, all_nouns=all_nouns))
        if not found:
            return Prediction(Layout((), prompt=sentence), (), None)
        mixture = self.mixtures(sentence, [item.marked for item in found])
        centres = _centres(mixture, sample=sample, seed=seed)
        objects = (
            LayoutObject(phrase=item.phrase, x=x, y=y, name=item.name)
            for item, (x, y) in zip(found, centres, strict=True)
        )
        return Prediction(Layout(tuple(objects), prompt=sentence), found, mixture)

    def layout(self, sentence: str, *, all_nouns: bool = False, sample: bool = False, seed: int = 0) -> Layout:
        """The layout of a sentence; it is empty when no object is found."""
        return self.predict(sentence, all_nouns=all_nouns, sample=sample, seed=seed).layout


def _centres(mixture: Mixture, *, sample: bool = False, seed: int = 0) -> list[Centre]:
    generator = torch.Generator().manual_seed(seed) if sample else None
    on_cpu = Mixture(*(values.cpu() for values in mixture))
    return separate([(float(x), float(y)) for x, y in pick_centres(on_cpu, sample=sample, generator=generator)])


def load_predictor(path: str | Path | None = None, tokenizer: str | Path | None = None) -> Predictor:
    """Load a predictor, by default the embedded one; see `checkpoints.load_model`.

    Raises: UserError when a file is missing or damaged.
    """
    return Predictor(*load_model(path, tokenizer))


@lru_cache(maxsize=1)
def _default_predictor() -> Predictor:
    return load_predictor()


def predict_layout(sentence: str, predictor: Predictor | None = None, *, all_nouns: bool = False) -> Layout:
    """The layout of `sentence`, by `predictor` or the embedded one (loaded once); empty without objects."""
    return (predictor or _default_predictor()).layout(sentence, all_nouns=all_nouns)
