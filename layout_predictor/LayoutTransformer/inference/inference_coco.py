"""The published start: `cd layout_predictor/LayoutTransformer; python inference/inference_coco.py --sentence ...`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[3])

from layout_predictor.inference.inference_coco import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
