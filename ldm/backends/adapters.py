"""LoRA adapters of models of diffusers (Hu et al., 2021)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ldm.boundary import reason
from ldm.errors import UserError


def parse_adapter(text: str) -> tuple[Path, float]:
    """The file and the scale of "FILE" or "FILE:SCALE". UserError for what is no file of safetensors."""
    name, _, scale = text.rpartition(":")
    path, strength = Path(text), 1.0
    with contextlib.suppress(ValueError):
        if name and not path.exists():
            path, strength = Path(name), float(scale)
    if not math.isfinite(strength):
        raise UserError(f"--lora {text} needs a finite scale")
    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except Exception as error:  # the library's own, and those of the file system
        raise UserError(f"--lora {path} cannot be read as safetensors: {reason(error)}") from error
    return path, strength


def add_adapters(pipe: Any, adapters: Sequence[tuple[Path, float]]) -> None:
    """Load LoRA adapters (Hu et al., 2021) into a pipeline. UserError for one that does not go with the model."""
    names: list[str] = []
    for number, (path, _) in enumerate(adapters):
        names.append(f"adapter_{number}")
        try:
            pipe.load_lora_weights(
                str(path.parent), weight_name=path.name, adapter_name=names[-1], local_files_only=True
            )
        except ValueError as error:
            if "PEFT" in str(error):
                raise UserError("--lora needs the package peft: pip install -e '.[diffusers]'") from error
            raise UserError(f"--lora {path} does not go with this model: {reason(error)}") from error
        except Exception as error:  # of another shape, or with names of its own
            raise UserError(f"--lora {path} does not go with this model: {reason(error)}") from error
        if names[-1] not in {name for found in pipe.get_list_adapters().values() for name in found}:
            raise UserError(f"--lora {path} does not go with this model: it names none of its layers")
    if names:
        pipe.set_adapters(names, [scale for _, scale in adapters])
