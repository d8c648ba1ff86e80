"""Relation accuracy of a predictor on a file of sentences with stated relations.

python -m layout_predictor.inference.evaluate sentences.jsonl [--checkpoint layout.safetensors] [--out score.json]
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
from layout_predictor.inference.separate import MIN_DISTANCE
from layout_predictor.LayoutTransformer.data.dataset import read_relation_sentences
from layout_predictor.LayoutTransformer.data.sample import Sample
from layout_predictor.LayoutTransformer.training.evaluate import Score, add_sentence
from ldm.spacetime.outputs import save_json
from ldm.util import UserError


def score_sentences(predictor: Predictor, samples: Sequence[Sample]) -> tuple[Score, float]:
    """The score of the centres as a user gets them, and the smallest distance of two objects of a sentence."""
    score, closest = Score(), math.inf
    for sample, centres in zip(samples, predictor.centres_of(samples), strict=True):
        add_sentence(score, sample, centres)
        closest = min([closest, *(math.dist(a, b) for a, b in itertools.combinations(centres, 2))])
    return score, closest


def summary(score: Score, closest: float, sentences: int) -> dict[str, Any]:
    """Plain numbers: of all relations, by relation, and by number of objects."""
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
        "relations": parts.pop("all"),
        "by_relation": {name: part for name, part in parts.items() if not name.endswith("objects")},
        "by_objects": {name.split()[0]: part for name, part in parts.items() if name.endswith("objects")},
        "closest_centres": None if math.isinf(closest) else round(closest, 4),
        "wanted_distance": MIN_DISTANCE,
    }


def failures(score: Score) -> list[dict[str, str]]:
    """Every stated relation that the centres break, with its sentence."""
    return [
        {"sentence": sample.text, "stated": "{} {} {}".format(*_words(sample, number))}
        for sample, number in score.failures
    ]


def _words(sample: Sample, number: int) -> tuple[str, str, str]:
    a, relation, b = sample.relations[number]
    return sample.names[a], relation, sample.names[b]


def evaluate_file(path: str | Path, checkpoint: str | None = None, tokenizer: str | None = None) -> dict[str, Any]:
    """The summary, with "failures". UserError for a file that is missing, wrong, or states nothing."""
    samples = read_relation_sentences(path)
    score, closest = score_sentences(load_predictor(checkpoint, tokenizer), samples)
    if not score.stated:
        raise UserError(f"{path} states no relation; give JSON lines with words, objects and relations")
    return {**summary(score, closest, len(samples)), "failures": failures(score)}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; a user's mistake is one line and exit code 2."""
    parser = argparse.ArgumentParser(description="Score a layout predictor on sentences with stated relations.")
    parser.add_argument("sentences", help="JSON lines with words, objects and relations")
    parser.add_argument("--checkpoint", help="weights; default: the embedded predictor")
    parser.add_argument("--tokenizer", help="tokenizer.json of a .pth checkpoint")
    parser.add_argument("--out", help="also write the result as JSON")
    parser.add_argument("--failures", action="store_true", help="print the relations that are broken")
    arguments = parser.parse_args(argv)
    try:
        result = evaluate_file(arguments.sentences, arguments.checkpoint, arguments.tokenizer)
        if arguments.out:
            save_json(Path(arguments.out), result)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    broken = result.pop("failures")
    print(json.dumps(result, indent=2))
    if arguments.failures:
        print("\n".join(f"{item['stated']}: {item['sentence']}" for item in broken))
    return 0


if __name__ == "__main__":
    sys.exit(main())
