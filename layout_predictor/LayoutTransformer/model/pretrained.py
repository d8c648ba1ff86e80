"""A pretrained RoBERTa of the transformers library as the encoder to start from."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from transformers import RobertaModel

from layout_predictor.LayoutTransformer.model.network import LayoutModel
from ldm.util import UserError

logger = logging.getLogger(__name__)

_SEGMENT = "embeddings.token_type_embeddings.weight"
_POSITION = "embeddings.position_embeddings.weight"


def load_pretrained_encoder(model: LayoutModel, name: str) -> None:
    """Give the encoder the weights of `name`: a folder in the transformers layout, or a model on the hub.

    Only safetensors are read. UserError when it cannot be found or is of another size.
    """
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_local and not Path(name).expanduser().is_dir():
        raise UserError(f"there is no folder {name} with a pretrained encoder (MODEL.pretrained)")
    source = str(Path(name).expanduser()) if looks_local else name
    try:
        loaded = RobertaModel.from_pretrained(source, add_pooling_layer=False, use_safetensors=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"the pretrained encoder {name} cannot be loaded ({reason}); name a folder with config.json and "
            "model.safetensors in MODEL.pretrained, or null to start from random weights"
        ) from None
    state, target = dict(loaded.state_dict()), model.encoder.state_dict()
    # One segment: what is added for it at every position goes into the table of positions.
    state[_POSITION] = state[_POSITION] + state[_SEGMENT][0]
    state[_SEGMENT] = torch.zeros_like(state[_SEGMENT])
    for key, value in target.items():
        if key not in state or state[key].shape != value.shape:
            found = tuple(state[key].shape) if key in state else "missing"
            raise UserError(
                f"the pretrained encoder {name} is of another size: {key} is {found}, "
                f"the configuration wants {tuple(value.shape)}"
            )
    model.encoder.load_state_dict({key: state[key] for key in target})
    logger.info("the encoder starts from %s", name)
