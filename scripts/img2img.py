#!/usr/bin/env python
"""Image to image: variations of an image towards a prompt.

    python scripts/img2img.py --init-img sketch.png --strength 0.6 --prompt "a cat to the left of a dog"

Without a Stable Diffusion checkpoint in place it uses the small embedded model of emoji scenes.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from ldm.cli import common

OUTDIR = Path("outputs/img2img-samples")


def build_parser() -> common.Parser:
    """All flags; those of the published script keep its names and its defaults."""
    parser = common.Parser(__doc__)
    common.add_prompt_flags(parser)
    add = parser.add_argument_group("the image").add_argument
    add("--init-img", type=Path, required=True, metavar="FILE", help="the image to begin from")
    add("--strength", type=float, default=0.75, help="0 keeps the image, 1 keeps nothing of it (0.75)")
    add("--n_samples", type=int, dest="samples", default=2, metavar="N", help="images made together (2)")
    add("--n_iter", type=int, dest="iterations", metavar="N", help="times every prompt is taken (1)")
    add("--seed", type=int, metavar="N", help="image i starts from seed + i (42)")
    add("--fixed_code", action="store_true", help="the same noise in every batch")
    add = parser.add_argument_group("sampling").add_argument
    add("--plms", dest="sampler", action="store_const", const="plms", help="refused: DDIM only, as published")
    add("--ddim_steps", type=int, dest="steps", metavar="N", help="steps of the whole chain (50)")
    add("--ddim_eta", type=float, dest="eta", metavar="ETA", help="DDIM's noise, 0 to 1 (0)")
    add("--scale", type=float, default=5.0, help="guidance (5)")
    common.add_output_flags(parser, OUTDIR)
    common.add_model_flags(parser)
    common.add_guard_flags(parser)
    return parser


def action(options: argparse.Namespace, progress: common.Progress) -> Iterator[str]:
    """Draw; yields a line for each file."""
    given = dict(vars(options))
    prompts = common.take_prompts(given)
    guard = common.take_guard(given)
    init, strength = given.pop("init_img"), given.pop("strength")
    from ldm.cli import img2img, txt2img
    from ldm.generation.settings import GenerateSettings

    settings = GenerateSettings(prompts=prompts, **given)
    yield from txt2img.told_files(img2img.redraw(settings, init, strength, guard, progress, logging.warning))


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return common.run_script(build_parser(), arguments, action)


if __name__ == "__main__":
    sys.exit(main())
