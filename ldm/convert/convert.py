"""Conversion of whole models: what `scripts/convert_checkpoint.py` does, as functions."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ldm.convert import configs, names
from ldm.errors import DAMAGED
from ldm.files import read_json, write_json
from ldm.locks import whole_folder
from ldm.modules.encoders.tokenizer import WordTokenizer
from ldm.suggest import did_you_mean
from ldm.util import (
    UserError,
    atomic_write,
    check_finite,
    check_fit,
    load_config,
    load_model_from_config,
    load_state_dict,
    outline_from_config,
    save_safetensors,
    save_torch,
)

logger = logging.getLogger(__name__)
State = dict[str, torch.Tensor]

NOISE = ("beta_start", "beta_end", "num_train_timesteps", *configs.TABLES["scheduler"]["theirs"])  # of a scheduler
UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
SINGLE_FILES = (".safetensors", ".ckpt", ".pt", ".pth")
OTHER_FILES = (".bin", ".pkl", ".onnx", ".gguf", ".h5", ".zip", ".npz")  # which no folder is called
# Of each part, the weights' files that diffusers writes, without a variant (".fp16"); the first is what we write.
UNET_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
TEXT_FILES = ("model.safetensors", "pytorch_model.bin")


def convert(
    source: Path, target: Path, config: Path | None = None, half: bool = False, default_config: Path | None = None
) -> list[Path]:
    """Convert a model by what its paths are: a file is a CompVis checkpoint, a folder that of diffusers.

    Args:
        source: checkpoint (its averaged weights are used if the config says `use_ema`) or folder.
        target: a file (`.safetensors` or `.ckpt`), which must not exist, or a folder, which may be empty.
        config: of the model; for a folder without it the config is derived and written beside the target.
        half: store the weights in half precision.
        default_config: for a checkpoint without `config`.

    Returns: the files and folders written.

    Raises:
        UserError: something is missing, of another architecture, in the way, or cannot be written.
    """
    single = target.suffix.lower() in SINGLE_FILES
    near = did_you_mean(target.suffix, SINGLE_FILES)
    if not single and (near or target.suffix.lower() in OTHER_FILES):
        raise UserError(f"{target} would be a folder of diffusers, since files end in {', '.join(SINGLE_FILES)}{near}")
    derived = target.with_suffix(".yaml") if source.is_dir() and config is None else target
    for path in (target, derived) if single else ():
        if path.exists():
            raise UserError(f"{path} is there already; choose another name, or delete it first")
    if source.is_dir():
        if not single:
            raise UserError(f"both {source} and {target} are folders; name a .safetensors or .ckpt file to write")
        return _folder_to_file(source, target, config, half)
    if config is None and default_config is None:
        raise UserError(f"{source} needs the config that belongs to it; name it with --config")
    loaded = load_config(config or default_config or "")
    model = load_model_from_config(loaded, source)
    if single:
        write_checkpoint(target, _cast(model.state_dict(), half))
        return [target]
    with _as_described(f"config {config or default_config}"):
        return [write_folder(model, loaded, target, half)]


def _folder_to_file(source: Path, target: Path, config: Path | None, half: bool) -> list[Path]:
    derived = None if config is not None else config_of_folder(source)
    model_config = load_config(config) if config is not None else derived
    with _as_described(f"config {config}" if config is not None else str(source)):
        if config is not None:
            _compare_noise(source, model_config)
        state = read_folder(source, model_config)
    _check(model_config, state, str(source))
    check_finite(state.items(), str(source))
    write_checkpoint(target, _cast(state, half))
    if derived is None:
        return [target]
    from omegaconf import OmegaConf

    beside = target.with_suffix(".yaml")
    with atomic_write(beside) as temporary:
        OmegaConf.save(OmegaConf.create(derived), temporary)
    return [target, beside]


@contextlib.contextmanager
def _as_described(source: str) -> Iterator[None]:
    """UserError for an entry of a config or a folder's JSON that is missing or of another kind."""
    try:
        yield
    except DAMAGED as error:
        detail = f"it lacks {error}" if isinstance(error, KeyError) else f"{error!r:.80}"
        raise UserError(
            f"{source} describes its parts in an unknown way ({detail}); give one that belongs to it"
        ) from error


def _check(config: Any, state: State, source: str) -> None:
    """Refuse weights that do not fit the config. Raises UserError."""
    model = outline_from_config(config["model"])
    allowed = (*getattr(model, "derived_buffers", ()), "model_ema.", "logvar", "scale_factor")
    check_fit(model.state_dict(), state, source, allowed)


def _compare_noise(folder: Path, config: Any) -> None:
    """Warn where the folder's scheduler says another noise or prediction than `config`."""
    file = folder / "scheduler" / "scheduler_config.json"
    theirs = _read_json(file) if file.is_file() else {}
    ours = {**configs.TABLES["scheduler"]["theirs"], **configs.scheduler_to_diffusers(config["model"]["params"])}
    other = [f"{key} {value}, not {ours[key]}" for key, value in theirs.items() if key in NOISE and value != ours[key]]
    if other:
        logger.warning("%s is of a model with %s: the config does not describe it.", file, "; ".join(other))


def _cast(state: Mapping[str, torch.Tensor], half: bool) -> State:
    """`state`, in half precision if `half`. UserError where that has no room for a value."""
    cast = {k: v.half() if half and v.is_floating_point() else v for k, v in state.items()}
    if half:
        check_finite(cast.items(), "in half precision the model")
    return cast


def write_checkpoint(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Write CompVis names as safetensors, or as ``{"state_dict": ...}`` for any other suffix. Raises UserError."""
    if path.suffix.lower() == ".safetensors":
        save_safetensors(path, state)
    else:
        save_torch(path, {"state_dict": {k: v.contiguous() for k, v in state.items()}})


def unet_state_to_diffusers(state: Mapping[str, torch.Tensor], params: Mapping[str, Any]) -> State:
    """Weights of a UNetModel under the names of UNet2DConditionModel. Raises UserError for another kind."""
    return names.rename(state, names.unet_table(params), "the U-Net")


def vae_state_to_diffusers(state: Mapping[str, torch.Tensor], params: Mapping[str, Any]) -> State:
    """Weights of an AutoencoderKL under diffusers's names. Raises UserError for another kind."""
    matrices = names.pointwise(state, names.vae_attention_weights(state), convolution=False)
    return names.rename(matrices, names.vae_table(params["ddconfig"]), "the autoencoder")


def write_folder(model: Any, config: Any, target: Path, half: bool = False) -> Path:
    """Write a LatentDiffusion with a CLIP text encoder as a diffusers folder, whole or not at all.

    Raises:
        UserError: a kind of model that Stable Diffusion pipelines do not have, or a folder in the way.
    """
    from omegaconf import OmegaConf

    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is in the way; name a folder that is empty or does not exist")
    params: Any = OmegaConf.to_container(OmegaConf.create(config), resolve=True)["model"]["params"]  # type: ignore[index,call-overload]
    unet, first = params["unet_config"]["params"], params["first_stage_config"]["params"]
    tower = getattr(model.cond_stage_model, "tower", None)
    if tower is None:
        raise UserError("the model's conditioner is no CLIP text encoder; diffusers folders hold no other")
    state = _cast(model.state_dict(), half)
    parts: dict[str, tuple[dict[str, Any], State, str]] = {
        "unet": (
            configs.unet_to_diffusers(unet, int(params["image_size"])),
            unet_state_to_diffusers(_part(state, UNET), unet),
            UNET_FILES[0],
        ),
        "vae": (
            configs.vae_to_diffusers(first, float(model.scale_factor)),
            vae_state_to_diffusers(_part(state, VAE, without="loss."), first),
            UNET_FILES[0],
        ),
        "text_encoder": (configs.text_to_diffusers(tower), _text(_part(state, TEXT)), TEXT_FILES[0]),
    }
    inpaints = unet["in_channels"] == 2 * first["embed_dim"] + 1
    kind = {"_class_name": "StableDiffusionInpaintPipeline"} if inpaints else {}
    with whole_folder(target) as folder:
        for name, (described, weights, file) in parts.items():
            (folder / name).mkdir()
            write_json(folder / name / "config.json", described)
            save_safetensors(folder / name / file, weights, {"format": "pt"})
        (folder / "scheduler").mkdir()
        write_json(folder / "scheduler" / "scheduler_config.json", configs.scheduler_to_diffusers(params))
        tokenizer: Any = model.cond_stage_model.tokenizer
        tokenizer = tokenizer.for_transformers() if isinstance(tokenizer, WordTokenizer) else tokenizer
        tokenizer.save_pretrained(folder / "tokenizer")
        named = {"tokenizer": ["transformers", type(tokenizer).__name__]}
        write_json(folder / "model_index.json", {**configs.TABLES["index"], **kind, **named})
    return target


def _part(state: State, prefix: str, without: str | None = None) -> State:
    found = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return {k: v for k, v in found.items() if without is None or not k.startswith(without)}


def _text(state: State) -> State:
    """Without `position_ids`, which transformers makes itself."""
    return {k: v for k, v in state.items() if not k.endswith("position_ids")}


def unet_state_from_diffusers(state: Mapping[str, torch.Tensor], params: Mapping[str, Any]) -> State:
    """Weights of a UNet2DConditionModel under CompVis names. Raises UserError for another kind."""
    renamed = names.rename(state, names.inverse(names.unet_table(params)), "unet/")
    return names.pointwise(renamed, names.projection_weights(renamed), convolution=True)


def vae_state_from_diffusers(state: Mapping[str, torch.Tensor], params: Mapping[str, Any]) -> State:
    """Weights of diffusers's AutoencoderKL under CompVis names. Raises UserError for another kind."""
    table = names.inverse(names.vae_table(params["ddconfig"]))
    renamed = names.rename(names.modern_vae_names(state), table, "vae/")
    return names.pointwise(renamed, names.vae_attention_weights(renamed), convolution=True)


def config_of_folder(folder: Path) -> dict[str, Any]:
    """The CompVis config of a diffusers folder. UserError for a part that is missing, or not Stable Diffusion v1's."""
    parts = [_read_json(folder / part / "config.json") for part in ("unet", "vae", "text_encoder")]
    scheduler_file = folder / "scheduler" / "scheduler_config.json"
    scheduler = _read_json(scheduler_file) if scheduler_file.is_file() else {}
    with _as_described(str(folder)):
        unet, text = configs.unet_from_diffusers(parts[0]), configs.text_from_diffusers(parts[2])
        return configs.model_from_parts(unet, *configs.vae_from_diffusers(parts[1]), text, scheduler)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path)
    except (OSError, ValueError) as err:
        raise UserError(f"{path} is missing or no JSON; give a folder that diffusers can read") from err
    if not isinstance(record, dict):
        raise UserError(f"{path} holds no settings; give a folder that diffusers can read")
    return record


def read_folder(folder: Path, config: Any) -> State:
    """All weights of a diffusers folder under CompVis names; `config` is the CompVis config of the result."""
    params = config["model"]["params"]
    unet, first = params["unet_config"]["params"], params["first_stage_config"]["params"]
    u = unet_state_from_diffusers(_read_weights(folder / "unet", UNET_FILES), unet)
    v = vae_state_from_diffusers(_read_weights(folder / "vae", UNET_FILES), first)
    t = _text(_read_weights(folder / "text_encoder", TEXT_FILES))
    # transformers 5 writes the names without the prefix that all published folders have.
    t = {k if k.startswith("text_model.") else f"text_model.{k}": x for k, x in t.items()}
    positions = t.get("text_model.embeddings.position_embedding.weight")
    if positions is not None:  # CompVis checkpoints hold it, a folder need not
        t["text_model.embeddings.position_ids"] = torch.arange(len(positions))[None]
    parts = ((UNET, u), (VAE, v), (TEXT, t))
    return {prefix + k: x for prefix, part in parts for k, x in part.items()}


def _read_weights(folder: Path, files: tuple[str, ...]) -> State:
    """The weights of a part, whole or in shards; without a variant (".fp16") where there are several."""
    found = []
    for preference, (stem, suffix) in enumerate(name.rsplit(".", 1) for name in files):
        for path in folder.glob(f"{stem}*"):
            if whole := re.fullmatch(rf"{stem}(\..+)?\.{suffix}", path.name):
                found.append((len(whole[1] or ""), preference, path))
            elif index := re.fullmatch(rf"{stem}(\..+)?\.{suffix}\.index(\..+)?\.json", path.name):
                found.append((len(index[1] or index[2] or ""), preference, path))
    if not found:
        raise UserError(f"{folder} holds no weights ({' or '.join(files)}); give a whole diffusers folder")
    path = min(found)[-1]
    return _read_shards(path) if path.suffix == ".json" else load_state_dict(path)


def _read_shards(index: Path) -> State:
    """The weights of all the files that an index names, which lie beside it."""
    shards = _read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise UserError(f"{index} names no files of weights; fetch the folder again")
    state: State = {}
    for name in sorted(set(shards.values())):
        if Path(name).name != name:
            raise UserError(f"{index} names a file outside of its folder ({name:.60}); fetch the folder again")
        state |= load_state_dict(index.with_name(name))
    return state
