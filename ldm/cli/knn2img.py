"""Text to image by a retrieval-augmented model, with or without neighbors from a database.

python scripts/knn2img.py --prompt "a happy pineapple" --use_neighbors --knn 20 --database artbench-surrealism
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
    add = parser.add_argument_group("neighbors").add_argument
    add("--use_neighbors", action="store_true", help="add the prompt's nearest image patches to the context")
    add("--knn", type=boundary.COUNT, metavar="N", help="how many (10)")
    add("--database", metavar="NAME|DIR", help="published name or folder (artbench-surrealism)")
    add("--searcher", type=Path, metavar="DIR", help="trained by train_searcher.py (that of the database)")
    add("--clip_type", metavar="NAME|FILE", help="the CLIP of the embeddings (ViT-L/14)")
    add("--n_repeat", type=boundary.COUNT, metavar="N", help="times the prompt's embedding is in the context (1)")
    common.add_number_flags(parser, size="768")
    common.add_sampling_flags(parser, samplers=["plms"], scale="5")
    common.add_output_flags(parser, Path("outputs/txt2img-samples"))
    common.add_model_flags(parser, numbers=False)
    common.add_guard_flags(parser, asked=True)
    return parser


def action(options: argparse.Namespace, progress: common.Progress) -> Iterator[str]:
    """Draw; yields a line for each file."""
    given = dict(vars(options))
    prompts, guard = common.take_prompts(given), common.take_guard(given)
    from ldm.generation.retrieval import RetrievalSettings, draw_with_neighbors

    settings = RetrievalSettings(prompts=prompts, **given)
    yield from common.told_files(draw_with_neighbors(settings, guard, progress))


main = common.Script(build_parser, action)
