"""Weights from files into models; nothing is unpickled freely, and what does not fit is told in one sentence."""

from __future__ import annotations

import contextlib
import logging
import pickle
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm import unpickle
from ldm.boundary import MEMORY
from ldm.errors import DAMAGED, UserError
from ldm.kinds import is_safetensors, not_weights, other_archive, other_keys, what_it_is

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

EMA, TEXT_MODEL = "model_ema.", "cond_stage_model.transformer.text_model."
TEXT_POSITIONS = f"{TEXT_MODEL}embeddings.position_ids"  # 0, 1, 2, ...: made anew by whoever loads it
State = Mapping[str, "torch.Tensor"]
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")  # keys under which weights usually lie
# What programs put into names: torch.compile, parallel and sharded training, recomputed activations.
WRAPPING = re.compile(r"\b(_orig_mod|module|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def load_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Names to tensors from a file of safetensors or a torch checkpoint, which of them its content says.

    The weights may lie some levels down (``"state_dict"``, ``"model"``, ``"module"`` or other keys), with other things
    beside them. Torch files are read with ``weights_only=True`` and mapped into memory where their format allows it.

    Raises:
        UserError: missing, truncated or corrupt file, something else, or one that needs unpickling of unknown classes.
        MemoryError: it does not fit into memory.
    """
    path = Path(path)
    return _load_safetensors(path) if is_safetensors(check_file(path)) else _load_torch(path)


def check_file(path: Path) -> bytes:
    """The first bytes of what may be a file of weights. Raises UserError for what is none."""
    if path.is_dir():
        whole = (path / "model_index.json").is_file()
        hint = "scripts/convert_checkpoint.py makes a file of it" if whole else "give the path of a file in it"
        raise UserError(f"checkpoint {path} is a folder{' of diffusers' if whole else ''}; {hint}")
    if not path.is_file():
        what = "is no file on a disk" if path.exists() else "does not exist"
        raise UserError(f"checkpoint {path} {what}; give the path of a .ckpt or .safetensors file")
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as err:
        raise UserError(f"checkpoint {path} cannot be read: {err.strerror}; give the path of model weights") from err
    if not is_safetensors(head) and (other := not_weights(head)):
        raise UserError(f"checkpoint {path} {other}")
    return head


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as err:
        _pass_on(err, path)
        raise UserError(f"checkpoint {path} is truncated or corrupt; download or export it again ({err})") from err


def _pass_on(error: Exception, path: Path) -> None:
    """Raise MemoryError where that is what the error means, and not a wrong number in the file."""
    asked = re.search(r"allocate (\d+) bytes", str(error))
    if MEMORY.search(str(error)) and (asked is None or int(asked[1]) <= path.stat().st_size):
        raise MemoryError(str(error)) from error


@contextlib.contextmanager
def told_of_memory(path: str | Path, device: object) -> Iterator[None]:
    """UserError where memory ends while a model with these weights is loaded onto `device`."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as err:
        if not isinstance(err, MemoryError) and not MEMORY.search(str(err)):
            raise
        raise UserError(
            f"there is too little memory on {device} to load checkpoint {path} "
            f"({Path(path).stat().st_size / 2**30:.1f} GiB); end other programs, or take a smaller model or device"
        ) from err


def _load_torch(path: Path) -> dict[str, torch.Tensor]:
    import torch

    named = path.suffix == ".safetensors"  # torch would believe the name
    corrupt = f"checkpoint {path} is truncated or corrupt; download it again"
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            with zipfile.ZipFile(path) as archive:
                if other := other_archive(archive.namelist()):
                    raise UserError(f"checkpoint {path} {other}")
        mmap = zipped and not named
        try:
            with warnings.catch_warnings(), contextlib.nullcontext(path) if mmap else unpickle.Reader(path) as source:
                warnings.simplefilter("ignore")  # of old formats, which are read all the same
                loaded = torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
        except pickle.UnpicklingError as err:
            if "weights_only" not in str(err).lower():
                raise UserError(corrupt) from err
            loaded = _load_with_stubs(path, mmap)
        if isinstance(loaded, Mapping) and (other := other_keys(loaded)):
            raise UserError(f"checkpoint {path} is {other}")
        tensors = _find_tensors(loaded, set())
    except DAMAGED as err:
        _pass_on(err, path)
        raise UserError(corrupt) from err
    if not tensors:
        seen = ", ".join(f"{key!s:.40}" for key in list(loaded)[:6]) if isinstance(loaded, Mapping) else ""
        beside = f" (it has {seen})" if seen else ""
        raise UserError(f"checkpoint {path} holds no weights by name{beside}; give the path of model weights")
    return tensors


def _find_tensors(loaded: Any, seen: set[int], depth: int = 0) -> dict[str, torch.Tensor]:
    """The tensors of a mapping, or of the one in it that holds the weights; {} where there are none.

    That is the one under a key of WRAPPERS, else the one with the most tensors; `seen` holds the ids of those passed.
    """
    import torch

    if not isinstance(loaded, Mapping) or depth > 3 or id(loaded) in seen:
        return {}
    seen.add(id(loaded))
    inner = {key: found for key, value in loaded.items() if (found := _find_tensors(value, seen, depth + 1))}
    for key in WRAPPERS:
        if key in inner:
            return inner[key]
    found = {k: v.detach() for k, v in loaded.items() if isinstance(v, torch.Tensor) and isinstance(k, str)}
    tensors = {k: v for k, v in found.items() if v.layout == torch.strided and not (v.is_meta or v.is_quantized)}
    return max([tensors, *inner.values()], key=len)


def _load_with_stubs(path: Path, mmap: bool) -> Any:
    """A training checkpoint; the callbacks pickled beside its weights become inert (see :mod:`ldm.unpickle`)."""
    import torch

    try:
        with contextlib.nullcontext(path) if mmap else unpickle.Reader(path) as source:
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
    lacking = [n for n in own if n not in state and not n.startswith((*allow_missing, TEXT_POSITIONS))]
    surplus = [n for n in state if n not in own and not n.startswith(tuple(allow_unexpected))]
    other = [
        f"{n} is {form} instead of {fitting}"
        for n in own
        if n in state and (form := _form(state[n], own[n])) != (fitting := _form(own[n], own[n]))
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


def _form(value: torch.Tensor, own: torch.Tensor) -> str:
    """The shape of an entry, and its type where that can't stand for `own`."""
    usable = value.is_floating_point() or not own.is_floating_point()
    return f"{list(value.shape)}{'' if usable else f' of {value.dtype}'.replace('torch.', '')}"


def fit_names(state: State, own: State) -> dict[str, torch.Tensor]:
    """`state` under the names of a model whose weights are `own`, as far as it goes.

    What programs put around names and into them is taken off: of names with a prefix those are the model's that have
    it. Text encoders may lack ``text_model.``, and matrices may be 1x1 convolutions or the other way around.
    """
    known = {*own, *map(ema_name, own)}
    named = {n if n in known else WRAPPING.sub("", n).replace("_orig_mod", ""): value for n, value in state.items()}
    starts = ((n, [0, *(dot.end() for dot in islice(re.finditer(r"\.", n), 8))]) for n in named)
    prefixes = Counter(n[:start] for n, each in starts for start in each if n[start:] in known)
    if prefixes and (prefix := prefixes.most_common(1)[0][0]):
        named = {n.removeprefix(prefix): value for n, value in named.items() if n.startswith(prefix)}
    for name in own:
        short = name.replace(TEXT_MODEL, TEXT_MODEL.removesuffix("text_model."))
        if name not in named and short in named:
            named[name] = named.pop(short)
        if name in named and _size(named[name]) == _size(own[name]):
            named[name] = named[name].reshape(own[name].shape)
    named.pop(TEXT_POSITIONS, None)
    return named


def _size(value: torch.Tensor) -> str:
    """The shape without ones at its end."""
    return ",".join(map(str, value.shape)).removesuffix(",1,1").removesuffix(",1")


def ema_name(name: str) -> str:
    """Under which name LitEma keeps the average of the weight `name` of a whole model."""
    return f"{EMA}{name.removeprefix('model.').replace('.', '')}"


def averaged(state: State, own: State, use_ema: bool) -> dict[str, torch.Tensor]:
    """What to sample with: LitEma's averages instead of the trained weights if `use_ema`, or if there are no others."""
    flat = ((ema_name(name), name) for name in own)
    found = {name: state[ema] for ema, name in flat if ema in state and (use_ema or name not in state)}
    if found:
        logger.info("using the %d averaged (EMA) weights of the checkpoint", len(found))
    return {**{name: value for name, value in state.items() if not name.startswith(EMA)}, **found}


def check_finite(weights: Iterable[tuple[str, torch.Tensor]], source: str) -> None:
    """UserError for weights that are infinite or not a number, naming the first."""
    for name, value in weights:
        # The sum, of which one value that is not finite makes another, costs less; too large a sum means nothing.
        if value.is_floating_point() and not value.float().sum().isfinite() and not value.float().isfinite().all():
            raise UserError(f"{source} has weights that are not finite ({name}); download it again or use another one")


def load_into(
    model: torch.nn.Module,
    state: State,
    source: str,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
) -> None:
    """Load `state` into `model` by name.

    Raises:
        UserError: names or shapes that differ (see :func:`check_fit`), or weights that are not finite.
    """
    state = dict(state)
    drop_constants(model, state)
    own, derived = model.state_dict(), getattr(model, "derived_buffers", ())
    check_fit(own, state, source, allow_missing, allow_unexpected)
    check_finite(((n, v) for n, v in state.items() if n in own and n not in derived), source)
    model.load_state_dict(state, strict=False)
