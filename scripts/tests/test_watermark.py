#!/usr/bin/env python
"""The invisible watermark of an image; the flags are in ldm/cli/read_watermark.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # also from a checkout that is not installed

from ldm.cli.read_watermark import main

if __name__ == "__main__":
    sys.exit(main())
