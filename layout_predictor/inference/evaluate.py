"""Relation accuracy of a predictor on a file of sentences with stated relations.

python -m layout_predictor.inference.evaluate sentences.jsonl [--out score.json] [--failures]
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layout_predictor.inference.predictor import Predictor, load_predictor
from layout_predictor.inference.review import judged, labels_of, read_review, stated_words
from layout_predictor.inference.separate import MIN_DISTANCE
from layout_predictor.LayoutTransformer.data.dataset import read_relation_sentences
from layout_predictor.LayoutTransformer.data.sample import Sample
from layout_predictor.LayoutTransformer.training.evaluate import Score, add_sentence
from ldm.generation.images import save_json
from ldm.util import UserError


def score_sentences(predictor: Predictor, samples: Sequence[Sample]) -> tuple[Score, list[float]]:
    """The score of the centres as a user gets them, and the distances of all pairs of objects of a sentence."""
    score, distances = Score(), []
    for sample, centres in zip(samples, predictor.centres_of(samples), strict=True):
        add_sentence(score, sample, centres)
        distances += [math.dist(a, b) for a, b in itertools.combinations(centres, 2)]
    return score, distances


def summary(score: Score, distances: Sequence[float], sentences: int) -> dict[str, Any]:
    """Plain numbers: of all relations, by relation, by number of objects, of whole sentences, and of distances."""
    parts = {
        name: {
            "right": score.right[name],
            "stated": score.stated[name],
            "accuracy": round(score.right[name] / score.stated[name], 4),
        }
        for name in sorted(score.stated)
    }
    return {
        "sentences": sentences,
        "sentences_all_right": sentences - len({id(sample) for sample, _ in score.failures}),
        "relations": parts.pop("all"),
        "by_relation": {name: part for name, part in parts.items() if not name.endswith("objects")},
        "by_objects": {name.split()[0]: part for name, part in parts.items() if name.endswith("objects")},
        "pairs": len(distances),
        "pairs_too_close": sum(distance < MIN_DISTANCE - 1e-6 for distance in distances),
        "closest_centres": round(min(distances), 4) if distances else None,
        "wanted_distance": MIN_DISTANCE,
    }


def failures(score: Score, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Every stated relation that the centres break, with its sentence and the number of it."""
    lines = {id(sample): line for line, sample in enumerate(samples, 1)}
    return [
        {"line": lines[id(sample)], "stated": stated_words(sample, number), "sentence": sample.text}
        for sample, number in score.failures
    ]


def evaluate_file(
    path: str | Path, checkpoint: str | None = None, tokenizer: str | None = None, review: str | None = None
) -> dict[str, Any]:
    """The summary, with "failures", and with "review" where one is given (`inference.review`).

    Raises: UserError for a file that is missing, wrong, or states nothing.
    """
    samples = read_relation_sentences(path)
    verdicts = read_review(review, samples) if review else {}
    score, distances = score_sentences(load_predictor(checkpoint, tokenizer), samples)
    if not score.stated:
        raise UserError(f"{path} states no relation; give JSON lines with words, objects and relations")
    broken = failures(score, samples)
    result = summary(score, distances, len(samples))
    if review:
        labels = {(item["line"], item["stated"]) for item in broken}
        result["review"] = judged(labels_of(samples), labels, verdicts)
    return {**result, "failures": broken}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; a user's mistake is one line and exit code 2."""
    parser = argparse.ArgumentParser(description="Score a layout predictor on sentences with stated relations.")
    parser.add_argument("sentences", help="JSON lines with words, objects and relations")
    parser.add_argument("--checkpoint", help="weights; default: the embedded predictor")
    parser.add_argument("--tokenizer", help="tokenizer.json of a .pth checkpoint")
    parser.add_argument("--out", help="also write the result as JSON")
    parser.add_argument("--failures", action="store_true", help="also print, and write, the relations that are broken")
    parser.add_argument("--review", help="JSON lines of verdicts on labels: what can be reached at most")
    arguments = parser.parse_args(argv)
    try:
        result = evaluate_file(arguments.sentences, arguments.checkpoint, arguments.tokenizer, arguments.review)
        broken = result["failures"] if arguments.failures else result.pop("failures")
        if arguments.out:
            save_json(Path(arguments.out), result)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result.pop("failures", None)
    print(json.dumps(result, indent=2))
    if arguments.failures:
        print("\n".join(f"{item['line']}: {item['stated']}: {item['sentence']}" for item in broken))
    return 0


if __name__ == "__main__":
    sys.exit(main())
