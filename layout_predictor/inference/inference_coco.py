"""Print the predicted centre of every object of a sentence.

python layout_predictor/inference/inference_coco.py --sentence "The silver bed was to the right of the couch."
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[2])
)  # run as a script from anywhere, installed or not

from layout_predictor.inference.predictor import load_predictor  # noqa: E402
from ldm.spacetime.layout import Layout  # noqa: E402
from ldm.util import UserError  # noqa: E402


def lines(layout: Layout) -> list[str]:
    """The published output: the sentence, then one line for each object."""
    positions = [f"{item.phrase} position: ({item.x:.3f}, {item.y:.3f})" for item in layout.objects]
    return [layout.prompt or "", *positions]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; a user's mistake is one line and exit code 2."""
    parser = argparse.ArgumentParser(description="Predict where the objects of a sentence go.")
    parser.add_argument("--sentence", required=True)
    parser.add_argument(
        "--checkpoint", help="weights as train.py exports them; default: the embedded predictor"
    )
    parser.add_argument("--all_nouns", "--all-nouns", action="store_true", help="every noun is an object")
    parser.add_argument(
        "--sample", action="store_true", help="draw a mixture component instead of the likeliest"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of --sample")
    arguments = parser.parse_args(argv)
    try:
        layout = load_predictor(arguments.checkpoint).layout(
            arguments.sentence, all_nouns=arguments.all_nouns, sample=arguments.sample, seed=arguments.seed
        )
        if not layout.objects:
            raise UserError("no object was found in the sentence; name one of COCO's, or give --all_nouns")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines(layout)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
