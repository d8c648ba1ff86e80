"""Relation accuracy and distance to the true centers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from layout_predictor.LayoutTransformer.data.sample import Sample, collate
from layout_predictor.LayoutTransformer.data.tokenizer import SentenceTokenizer
from layout_predictor.LayoutTransformer.model.mixture import pick_centers, split_mixture
from layout_predictor.LayoutTransformer.model.network import LayoutModel
from ldm.relations import satisfied


@dataclass
class Score:
    """Counts of an evaluation."""

    right: Counter[str] = field(default_factory=Counter)  # by relation, and by "n objects"
    stated: Counter[str] = field(default_factory=Counter)
    distance_sum: float = 0.0
    distances: int = 0

    @property
    def relation_accuracy(self) -> float:
        """Part of the stated relations that the centers satisfy; NaN when none is stated."""
        return self.right["all"] / self.stated["all"] if self.stated["all"] else float("nan")

    @property
    def center_distance(self) -> float:
        """Mean distance to the true center, in fractions of the image; NaN when none is known."""
        return self.distance_sum / self.distances if self.distances else float("nan")

    @property
    def metric(self) -> float:
        """The number in a checkpoint's name: relation accuracy, or center distance where no relation is stated."""
        return self.relation_accuracy if self.stated["all"] else self.center_distance

    def add(self, other: Score) -> None:
        """Count another evaluation too."""
        self.right.update(other.right)
        self.stated.update(other.stated)
        self.distance_sum += other.distance_sum
        self.distances += other.distances

    def table(self) -> str:
        """One line for each relation and number of objects."""
        return "\n".join(
            f"{name}: {self.right[name]} of {self.stated[name]} ({self.right[name] / self.stated[name]:.3f})"
            for name in sorted(self.stated)
        )


def add_sentence(score: Score, sample: Sample, centers: Sequence[Sequence[float]]) -> list[int]:
    """Count a sentence with its predicted centers; return the numbers of the relations that they break."""
    broken = []
    for number, (a, relation, b) in enumerate(sample.relations):
        good = satisfied(relation, centers[a], centers[b])
        for key in ("all", relation, f"{len(sample.spans)} objects"):
            score.stated[key] += 1
            score.right[key] += good
        if not good:
            broken.append(number)
    if sample.centers is not None:
        offset = torch.tensor(centers, dtype=torch.float64) - torch.from_numpy(sample.centers)
        score.distance_sum += float(offset.norm(dim=-1).sum())
        score.distances += len(offset)
    return broken


@torch.no_grad()
def evaluate(
    model: LayoutModel, tokenizer: SentenceTokenizer, samples: Sequence[Sample], *, batch_size: int = 64
) -> Score:
    """Greedy centers of every sentence against what it states; the model's mode is restored."""
    training = model.training
    model.eval()
    score = Score()
    for start in range(0, len(samples), batch_size):
        part = samples[start : start + batch_size]
        batch = collate(part, tokenizer, model.config.max_tokens).to(model.object_embedding.device)
        raw = model(batch.tokens, batch.is_object, batch.where)  # (P, 30)
        centers = iter(pick_centers(split_mixture(raw)).tolist())
        for sample in part:
            add_sentence(score, sample, [next(centers) for _ in sample.spans])
    model.train(training)
    return score
