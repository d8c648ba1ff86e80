#!/usr/bin/env python
"""Images of captions of MS-COCO, for the evaluation.

python scripts/txt2img-mscoco.py --prompts FILE --methods base,per-step --seeds 42 43 --outdir DIR
torchrun --nproc-per-node 4 scripts/txt2img-mscoco.py ...      shared among four processes
python scripts/evaluate.py score --run DIR                 what the images show
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from ldm.evaluation import front


def main(arguments: list[str] | None = None) -> int:
    """Runs the script; the exit code."""
    return front.main("mscoco", "captions of MS-COCO", arguments)


if __name__ == "__main__":
    sys.exit(main())
