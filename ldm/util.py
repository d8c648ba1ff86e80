"""Configs, checkpoints and files: the one place that reads what a user hands in.

Nothing here unpickles freely: weights come from safetensors or ``torch.load(weights_only=True)``, and a
config may only name targets inside :data:`ALLOWED_TARGETS`.
"""

from __future__ import annotations

import importlib
import logging
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm.errors import UserError as UserError
from ldm.files import atomic_write as atomic_write
from ldm.files import save_safetensors as save_safetensors
from ldm.suggest import did_you_mean, target_hint, wrong_argument

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# Packages a config's `target` may point into. A config is data: it must not be able to call anything else.
ALLOWED_TARGETS = (
    "ldm.",
    "layout_predictor.",
    "taming.modules.",
    "torch.nn.Identity",
    "torch.utils.data.",
    "pytorch_lightning.callbacks.",
    "pytorch_lightning.loggers.",
)
# How published configs write "nothing here".
NO_MODULE = ("__is_first_stage__", "__is_unconditional__")


# ---------------------------------------------------------------------------------------------- configs


def get_obj_from_str(target: str) -> Any:
    """The class or function that the dotted name `target` means.

    Raises:
        UserError: the name lies outside the allow-list, or no such name exists.
    """
    if not target.startswith(ALLOWED_TARGETS):
        near = did_you_mean(target.split(".")[0], {name.split(".")[0] for name in ALLOWED_TARGETS})
        allowed = ", ".join(ALLOWED_TARGETS)
        raise UserError(f"config target '{target}' is not allowed; targets start with {allowed}{near}")
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as err:
        raise UserError(f"config target '{target}' cannot be imported: {err}{target_hint(target)}") from err
    except AttributeError as err:
        raise UserError(f"config target '{target}' does not exist in {module}{target_hint(target)}") from err


def instantiate_from_config(config: Mapping[str, Any] | str | None, **overrides: Any) -> Any:
    """Build ``config["target"](**config["params"])``; None for the published ``__is_...__`` markers.

    Raises:
        UserError: no target, a target that is not allowed, or parameters that the target refuses.
    """
    if config is None or (isinstance(config, str) and config in NO_MODULE):
        return None
    if isinstance(config, str) or "target" not in config:
        raise UserError(f"config section has no 'target' to build: {config!r:.120}")
    target = get_obj_from_str(config["target"])
    params = {**(config.get("params") or {}), **overrides}
    try:
        return target(**params)
    except (TypeError, ValueError) as err:
        unexpected = "unexpected keyword argument" in str(err)
        reason = (wrong_argument(target, params) if unexpected else None) or f"{err}; look at the values of its params"
        raise UserError(f"config of {config['target']} does not fit: {reason}") from err


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Any:
    """Read a YAML config as an OmegaConf ``DictConfig``; `overrides` are ``key.sub=value`` strings.

    Raises:
        UserError: the file is missing, is not YAML, or holds no mapping.
    """
    import yaml
    from omegaconf import DictConfig, OmegaConf

    try:
        config = OmegaConf.load(path)
    except FileNotFoundError as err:
        raise UserError(f"config {path} does not exist; name one under configs/") from err
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as err:
        raise UserError(f"config {path} cannot be read as YAML: {str(err).splitlines()[0]}") from err
    if not isinstance(config, DictConfig):
        raise UserError(f"config {path} holds no sections")
    return OmegaConf.merge(config, OmegaConf.from_dotlist(list(overrides)))


# ------------------------------------------------------------------------------------------ checkpoints


def load_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Names to tensors from ``.safetensors``, or from a torch checkpoint with or without ``"state_dict"``.

    Torch files are read with ``weights_only=True`` and mapped into memory where their format allows it.

    Raises:
        UserError: missing, truncated or corrupt file, or one that needs unpickling of unknown classes.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist; give the path of a .ckpt or .safetensors file")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    return _load_torch(path)


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as err:
        raise UserError(f"checkpoint {path} is truncated or corrupt; download or export it again ({err})") from err


def _load_torch(path: Path) -> dict[str, torch.Tensor]:
    import pickle

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
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, IndexError, TypeError) as err:
        raise UserError(corrupt) from err
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise UserError(f"checkpoint {path} holds no state dict of tensors; give the path of model weights")
    return dict(loaded)


def _load_with_stubs(path: Path, mmap: bool) -> Any:
    """A training checkpoint with pickled callbacks beside its weights, which become inert (see ldm.unpickle)."""
    import pickle

    import torch

    from ldm import unpickle

    try:
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=unpickle, mmap=mmap)
    except pickle.UnpicklingError as err:
        reason = next(iter(str(err).splitlines()), "no pickle")
        raise UserError(
            f"checkpoint {path} is not loaded, since unpickling it could run code ({reason}); "
            "convert it to .safetensors on a machine you trust"
        ) from err


def check_fit(
    own: Mapping[str, torch.Tensor],
    state: Mapping[str, torch.Tensor],
    source: str,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
) -> None:
    """Refuse a `state` whose names or shapes differ from a model's `own`; names that start with an allowed prefix may.

    Raises:
        UserError: naming the first few names of each kind of difference.
    """
    lacking = [n for n in own if n not in state and not n.startswith(tuple(allow_missing))]
    surplus = [n for n in state if n not in own and not n.startswith(tuple(allow_unexpected))]
    other = [n for n in own if n in state and own[n].shape != state[n].shape]
    if not lacking and not surplus and not other:
        return
    sizes = [f"{n} is {list(state[n].shape)} instead of {list(own[n].shape)}" for n in other]
    kinds = (("lacks {} names", lacking), ("has unexpected {} names", surplus), ("has {} names in other shapes", sizes))
    found = [(kind.format(len(names)), names) for kind, names in kinds if names]
    few = 4 - len(found)  # of each kind, for a sentence that can be read
    parts = [f"{kind} ({', '.join(names[:few])}{', ...' if len(names) > few else ''})" for kind, names in found]
    verdict = "is of another architecture than the config" if other else "does not fit the config"
    told = f"{', '.join(parts[:-1])} and {parts[-1]}" if parts[1:] else parts[0]
    raise UserError(f"{source} {verdict}: it {told}; give the config that belongs to it")


def load_into(
    model: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    source: str,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
    assign: bool = False,
) -> None:
    """Load `state` into `model` by name; names and shapes that differ are refused (see :func:`check_fit`)."""
    check_fit(model.state_dict(), state, source, allow_missing, allow_unexpected)
    model.load_state_dict(dict(state), strict=False, assign=assign)


def load_model_from_config(
    config: Mapping[str, Any],
    ckpt: str | Path | None,
    *,
    device: str | torch.device = "cpu",
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
    dtype: torch.dtype | None = None,
) -> Any:
    """Build ``config["model"]``, load `ckpt` into it; the result is in eval mode and frozen, on `device`.

    The model is built without memory of its own (meta device) and takes the checkpoint's tensors as they are,
    so a memory-mapped checkpoint is never held twice. EMA weights replace the trained ones where a checkpoint
    carries them. Without `ckpt` the model keeps its random initial weights.

    Args:
        config: a config with a ``model`` section.
        ckpt: path of the weights (see :func:`load_state_dict`), or None.
        device: where the model goes.
        allow_missing: prefixes of names the checkpoint may lack.
        allow_unexpected: prefixes of names the checkpoint may have beyond the model's.
        dtype: of the floating-point weights; float32 by default.

    Raises:
        UserError: see :func:`load_state_dict`, :func:`check_fit`.
    """
    import torch

    if config is None or "model" not in config:
        raise UserError("the config has no 'model' section")
    dtype = dtype or torch.float32
    if ckpt is None:
        model = instantiate_from_config(config["model"])
        return model.to(device=device, dtype=dtype).eval().requires_grad_(False)
    state = load_state_dict(ckpt)
    with torch.device("meta"):
        model = instantiate_from_config(config["model"])
    state, ema_names = _with_ema_weights(model, state)
    # What a checkpoint need not hold: buffers that are a function of the config alone.
    derived = tuple(getattr(model, "derived_buffers", ()))
    load_into(
        model,
        {k: v.to(dtype) if v.is_floating_point() and k not in derived else v for k, v in state.items()},
        f"checkpoint {ckpt}",
        (*allow_missing, *derived, *ema_names),
        (*allow_unexpected, "model_ema."),
        assign=True,
    )
    if hasattr(model, "reset_buffers"):
        model.reset_buffers()
    _fail_on_meta(model, f"checkpoint {ckpt}")
    return model.to(device=device).eval().requires_grad_(False)


def _with_ema_weights(
    model: torch.nn.Module, state: dict[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """`state` with the averaged weights in place of the trained ones, where it has them.

    LitEma keeps the average of ``model.<name>`` as ``model_ema.<name without dots>``.
    """
    ema = {k.removeprefix("model_ema."): v for k, v in state.items() if k.startswith("model_ema.")}
    own_ema = [k for k in model.state_dict() if k.startswith("model_ema.")]
    if not ema:
        return state, own_ema
    names = [k for k in state if k.startswith("model.") and k.removeprefix("model.").replace(".", "") in ema]
    if names:
        logger.info("using the %d averaged (EMA) weights of the checkpoint", len(names))
    averaged = {k: ema[k.removeprefix("model.").replace(".", "")] for k in names}
    return {**state, **averaged}, own_ema


def _fail_on_meta(model: torch.nn.Module, source: str) -> None:
    empty = [n for n, t in (*model.named_parameters(), *model.named_buffers()) if t.is_meta]
    if empty:
        raise UserError(f"{source} gives no value to {len(empty)} entries ({', '.join(empty[:3])})")


# ---------------------------------------------------------------------------------------------- devices


def pick_device(name: str | None = None) -> torch.device:
    """The named device, or by default CUDA where there is one, then MPS, then the CPU.

    Raises:
        UserError: the device does not exist here.
    """
    import torch

    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as err:
        raise UserError(f"device '{name}' is not available here; use --device cpu") from err
    return device


# ------------------------------------------------------------------------------- small helpers, published names


def exists(value: Any) -> bool:
    """Whether `value` is not None."""
    return value is not None


def default(value: Any, fallback: Any) -> Any:
    """`value`, or `fallback` (called where it is a function) where `value` is None."""
    if value is not None:
        return value
    return fallback() if callable(fallback) else fallback


def count_params(model: torch.nn.Module) -> int:
    """The number of parameters of `model`."""
    return sum(p.numel() for p in model.parameters())


def mean_flat(tensor: torch.Tensor) -> torch.Tensor:
    """Mean over all axes but the first: (B, ...) to (B,)."""
    return tensor.flatten(1).mean(1)


def disabled_train(self: Any, mode: bool = True) -> Any:
    """A ``train`` that changes nothing, for modules that stay in eval mode inside a trained one."""
    return self


def ismap(x: Any) -> bool:
    """Whether `x` is a batch of feature maps with more than three channels: (B, C > 3, H, W)."""
    return hasattr(x, "ndim") and x.ndim == 4 and x.shape[1] > 3


def isimage(x: Any) -> bool:
    """Whether `x` is a batch of grey or color images: (B, 1 or 3, H, W)."""
    return hasattr(x, "ndim") and x.ndim == 4 and x.shape[1] in (1, 3)
