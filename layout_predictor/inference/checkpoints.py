"""Predictors from every kind of file: the exported one, a training checkpoint, the published checkpoint."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from layout_predictor.LayoutTransformer.data.tokenizer import SentenceTokenizer
from layout_predictor.LayoutTransformer.model.config import LayoutConfig
from layout_predictor.LayoutTransformer.model.names import infer_config, load_published
from layout_predictor.LayoutTransformer.model.network import LayoutModel
from layout_predictor.LayoutTransformer.training.checkpoint import EXPORTED, load_exported, load_training
from ldm.kinds import is_safetensors
from ldm.paths import ROOT
from ldm.util import UserError, check_finite
from ldm.weights import check_file

EMBEDDED = ROOT / "models" / "emoji" / "layout.safetensors"
PUBLISHED_FOLDER = Path("saved/coco_F_seq2seq_v9_ablation_4")  # where the published model is put, and training writes
PLACES = (Path(), ROOT / "layout_predictor" / "LayoutTransformer", ROOT)  # in which that folder is looked for
SMALL_TOKENIZER = ROOT / "configs" / "emoji" / "layout_tokenizer.json"
ROBERTA = "roberta-base"

logger = logging.getLogger(__name__)


def default_weights() -> Path:
    """The predictor in the published folder, which is then named in the log; the embedded one where there is none."""
    for folder in (place / PUBLISHED_FOLDER for place in PLACES):
        saved = sorted(folder.glob("*.pth"), key=_epoch)
        if found := [path for path in (folder / EXPORTED, *saved[::-1]) if path.is_file()]:
            logger.warning("Using the layout predictor %s.", found[0])
            return found[0]
    return EMBEDDED


def _epoch(path: Path) -> tuple[int, str]:
    """What checkpoints are ordered by: the number in checkpoint_<epoch>_<metric>.pth, -1 for other names."""
    named = re.match(r"checkpoint_(\d+)", path.name)
    return int(named[1]) if named else -1, path.name


def load_model(
    path: str | Path | None = None, tokenizer: str | Path | None = None
) -> tuple[LayoutModel, SentenceTokenizer]:
    """The model (eval mode) and the tokenizer of a checkpoint, by default that of `default_weights`.

    Args:
        path: a .safetensors file as train.py exports it (it has its tokenizer inside), a checkpoint_*.pth of
            train.py, or the published checkpoint.
        tokenizer: a tokenizer.json; for a .pth by default the one beside it, else the one its size asks for.

    Raises:
        UserError: a file is missing, damaged, or of another size than the rest.
    """
    path = default_weights() if path is None else Path(path)
    if is_safetensors(check_file(path)):
        model, found = load_exported(path)
        if tokenizer:
            found = SentenceTokenizer.from_file(tokenizer)
    else:
        state = load_training(path)
        weights, sizes = state["state_dict"], state.get("model_config")
        config = infer_config(weights) if sizes is None else LayoutConfig.from_mapping(sizes)
        found = SentenceTokenizer.from_file(tokenizer) if tokenizer else _find_tokenizer(path, config.vocab_size)
        model = LayoutModel(config)
        load_published(model, weights)
    check_finite(model.named_parameters(), f"the layout predictor {path}")
    if len(found) != (wanted := model.config.vocab_size):
        raise UserError(f"the tokenizer has {len(found)} entries, the layout model {path} wants {wanted}")
    return model.eval().requires_grad_(False), found


def _find_tokenizer(path: Path, size: int) -> SentenceTokenizer:
    """The tokenizer.json beside a checkpoint, else ours, else RoBERTa's from the cache or the hub, by size."""
    beside = path.parent / "tokenizer.json"
    if beside.is_file():
        return SentenceTokenizer.from_file(beside)
    small = SentenceTokenizer.from_file(SMALL_TOKENIZER)
    if size == len(small):
        return small
    try:
        return SentenceTokenizer.load(ROBERTA)
    except UserError as error:
        raise UserError(
            f"no tokenizer for the layout predictor {path}: put {ROBERTA}'s tokenizer.json "
            f"(https://huggingface.co/{ROBERTA}) beside it, as {beside}"
        ) from error
