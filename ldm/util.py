"""Objects from configs and models from config and checkpoint; what a config may build is listed in `ldm.targets`."""

from __future__ import annotations

import functools
import inspect
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm import boundary
from ldm.arguments import suspects, wrong_argument, wrong_value
from ldm.errors import UserError as UserError
from ldm.files import atomic_write as atomic_write
from ldm.files import save_safetensors as save_safetensors
from ldm.files import save_torch as save_torch
from ldm.suggest import did_you_mean
from ldm.targets import allow_targets as allow_targets
from ldm.targets import get_obj_from_str as get_obj_from_str
from ldm.weights import averaged, fit_names, told_of_memory
from ldm.weights import check_finite as check_finite
from ldm.weights import check_fit as check_fit
from ldm.weights import drop_constants as drop_constants
from ldm.weights import load_into as load_into
from ldm.weights import load_state_dict as load_state_dict

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

LARGEST_CONFIG, MOST_ENTRIES = 1 << 20, 100_000  # characters, and entries once aliases are written out
# How published configs write "nothing here".
NO_MODULE = ("__is_first_stage__", "__is_unconditional__")


def instantiate_from_config(config: Mapping[str, Any] | str | None, **overrides: Any) -> Any:
    """Build ``config["target"](**config["params"])``; None for the published ``__is_...__`` markers.

    Raises:
        UserError: no target, a target that is not allowed, or parameters that the target refuses.
    """
    if config is None or (isinstance(config, str) and config in NO_MODULE):
        return None
    if not isinstance(config, Mapping) or "target" not in config:
        raise UserError(f"config section has no 'target' to build: {config!r:.120}")
    for key in config:
        if key not in ("target", "params") and (near := did_you_mean(str(key), ("target", "params"))):
            raise UserError(f"config of {config['target']!s:.80} has an unknown entry '{key!s:.40}'{near}")
    target, given = get_obj_from_str(config["target"]), config.get("params") or {}
    if not isinstance(given, Mapping):
        raise UserError(f"config of {config['target']} does not fit: its params are {given!r:.60}, not entries")
    params = {**given, **overrides}
    if wrong := wrong_value(target, given):
        raise UserError(f"config of {config['target']} does not fit: {wrong}")
    try:
        return target(**params)
    except (UserError, OSError, MemoryError):
        raise
    except Exception as err:
        if boundary.MEMORY.search(str(err)):
            raise
        unexpected = "unexpected keyword argument" in str(err)
        odd = ", ".join(suspects(given)) or "the values of its params"
        reason = (wrong_argument(target, params) if unexpected else None) or f"{err}; look at {odd}"
        raise UserError(f"config of {config['target']} does not fit: {reason}") from err


def outline_from_config(config: Mapping[str, Any] | str | None) -> Any:
    """As :func:`instantiate_from_config`, on the meta device: without memory for weights, and nothing drawn for them.

    Drawing from a normal distribution there loads torch's compiler, which takes as long as loading torch.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Undrawn(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func in (torch.nn.init.normal_, torch.Tensor.normal_):
                tensor = args[0] if args else kwargs["tensor"]
                if tensor.is_meta:
                    return tensor
            return func(*args, **kwargs)

    with torch.device("meta"), Undrawn():
        return instantiate_from_config(config)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Any:
    """Read a YAML config as an OmegaConf ``DictConfig``; `overrides` are ``key.sub=value`` strings.

    Raises:
        UserError: the file is missing, is not YAML, or holds no mapping.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        if len(text) > LARGEST_CONFIG:
            raise UserError(f"config {path} is larger than any config ({len(text) >> 20} MiB); name one under configs/")
        content = yaml.load(text, Loader=_plain_loader())
    except FileNotFoundError as err:
        raise UserError(f"config {path} does not exist; name one under configs/") from err
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as err:
        reason = boundary.reason(err)
        raise UserError(f"config {path} cannot be read as YAML: {reason}") from err
    if not isinstance(content, dict):
        raise UserError(f"config {path} holds no sections")
    try:
        _check_entries(content, path)
        config = OmegaConf.merge(OmegaConf.create(content), OmegaConf.from_dotlist(list(overrides)))
        _check_entries(OmegaConf.to_container(config, resolve=False), path)
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, RecursionError) as err:
        reason = boundary.reason(err)
        raise UserError(f"config {path} with its overrides is not understood: {reason}") from err
    return config


@functools.cache
def _plain_loader() -> Any:
    """A YAML loader for texts, numbers, truth values, lists and mappings alone: no tag that builds anything else.

    Keys may not come twice. 1e-4 is a number, as OmegaConf reads it.
    """
    import yaml

    class Plain(yaml.SafeLoader):
        yaml_implicit_resolvers = {
            first: [
                (tag, rule) for tag, rule in rules if not tag.endswith((":float", ":timestamp", ":merge", ":value"))
            ]
            for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = Counter(key.value for key, _ in node.value if isinstance(key.value, str))
            if double := [key for key, count in keys.items() if count > 1]:
                raise yaml.YAMLError(f"the key '{double[0]:.60}' comes twice")
            return super().construct_mapping(node, deep)

    number = re.compile(
        r"[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\.\d[\d_]*([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.(inf|Inf|INF))$"
        r"|\.(nan|NaN|NAN)$"
    )
    Plain.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789."))
    tags = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")}
    Plain.yaml_constructors = {tag: make for tag, make in Plain.yaml_constructors.items() if tag in tags or tag is None}
    return Plain


def _check_entries(config: Any, path: str | Path) -> None:
    """UserError for ``${name:...}``, which would read the environment, and for aliases that make a huge config.

    ``${model.params.x}`` may stay.
    """
    entries, count = [config], 0
    while entries:
        value, count = entries.pop(), count + 1
        if count > MOST_ENTRIES:
            raise UserError(f"config {path} has more than {MOST_ENTRIES} entries; name one under configs/")
        if isinstance(value, str) and re.search(r"\$\{[^}]*:", value):
            raise UserError(f"config {path} has '{value:.60}'; it may refer to its own entries only, such as ${{a.b}}")
        entries += [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()


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
    so a memory-mapped checkpoint is never held twice. EMA weights replace the trained ones if the config says
    `use_ema`, or if there are no others; entries that the model does not have are told of and left out.

    Args:
        config: a config with a ``model`` section.
        ckpt: path of the weights (see :func:`load_state_dict`), or None for random ones.
        device: where the model goes.
        allow_missing, allow_unexpected: prefixes of names that the checkpoint may lack, or have beyond the model's.
        dtype: of the floating-point weights; float32 by default.

    Raises:
        UserError: see :func:`load_state_dict`, :func:`load_into`; also where memory ends.
    """
    import torch

    if config is None or config.get("model") is None:
        raise UserError("the config has no 'model' section")
    dtype = dtype or torch.float32
    if ckpt is None:
        model = instantiate_from_config(config["model"])
        return model.to(device=device, dtype=dtype).eval().requires_grad_(False)
    with told_of_memory(ckpt, device):
        model = _model_with_weights(config["model"], Path(ckpt), allow_missing, allow_unexpected, dtype)
        return model.to(device=device).eval().requires_grad_(False)


def _model_with_weights(
    config: Mapping[str, Any],
    path: Path,
    allow_missing: Sequence[str],
    allow_unexpected: Sequence[str],
    dtype: torch.dtype,
) -> Any:
    state = load_state_dict(path)
    model = outline_from_config(config)
    use_ema = getattr(model, "use_ema", False)
    if use_ema:  # their average is for training; what samples has one set of weights
        model.use_ema = False
        del model.model_ema
    own, source = model.state_dict(), f"checkpoint {path}"
    # What a checkpoint need not hold: buffers that are a function of the config alone.
    derived = tuple(getattr(model, "derived_buffers", ()))
    optional = (*allow_missing, *derived)
    state = averaged(fit_names(state, own), own, use_ema)
    drop_constants(model, state)
    check_fit(own, state, source, optional, ("",))
    if surplus := [n for n in state if n not in own and not n.startswith((*allow_unexpected, *derived, "loss."))]:
        few = ", ".join(surplus[:3])
        logger.warning("%s has %d entries that the model does not (%s): they are left out.", source, len(surplus), few)
    fitting = {k: v for k, v in state.items() if k in own}
    fitting = {k: v.to(dtype) if v.is_floating_point() and k not in derived else v for k, v in fitting.items()}
    model.load_state_dict(fitting, strict=False, assign=True)
    if hasattr(model, "reset_buffers"):
        model.reset_buffers()
    if empty := [n for n, t in (*model.named_parameters(), *model.named_buffers()) if t.is_meta]:
        raise UserError(f"{source} gives no value to {len(empty)} entries ({', '.join(empty[:3])})")
    check_finite(model.named_parameters(), source)
    return model


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
        torch.ones(1, device=device).item()  # "meta" has no values
    except Exception as err:  # each backend has its own
        if boundary.MEMORY.search(str(err)):
            raise
        raise UserError(f"device '{name!s:.40}' is not available here; use --device cpu") from err
    return device


def exists(x: Any) -> bool:
    """Whether `x` is not None."""
    return x is not None


def default(val: Any, d: Any) -> Any:
    """`val`, or `d` (called where it is a function) where `val` is None."""
    if val is not None:
        return val
    return d() if inspect.isfunction(d) else d


def count_params(model: torch.nn.Module, verbose: bool = False) -> int:
    """The number of parameters of `model`; `verbose` logs it."""
    total = sum(p.numel() for p in model.parameters())
    if verbose:
        logger.info("%s has %.2f M params.", type(model).__name__, 1e-6 * total)
    return total


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


def log_txt_as_img(wh: tuple[int, int], xc: Sequence[str], size: int = 10) -> torch.Tensor:
    """Texts as images (B, 3, height, width) in [-1, 1], black on white; `wh` is (width, height).

    Lines are broken at spaces, and what does not fit the image is cut off.
    """
    import numpy as np
    import torch
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=max(size, 1))
    pages = []
    for text in xc:
        page = Image.new("RGB", (wh[0], wh[1]), color="white")
        draw, lines = ImageDraw.Draw(page), [""]
        for word in str(text).split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and draw.textlength(longer, font=font) > wh[0]:
                lines.append(word)
            else:
                lines[-1] = longer
        draw.text((0, 0), "\n".join(lines), fill="black", font=font)
        pages.append(np.asarray(page))
    return torch.from_numpy(np.stack(pages)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def parallel_data_prefetch(
    func: Callable[..., Any],
    data: Iterable[Any],
    n_proc: int,
    target_data_type: str = "ndarray",
    cpu_intensive: bool = True,
    use_worker_id: bool = False,
) -> Any:
    """`func` of `n_proc` parts of `data` at once, its results joined in order.

    Args:
        func: takes a part, and with `use_worker_id` the keyword ``worker_id``, its number.
        data: an array, list, or mapping of which the values are taken.
        target_data_type: of the parts and the result: "ndarray", or "list".
        cpu_intensive: work in processes (`func` must be importable) instead of threads.

    Raises:
        UserError: no data, no process, or another type than these.
    """
    from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor

    import numpy as np

    items = list(data.values()) if isinstance(data, Mapping) else list(data)
    if n_proc < 1 or not items or target_data_type not in ("ndarray", "list"):
        raise UserError("parallel_data_prefetch needs data, n_proc of 1 or more, and target_data_type ndarray or list")
    step = -(-len(items) // n_proc)
    parts: list[Any] = [items[i : i + step] for i in range(0, len(items), step)]
    if target_data_type == "ndarray":
        parts = [np.asarray(part) for part in parts]
    pool: Executor = (ProcessPoolExecutor if cpu_intensive else ThreadPoolExecutor)(len(parts))
    with pool:
        jobs = [pool.submit(func, part, **({"worker_id": i} if use_worker_id else {})) for i, part in enumerate(parts)]
        results = [job.result() for job in jobs]
    if target_data_type == "ndarray":
        return np.concatenate([np.asarray(result) for result in results])
    return [item for result in results for item in result]
