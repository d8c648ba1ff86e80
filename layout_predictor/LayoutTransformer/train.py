"""The published start: `cd layout_predictor/LayoutTransformer; python train.py --cfg_path ...`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

from layout_predictor.train import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
