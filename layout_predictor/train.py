"""Train the layout predictor.

python layout_predictor/train.py --cfg_path layout_predictor/configs/coco/coco_seq2seq_v9_ablation_4.yaml
python layout_predictor/train.py --cfg_path configs/emoji/layout.yaml --resume saved/emoji_layout/last.pth
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT.parent))  # run as a script from anywhere, installed or not

from layout_predictor.LayoutTransformer.training import LAST, is_main_process  # noqa: E402
from ldm import boundary  # noqa: E402


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = boundary.Parser(description="Train the layout predictor.")
    text = "configuration, as seen from here or from layout_predictor/; its sections replace the default's"
    parser.add_argument("--cfg_path", required=True, type=_config, help=text)
    parser.add_argument("--default_cfg_path", type=_config, default=str(ROOT / "configs" / "default.yaml"))
    parser.add_argument("--checkpoint", "--resume", metavar="FILE", help="checkpoint to resume from, or to evaluate")
    parser.add_argument("--init_from", help="checkpoint to take the weights of, and nothing else")
    parser.add_argument("--eval_only", action="store_true", help="no training: print the validation scores")
    parser.add_argument("--sentences", help="with --eval_only: relation sentences (.jsonl, .pkl) to score instead")
    parser.add_argument("--relations", help="'generated' for sentences of the grammar, or a file; else as configured")
    parser.add_argument("--output_dir", metavar="DIR", help="folder of the run, instead of OUTPUT.OUTPUT_DIR")
    parser.add_argument("--devices", type=boundary.THREADS, help="processes, instead of TRAINING.DEVICES")
    parser.add_argument("--accelerator", help="cpu, cuda, mps or auto, instead of TRAINING.ACCELERATOR")
    return parser.parse_args(argv)


def _config(path: str) -> str:
    """A configuration's path; where there is none from here, as the published commands see it."""
    return path if Path(path).exists() or not (ROOT / path).exists() else str(ROOT / path)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; an error is one line and exit code 2, an interrupt 130."""

    def action() -> None:
        arguments = parse(argv)
        boundary.log_lines(logging.INFO if is_main_process() else logging.ERROR, "%(asctime)s %(message)s")
        from layout_predictor.LayoutTransformer.training.run import run  # seconds, which --help need not wait for

        score = run(arguments)
        if is_main_process():
            print(score.table())
            print(f"relation accuracy {score.relation_accuracy:.4f}, center distance {score.center_distance:.4f}")

    going_on = f"interrupted; --resume with {LAST} of the output folder goes on, where it has one"
    return boundary.run(action, lambda: going_on, tell=is_main_process())


if __name__ == "__main__":
    sys.exit(main())
