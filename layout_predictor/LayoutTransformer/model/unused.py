"""The published checkpoint's entries that the forward pass never uses: their names and shapes.

110 of the 311 names: a language-model head, a decoder, a refinement encoder, heads for width and height. They
are dropped on load. A checkpoint of the published size is saved with them, so that a program that wants every name
can load it: as they were loaded, or else the language-model head tied to the embedding and zeros for the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from layout_predictor.LayoutTransformer.model.network import LayoutConfig

_WIDTH, _WIDE, _BOX = 768, 3072, 64  # of the encoder, its feed-forward layers, and box embeddings
_VOCABULARY = 50265
_ENCODER = "encoder.model.encoder."
_REFINE = "bbox_head.refine_encoder."
_PREDICTOR = "bbox_head.Decoder.box_predictor."

UNUSED_PREFIXES = (
    "encoder._float_tensor",
    f"{_ENCODER}lm_head.",
    f"{_ENCODER}sentence_encoder.version",
    "bbox_head.Decoder.decoder.",
    f"{_PREDICTOR}xy_embedding.",
    f"{_PREDICTOR}wh_bivariate.",
    _REFINE,
    "bbox_head.refine_box_head.",
)

_Shapes = Iterator[tuple[str, tuple[int, ...]]]


def unused_shapes() -> dict[str, tuple[int, ...]]:
    """Name to shape of every unused entry of the published checkpoint."""
    shapes: dict[str, tuple[int, ...]] = {
        "encoder._float_tensor": (1,),
        f"{_ENCODER}sentence_encoder.version": (1,),
        f"{_ENCODER}lm_head.weight": (_VOCABULARY, _WIDTH),
        f"{_ENCODER}lm_head.bias": (_VOCABULARY,),
    }
    shapes.update(_linear(f"{_ENCODER}lm_head.dense", _WIDTH, _WIDTH))
    shapes.update(_norm(f"{_ENCODER}lm_head.layer_norm", _WIDTH))
    for layer in range(2):
        shapes.update(_decoder_layer(f"bbox_head.Decoder.decoder.layers.{layer}."))
    shapes.update(_norm("bbox_head.Decoder.decoder.layer_norm", 2 * _WIDTH))
    shapes.update(_linear(f"{_PREDICTOR}xy_embedding", _BOX, 2))
    shapes.update(_linear(f"{_PREDICTOR}wh_bivariate", 30, _WIDTH + _BOX))
    shapes.update(_refinement())
    return shapes


def _linear(name: str, out: int, into: int) -> _Shapes:
    yield f"{name}.weight", (out, into)
    yield f"{name}.bias", (out,)


def _norm(name: str, width: int) -> _Shapes:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _feed_forward(name: str, width: int) -> _Shapes:
    yield from _norm(f"{name}.layer_norm", width)
    yield from _linear(f"{name}.pwff_layer.0", _WIDE, width)
    yield from _linear(f"{name}.pwff_layer.3", width, _WIDE)


def _decoder_layer(name: str) -> _Shapes:
    for part in ("k", "v", "q", "output"):
        yield from _linear(f"{name}trg_trg_att.{part}_layer", _BOX, _BOX)
        yield from _linear(f"{name}src_trg_att.{part}_layer", _WIDTH, _WIDTH)
    yield from _feed_forward(f"{name}feed_forward_h1", _BOX)
    yield from _feed_forward(f"{name}feed_forward_h2", _WIDTH)
    yield from _norm(f"{name}x_layer_norm", _WIDTH)
    yield from _norm(f"{name}spa_layer_norm", _BOX)


def _refinement() -> _Shapes:
    layer = f"{_REFINE}layer."
    yield from _linear(f"{_REFINE}box_embedding", _BOX, 4)
    yield from _norm(f"{layer}layer_norm", _WIDTH)
    yield from _norm(f"{layer}box_norm", 3 * _BOX)
    for part, width in (("k", 3 * _BOX), ("q", 3 * _BOX), ("v", _WIDTH), ("output", _WIDTH)):
        yield from _linear(f"{layer}src_src_att.{part}_layer", width, width)
    yield from _linear(f"{layer}src_src_att.confident_layer.0", _BOX, _BOX)
    yield from _linear(f"{layer}combine_layer", _WIDTH, _WIDTH + 3 * _BOX)
    yield from _feed_forward(f"{layer}feed_forward", _WIDTH)
    yield from _norm(f"{_REFINE}layer_norm", _WIDTH)
    yield from _linear("bbox_head.refine_box_head.box_embedding", _BOX, 4)
    yield from _linear("bbox_head.refine_box_head.dense", _BOX, _WIDTH + _BOX)
    yield from _linear("bbox_head.refine_box_head.feed_forward", 4, _BOX)


def is_published_size(config: LayoutConfig) -> bool:
    """Whether the model is of the published checkpoint's size."""
    base = LayoutConfig()
    return all(
        getattr(config, name) == getattr(base, name)
        for name in ("vocab_size", "hidden_size", "num_layers", "feed_forward_size", "max_positions")
    )


def with_unused(used: Mapping[str, Tensor], config: LayoutConfig, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published names `used`, with the entries that the forward pass does not use.

    Args:
        used: a state dict under the published names, see `to_published`.
        config: of the model; only one of the published size is given entries that were not loaded.
        kept: the unused entries that a checkpoint came with.
    """
    if kept or not is_published_size(config):
        return {**used, **kept}
    # An expanded zero is stored as one number, a tied weight not at all.
    state = {name: torch.zeros(1).expand(shape) for name, shape in unused_shapes().items()}
    state[f"{_ENCODER}lm_head.weight"] = used[f"{_ENCODER}sentence_encoder.embed_tokens.weight"]
    return {**used, **state}
