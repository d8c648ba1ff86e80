#!/usr/bin/env python
"""Samples of an unconditional model; the flags are in ldm/cli/sample_diffusion.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from ldm.cli.common import leave_out_lightning
from ldm.cli.sample_diffusion import main

if __name__ == "__main__":
    leave_out_lightning()
    sys.exit(main())
