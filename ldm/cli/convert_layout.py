"""Convert a layout file into our form, or into that of another program.

python scripts/convert_layout.py lmd-cache.json layout.json --layout-id "A cat and a dog"
python scripts/convert_layout.py layout.json boxes.json --to gligen

What is read: our layouts, LMD's boxes and caches, GLIGEN's phrases and boxes, COCO's annotations, 7Bench's rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from ldm.cli import common
from ldm.errors import UserError
from ldm.generation.settings import LAYOUT_FORMS


def build_parser() -> common.Parser:
    """What to convert into what."""
    parser = common.Parser(__doc__, argument_default=None)
    add = parser.add_argument
    add("source", type=Path, help="a layout file")
    add("target", type=Path, help="a new file")
    add("--to", choices=LAYOUT_FORMS, default="ours", help="(ours)")
    add("--layout-id", metavar="ID", help="of several layouts in the file")
    return parser


def action(options: argparse.Namespace, progress: common.Progress) -> Iterator[str]:
    """Convert; yields what was read and what was written."""
    from ldm.generation.layouts import read_layouts, write_layout

    if options.target.exists():
        raise UserError(f"{options.target} is there already; name a new file")
    file = read_layouts(options.source)
    write_layout(options.target, file.choose(None, options.layout_id), options.to)
    yield f"read: {options.source} ({file.kind})"
    yield f"written: {options.target}"


main = common.Script(build_parser, action)
