#!/usr/bin/env python
"""The nearest-neighbor index of a retrieval database; the flags are in ldm/cli/train_searcher.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from ldm.cli.train_searcher import main

if __name__ == "__main__":
    sys.exit(main())
