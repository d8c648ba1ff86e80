"""Train the small tokenizer of the embedded predictor on the grammar's sentences.

python layout_predictor/make_tokenizer.py --out configs/emoji/layout_tokenizer.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script from anywhere, installed or not

from ldm import boundary  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; an error is one line and exit code 2, an interrupt 130."""
    parser = boundary.Parser(description="Train the layout predictor's small tokenizer.")
    parser.add_argument("--out", required=True, help="tokenizer.json to write")
    parser.add_argument("--vocab_size", type=boundary.whole(300, 1_000_000), default=2048)
    parser.add_argument("--sentences", type=boundary.COUNT, default=30_000)
    parser.add_argument("--seed", type=boundary.SEED, default=77, help="series of the grammar")
    return boundary.run(lambda: make(parser.parse_args(argv)))


def make(arguments: argparse.Namespace) -> None:
    """Train the tokenizer and write it."""
    from layout_predictor.LayoutTransformer.data.grammar import generate  # seconds, which --help need not wait for
    from layout_predictor.LayoutTransformer.data.tokenizer import train_tokenizer
    from ldm.files import write_text

    texts = (generate(arguments.seed, i).text for i in range(arguments.sentences))
    tokenizer = train_tokenizer(texts, arguments.vocab_size)
    write_text(arguments.out, tokenizer.to_json())
    print(f"{len(tokenizer)} tokens in {arguments.out}")


if __name__ == "__main__":
    sys.exit(main())
