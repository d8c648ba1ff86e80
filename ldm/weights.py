"""Weights from files into models; nothing is unpickled freely, and what does not fit is told in one sentence."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm import unpickle
from ldm.errors import UserError

if TYPE_CHECKING:
    import torch

State = Mapping[str, "torch.Tensor"]
DAMAGED = (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, IndexError, TypeError)


def load_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Names to tensors from ``.safetensors``, or from a torch checkpoint with or without ``"state_dict"``.

    Torch files are read with ``weights_only=True`` and mapped into memory where their format allows it.

    Raises:
        UserError: missing, truncated or corrupt file, or one that needs unpickling of unknown classes.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist; give the path of a .ckpt or .safetensors file")
    return _load_safetensors(path) if path.suffix == ".safetensors" else _load_torch(path)


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as err:
        raise UserError(f"checkpoint {path} is truncated or corrupt; download or export it again ({err})") from err


def _load_torch(path: Path) -> dict[str, torch.Tensor]:
    import torch

    mmap = zipfile.is_zipfile(path)
    corrupt = f"checkpoint {path} is truncated or corrupt; download it again"
    try:
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        except pickle.UnpicklingError as err:
            if "weights_only" not in str(err).lower():
                raise UserError(corrupt) from err
            loaded = _load_with_stubs(path, mmap)
    except DAMAGED as err:
        raise UserError(corrupt) from err
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise UserError(f"checkpoint {path} holds no state dict of tensors; give the path of model weights")
    return dict(loaded)


def _load_with_stubs(path: Path, mmap: bool) -> Any:
    """A training checkpoint; the callbacks pickled beside its weights become inert (see :mod:`ldm.unpickle`)."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=unpickle, mmap=mmap)
    except pickle.UnpicklingError as err:
        reason = next(iter(str(err).splitlines()), "no pickle")
        raise UserError(
            f"checkpoint {path} is not loaded, since unpickling it could run code ({reason}); "
            "convert it to .safetensors on a machine you trust"
        ) from err


def check_fit(
    own: State, state: State, source: str, allow_missing: Sequence[str] = (), allow_unexpected: Sequence[str] = ()
) -> None:
    """Refuse a `state` whose names or shapes differ from a model's `own`; names that start with an allowed prefix may.

    Raises:
        UserError: naming the first few names of each kind of difference.
    """
    lacking = [n for n in own if n not in state and not n.startswith(tuple(allow_missing))]
    surplus = [n for n in state if n not in own and not n.startswith(tuple(allow_unexpected))]
    other = [
        f"{n} is {list(state[n].shape)} instead of {list(own[n].shape)}"
        for n in own
        if n in state and own[n].shape != state[n].shape
    ]
    kinds = (("lacks {} names", lacking), ("has unexpected {} names", surplus), ("has {} names in other shapes", other))
    found = [(kind.format(len(names)), names) for kind, names in kinds if names]
    if not found:
        return
    few = 4 - len(found)  # of each kind, for a sentence that can be read
    parts = [f"{kind} ({', '.join(names[:few])}{', ...' if len(names) > few else ''})" for kind, names in found]
    verdict = "is of another architecture than the config" if other else "does not fit the config"
    told = f"{', '.join(parts[:-1])} and {parts[-1]}" if parts[1:] else parts[0]
    raise UserError(f"{source} {verdict}: it {told}; give the config that belongs to it")


def drop_constants(model: torch.nn.Module, state: dict[str, Any], prefix: str = "", *_: Any) -> None:
    """Take out of `state` what names a buffer that `model` doesn't save: a constant, which other programs save.

    Also a pre-hook of ``load_state_dict``.
    """
    own = model.state_dict().keys()
    for name in [name for name, _ in model.named_buffers() if name not in own]:
        state.pop(prefix + name, None)


def load_into(
    model: torch.nn.Module,
    state: State,
    source: str,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
    assign: bool = False,
) -> None:
    """Load `state` into `model` by name; names and shapes that differ are refused (see :func:`check_fit`)."""
    state = dict(state)
    drop_constants(model, state)
    check_fit(model.state_dict(), state, source, allow_missing, allow_unexpected)
    model.load_state_dict(state, strict=False, assign=assign)
