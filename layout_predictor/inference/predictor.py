"""A loaded predictor and the one-call form of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch

from layout_predictor.inference.objects import find_objects
from layout_predictor.inference.separate import separate
from layout_predictor.LayoutTransformer.data.batch import collate
from layout_predictor.LayoutTransformer.data.sample import Sample
from layout_predictor.LayoutTransformer.data.tokenizer import SentenceTokenizer
from layout_predictor.LayoutTransformer.model.mixture import Mixture, pick_centres, split_mixture
from layout_predictor.LayoutTransformer.model.network import LayoutModel
from layout_predictor.LayoutTransformer.training.checkpoint import load_exported
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.util import UserError

DEFAULT_WEIGHTS = Path(__file__).resolve().parents[2] / "models" / "emoji" / "layout.safetensors"


class Predictor:
    """A layout model with its tokenizer, ready for sentences."""

    def __init__(self, model: LayoutModel, tokenizer: SentenceTokenizer) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer

    @torch.no_grad()
    def mixtures(self, sentence: str, spans: Sequence[tuple[int, int]]) -> Mixture:
        """Mixture (n, 5) of each object, given the characters (start, end) of the head nouns."""
        batch = collate([Sample(sentence, tuple(spans), ())], self.tokenizer, self.model.config.max_tokens)
        batch = batch.to(self.model.object_embedding.device)
        features = self.model.encode(batch.tokens, batch.is_object)  # (1, L, H)
        return split_mixture(self.model.head(features[0, batch.where[:, 1]]))

    def centres(
        self, sentence: str, spans: Sequence[tuple[int, int]], *, sample: bool = False, seed: int = 0
    ) -> list[tuple[float, float]]:
        """Centres (x, y) of the objects, kept apart and inside the picture; with `sample` drawn by `seed`."""
        if not spans:
            return []
        generator = torch.Generator().manual_seed(seed) if sample else None
        picked = pick_centres(self.mixtures(sentence, spans), sample=sample, generator=generator)
        return separate([(float(x), float(y)) for x, y in picked.tolist()])

    def layout(
        self, sentence: str, *, all_nouns: bool = False, sample: bool = False, seed: int = 0
    ) -> Layout:
        """The layout of a sentence; it is empty when no object is found."""
        if not sentence.strip():
            raise UserError("the sentence is empty; write one that names the objects of the picture")
        found = find_objects(sentence, all_nouns=all_nouns)
        centres = self.centres(sentence, [item.marked for item in found], sample=sample, seed=seed)
        objects = (
            LayoutObject(phrase=item.phrase, x=x, y=y, name=item.name)
            for item, (x, y) in zip(found, centres, strict=True)
        )
        return Layout(tuple(objects), prompt=sentence)


def load_predictor(path: str | Path | None = None) -> Predictor:
    """Load a predictor, by default the embedded one. UserError when the file is missing or damaged."""
    model, tokenizer = load_exported(DEFAULT_WEIGHTS if path is None else path)
    return Predictor(model, tokenizer)


@lru_cache(maxsize=1)
def _default_predictor() -> Predictor:
    return load_predictor()


def predict_layout(sentence: str, predictor: Predictor | None = None, *, all_nouns: bool = False) -> Layout:
    """The layout of `sentence`, by `predictor` or the embedded one (loaded once); empty without objects."""
    return (predictor or _default_predictor()).layout(sentence, all_nouns=all_nouns)
