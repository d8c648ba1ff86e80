"""State dicts with published names (fairseq encoder, layout head), or of a pretrained RoBERTa, to ours and back.

The published checkpoint holds 311 entries, of which the forward pass never uses 110 (`names.yaml`). They are dropped on
load, and listed at debug level. A checkpoint of the published size is saved with them, so that a program that wants all
names can load it: as they were loaded, or else the language-model head tied to the embedding and zeros for the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from layout_predictor.LayoutTransformer.data.wordlists import read_yaml
from layout_predictor.LayoutTransformer.model.config import LayoutConfig
from layout_predictor.LayoutTransformer.model.network import LayoutModel
from ldm import boundary, hub
from ldm.errors import DAMAGED
from ldm.util import UserError

logger = logging.getLogger(__name__)

_HEAD_WIDTH = 64  # of every published RoBERTa
_NAMES = read_yaml(Path(__file__).with_suffix(".yaml"))
_ENCODER: str = _NAMES["encoder"]
# Ours, and zero by construction: nothing to save or load.
_SEGMENT = "encoder.embeddings.token_type_embeddings.weight"


def published_names(num_layers: int) -> dict[str, str]:
    """Published name to our name, for an encoder of `num_layers` layers."""
    table: dict[str, str] = dict(_NAMES["fixed"])
    for layer in range(num_layers):
        for theirs, ours in _NAMES["layer"].items():
            for kind in ("weight", "bias"):
                table[f"{_ENCODER}layers.{layer}.{theirs}.{kind}"] = f"encoder.encoder.layer.{layer}.{ours}.{kind}"
    return table


def to_published(model: LayoutModel) -> dict[str, Tensor]:
    """The model's state dict under the published names."""
    state = model.state_dict()
    return {theirs: state[ours] for theirs, ours in published_names(model.config.num_layers).items()}


def load_published(model: LayoutModel, state: Mapping[str, Tensor]) -> list[str]:
    """Copy a state dict with published names into `model`; return the names that were dropped as unused.

    Raises UserError when an entry is missing, of another shape, or unknown.
    """
    table = published_names(model.config.num_layers)
    dropped = sorted(name for name in state if name not in table and name.startswith(tuple(_NAMES["unused_prefixes"])))
    unknown = sorted(set(state) - set(table) - set(dropped))
    missing = sorted(set(table) - set(state))
    if missing or unknown:
        shown = ", ".join([*(f"missing {n}" for n in missing[:3]), *(f"unexpected {n}" for n in unknown[:3])])
        raise UserError(
            f"the layout checkpoint does not fit the model: {len(missing)} names missing, "
            f"{len(unknown)} unexpected ({shown})"
        )
    target = model.state_dict()
    _check_sizes("layout checkpoint", {theirs: (state[theirs], target[ours]) for theirs, ours in table.items()})
    if dropped:
        logger.debug("dropped %d unused entries of the checkpoint: %s", len(dropped), ", ".join(dropped))
    with torch.no_grad():
        for theirs, ours in table.items():
            target[ours].copy_(state[theirs])
        target[_SEGMENT].zero_()
    return dropped


def load_pretrained_encoder(model: LayoutModel, name: str) -> None:
    """Give the encoder the weights of `name`: a folder in the transformers layout, or a model on the hub.

    Only safetensors are read. UserError when it cannot be found or is of another size.
    """
    from transformers import RobertaModel  # slow to import

    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_local and not Path(name).expanduser().is_dir():
        raise UserError(f"there is no folder {name} with a pretrained encoder (MODEL.pretrained)")
    source = str(Path(name).expanduser()) if looks_local else name
    try:
        loaded = RobertaModel.from_pretrained(
            source, add_pooling_layer=False, use_safetensors=True, local_files_only=hub.local_only(source)
        )
    except DAMAGED as error:
        reason = boundary.reason(error)
        raise UserError(
            f"the pretrained encoder {name} cannot be loaded ({reason}); name a folder with config.json and "
            "model.safetensors in MODEL.pretrained, or null to start from random weights"
        ) from None
    state, target = dict(loaded.state_dict()), model.encoder.state_dict()
    # One segment: what is added for it at every position goes into the table of positions.
    segment, position = (f"embeddings.{kind}_embeddings.weight" for kind in ("token_type", "position"))
    state[position] = state[position] + state[segment][0]
    state[segment] = torch.zeros_like(state[segment])
    _check_sizes(f"pretrained encoder {name}", {key: (state.get(key, torch.empty(0)), target[key]) for key in target})
    model.encoder.load_state_dict({key: state[key] for key in target})
    logger.info("the encoder starts from %s", name)


def _check_sizes(what: str, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """UserError unless what was found and what is wanted are of one shape, for every name."""
    for name, (found, wanted) in pairs.items():
        if found.shape != wanted.shape:
            raise UserError(
                f"the {what} is of another size: {name} is {tuple(found.shape)}, "
                f"the configuration wants {tuple(wanted.shape)}"
            )


def with_unused(used: Mapping[str, Tensor], config: LayoutConfig, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under the published names (`to_published`), with the entries that the forward pass does not use.

    Those are `kept`, of the checkpoint that was loaded; without any, a model of the published size is given its own.
    """
    sizes = ("vocab_size", "hidden_size", "num_layers", "feed_forward_size", "max_positions")
    if kept or any(getattr(config, name) != getattr(LayoutConfig, name) for name in sizes):
        return {**used, **kept}
    # An expanded zero is stored as one number, a tied weight not at all.
    state = {name: torch.zeros(1).expand(shape) for name, shape in _NAMES["unused"].items()}
    state["encoder.model.encoder.lm_head.weight"] = used[f"{_ENCODER}embed_tokens.weight"]
    return {**used, **state}


def infer_config(state: Mapping[str, Tensor]) -> LayoutConfig:
    """Sizes of the encoder from the shapes of a published state dict, with as many heads as a RoBERTa of its width."""
    try:
        vocab_size, hidden = state[f"{_ENCODER}embed_tokens.weight"].shape
        positions = state[f"{_ENCODER}embed_positions.weight"].shape[0]
        feed_forward = state[f"{_ENCODER}layers.0.fc1.weight"].shape[0]
    except KeyError as error:
        raise UserError(f"not a layout checkpoint: it has no entry {error}") from None
    if hidden % _HEAD_WIDTH:
        raise UserError(f"the layout checkpoint does not say its number of heads, and no RoBERTa is {hidden} wide")
    layers = sum(name.startswith(_ENCODER) and name.endswith(".fc1.weight") for name in state)
    return LayoutConfig(vocab_size, hidden, layers, hidden // _HEAD_WIDTH, feed_forward, positions)
