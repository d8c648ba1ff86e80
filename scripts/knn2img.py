#!/usr/bin/env python
"""Text to image by a retrieval-augmented model, with or without neighbors from a database.

python scripts/knn2img.py --prompt "a happy pineapple" --use_neighbors --knn 20 --database artbench-surrealism
"""

from __future__ import annotations

import argparse
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
    add = parser.add_argument_group("neighbors").add_argument
    add("--use_neighbors", action="store_true", help="add the prompt's nearest image patches to the context")
    add("--knn", type=int, metavar="N", help="how many (10)")
    add("--database", metavar="NAME|DIR", help="published name or folder (artbench-surrealism)")
    add("--searcher", type=Path, metavar="DIR", help="trained by train_searcher.py (that of the database)")
    add("--clip_type", metavar="NAME|FILE", help="the CLIP of the embeddings (ViT-L/14)")
    add("--n_repeat", type=int, metavar="N", help="times the prompt's embedding is in the context (1)")
    add = parser.add_argument_group("size, number and sampling").add_argument
    add("--H", type=int, dest="height", metavar="PX", help="(768)")
    add("--W", type=int, dest="width", metavar="PX", help="(768)")
    add("--n_samples", type=int, dest="samples", metavar="N", help="images made together (1)")
    add("--n_iter", type=int, dest="iterations", metavar="N", help="times every prompt is taken (1)")
    add("--seed", type=int, metavar="N", help="image i starts from seed + i (42)")
    add("--plms", dest="sampler", action="store_const", const="plms", help="PLMS instead of DDIM")
    add("--ddim_steps", type=int, dest="steps", metavar="N", help="(50)")
    add("--ddim_eta", type=float, dest="eta", metavar="ETA", help="(0)")
    add("--scale", type=float, help="guidance (5)")
    common.add_output_flags(parser, OUTDIR)
    add = parser.add_argument_group("the model").add_argument
    add("--config", type=Path, metavar="YAML", help="of the diffusion model")
    add("--ckpt", type=Path, metavar="FILE", help=".ckpt or .safetensors")
    common.add_device_flags(parser)
    common.add_guard_flags(parser)
    return parser


def action(options: argparse.Namespace, progress: common.Progress) -> Iterator[str]:
    """Draw; yields a line for each file."""
    given = dict(vars(options))
    prompts = common.take_prompts(given)
    guard = common.take_guard(given)
    from ldm.cli import knn2img

    settings = knn2img.RetrievalSettings(prompts=prompts, **given)
    knn2img.check(settings)
    for path in knn2img.draw_with_neighbors(settings, guard, progress):
        yield f"{'grid' if path.name.startswith('grid-') else 'image'}: {path}"


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return common.run_script(build_parser(), arguments, action)


if __name__ == "__main__":
    sys.exit(main())
