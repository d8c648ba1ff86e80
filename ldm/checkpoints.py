"""The checkpoints of `main.py`: one is always whole, the one before it is kept, and none has weights that are NaN."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from safetensors import SafetensorError

from ldm.errors import DAMAGED
from ldm.util import UserError, check_fit, save_torch

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
PARTS = ("state_dict", "optimizer_states", "loops")  # what a run goes on from


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's files, written beside their place and renamed; ``previous.ckpt`` is the ``last.ckpt`` before."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint. UserError for weights that are not finite, or where the disk is full."""
        path = Path(path)
        for name, value in checkpoint["state_dict"].items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise UserError(
                    f"the weights {name} are not finite at step {checkpoint['global_step']}; the last checkpoint "
                    "with finite weights stays: lower model.base_learning_rate, and look at the data"
                )
        save_torch(path, checkpoint, keep=path.with_name(PREVIOUS) if path.name == LAST else None)


def check_resumable(path: Path, own: Mapping[str, torch.Tensor]) -> None:
    """Refuse a checkpoint that training cannot go on from.

    Args:
        path: the checkpoint.
        own: weights of the model that the config describes.

    Raises:
        UserError: it is missing, damaged or of something else (the one before it is named), or of another network.
    """
    if fault := _fault(path):
        kept = path.with_name(PREVIOUS)
        usable = path.name != PREVIOUS and not _fault(kept)
        more = f"go on from the one before it with --resume {kept}" if usable else "begin anew under another --name"
        raise UserError(f"{fault}; {more}")
    state = _read(path)["state_dict"]
    extra = "; the run's own config.yaml is as it was: leave out the entries that change the network"
    try:
        check_fit(own, state, f"checkpoint {path}")
    except UserError as error:
        raise UserError(f"{error}{extra}") from error


def _read(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _fault(path: Path) -> str | None:
    """Why training cannot go on from `path`, or None."""
    if not path.is_file():
        return f"no checkpoint to resume from at {path}"
    if not path.stat().st_size:
        return f"the checkpoint {path} is empty"
    try:
        loaded = _read(path)
    except (SafetensorError, *DAMAGED):
        return f"{path} is damaged, or no checkpoint of main.py"
    weights = loaded.get("state_dict") if isinstance(loaded, Mapping) else None
    if isinstance(weights, Mapping) and not all(isinstance(value, torch.Tensor) for value in weights.values()):
        return f"{path} holds more than weights in its state_dict, as checkpoints of main.py do not"
    lacking = [part for part in PARTS if not isinstance(loaded, Mapping) or part not in loaded]
    return f"{path} is no checkpoint of main.py to go on from: it has no {', '.join(lacking)}" if lacking else None
