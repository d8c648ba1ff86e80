"""Train the layout predictor.

python layout_predictor/train.py --cfg_path configs/emoji/layout.yaml [--checkpoint saved/.../last.pth]
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT.parent))  # run as a script from anywhere, installed or not

from layout_predictor.LayoutTransformer.data.dataset import read_relation_sentences  # noqa: E402
from layout_predictor.LayoutTransformer.data.tokenizer import SentenceTokenizer  # noqa: E402
from layout_predictor.LayoutTransformer.model import LayoutConfig, build_model  # noqa: E402
from layout_predictor.LayoutTransformer.training.checkpoint import load_exported  # noqa: E402
from layout_predictor.LayoutTransformer.training.evaluate import Score, evaluate  # noqa: E402
from layout_predictor.LayoutTransformer.training.trainer import SECTIONS, Trainer  # noqa: E402
from ldm.util import UserError, load_config  # noqa: E402

logger = logging.getLogger(__name__)


def read_config(path: str | Path, default: str | Path) -> dict[str, Any]:
    """The configuration: top-level sections of `path` replace those of `default`."""
    merged = {}
    for source in (default, path):
        loaded = OmegaConf.to_container(load_config(source), resolve=True)
        if not isinstance(loaded, Mapping):
            raise UserError(f"{source} is not a mapping of sections")
        merged.update({str(name): section for name, section in loaded.items()})
    missing = [section for section in SECTIONS if not isinstance(merged.get(section), Mapping)]
    if missing:
        raise UserError(f"{path}: no section {', '.join(missing)}, and {default} has none either")
    return merged


def run(arguments: argparse.Namespace) -> Score:
    """Train, or with --eval_only evaluate."""
    config = read_config(arguments.cfg_path, arguments.default_cfg_path)
    try:
        tokenizer_path = Path(config["DATA"]["TOKENIZER"])
        model_section = dict(config["MODEL"])
        if not tokenizer_path.is_absolute():
            tokenizer_path = ROOT.parent / tokenizer_path
        tokenizer = SentenceTokenizer.from_file(tokenizer_path)
        model_config = LayoutConfig.from_mapping({"vocab_size": len(tokenizer), **model_section})
        model = build_model(model_config, seed=int(config["TRAINING"]["SEED"]))
        trainer = Trainer(config, model, tokenizer)
    except KeyError as error:
        raise UserError(f"{arguments.cfg_path}: a section has no key {error}") from None
    log_to_file(trainer.output)
    if arguments.checkpoint and str(arguments.checkpoint).endswith(".safetensors"):
        trainer.model, trainer.tokenizer = load_exported(arguments.checkpoint)
        if not arguments.eval_only:
            raise UserError("a .safetensors file has no optimiser state; train from a .pth checkpoint")
    elif arguments.checkpoint:
        trainer.resume(arguments.checkpoint)
    if not arguments.eval_only:
        return trainer.train()
    if arguments.sentences:
        samples = read_relation_sentences(arguments.sentences)
        return evaluate(trainer.model, trainer.tokenizer, samples)
    return trainer.validate()


def log_to_file(folder: Path) -> None:
    """Also write the log into the output folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the output folder {folder} cannot be made: {error.strerror}") from None
    handler = logging.FileHandler(folder / "train.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logging.getLogger().addHandler(handler)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train the layout predictor.")
    parser.add_argument("--cfg_path", required=True, help="configuration; its sections replace the default's")
    parser.add_argument("--default_cfg_path", default=str(ROOT / "configs" / "default.yaml"))
    parser.add_argument("--checkpoint", help="checkpoint to resume from, or to evaluate")
    parser.add_argument("--eval_only", action="store_true", help="no training: print the validation scores")
    parser.add_argument(
        "--sentences", help="with --eval_only: JSON lines of relation sentences to score instead"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; a user's mistake is one line and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        score = run(parse(argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(score.table())
    print(f"relation accuracy {score.relation_accuracy:.4f}, centre distance {score.centre_distance:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
