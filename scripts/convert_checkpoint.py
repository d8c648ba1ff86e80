#!/usr/bin/env python
"""Conversion between CompVis checkpoints and folders of diffusers; the flags are in ldm/cli/convert_checkpoint.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from ldm.cli.convert_checkpoint import main

if __name__ == "__main__":
    sys.exit(main())
