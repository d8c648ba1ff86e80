"""Inpainting: every pair dog.png, dog_mask.png of a folder, painted anew where the mask is white.

    python scripts/inpaint.py --indir data/inpainting_examples --outdir outputs/inpainting

With models/ldm/inpainting_big/last.ckpt in place as published; else by the text-to-image model and --prompt.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from ldm import boundary
from ldm.cli import common


def build_parser() -> common.Parser:
    """All flags; --indir, --outdir and --steps as published."""
    parser = common.Parser(__doc__)
    add = parser.add_argument
    add("--indir", type=Path, required=True, metavar="DIR", help="holds the pairs of images and masks")
    add("--outdir", type=Path, required=True, metavar="DIR", help="where the results go, under the images' names")
    add("--steps", type=boundary.STEPS, metavar="N", help="of DDIM (50)")
    add("--seed", type=boundary.SEED, metavar="N", help="image i starts from seed + i (42)")
    add("--prompt", type=boundary.text, help="for text-to-image models: what the painted place should show")
    add("--scale", type=boundary.GUIDANCE, help="for text-to-image models: guidance (7.5, or 5 for the embedded model)")
    add("--negative_prompt", type=boundary.text, metavar="TEXT", help="for text-to-image models: what it should not")
    common.add_layout_flags(parser)
    common.add_preset_flags(parser, "per-step")
    common.add_model_flags(parser, numbers=False)
    common.add_diffusers_flags(parser)
    common.add_guard_flags(parser, asked=True)
    return parser


def action(options: argparse.Namespace, progress: common.Progress) -> Iterator[str]:
    """Paint; yields a line for each image."""
    from ldm.generation.inpaint import InpaintSettings, inpaint_folder

    given = dict(vars(options))
    guard = common.take_guard(given)
    given["objects"] = common.take_objects(given)
    for path in inpaint_folder(InpaintSettings(**given), guard, progress):
        yield f"image: {path}"


main = common.Script(build_parser, action)
