"""Relation accuracy of a predictor on a file of sentences with stated relations.

    python -m layout_predictor.inference.evaluate sentences.jsonl [--out score.json] [--failures] [--review r.jsonl]
    python -m layout_predictor.inference.evaluate --wordings wordings.yaml [--draws 20] [--raw]

The first measures the model with the objects as labeled; --checked also moves the centers as the sentence demands. The
second fills wordings with random nouns and checks whole layouts; see `wordings.py`.

Labels of real sentences are made by machines, too. A review has a JSON line for each label that a reader looked at:

    {"line": 7, "stated": "cup left of fork", "verdict": "contradicts"}

line: number of the sentence in its file, from 1; stated: as --failures prints it; verdict: "contradicts" (the sentence
says the opposite), "unstated" (it says nothing on the two, or leaves open what) or "stated". A predictor that reads
correctly breaks every label of the first kind and can only guess those of the second.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layout_predictor.LayoutTransformer.data.records import read_records, require
from ldm import boundary
from ldm.errors import UserError
from ldm.files import write_json

if TYPE_CHECKING:
    from layout_predictor.LayoutTransformer.data.sample import Sample

VERDICTS = ("contradicts", "unstated", "stated")

Label = tuple[int, str]  # number of the sentence from 1, and what it is said to state


def _labels_of(line: int, sample: Sample) -> list[Label]:
    """What a sentence is said to state, in words: "cup left of fork"."""
    return [(line, f"{sample.names[a]} {relation} {sample.names[b]}") for a, relation, b in sample.relations]


def evaluate_file(
    path: str | Path,
    checkpoint: str | None = None,
    tokenizer: str | None = None,
    review: str | None = None,
    checked: bool = False,
) -> dict[str, Any]:
    """Counts over the relations of a file, by relation and by number of objects, with the "failures".

    Raises:
        UserError: a file is missing, wrong, or states nothing.
    """
    from layout_predictor.inference.predictor import load_predictor  # seconds, which --help need not wait for
    from layout_predictor.LayoutTransformer.data.coco import read_relation_sentences
    from layout_predictor.LayoutTransformer.training.evaluate import Score, add_sentence
    from ldm.spacetime.control import RADIUS

    samples = read_relation_sentences(path)
    labels = [_labels_of(line, sample) for line, sample in enumerate(samples, 1)]
    known = [label for sentence in labels for label in sentence]
    verdicts = _read_review(review, set(known)) if review else {}
    score, distances = Score(), []
    broken: list[tuple[Label, Sample]] = []
    predicted = load_predictor(checkpoint, tokenizer).centers_of(samples, checked=checked)
    for sample, stated, centers in zip(samples, labels, predicted, strict=True):
        broken += [(stated[number], sample) for number in add_sentence(score, sample, centers)]
        distances += [math.dist(a, b) for a, b in itertools.combinations(centers, 2)]
    if not score.stated:
        raise UserError(f"{path} states no relation; give JSON lines with words, objects and relations")
    parts = {name: _part(score.right[name], score.stated[name]) for name in sorted(score.stated)}
    result = {
        "sentences": len(samples),
        "sentences_all_right": len(samples) - len({line for (line, _), _ in broken}),
        "relations": parts.pop("all"),
        "by_relation": {name: part for name, part in parts.items() if not name.endswith("objects")},
        "by_objects": {name.split()[0]: part for name, part in parts.items() if name.endswith("objects")},
        "pairs": len(distances),
        "pairs_too_close": sum(distance < RADIUS - 1e-6 for distance in distances),
        "closest_centers": round(min(distances), 4) if distances else None,
        "wanted_distance": RADIUS,
    }
    if review:
        result["review"] = _judged(known, {label for label, _ in broken}, verdicts)
    failures = [{"line": line, "stated": stated, "sentence": sample.text} for (line, stated), sample in broken]
    return {**result, "failures": failures}


def _part(right: int, stated: int) -> dict[str, Any]:
    return {"right": right, "stated": stated, "accuracy": round(right / max(1, stated), 4)}


def _read_review(path: str | Path, known: set[Label]) -> dict[Label, str]:
    """The verdicts by label. UserError for a record of another shape, or on a label that is not known."""
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


def _judged(labels: Sequence[Label], broken: set[Label], verdicts: dict[Label, str]) -> dict[str, Any]:
    """Counts of the verdicts, the accuracy that correct reading reaches at most, and the predictor's on the rest."""
    counts = Counter(verdicts[label] for label in labels if label in verdicts)
    sound = [label for label in labels if verdicts.get(label, "stated") == "stated"]
    return {
        "labels": len(labels),
        "broken_labels_reviewed": f"{sum(label in verdicts for label in broken)} of {len(broken)}",
        **{verdict: counts[verdict] for verdict in VERDICTS},
        "ceiling": round(len(sound) / len(labels), 4),
        "ceiling_with_lucky_guesses": round(1 - counts["contradicts"] / len(labels), 4),
        "on_the_rest": _part(sum(label not in broken for label in sound), len(sound)),
    }


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = boundary.Parser(description="Score a layout predictor on sentences with stated relations.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("sentences", nargs="?", help="JSON lines with words, objects and relations")
    source.add_argument("--wordings", help="wordings to fill with nouns, JSON lines or YAML")
    parser.add_argument("--draws", type=boundary.COUNT, default=20, help="times that each wording is filled")
    parser.add_argument("--seed", type=boundary.SEED, default=1, help="of the nouns")
    parser.add_argument("--raw", action="store_true", help="wordings: the model's own centers, not checked")
    parser.add_argument("--checked", action="store_true", help="sentences: centers checked against what they state")
    parser.add_argument("--checkpoint", help="weights; default: the embedded predictor")
    parser.add_argument("--tokenizer", help="tokenizer.json of a .pth checkpoint")
    parser.add_argument("--out", help="also write the result as JSON")
    parser.add_argument("--failures", action="store_true", help="also print, and write, the relations that are broken")
    parser.add_argument("--review", help="JSON lines of verdicts on labels: what can be reached at most")
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace) -> None:
    """Score, print, and write what was asked for."""
    weights = (arguments.checkpoint, arguments.tokenizer)
    if arguments.wordings:
        from layout_predictor.inference.predictor import load_predictor
        from layout_predictor.inference.wordings import read_wordings, score

        wordings, layout = read_wordings(arguments.wordings), load_predictor(*weights).layout
        result = score(wordings, partial(layout, raw=arguments.raw), draws=arguments.draws, seed=arguments.seed)
    else:
        result = evaluate_file(arguments.sentences, *weights, arguments.review, arguments.checked)
    failures = result.pop("failures", [])
    if arguments.out:
        write_json(arguments.out, {**result, "failures": failures} if arguments.failures else result)
    print(json.dumps(result, indent=2))
    if arguments.failures:
        print("\n".join(f"{item['line']}: {item['stated']}: {item['sentence']}" for item in failures))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; an error is one line and exit code 2, an interrupt 130."""
    return boundary.run(lambda: run(parse(argv)))


if __name__ == "__main__":
    sys.exit(main())
