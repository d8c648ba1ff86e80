"""The published start: `cd layout_predictor/LayoutTransformer; python train.py --cfg_path ...`."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "train.py"), run_name="__main__")
