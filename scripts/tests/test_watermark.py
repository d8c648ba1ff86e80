#!/usr/bin/env python
"""Read the invisible watermark of an image that txt2img.py made.

python scripts/tests/test_watermark.py outputs/txt2img-samples/samples/00000.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # also from a checkout that is not installed

from ldm.cli import common


def build_parser() -> common.Parser:
    """The one argument."""
    parser = common.Parser(__doc__)
    parser.add_argument("image", type=Path, help="image file")
    return parser


def action(options: argparse.Namespace, progress: common.Progress) -> Iterator[str]:
    """Read; yields the mark."""
    from ldm.generation.safety import read_watermark

    yield f"watermark: {read_watermark(options.image) or 'none'}"


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return common.run_script(build_parser(), arguments, action)


if __name__ == "__main__":
    sys.exit(main())
