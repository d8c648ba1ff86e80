#!/usr/bin/env python
"""Images of a file of prompts by several methods; see ldm/cli/run_prompts.py, or --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from ldm.cli import run_prompts
from ldm.cli.common import leave_out_lightning


def main(arguments: list[str] | None = None) -> int:
    """Runs the script; the exit code."""
    return run_prompts.main("vsr", arguments)


if __name__ == "__main__":
    leave_out_lightning()
    sys.exit(main())
