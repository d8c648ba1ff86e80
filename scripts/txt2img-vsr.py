#!/usr/bin/env python
"""Images of captions of VSR (Liu et al., 2023), a relation each, for the evaluation.

python scripts/txt2img-vsr.py --prompts FILE --methods base,per-step --seeds 42 43 --outdir DIR
torchrun --nproc-per-node 4 scripts/txt2img-vsr.py ...      shared among four processes
python scripts/evaluate.py score --run DIR                 what the images show
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from ldm.evaluation import front


def main(arguments: list[str] | None = None) -> int:
    """Runs the script; the exit code."""
    return front.main("vsr", "captions of VSR (Liu et al., 2023), a relation each", arguments)


if __name__ == "__main__":
    sys.exit(main())
