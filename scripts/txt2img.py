#!/usr/bin/env python
"""Text to image by the model alone, without spatial control.

    python scripts/txt2img.py --plms --prompt "a cat to the left of a dog"

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

OUTDIR = Path("outputs/txt2img-samples")


def build_parser() -> common.Parser:
    """All flags; those of the published script keep its names and its defaults."""
    parser = common.Parser(__doc__)
    common.add_prompt_flags(parser)
    add = parser.add_argument_group("size and number").add_argument
    add("--H", type=int, dest="height", metavar="PX", help="height (the model's own: 512, 64 embedded)")
    add("--W", type=int, dest="width", metavar="PX", help="width (the model's own: 512, 64 embedded)")
    add("--n_samples", type=int, dest="samples", default=3, metavar="N", help="images made together (3)")
    add("--n_iter", type=int, dest="iterations", default=2, metavar="N", help="times every prompt is taken (2)")
    add("--seed", type=int, metavar="N", help="image i starts from seed + i (42)")
    add("--fixed_code", action="store_true", help="the same starting noise in every batch")
    how = parser.add_argument_group("sampling (DDIM without a flag)")
    kind = how.add_mutually_exclusive_group().add_argument
    kind("--plms", dest="sampler", action="store_const", const="plms", help="PLMS")
    kind("--dpm_solver", dest="sampler", action="store_const", const="dpm_solver", help="DPM-Solver")
    how.add_argument("--ddim_steps", type=int, dest="steps", metavar="N", help="steps of any sampler (50)")
    how.add_argument("--ddim_eta", type=float, dest="eta", metavar="ETA", help="DDIM's noise, 0 to 1 (0)")
    how.add_argument("--scale", type=float, help="guidance (7.5, or 5 for the embedded model)")
    common.add_output_flags(parser, OUTDIR)
    common.add_model_flags(parser)
    parser.add_argument("--laion400m", action="store_true", default=False, help="the published LAION-400M model")
    common.add_guard_flags(parser)
    return parser


def action(options: argparse.Namespace, progress: common.Progress) -> Iterator[str]:
    """Draw; yields a line for each file."""
    given = dict(vars(options))
    prompts = common.take_prompts(given)
    guard = common.take_guard(given)
    laion = given.pop("laion400m")
    from ldm.cli import txt2img
    from ldm.generation.settings import GenerateSettings
    from ldm.paths import project_file

    if laion:
        given.setdefault("config", project_file(txt2img.LAION_CONFIG))
        given.setdefault("ckpt", project_file(txt2img.LAION_CKPT))
        given["outdir"] = txt2img.LAION_OUTDIR if given["outdir"] == OUTDIR else given["outdir"]
    settings = GenerateSettings(prompts=prompts, **given)
    yield from txt2img.told_files(txt2img.draw(settings, guard, progress, logging.warning))


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return common.run_script(build_parser(), arguments, action)


if __name__ == "__main__":
    sys.exit(main())
