"""A loaded predictor and the one-call form of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from layout_predictor.inference.checkpoints import load_model
from layout_predictor.inference.objects import FoundObject, find_objects
from layout_predictor.inference.separate import separate, spread
from layout_predictor.inference.solve import Fact, describe, solve
from layout_predictor.inference.understand import Understood, facts_between, renderings, understand
from layout_predictor.LayoutTransformer.data.sample import Sample, collate
from layout_predictor.LayoutTransformer.data.tokenizer import SentenceTokenizer
from layout_predictor.LayoutTransformer.model.mixture import Mixture, pick_centers, split_mixture
from layout_predictor.LayoutTransformer.model.network import LayoutModel
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.util import UserError

Center = tuple[float, float]


@dataclass(frozen=True)
class Prediction:
    """A sentence's layout, and what it was made of.

    Attributes:
        found: the objects; their spans are characters of `text`, what was read of the sentence.
        mixture: (n, 5) over centers, None without objects.
        facts: what the sentence states of the objects, by their numbers.
        notes: a line for each noun without an object, word read as another, and fact that could not be met.
    """

    layout: Layout
    found: tuple[FoundObject, ...]
    mixture: Mixture | None
    facts: tuple[Fact, ...] = ()
    notes: tuple[str, ...] = ()
    text: str = ""


class Predictor:
    """A layout model with its tokenizer, ready for sentences."""

    def __init__(self, model: LayoutModel, tokenizer: SentenceTokenizer) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer

    @torch.no_grad()
    def mixtures(self, samples: Sequence[Sample]) -> list[Mixture]:
        """Mixture (n, 5) of the n objects of each sentence. UserError when one is longer than the model takes."""
        batch = collate(samples, self.tokenizer, self.model.config.max_tokens).to(self.model.object_embedding.device)
        raw = self.model(batch.tokens, batch.is_object, batch.where).cpu()  # (P, 30)
        return [split_mixture(rows) for rows in raw.split([len(sample.spans) for sample in samples])]

    def centers_of(
        self, samples: Sequence[Sample], *, batch_size: int = 64, checked: bool = False
    ) -> list[list[Center]]:
        """Centers of the objects of sentences whose objects are known, kept apart and inside the image.

        With `checked` they also keep to what the sentences state.
        """
        parts = [samples[start : start + batch_size] for start in range(0, len(samples), batch_size)]
        centers = [_picked(mixture) for part in parts for mixture in self.mixtures(part)]
        if not checked:
            return [separate(some) for some in centers]
        facts = [facts_between(understand(sample.text), sample.spans) for sample in samples]
        return [solve(some, stated)[0] for some, stated in zip(centers, facts, strict=True)]

    def predict(
        self, sentence: str, *, all_nouns: bool = False, sample: bool = False, seed: int = 0, raw: bool = False
    ) -> Prediction:
        """The layout of a sentence; it is empty when no object is found.

        Args:
            all_nouns: every noun phrase is an object.
            sample: draw a component of each mixture by `seed`.
            raw: the model's own answer, as published: centers are not checked against what the sentence states.
        """
        if not sentence.strip():
            raise UserError("the sentence is empty; write one that names the objects of the image")
        if raw:
            found = tuple(find_objects(sentence, all_nouns=all_nouns))
            mixture = self.mixtures([_sample(sentence, found)])[0] if found else None
            centers = separate(_picked(mixture, sample=sample, seed=seed)) if mixture else []
            return Prediction(_layout(sentence, found, centers), found, mixture, text=sentence)
        read = understand(sentence, all_nouns=all_nouns)
        if not read.objects:
            return Prediction(Layout((), prompt=sentence), (), None, (), read.notes, read.text)
        mixture = self.mixtures([self._fitting(read)])[0]
        picked = spread(_picked(mixture, sample=sample, seed=seed), read.copies)
        centers, unmet = solve(picked, read.facts)
        phrases = [item.phrase for item in read.objects]
        notes = (*read.notes, *(f"not met: {describe(fact, phrases)}" for fact in unmet))
        return Prediction(_layout(sentence, read.objects, centers), read.objects, mixture, read.facts, notes, read.text)

    def _fitting(self, read: Understood) -> Sample:
        """The sentence, or as much of it as the model takes."""
        forms = [Sample(text, tuple(spans), ()) for text, spans in renderings(read.text, read.objects)]
        most = self.model.config.max_tokens
        return next((form for form in forms if len(self.tokenizer.encode(form.text)[0]) <= most), forms[-1])

    def layout(
        self, sentence: str, *, all_nouns: bool = False, sample: bool = False, seed: int = 0, raw: bool = False
    ) -> Layout:
        """The layout of a sentence, see `predict`."""
        return self.predict(sentence, all_nouns=all_nouns, sample=sample, seed=seed, raw=raw).layout


def _sample(text: str, found: Sequence[FoundObject]) -> Sample:
    return Sample(text, tuple(item.marked for item in found), ())


def _layout(sentence: str, found: Sequence[FoundObject], centers: Sequence[Center]) -> Layout:
    pairs = zip(found, centers, strict=True)
    objects = tuple(LayoutObject(phrase=item.phrase, x=x, y=y, name=item.name) for item, (x, y) in pairs)
    return Layout(objects, prompt=sentence)


def _picked(mixture: Mixture, *, sample: bool = False, seed: int = 0) -> list[Center]:
    generator = torch.Generator().manual_seed(seed) if sample else None
    return [(float(x), float(y)) for x, y in pick_centers(mixture, sample=sample, generator=generator)]


def load_predictor(path: str | Path | None = None, tokenizer: str | Path | None = None) -> Predictor:
    """Load a predictor, by default the embedded one; see `checkpoints.load_model`."""
    return Predictor(*load_model(path, tokenizer))


@lru_cache(maxsize=1)
def _default_predictor() -> Predictor:
    return load_predictor()


def predict_layout(
    sentence: str, predictor: Predictor | None = None, *, all_nouns: bool = False, raw: bool = False
) -> Layout:
    """The layout of `sentence`, by `predictor` or the embedded one (loaded once); empty without objects.

    With `raw` it is the model's own answer; `Predictor.predict` also has the notes on what was not taken as it stands.
    """
    return (predictor or _default_predictor()).layout(sentence, all_nouns=all_nouns, raw=raw)
