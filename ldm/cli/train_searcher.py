"""Build the nearest-neighbor index of a retrieval database, for knn2img.py.

python scripts/train_searcher.py --database data/rdm/retrieval_databases/openimages
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
    add = parser.add_argument
    database = Path("data/rdm/retrieval_databases/openimages")
    add("-d", "--database", type=Path, default=database, metavar="DIR", help=f"({database})")
    add("-t", "--target_path", type=Path, metavar="DIR", help="where the index goes (data/rdm/searchers/NAME)")
    add("-k", "--knn", type=boundary.COUNT, default=20, metavar="N", help="neighbors that will be asked for (20)")
    add("--backend", choices=("scann", "faiss"), default=None, help="(scann where it is installed, else faiss)")
    return parser


def action(options: argparse.Namespace, progress: common.Progress) -> Iterator[str]:
    """Build; yields where the index is."""
    from ldm.generation import neighbors

    target = getattr(options, "target_path", neighbors.SEARCHER_ROOT / options.database.name)
    yield f"searcher: {neighbors.train_searcher(options.database, target, options.knn, options.backend)}"


main = common.Script(build_parser, action)
