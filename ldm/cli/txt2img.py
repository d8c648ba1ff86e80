"""Text to image by the model alone, without spatial control.

    python scripts/txt2img.py --plms --prompt "a cat to the left of a dog"

Without a Stable Diffusion checkpoint in place it uses the small embedded model of emoji scenes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from ldm.cli import common

OUTDIR = Path("outputs/txt2img-samples")
# Where the published download puts the text-to-image model trained on LAION-400M.
LAION_CONFIG = Path("configs/latent-diffusion/txt2img-1p4B-eval.yaml")
LAION_CKPT = Path("models/ldm/text2img-large/model.ckpt")
LAION_OUTDIR = Path("outputs/txt2img-samples-laion400m")


def build_parser() -> common.Parser:
    """All flags; those of the published script keep its names and its defaults."""
    parser = common.Parser(__doc__)
    common.add_prompt_flags(parser)
    common.add_number_flags(parser, samples=3, iterations=2, size="the model's own: 512, or 128 embedded")
    common.add_sampling_flags(parser)
    common.add_output_flags(parser, OUTDIR)
    common.add_model_flags(parser)
    common.add_diffusers_flags(parser)
    parser.add_argument("--laion400m", action="store_true", default=False, help="the published LAION-400M model")
    common.add_guard_flags(parser)
    return parser


def action(options: argparse.Namespace, progress: common.Progress) -> Iterator[str]:
    """Draw; yields a line for each file."""
    given = dict(vars(options))
    prompts, guard = common.take_prompts(given), common.take_guard(given)
    from ldm.generation.generate import GenerateSettings, outcomes
    from ldm.paths import project_file

    if given.pop("laion400m"):
        given = {"config": project_file(LAION_CONFIG), "ckpt": project_file(LAION_CKPT), **given}
        given["outdir"] = LAION_OUTDIR if given["outdir"] == OUTDIR else given["outdir"]
    settings = GenerateSettings(prompts, preset=None, **given)
    yield from common.told_files(outcomes(settings, progress, guard=guard))


main = common.Script(build_parser, action)
