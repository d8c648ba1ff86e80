"""Models of diffusers where they lie: as folders, on the hub, as single files."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ldm.boundary import reason
from ldm.errors import UserError
from ldm.files import read_json

# Classes of pipelines whose parts are taken, and what is told of others.
PIPELINES = (
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionXLInpaintPipeline",
)
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
XL_PARTS = ("text_encoder_2", "tokenizer_2")
OTHERS = {
    "StableDiffusion3": "Stable Diffusion 3, which has a transformer and no U-Net",
    "Flux": "Flux, which has a transformer and no U-Net",
    "PixArt": "PixArt, which has a transformer and no U-Net",
    "Kandinsky": "Kandinsky, whose U-Net is conditioned by images",
}
# Classes of networks that are loaded here, and whose they are.
CLASSES = {
    "UNet2DConditionModel": "diffusers",
    "AutoencoderKL": "diffusers",
    "CLIPTextModel": "transformers",
    "CLIPTextModelWithProjection": "transformers",
}
NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")


def check_kind(name: str, *bases: str) -> None:
    """UserError for a class of pipeline, with its bases, whose parts can't be used here."""
    if not {name, *bases}.isdisjoint(PIPELINES):
        return
    what = next((text for start, text in OTHERS.items() if name.startswith(start)), f"a {name}")
    raise UserError(f"this model is {what}; Stable Diffusion 1, 2 and XL can be used")


def read_pipeline(source: str | Path, dtype: torch.dtype, config: Path | None = None) -> Any:
    """The pipeline of a folder, a hub name, or a single file of XL; see `ldm.backends.diffusers.load`."""
    import diffusers

    from ldm import hub

    folder, given = Path(source), dict[str, Any](torch_dtype=dtype)
    if not folder.exists() and (folder.suffix or str(source).count("/") != 1):
        raise UserError(f"{source} is neither a folder of diffusers nor a hub name such as stabilityai/sdxl-base-1.0")
    try:
        if folder.is_file():  # its weights are here, what describes them is the hub's
            given |= {"local_files_only": hub.unreachable()}
            if config is not None:
                given |= {"config": str(config)}
                _index(config)
            pipe = diffusers.StableDiffusionXLPipeline.from_single_file(str(source), **given)
            for name in NETWORKS:
                if any(one.is_meta for one in getattr(pipe, name).parameters()):
                    raise UserError(f"{source} lacks weights of its {name}; download it again")
            return pipe
        given |= {"local_files_only": hub.local_only(source)}
        index = _index(folder) if folder.is_dir() else diffusers.DiffusionPipeline.load_config(source, **given)
        check_kind(str(index.get("_class_name")))
        if "safety_checker" in index:
            given |= {"safety_checker": None}
        return diffusers.DiffusionPipeline.from_pretrained(
            str(source), **{**given, **_networks(str(source), index, given)}
        )
    except UserError:
        raise
    except Exception as error:  # the library has many of its own
        if not folder.is_dir() and config is None and hub.unreachable():
            what, instead = "it is", "a folder"
            if folder.is_file():
                what, instead = "its configs and tokenizers are", "another folder of XL with --config"
            raise UserError(
                f"{source} can't be loaded: {what} on the hub, which does not answer; name {instead}"
            ) from error
        raise UserError(f"the model {source} can't be loaded: {reason(error)}") from error


def _networks(source: str, index: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, nn.Module]:
    """The networks of a folder or hub name. UserError where weights are missing, which the libraries would draw."""
    networks: dict[str, nn.Module] = {}
    for name in NETWORKS:
        kind = (index.get(name) or ("", None))[1]
        if kind not in CLASSES:  # the library's own affair
            continue
        folder = Path(source) / name
        networks[name], told = getattr(importlib.import_module(CLASSES[kind]), kind).from_pretrained(
            source,
            subfolder=name,
            variant=variant_of(folder) if folder.is_dir() else None,
            output_loading_info=True,
            torch_dtype=given["torch_dtype"],
            local_files_only=given["local_files_only"],
        )
        if missing := sorted(told["missing_keys"]):
            raise UserError(f"{source} lacks weights of its {name} ({missing[0]}); download it again")
    return networks


def variant_of(part: Path) -> str | None:
    """The variant that a part's weights are all of, as "fp16"; None where some have none."""
    weights = [file.name.split(".") for file in part.iterdir() if file.suffix in (".safetensors", ".bin")]
    variants = [words[1].split("-")[0] if len(words) > 2 else None for words in weights]  # shards are counted after it
    return None if None in variants or not variants else variants[0]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The libraries draw no bars and warn of nothing inside. UserError where they are missing."""
    try:
        from diffusers.utils import logging as of_diffusers
        from transformers.utils import logging as of_transformers
    except ImportError:
        raise UserError("models of diffusers need that package: pip install -e '.[diffusers]'") from None
    libraries = of_diffusers, of_transformers
    before = [(one.is_progress_bar_enabled(), one.get_verbosity()) for one in libraries]
    for one in libraries:
        one.disable_progress_bar()
        one.set_verbosity_error()
    try:
        yield
    finally:
        for one, (bars, level) in zip(libraries, before, strict=True):
            one.set_verbosity(level)
            if bars:
                one.enable_progress_bar()


def _index(folder: Path) -> dict[str, Any]:
    """What a folder says of its pipeline. UserError for one that can't be used, or if a part of it is missing."""
    try:
        index = read_json(folder / "model_index.json")
    except (OSError, ValueError):
        index = None
    if not isinstance(index, dict):
        raise UserError(f"{folder} is no folder of diffusers: it has no readable model_index.json")
    kind = str(index.get("_class_name"))
    check_kind(kind)
    named = {part for part, what in index.items() if isinstance(what, list) and len(what) == 2 and what[1] is not None}
    needed = {*PARTS, *(XL_PARTS if "XL" in kind else ())}
    for part in sorted(needed | named - {"safety_checker", "feature_extractor"}):
        if part not in named or not (folder / part).is_dir():
            raise UserError(f"{folder} lacks its part '{part}'; download it again")
    return index
