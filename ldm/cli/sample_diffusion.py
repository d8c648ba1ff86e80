"""Samples of an unconditional model: PNG files and one .npz for measures such as FID.

python scripts/sample_diffusion.py -r models/ldm/celeba256 -n 1000 -c 100 -e 1.0
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from ldm import boundary
from ldm.cli import common
from ldm.errors import UserError


def build_parser() -> common.Parser:
    """All flags, as published."""
    parser = common.Parser(__doc__)
    add = parser.add_argument
    add("-r", "--resume", type=Path, required=True, metavar="PATH", help="folder of a model or run, or a checkpoint")
    add("-n", "--n_samples", type=boundary.whole(1, 10**9), metavar="N", help="(50000)")
    add("-e", "--eta", type=boundary.FRACTION, help="noise of DDIM, 0 to 1 (1)")
    add("-v", "--vanilla_sample", action="store_true", help="all training steps instead of DDIM")
    add("-l", "--logdir", type=Path, metavar="DIR", help="where samples/ goes (the model's folder)")
    add("-c", "--custom_steps", type=boundary.STEPS, dest="steps", metavar="N", help="steps of DDIM (50)")
    add("--batch_size", type=boundary.COUNT, metavar="N", help="(10)")
    add("--seed", type=boundary.SEED, metavar="N", help="(42)")
    common.add_device_flags(parser)
    common.add_guard_flags(parser, asked=True)
    add("overrides", nargs="*", metavar="KEY=VALUE", help="config entries to replace")
    return parser


def action(options: argparse.Namespace, progress: common.Progress) -> Iterator[str]:
    """Sample; yields where the samples are."""
    given = dict(vars(options))
    overrides = tuple(given.pop("overrides", ()))
    for text in overrides:
        if "=" not in text:
            raise UserError(f"'{text}' is no config entry; write key=value, such as model.params.image_size=32")
    from ldm.generation.unconditional import SampleSettings, sample_folder

    guard = common.take_guard(given)
    yield f"samples: {sample_folder(SampleSettings(overrides=overrides, **given), guard, progress)}"


main = common.Script(build_parser, action)
