"""Read the invisible watermark of an image that txt2img.py made.

python scripts/tests/test_watermark.py outputs/txt2img-samples/samples/00000.png
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

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


main = common.Script(build_parser, action)
