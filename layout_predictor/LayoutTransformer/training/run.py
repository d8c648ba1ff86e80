"""What `layout_predictor/train.py` does, as a function: train, or score a checkpoint."""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from layout_predictor.LayoutTransformer.data.coco import read_relation_sentences
from layout_predictor.LayoutTransformer.data.dataset import missing_files
from layout_predictor.LayoutTransformer.data.tokenizer import SentenceTokenizer
from layout_predictor.LayoutTransformer.model import LayoutModel, build_model
from layout_predictor.LayoutTransformer.model.names import load_pretrained_encoder, load_published
from layout_predictor.LayoutTransformer.training import LAST, is_main_process
from layout_predictor.LayoutTransformer.training.checkpoint import load_exported, load_training
from layout_predictor.LayoutTransformer.training.config import Settings, read_config
from layout_predictor.LayoutTransformer.training.evaluate import Score, evaluate
from layout_predictor.LayoutTransformer.training.processes import start_processes
from layout_predictor.LayoutTransformer.training.trainer import Trainer
from ldm.locks import hold
from ldm.util import UserError


def run(arguments: argparse.Namespace) -> Score:
    """Train, or with --eval_only evaluate."""
    settings = read_config(arguments.cfg_path, arguments.default_cfg_path).with_options(
        relations=arguments.relations,
        devices=arguments.devices,
        accelerator=arguments.accelerator,
        output_dir=arguments.output_dir,
    )
    exported = str(arguments.checkpoint or "").endswith(".safetensors")
    if exported and not arguments.eval_only:
        raise UserError("a .safetensors file has no optimizer state; train from a .pth checkpoint")
    if arguments.eval_only and not (arguments.checkpoint or arguments.init_from):
        raise UserError("--eval_only scores a trained model; name it with --checkpoint")
    if arguments.sentences:
        if not arguments.eval_only:
            raise UserError("--sentences is scored with --eval_only; it is not trained on")
        return score_sentences(settings, arguments.checkpoint or arguments.init_from, arguments.sentences)
    if missing := missing_files(settings.data):
        generated = (
            "; --relations generated does without relation sentences" if settings.data.relations in missing else ""
        )
        raise UserError(
            f"the training data are not here: there is no file {', '.join(missing)}{generated}; "
            "layout_predictor/configs/README.md says what goes where"
        )
    output = Path(settings.output.output_dir)
    if arguments.eval_only:
        settings.output.tensorboard = False
        return make_trainer(settings, arguments).validate()
    with own_run(output, arguments.checkpoint), log_to_file(output):
        return make_trainer(settings, arguments).train()


def make_trainer(settings: Settings, arguments: argparse.Namespace) -> Trainer:
    """The trainer of a configuration, at the checkpoint that the command line names."""
    fabric = start_processes(settings.training)  # the other processes start here, before anything large is read
    tokenizer = SentenceTokenizer.load(settings.data.tokenizer)
    given = arguments.checkpoint or arguments.init_from
    model = make_model(settings, len(tokenizer), pretrained=given is None)
    trainer = Trainer(settings, model, tokenizer, fabric)
    if str(given or "").endswith(".safetensors") and arguments.checkpoint:
        trainer.model, trainer.tokenizer = load_exported(given)
    elif arguments.checkpoint:
        trainer.resume(given)
    elif given:
        trainer.load_weights(given)
    return trainer


@contextlib.contextmanager
def own_run(folder: Path, checkpoint: str | None) -> Iterator[None]:
    """Hold the output folder while training; by the main process only.

    Raises:
        UserError: another process holds it, or it holds a run and `checkpoint` is not of that one.
    """
    if not is_main_process():
        yield
        return
    with hold(folder):
        if (folder / LAST).exists() and (checkpoint is None or Path(checkpoint).resolve().parent != folder.resolve()):
            raise UserError(
                f"{folder} holds another run; go on with --resume {folder / LAST}, or choose a folder with --output_dir"
            )
        yield


def score_sentences(settings: Settings, checkpoint: str, sentences: str) -> Score:
    """Relation accuracy on a file of sentences."""
    samples = read_relation_sentences(sentences)
    if checkpoint.endswith(".safetensors"):
        return evaluate(*load_exported(checkpoint), samples)
    tokenizer = SentenceTokenizer.load(settings.data.tokenizer)
    model = make_model(settings, len(tokenizer), pretrained=False)
    load_published(model, load_training(checkpoint)["state_dict"])
    return evaluate(model, tokenizer, samples)


def make_model(settings: Settings, vocabulary: int, *, pretrained: bool) -> LayoutModel:
    """A fresh model as MODEL says, with the pretrained encoder where one is named and `pretrained` is true."""
    config = settings.model.layout_config(vocabulary)
    if config.vocab_size < vocabulary:
        raise UserError(
            f"MODEL.vocab_size {config.vocab_size} is below the {vocabulary} entries of the tokenizer; leave it out"
        )
    model = build_model(config, seed=settings.training.seed)
    if pretrained and settings.model.pretrained:
        load_pretrained_encoder(model, settings.model.pretrained)
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
