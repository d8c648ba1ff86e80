#!/usr/bin/env python
"""Conversion between our layout files and other programs'; the flags are in ldm/cli/convert_layout.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from ldm.cli.convert_layout import main

if __name__ == "__main__":
    sys.exit(main())
