"""Train the small tokenizer of the embedded predictor on the grammar's sentences.

python layout_predictor/make_tokenizer.py --out configs/emoji/layout_tokenizer.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script from anywhere, installed or not

from layout_predictor.LayoutTransformer.data.grammar import generate  # noqa: E402
from layout_predictor.LayoutTransformer.data.tokenizer import train_tokenizer  # noqa: E402
from ldm.util import atomic_write  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Train the layout predictor's small tokenizer.")
    parser.add_argument("--out", required=True, help="tokenizer.json to write")
    parser.add_argument("--vocab_size", type=int, default=2048)
    parser.add_argument("--sentences", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=77, help="series of the grammar")
    arguments = parser.parse_args(argv)
    texts = (generate(arguments.seed, i).text for i in range(arguments.sentences))
    tokenizer = train_tokenizer(texts, arguments.vocab_size)
    with atomic_write(arguments.out) as temporary:
        temporary.write_text(tokenizer.to_json(), encoding="utf-8")
    print(f"{len(tokenizer)} tokens in {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
