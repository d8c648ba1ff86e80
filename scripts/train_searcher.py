#!/usr/bin/env python
"""Build the nearest-neighbor index of a retrieval database, for knn2img.py.

python scripts/train_searcher.py --database data/rdm/retrieval_databases/openimages
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from ldm.cli import common


def build_parser() -> common.Parser:
    """All flags; those of the published script keep its names and its defaults."""
    parser = common.Parser(__doc__)
    add = parser.add_argument
    database = Path("data/rdm/retrieval_databases/openimages")
    add("-d", "--database", type=Path, default=database, metavar="DIR", help=f"({database})")
    add("-t", "--target_path", type=Path, metavar="DIR", help="where the index goes (data/rdm/searchers/NAME)")
    add("-k", "--knn", type=int, default=20, metavar="N", help="neighbors that will be asked for (20)")
    add("--backend", choices=("scann", "faiss"), help="(scann where it is installed, else faiss)")
    return parser


def action(options: argparse.Namespace, progress: common.Progress) -> Iterator[str]:
    """Build; yields where the index is."""
    from ldm.cli import neighbors

    target = getattr(options, "target_path", neighbors.SEARCHER_ROOT / options.database.name)
    path = neighbors.train_searcher(options.database, target, options.knn, getattr(options, "backend", None))
    yield f"searcher: {path}"


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return common.run_script(build_parser(), arguments, action)


if __name__ == "__main__":
    sys.exit(main())
