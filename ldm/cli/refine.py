"""Text to image with spatial-temporal attention: the objects of the prompt where the prompt says.

    python scripts/txt2img-refine.py --plms --prompt "The motorcycle is parking to the right of a bus."

Without a Stable Diffusion checkpoint in place it uses the small embedded model of emoji scenes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from ldm import boundary
from ldm.cli import common
from ldm.generation.settings import BLENDS, PRESET_NAMES

OUTDIR = Path("outputs/txt2img-refine")


def build_parser() -> common.Parser:
    """All flags; those of the published txt2img keep its names."""
    parser = common.Parser(__doc__)
    common.add_prompt_flags(parser)
    common.add_number_flags(parser, size="the model's own: 512, or 128 embedded")
    text = "images from as many seeds made together, of which the one with the least CLIP loss is kept (1)"
    parser.add_argument("--best_of", "--best-of", type=boundary.COUNT, metavar="N", help=text)
    common.add_layout_flags(parser)
    add = parser.add_argument_group("layout prediction").add_argument
    add("--all-nouns", action="store_true", help="control every noun, not only COCO's categories")
    common.add_output_flags(parser, OUTDIR)
    add = parser.add_argument_group("what else is written").add_argument
    add("--baseline", action="store_true", help="also the plain model's image, from the same seed")
    add("--save-steps", action="store_true", help="also the predicted image of every step")
    add("--save-rounds", action="store_true", help="also the image of every round, as final0.png and so on")
    common.add_sampling_flags(parser)
    add = parser.add_argument_group("the method").add_argument
    add("--preset", "--schedule", choices=PRESET_NAMES, help="how the weights come about (per-step)")
    add("--inner-steps", type=boundary.STEPS, metavar="N", help="gradient steps in a denoising step (per-step)")
    add("--lr", type=boundary.RATE, dest="learning_rate", metavar="RATE", help="learning rate of the weights")
    add("--rounds", type=boundary.STEPS, metavar="N", help="passes through the chain (published presets)")
    add(
        "--gradient-steps",
        type=boundary.STEPS,
        metavar="N",
        help="published presets: the gradient passes through the last N "
        "steps only, for less time and memory; the weights of earlier steps stay as they are (all)",
    )
    add("--blend", choices=BLENDS, help="attention that the local one is measured against (the preset's)")
    add("--share-overlaps", action="store_true", help="where regions overlap, share their weights out (they add up)")
    text = "less memory, more time (where the card has no room for less time)"
    add("--block-checkpointing", action=argparse.BooleanOptionalAction, help=text)
    text = "the loss looks at images of half the size: less memory, a gradient that is only near"
    add("--half-decode", action="store_true", help=text)
    common.add_model_flags(parser)
    common.add_diffusers_flags(parser)
    add = parser.add_argument_group("the models around it").add_argument
    add("--clip", metavar="NAME|FILE", help="the CLIP of the loss (ViT-B/32, or the embedded one)")
    add("--predictor", type=Path, metavar="FILE", help="weights of the layout predictor")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""

    def action(options: argparse.Namespace, progress: common.Progress) -> Iterator[str]:
        given = dict(vars(options))
        prompts = common.take_prompts(given)
        given["objects"] = common.take_objects(given)
        from ldm.generation.generate import GenerateSettings, outcomes

        command = common.command_line("txt2img-refine", arguments)
        yield from common.told_files(outcomes(GenerateSettings(prompts, command=command, **given), progress))

    return common.run_script(build_parser(), arguments, action)
