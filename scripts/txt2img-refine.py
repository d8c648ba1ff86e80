#!/usr/bin/env python
"""Text to image with spatial-temporal attention: the objects of the prompt where the prompt says.

    python scripts/txt2img-refine.py --plms --prompt "The motorcycle is parking to the right of a bus."

Without a Stable Diffusion checkpoint in place it uses the small embedded model of emoji scenes.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from ldm.cli import common
from ldm.generation.settings import BLENDS, SCHEDULES, GenerateSettings

OUTDIR = Path("outputs/txt2img-refine")


def build_parser() -> common.Parser:
    """All flags; those of the published txt2img keep its names. Each sets the setting that its dest names."""
    parser = common.Parser(__doc__)
    common.add_prompt_flags(parser)
    add = parser.add_argument_group("layout, size and number").add_argument
    add("--layout", type=Path, metavar="JSON", help="objects and centers by hand, no prediction")
    add("--all-nouns", action="store_true", help="control every noun, not only COCO's categories")
    add("--H", type=int, dest="height", metavar="PX", help="height (the model's own by default: 512 or 64)")
    add("--W", type=int, dest="width", metavar="PX", help="width (the model's own by default: 512 or 64)")
    add("--n_samples", type=int, dest="samples", metavar="N", help="images made together (1)")
    add("--n_iter", type=int, dest="iterations", metavar="N", help="times every prompt is taken (1)")
    add("--seed", type=int, metavar="N", help="image i starts from seed + i (42)")
    add("--fixed_code", action="store_true", help="the same starting noise in every batch")

    common.add_output_flags(parser, OUTDIR)
    add = parser.add_argument_group("what else is written").add_argument
    add("--baseline", action="store_true", help="also the plain model's image, from the same seed")
    add("--save-steps", action="store_true", help="also the predicted image of every step")

    how = parser.add_argument_group("sampling (DDIM without a flag)")
    kind = how.add_mutually_exclusive_group().add_argument
    kind("--plms", dest="sampler", action="store_const", const="plms", help="PLMS, the published choice")
    kind("--dpm_solver", dest="sampler", action="store_const", const="dpm_solver", help="DPM-Solver")
    add = how.add_argument
    add("--ddim_steps", type=int, dest="steps", metavar="N", help="steps of any sampler, 1 to 1000 (50)")
    add("--ddim_eta", type=float, dest="eta", metavar="ETA", help="DDIM's noise, 0 to 1 (0)")
    add("--scale", type=float, help="guidance (7.5, or 5 for the embedded model)")

    add = parser.add_argument_group("the method").add_argument
    add("--schedule", choices=SCHEDULES, help="when the weights are optimized (per-step)")
    add("--inner-steps", type=int, metavar="N", help="gradient steps in a denoising step (per-step)")
    add("--lr", type=float, dest="learning_rate", metavar="RATE", help="learning rate of the weights")
    add("--rounds", type=int, metavar="N", help="passes through the chain (published schedules)")
    add(
        "--gradient-steps",
        type=int,
        metavar="N",
        help="published schedules: the gradient passes through the last N "
        "steps only, for less time and memory; the weights of earlier steps stay as they are (all)",
    )
    add("--blend", choices=BLENDS, help="attention that the local one is measured against (the schedule's)")
    add("--block-checkpointing", action="store_true", help="less memory, more time")
    add("--pack-weights", action="store_true", help="on a CPU: less time, a second copy of the weights")

    common.add_model_flags(parser)
    add = parser.add_argument_group("the models around it").add_argument
    add("--clip", metavar="NAME|FILE", help="the CLIP of the loss (ViT-B/32, or the embedded one)")
    add("--predictor", type=Path, metavar="FILE", help="weights of the layout predictor")
    return parser


def settings_from(options: argparse.Namespace, command: str) -> GenerateSettings:
    """The flags as settings. Raises UserError for a prompt file that cannot be used."""
    given = dict(vars(options))
    prompts = common.take_prompts(given)
    return GenerateSettings(prompts=prompts, command=command, **given)


def main(arguments: list[str] | None = None) -> int:
    """Run the script; the exit code is 0, 2 for a user's mistake, 130 for Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "scripts/txt2img-refine.py", *arguments])

    def action(options: argparse.Namespace, progress: common.Progress) -> Iterator[str]:
        settings = settings_from(options, command)
        from ldm.generation.generate import generate

        for outcome in generate(settings, progress):
            for kind, path in outcome.files.items():
                yield f"{kind}: {path}"

    return common.run_script(build_parser(), arguments, action)


if __name__ == "__main__":
    sys.exit(main())
