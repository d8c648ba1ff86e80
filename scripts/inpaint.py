#!/usr/bin/env python
"""Inpainting of a folder of images and masks; the flags are in ldm/cli/inpaint.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from ldm.cli.common import leave_out_lightning
from ldm.cli.inpaint import main

if __name__ == "__main__":
    leave_out_lightning()
    sys.exit(main())
