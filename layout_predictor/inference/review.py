"""What a reader of the sentences thinks of the labels that a predictor breaks, and what can be reached at most.

Labels of real sentences are made by machines, too. A review has a JSON line for each label that was looked at:

    {"line": 7, "stated": "cup left of fork", "verdict": "contradicts"}

line: number of the sentence in its file, from 1; stated: as `evaluate --failures` prints it; verdict: "contradicts"
(the sentence says the opposite), "unstated" (it says nothing on the two, or leaves open what) or "stated". Other
fields, such as "why", are for people. A predictor that reads correctly breaks every label of the first kind and can
only guess those of the second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from layout_predictor.LayoutTransformer.data.records import read_records, require
from layout_predictor.LayoutTransformer.data.sample import Sample
from ldm.util import UserError

VERDICTS = ("contradicts", "unstated", "stated")

Label = tuple[int, str]  # number of the sentence from 1, and what it is said to state


def labels_of(samples: Sequence[Sample]) -> list[Label]:
    """Every label of the sentences."""
    return [
        (line, stated_words(sample, number))
        for line, sample in enumerate(samples, 1)
        for number in range(len(sample.relations))
    ]


def stated_words(sample: Sample, number: int) -> str:
    """Relation `number` of a sentence in words: "cup left of fork"."""
    a, relation, b = sample.relations[number]
    return f"{sample.names[a]} {relation} {sample.names[b]}"


def read_review(path: str | Path, samples: Sequence[Sample]) -> dict[Label, str]:
    """The verdicts by label. UserError for a record of another shape, or on a label that the file does not have."""
    known = set(labels_of(samples))
    verdicts: dict[Label, str] = {}
    for where, record in read_records(path):
        require(record, ("line", "stated", "verdict"), where)
        if record["verdict"] not in VERDICTS:
            raise UserError(f"{where}, field 'verdict': {record['verdict']!r} is none of {', '.join(VERDICTS)}")
        label = (record["line"], record["stated"])
        if label not in known:
            raise UserError(f"{where}: sentence {label[0]} has no label {label[1]!r}; is it a review of another file?")
        verdicts[label] = record["verdict"]
    return verdicts


def judged(labels: Iterable[Label], broken: set[Label], verdicts: dict[Label, str]) -> dict[str, Any]:
    """Counts of the verdicts, the accuracy that correct reading reaches at most, and the predictor's on the rest."""
    labels = list(labels)
    counts = Counter(verdicts[label] for label in labels if label in verdicts)
    sound = [label for label in labels if verdicts.get(label, "stated") == "stated"]
    right = sum(label not in broken for label in sound)
    return {
        "labels": len(labels),
        "broken_labels_reviewed": f"{sum(label in verdicts for label in broken)} of {len(broken)}",
        **{verdict: counts[verdict] for verdict in VERDICTS},
        "ceiling": round(len(sound) / len(labels), 4),
        "ceiling_with_lucky_guesses": round(1 - counts["contradicts"] / len(labels), 4),
        "on_the_rest": {"right": right, "stated": len(sound), "accuracy": round(right / max(1, len(sound)), 4)},
    }
