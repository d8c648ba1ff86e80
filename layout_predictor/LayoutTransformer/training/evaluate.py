"""Relation accuracy and distance to the true centres."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from layout_predictor.LayoutTransformer.data.batch import collate
from layout_predictor.LayoutTransformer.data.sample import Sample
from layout_predictor.LayoutTransformer.data.tokenizer import SentenceTokenizer
from layout_predictor.LayoutTransformer.model.mixture import pick_centres, split_mixture
from layout_predictor.LayoutTransformer.model.network import LayoutModel

_AXIS = {"left of": 0, "right of": 0, "above": 1, "below": 1}


@dataclass
class Score:
    """Counts of an evaluation."""

    right: Counter[str] = field(default_factory=Counter)  # by relation, and by "n objects"
    stated: Counter[str] = field(default_factory=Counter)
    distance_sum: float = 0.0
    distances: int = 0
    failures: list[tuple[Sample, int]] = field(default_factory=list)

    @property
    def relation_accuracy(self) -> float:
        """Part of the stated relations that the centres satisfy; NaN when none is stated."""
        return self.right["all"] / self.stated["all"] if self.stated["all"] else float("nan")

    @property
    def centre_distance(self) -> float:
        """Mean distance to the true centre, in fractions of the picture; NaN when none is known."""
        return self.distance_sum / self.distances if self.distances else float("nan")

    @property
    def metric(self) -> float:
        """The number in a checkpoint's name: relation accuracy, or centre distance where no relation is stated."""
        return self.relation_accuracy if self.stated["all"] else self.centre_distance

    def add(self, other: Score) -> None:
        """Count another evaluation too."""
        self.right.update(other.right)
        self.stated.update(other.stated)
        self.distance_sum += other.distance_sum
        self.distances += other.distances
        self.failures += other.failures

    def table(self) -> str:
        """One line for each relation and number of objects."""
        return "\n".join(
            f"{name}: {self.right[name]} of {self.stated[name]} ({self.right[name] / self.stated[name]:.3f})"
            for name in sorted(self.stated)
        )


def satisfied(relation: str, a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether centre a is in `relation` to centre b, both (x, y) with y down."""
    axis = _AXIS[relation]
    return a[axis] < b[axis] if relation in ("left of", "above") else a[axis] > b[axis]


def add_sentence(score: Score, sample: Sample, centres: Sequence[Sequence[float]]) -> None:
    """Count a sentence with its predicted centres."""
    for number, (a, relation, b) in enumerate(sample.relations):
        good = satisfied(relation, centres[a], centres[b])
        for key in ("all", relation, f"{len(sample.spans)} objects"):
            score.stated[key] += 1
            score.right[key] += good
        if not good:
            score.failures.append((sample, number))
    if sample.centres is not None:
        offset = torch.tensor(centres, dtype=torch.float64) - torch.from_numpy(sample.centres)
        score.distance_sum += float(offset.norm(dim=-1).sum())
        score.distances += len(offset)


@torch.no_grad()
def evaluate(
    model: LayoutModel, tokenizer: SentenceTokenizer, samples: Sequence[Sample], *, batch_size: int = 64
) -> Score:
    """Greedy centres of every sentence against what it states; the model's mode is restored."""
    training = model.training
    model.eval()
    device = model.object_embedding.device
    score = Score()
    for start in range(0, len(samples), batch_size):
        part = samples[start : start + batch_size]
        batch = collate(part, tokenizer, model.config.max_tokens).to(device)
        raw = model(batch.tokens, batch.is_object, batch.where)  # (P, 30)
        centres = pick_centres(split_mixture(raw)).tolist()
        for sample in part:
            add_sentence(score, sample, centres[: len(sample.spans)])
            del centres[: len(sample.spans)]
    model.train(training)
    return score
