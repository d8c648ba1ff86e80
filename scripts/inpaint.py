#!/usr/bin/env python
"""Inpainting: every pair dog.png, dog_mask.png of a folder, painted anew where the mask is white.

    python scripts/inpaint.py --indir data/inpainting_examples --outdir outputs/inpainting

With models/ldm/inpainting_big/last.ckpt in place as published; else by the text-to-image model and --prompt.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from ldm.cli import common


def build_parser() -> common.Parser:
    """All flags; --indir, --outdir and --steps as published."""
    parser = common.Parser(__doc__)
    add = parser.add_argument
    add("--indir", type=Path, required=True, metavar="DIR", help="holds the pairs of images and masks")
    add("--outdir", type=Path, required=True, metavar="DIR", help="where the results go, under the images' names")
    add("--steps", type=int, metavar="N", help="of DDIM (50)")
    add("--seed", type=int, metavar="N", help="image i starts from seed + i (42)")
    add("--prompt", help="for text-to-image models: what the painted place should show")
    add("--scale", type=float, help="for text-to-image models: guidance (7.5, or 5 for the embedded model)")
    add("--config", type=Path, metavar="YAML", help="of the model")
    add("--ckpt", type=Path, metavar="FILE", help=".ckpt or .safetensors")
    common.add_device_flags(parser)
    common.add_asked_guard_flags(parser)
    return parser


def action(options: argparse.Namespace, progress: common.Progress) -> Iterator[str]:
    """Paint; yields a line for each image."""
    from ldm.cli import inpaint

    given = dict(vars(options))
    guard = common.take_guard(given)
    for path in inpaint.inpaint_folder(inpaint.InpaintSettings(**given), guard, progress, logging.warning):
        yield f"image: {path}"


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return common.run_script(build_parser(), arguments, action)


if __name__ == "__main__":
    sys.exit(main())
