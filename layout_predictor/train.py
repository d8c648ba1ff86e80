"""Train the layout predictor.

python layout_predictor/train.py --cfg_path layout_predictor/configs/coco/coco_seq2seq_v9_ablation_4.yaml
python layout_predictor/train.py --cfg_path configs/emoji/layout.yaml --checkpoint saved/emoji_layout/last.pth
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT.parent))  # run as a script from anywhere, installed or not

from layout_predictor.LayoutTransformer.data.relations import read_relation_sentences  # noqa: E402
from layout_predictor.LayoutTransformer.data.tokenizer import SentenceTokenizer  # noqa: E402
from layout_predictor.LayoutTransformer.model import LayoutConfig, LayoutModel, build_model  # noqa: E402
from layout_predictor.LayoutTransformer.model.names import load_published  # noqa: E402
from layout_predictor.LayoutTransformer.model.pretrained import load_pretrained_encoder  # noqa: E402
from layout_predictor.LayoutTransformer.training.checkpoint import load_exported, load_training  # noqa: E402
from layout_predictor.LayoutTransformer.training.config import Settings, read_config  # noqa: E402
from layout_predictor.LayoutTransformer.training.evaluate import Score, evaluate  # noqa: E402
from layout_predictor.LayoutTransformer.training.processes import Processes, is_main_process  # noqa: E402
from layout_predictor.LayoutTransformer.training.trainer import LAST, Trainer  # noqa: E402
from ldm.util import UserError  # noqa: E402

logger = logging.getLogger(__name__)


def run(arguments: argparse.Namespace) -> Score:
    """Train, or with --eval_only evaluate."""
    settings = read_config(arguments.cfg_path, arguments.default_cfg_path).with_options(
        relations=arguments.relations, devices=arguments.devices, accelerator=arguments.accelerator
    )
    exported = str(arguments.checkpoint or "").endswith(".safetensors")
    if exported and not arguments.eval_only:
        raise UserError("a .safetensors file has no optimiser state; train from a .pth checkpoint")
    if arguments.sentences:
        if not arguments.eval_only:
            raise UserError("--sentences is scored with --eval_only; it is not trained on")
        return score_sentences(settings, arguments.checkpoint, arguments.sentences)
    with log_to_file(Path(settings.output.output_dir)):
        # The other processes start here, before anything large is read.
        processes = Processes(settings.training)
        tokenizer = SentenceTokenizer.load(settings.data.tokenizer)
        given = arguments.checkpoint or arguments.init_from
        model = make_model(settings, len(tokenizer), pretrained=given is None)
        trainer = Trainer(settings, model, tokenizer, processes)
        if exported:
            trainer.model, trainer.tokenizer = load_exported(arguments.checkpoint)
        elif arguments.checkpoint:
            trainer.resume(arguments.checkpoint)
        elif arguments.init_from:
            trainer.load_weights(arguments.init_from)
        return trainer.validate() if arguments.eval_only else trainer.train()


def score_sentences(settings: Settings, checkpoint: str | None, sentences: str) -> Score:
    """Relation accuracy on a file of sentences; the training data is not needed for it."""
    samples = read_relation_sentences(sentences)
    if checkpoint and checkpoint.endswith(".safetensors"):
        return evaluate(*load_exported(checkpoint), samples)
    tokenizer = SentenceTokenizer.load(settings.data.tokenizer)
    model = make_model(settings, len(tokenizer), pretrained=checkpoint is None)
    if checkpoint:
        load_published(model, load_training(checkpoint)["state_dict"])
    return evaluate(model, tokenizer, samples)


def make_model(settings: Settings, vocabulary: int, *, pretrained: bool) -> LayoutModel:
    """A fresh model as MODEL says, with the pretrained encoder where one is named and `pretrained` is true."""
    config = LayoutConfig.from_mapping({"vocab_size": vocabulary, **settings.model})
    if config.vocab_size < vocabulary:
        raise UserError(
            f"MODEL.vocab_size {config.vocab_size} is below the {vocabulary} entries of the tokenizer; leave it out"
        )
    model = build_model(config, seed=settings.training.seed)
    if pretrained and settings.pretrained:
        load_pretrained_encoder(model, settings.pretrained)
    return model


@contextlib.contextmanager
def log_to_file(folder: Path) -> Iterator[None]:
    """Also write the log into the output folder; by the main process only."""
    if not is_main_process():
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(folder / "train.log", encoding="utf-8")
    except OSError as error:
        raise UserError(f"the output folder {folder} cannot be written: {error.strerror}") from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    root, ours = logging.getLogger(), logging.getLogger("layout_predictor")
    level = ours.level
    ours.setLevel(logging.INFO)  # whatever the caller's program wants to see on its screen
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        ours.setLevel(level)
        handler.close()


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train the layout predictor.")
    parser.add_argument("--cfg_path", required=True, help="configuration; its sections replace the default's")
    parser.add_argument("--default_cfg_path", default=str(ROOT / "configs" / "default.yaml"))
    parser.add_argument("--checkpoint", help="checkpoint to resume from, or to evaluate")
    parser.add_argument("--init_from", help="checkpoint to take the weights of, and nothing else")
    parser.add_argument("--eval_only", action="store_true", help="no training: print the validation scores")
    parser.add_argument("--sentences", help="with --eval_only: relation sentences (.jsonl, .pkl) to score instead")
    parser.add_argument("--relations", help="'generated' for sentences of the grammar, or a file; else as configured")
    parser.add_argument("--devices", type=int, help="processes, instead of TRAINING.DEVICES")
    parser.add_argument("--accelerator", help="cpu, cuda, mps or auto, instead of TRAINING.ACCELERATOR")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; a user's mistake is one line and exit code 2."""
    level = logging.INFO if is_main_process() else logging.ERROR
    logging.basicConfig(level=level, format="%(asctime)s %(message)s")
    try:
        score = run(parse(argv))
    except UserError as error:
        if is_main_process():
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; --checkpoint with {LAST} of the output folder goes on", file=sys.stderr)
        return 130
    if is_main_process():
        print(score.table())
        print(f"relation accuracy {score.relation_accuracy:.4f}, centre distance {score.centre_distance:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
