"""Names of parameters: published (fairseq encoder, layout head) to ours and back.

The published checkpoint holds more than the forward pass uses: a language-model head, a decoder, a refinement
encoder and heads for width and height. Those entries are dropped on load, and listed at debug level.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from layout_predictor.LayoutTransformer.model.network import LayoutConfig, LayoutModel
from layout_predictor.LayoutTransformer.model.unused import UNUSED_PREFIXES
from ldm.util import UserError

logger = logging.getLogger(__name__)

_ENCODER = "encoder.model.encoder.sentence_encoder."
_FIXED = {
    f"{_ENCODER}object_embedding": "object_embedding",
    f"{_ENCODER}embed_tokens.weight": "encoder.embeddings.word_embeddings.weight",
    f"{_ENCODER}embed_positions.weight": "encoder.embeddings.position_embeddings.weight",
    f"{_ENCODER}layernorm_embedding.weight": "encoder.embeddings.LayerNorm.weight",
    f"{_ENCODER}layernorm_embedding.bias": "encoder.embeddings.LayerNorm.bias",
    "bbox_head.Decoder.output_Layer.weight": "head.projection.weight",
    "bbox_head.Decoder.output_Layer.bias": "head.projection.bias",
    "bbox_head.Decoder.box_predictor.xy_bivariate.weight": "head.mixture.weight",
    "bbox_head.Decoder.box_predictor.xy_bivariate.bias": "head.mixture.bias",
}
_LAYER = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.output.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "output.LayerNorm",
}
# Ours, and zero by construction: nothing to save or load.
_SEGMENT = "encoder.embeddings.token_type_embeddings.weight"


def published_names(num_layers: int) -> dict[str, str]:
    """Published name to our name, for an encoder of `num_layers` layers."""
    table = dict(_FIXED)
    for layer in range(num_layers):
        for theirs, ours in _LAYER.items():
            for kind in ("weight", "bias"):
                table[f"{_ENCODER}layers.{layer}.{theirs}.{kind}"] = (
                    f"encoder.encoder.layer.{layer}.{ours}.{kind}"
                )
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
    dropped = sorted(name for name in state if name not in table and name.startswith(UNUSED_PREFIXES))
    unknown = sorted(set(state) - set(table) - set(dropped))
    missing = sorted(set(table) - set(state))
    if missing or unknown:
        shown = ", ".join([*(f"missing {n}" for n in missing[:3]), *(f"unexpected {n}" for n in unknown[:3])])
        raise UserError(
            f"the layout checkpoint does not fit the model: {len(missing)} names missing, "
            f"{len(unknown)} unexpected ({shown})"
        )
    target = model.state_dict()
    for theirs, ours in table.items():
        if state[theirs].shape != target[ours].shape:
            raise UserError(
                f"the layout checkpoint is of another size: {theirs} is {tuple(state[theirs].shape)}, "
                f"the configuration wants {tuple(target[ours].shape)}"
            )
    if dropped:
        logger.debug("dropped %d unused entries of the checkpoint: %s", len(dropped), ", ".join(dropped))
    with torch.no_grad():
        for theirs, ours in table.items():
            target[ours].copy_(state[theirs])
        target[_SEGMENT].zero_()
    return dropped


def infer_config(state: Mapping[str, Tensor], *, num_heads: int, **overrides: float) -> LayoutConfig:
    """Sizes of the encoder from the shapes of a published state dict; the number of heads leaves no trace."""
    try:
        vocab_size, hidden = state[f"{_ENCODER}embed_tokens.weight"].shape
        positions = state[f"{_ENCODER}embed_positions.weight"].shape[0]
        feed_forward = state[f"{_ENCODER}layers.0.fc1.weight"].shape[0]
    except KeyError as error:
        raise UserError(f"not a layout checkpoint: it has no entry {error}") from None
    layers = sum(name.startswith(_ENCODER) and name.endswith(".fc1.weight") for name in state)
    return LayoutConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=num_heads,
        feed_forward_size=feed_forward,
        max_positions=positions,
        **overrides,  # type: ignore[arg-type]
    )
