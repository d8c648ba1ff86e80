"""Image to image: variations of an image towards a prompt.

    python scripts/img2img.py --init-img sketch.png --strength 0.6 --prompt "a cat to the left of a dog"

Without a Stable Diffusion checkpoint in place it uses the small embedded model of emoji scenes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from ldm import boundary
from ldm.cli import common


def build_parser() -> common.Parser:
    """All flags; those of the published script keep its names and its defaults."""
    parser = common.Parser(__doc__)
    common.add_prompt_flags(parser)
    add = parser.add_argument_group("the image").add_argument
    add("--init-img", type=Path, required=True, metavar="FILE", help="the image to begin from")
    add("--strength", type=boundary.FRACTION, default=0.75, help="0 keeps the image, 1 keeps nothing of it (0.75)")
    common.add_number_flags(parser, samples=2)
    common.add_layout_flags(parser)
    common.add_preset_flags(parser, "per-step with a layout by hand, else the plain model")
    common.add_sampling_flags(parser, samplers=["plms"], scale="5")  # PLMS is refused, as published
    common.add_output_flags(parser, Path("outputs/img2img-samples"))
    common.add_model_flags(parser)
    common.add_diffusers_flags(parser)
    common.add_guard_flags(parser, asked=True)
    parser.set_defaults(scale=5.0)
    return parser


def action(options: argparse.Namespace, progress: common.Progress) -> Iterator[str]:
    """Draw; yields a line for each file."""
    given = dict(vars(options))
    prompts, guard = common.take_prompts(given), common.take_guard(given)
    init, strength = given.pop("init_img"), given.pop("strength")
    from ldm.generation.generate import GenerateSettings
    from ldm.generation.img2img import redraw

    given["objects"] = common.take_objects(given)
    if "preset" not in given and "layout" not in given and not given["objects"]:
        given["preset"] = None
    settings = GenerateSettings(prompts, **given)
    yield from common.told_files(redraw(settings, init, strength, guard, progress))


main = common.Script(build_parser, action)
