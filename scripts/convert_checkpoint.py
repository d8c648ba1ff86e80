#!/usr/bin/env python
"""Convert a model between CompVis checkpoints (.ckpt, .safetensors) and the folders of diffusers.

python scripts/convert_checkpoint.py model.ckpt model.safetensors --half
python scripts/convert_checkpoint.py model.ckpt my-diffusers-folder
python scripts/convert_checkpoint.py my-diffusers-folder model.safetensors
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from ldm.cli import common


def build_parser() -> common.Parser:
    """What to convert into what."""
    parser = common.Parser(__doc__)
    add = parser.add_argument
    add("source", type=Path, help="checkpoint file or diffusers folder")
    add("target", type=Path, help="file ending in .ckpt or .safetensors, or a new folder")
    add(
        "--config",
        type=Path,
        default=None,
        metavar="YAML",
        help="of the model (a checkpoint: Stable Diffusion v1's; a folder: derived and written beside the target)",
    )
    add("--half", action="store_true", default=False, help="store half precision")
    return parser


def action(options: argparse.Namespace, progress: common.Progress) -> Iterator[str]:
    """Convert; yields what was written."""
    from ldm.convert.convert import convert
    from ldm.paths import SD_CONFIG, project_file

    written = convert(options.source, options.target, options.config, options.half, project_file(SD_CONFIG))
    for path in written:
        yield f"written: {path}"


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return common.run_script(build_parser(), arguments, action)


if __name__ == "__main__":
    sys.exit(main())
