"""The published start: `cd layout_predictor/LayoutTransformer; python inference/inference_coco.py --sentence ...`."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    script = Path(__file__).resolve().parents[2] / "inference" / "inference_coco.py"
    runpy.run_path(str(script), run_name="__main__")
