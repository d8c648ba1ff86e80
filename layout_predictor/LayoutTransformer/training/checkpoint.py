"""Checkpoints to resume from, and the small file that inference reads."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from layout_predictor.LayoutTransformer.data.tokenizer import SentenceTokenizer
from layout_predictor.LayoutTransformer.model.config import LayoutConfig
from layout_predictor.LayoutTransformer.model.names import load_published, to_published
from layout_predictor.LayoutTransformer.model.network import LayoutModel
from ldm import boundary
from ldm.errors import DAMAGED
from ldm.files import parse_json
from ldm.unpickle import Reader
from ldm.util import UserError, load_state_dict, save_safetensors, save_torch

logger = logging.getLogger(__name__)

EXPORTED = "layout.safetensors"  # what inference reads of a run


def save_training(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write a training checkpoint in one piece: it is the old one or the new one, never half of it."""
    save_torch(path, state)


def load_training(path: str | Path) -> dict[str, Any]:
    """Read a training checkpoint, without running code from it."""
    if not Path(path).is_file():
        raise UserError(f"no layout checkpoint at {path}")
    try:
        with Reader(path) as file:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # Other objects lie beside the weights, or the file is damaged: read the weights alone, or say which.
        state = {"state_dict": load_state_dict(path)}
        logger.info("only the weights of %s are read", path)
    except Exception as error:  # zip and runtime errors alike: the file is not what it should be
        raise UserError(
            f"the layout checkpoint {path} cannot be read: {boundary.reason(error)}; is it truncated?"
        ) from None
    if not isinstance(state, dict) or not isinstance(state.get("state_dict"), Mapping):
        raise UserError(f"the layout checkpoint {path} has no 'state_dict'")
    if not all(isinstance(value, torch.Tensor) for value in state["state_dict"].values()):
        raise UserError(f"the 'state_dict' of the layout checkpoint {path} holds more than tensors")
    return state


def export(path: str | Path, model: LayoutModel, tokenizer: SentenceTokenizer) -> None:
    """Write weights in half precision under the published names, with configuration and tokenizer."""
    tensors = {name: tensor.detach().half() for name, tensor in to_published(model).items()}
    metadata = {"config": json.dumps(asdict(model.config)), "tokenizer": tokenizer.to_json()}
    save_safetensors(path, tensors, metadata)


def load_exported(path: str | Path) -> tuple[LayoutModel, SentenceTokenizer]:
    """The model (float32, eval mode) and the tokenizer that `export` wrote."""
    if not Path(path).is_file():
        raise UserError(f"no layout predictor at {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"the layout predictor {path} cannot be read: {error}") from None
    if not {"config", "tokenizer"} <= set(metadata):
        raise UserError(f"{path} is not a layout predictor: its header has no configuration or no tokenizer")
    try:
        model = LayoutModel(LayoutConfig.from_mapping(parse_json(metadata["config"])))
    except DAMAGED as error:
        raise UserError(f"the configuration in the layout predictor {path} cannot be used: {error!r:.120}") from None
    load_published(model, tensors)
    return model.eval().requires_grad_(False), SentenceTokenizer.from_json(metadata["tokenizer"])
