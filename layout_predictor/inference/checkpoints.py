"""Predictors from every kind of file: the exported one, a training checkpoint, the published checkpoint."""

from __future__ import annotations

from pathlib import Path

from layout_predictor.LayoutTransformer.data.tokenizer import SentenceTokenizer
from layout_predictor.LayoutTransformer.model.names import infer_config, load_published
from layout_predictor.LayoutTransformer.model.network import LayoutConfig, LayoutModel
from layout_predictor.LayoutTransformer.training.checkpoint import load_exported, load_training
from ldm.kinds import is_safetensors
from ldm.paths import ROOT
from ldm.util import UserError, check_finite
from ldm.weights import check_file

DEFAULT_WEIGHTS = ROOT / "models" / "emoji" / "layout.safetensors"
SMALL_TOKENIZER = ROOT / "configs" / "emoji" / "layout_tokenizer.json"
ROBERTA = "roberta-base"


def load_model(
    path: str | Path | None = None, tokenizer: str | Path | None = None
) -> tuple[LayoutModel, SentenceTokenizer]:
    """The model (eval mode) and the tokenizer of a checkpoint, by default the embedded one.

    Args:
        path: a .safetensors file as train.py exports it (it has its tokenizer inside), a checkpoint_*.pth of
            train.py, or the published checkpoint.
        tokenizer: a tokenizer.json; for a .pth by default the one beside it, else the one its size asks for.

    Raises:
        UserError: a file is missing, damaged, or of another size than the rest.
    """
    path = DEFAULT_WEIGHTS if path is None else Path(path)
    if is_safetensors(check_file(path)):
        model, found = load_exported(path)
        if tokenizer:
            found = SentenceTokenizer.from_file(tokenizer)
    else:
        state = load_training(path)
        weights, sizes = state["state_dict"], state.get("model_config")
        config = infer_config(weights) if sizes is None else LayoutConfig.from_mapping(sizes)
        model = LayoutModel(config)
        load_published(model, weights)
        found = SentenceTokenizer.from_file(tokenizer) if tokenizer else _find_tokenizer(path, config.vocab_size)
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
            f"no tokenizer for {path}: put the tokenizer.json of {ROBERTA} beside it or give it with --tokenizer"
        ) from error
