#!/usr/bin/env python
"""Text to image by the model alone; the flags are in ldm/cli/txt2img.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from ldm.cli.common import leave_out_lightning
from ldm.cli.txt2img import main

if __name__ == "__main__":
    leave_out_lightning()
    sys.exit(main())
