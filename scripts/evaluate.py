#!/usr/bin/env python
"""Scores images and makes the tables of the evaluation; see ldm/cli/evaluate.py, or --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from ldm.cli.common import leave_out_lightning
from ldm.cli.evaluate import main

if __name__ == "__main__":
    leave_out_lightning()
    sys.exit(main())
