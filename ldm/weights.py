"""Weights from files into models; nothing is unpickled freely, and what does not fit is told in one sentence."""

from __future__ import annotations

import contextlib
import logging
import pickle
import struct
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm import unpickle
from ldm.boundary import MEMORY
from ldm.errors import UserError
from ldm.kinds import is_safetensors, not_weights, what_it_is

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

EMA, TEXT_MODEL = "model_ema.", "cond_stage_model.transformer.text_model."
TEXT_POSITIONS = f"{TEXT_MODEL}embeddings.position_ids"  # 0, 1, 2, ...: made anew by whoever loads it
State = Mapping[str, "torch.Tensor"]
INVERSION = "string_to_param"  # the part of a textual inversion that holds its vectors
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", INVERSION)  # keys under which weights may lie
DAMAGED = (
    *(RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, IndexError, TypeError),
    *(ArithmeticError, AssertionError, struct.error),
)


def load_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Names to tensors from a file of safetensors or a torch checkpoint, which of them its content says.

    The weights may lie one or two levels down (``"state_dict"``, ``"model"``, ``"module"``), with other things beside
    them. Torch files are read with ``weights_only=True`` and mapped into memory where their format allows it.

    Raises:
        UserError: missing, truncated or corrupt file, something else, or one that needs unpickling of unknown classes.
        MemoryError: it does not fit into memory.
    """
    path = Path(path)
    if path.is_dir():
        whole = (path / "model_index.json").is_file()
        hint = "scripts/convert_checkpoint.py makes a file of it" if whole else "give the path of a file in it"
        raise UserError(f"checkpoint {path} is a folder{' of diffusers' if whole else ''}; {hint}")
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError as err:
        raise UserError(f"checkpoint {path} does not exist; give the path of a .ckpt or .safetensors file") from err
    except OSError as err:
        raise UserError(f"checkpoint {path} cannot be read: {err.strerror}; give the path of model weights") from err
    if not head:
        raise UserError(f"checkpoint {path} is empty; download it again")
    if is_safetensors(head):
        return _load_safetensors(path)
    if other := not_weights(head):
        raise UserError(f"checkpoint {path} {other}")
    return _load_torch(path)


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as err:
        _pass_on(err)
        raise UserError(f"checkpoint {path} is truncated or corrupt; download or export it again ({err})") from err


def _pass_on(error: Exception) -> None:
    """Raise MemoryError where that is what the error means."""
    if MEMORY.search(str(error)):
        raise MemoryError(str(error)) from error


def _load_torch(path: Path) -> dict[str, torch.Tensor]:
    import torch

    named = path.suffix == ".safetensors"  # torch would believe the name
    mmap = zipfile.is_zipfile(path) and not named
    corrupt = f"checkpoint {path} is truncated or corrupt; download it again"
    try:
        try:
            with path.open("rb") if named else contextlib.nullcontext(path) as source:
                loaded = torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
        except pickle.UnpicklingError as err:
            if "weights_only" not in str(err).lower():
                raise UserError(corrupt) from err
            loaded = _load_with_stubs(path, mmap)
    except DAMAGED as err:
        _pass_on(err)
        raise UserError(corrupt) from err
    tensors = _find_tensors(loaded)
    if not tensors:
        seen = ", ".join(f"{key!s:.40}" for key in list(loaded)[:6]) if isinstance(loaded, Mapping) else ""
        beside = f" (it has {seen})" if seen else ""
        raise UserError(f"checkpoint {path} holds no weights by name{beside}; give the path of model weights")
    return tensors


def _find_tensors(loaded: Any, depth: int = 0) -> dict[str, torch.Tensor]:
    """The tensors of a mapping, or of the one in it that holds the weights; {} where there are none."""
    import torch

    if not isinstance(loaded, Mapping) or depth > 3:
        return {}
    for key in WRAPPERS:
        if inner := _find_tensors(loaded.get(key), depth + 1):
            return {f"{key}.{name}": value for name, value in inner.items()} if key == INVERSION else inner
    return {name: value for name, value in loaded.items() if isinstance(value, torch.Tensor) and isinstance(name, str)}


def _load_with_stubs(path: Path, mmap: bool) -> Any:
    """A training checkpoint; the callbacks pickled beside its weights become inert (see :mod:`ldm.unpickle`)."""
    import torch

    try:
        with contextlib.nullcontext(path) if mmap else path.open("rb") as source:
            return torch.load(source, map_location="cpu", weights_only=False, pickle_module=unpickle, mmap=mmap)
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
    if known := what_it_is(state, own):
        raise UserError(f"{source} is {known}")
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


def fit_names(state: State, own: State) -> dict[str, torch.Tensor]:
    """`state` under the names of a model whose weights are `own`, as far as it goes: what programs put around weights
    is taken off.

    Those are prefixes that all names share (``module.``), ``_orig_mod.`` of torch.compile, and the missing
    ``text_model.`` of text encoders that transformers 5 or other programs wrote.
    """
    named = {name.replace("_orig_mod.", ""): value for name, value in state.items()}
    shorter = named
    while all("." in name and name not in own for name in shorter) and len({n.partition(".")[0] for n in shorter}) == 1:
        shorter = {name.partition(".")[2]: value for name, value in shorter.items()}
    if any(name in own for name in shorter):
        named = shorter
    for name in [name for name in own if TEXT_MODEL in name and name not in named]:
        short = name.replace(TEXT_MODEL, TEXT_MODEL.removesuffix("text_model."))
        if short in named:
            named[name] = named.pop(short)
    return named


def averaged(state: State, own: State, use_ema: bool) -> dict[str, torch.Tensor]:
    """What to sample with: LitEma's averages in place of the trained weights if `use_ema`, or if there are no others.

    LitEma keeps the average of ``model.<name>`` as ``model_ema.<name without dots>``.
    """
    flat = {f"{EMA}{name.removeprefix('model.').replace('.', '')}": name for name in own}
    found = {name: state[ema] for ema, name in flat.items() if ema in state and (use_ema or name not in state)}
    if found:
        logger.info("using the %d averaged (EMA) weights of the checkpoint", len(found))
    return {**{name: value for name, value in state.items() if not name.startswith(EMA)}, **found}


def check_finite(weights: Iterable[tuple[str, torch.Tensor]], source: str) -> None:
    """UserError for weights that are infinite or not a number, naming the first."""
    import torch

    for name, value in weights:
        if value.is_floating_point() and not value.sum(dtype=torch.float32).isfinite() and not value.isfinite().all():
            raise UserError(f"{source} has weights that are not finite ({name}); download it again or use another one")


def load_into(
    model: torch.nn.Module,
    state: State,
    source: str,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
) -> None:
    """Load `state` into `model` by name; names and shapes that differ are refused (see :func:`check_fit`)."""
    state = dict(state)
    drop_constants(model, state)
    check_fit(model.state_dict(), state, source, allow_missing, allow_unexpected)
    model.load_state_dict(state, strict=False)
