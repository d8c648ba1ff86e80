"""Convert a model between CompVis checkpoints (.ckpt, .safetensors) and the folders of diffusers.

python scripts/convert_checkpoint.py model.ckpt model.safetensors --half
python scripts/convert_checkpoint.py model.ckpt my-diffusers-folder
python scripts/convert_checkpoint.py my-diffusers-folder model.safetensors
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from ldm.cli import common


def build_parser() -> common.Parser:
    """What to convert into what."""
    parser = common.Parser(__doc__, argument_default=None)
    add = parser.add_argument
    add("source", type=Path, help="checkpoint file or diffusers folder")
    add("target", type=Path, help="file ending in .ckpt or .safetensors, or a new folder")
    what = "of the model (a checkpoint: Stable Diffusion v1's; a folder: derived and written beside the target)"
    add("--config", type=Path, metavar="YAML", help=what)
    add("--half", action="store_true", help="store half precision")
    return parser


def action(options: argparse.Namespace, progress: common.Progress) -> Iterator[str]:
    """Convert; yields what was written."""
    from ldm.convert.convert import convert
    from ldm.paths import SD_CONFIG, project_file

    written = convert(options.source, options.target, options.config, options.half, project_file(SD_CONFIG))
    for path in written:
        yield f"written: {path}"


main = common.Script(build_parser, action)
