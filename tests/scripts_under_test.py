"""Running a script inside the test process, and the small models that scripts are run on."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests import tiny_world
from tests.golden_data import ROOT

QUIET = ["--no-safety-checker", "--no-watermark"]


def load_script(name: str) -> ModuleType:
    """scripts/<name>.py as a module."""
    path = ROOT / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, *words: str | Path) -> None:
    """Run a script that is to succeed."""
    assert load_script(name).main([str(word) for word in words]) == 0


def refusal(capfd: pytest.CaptureFixture[str], name: str, *words: str | Path) -> str:
    """Run a script that is to refuse; its one sentence."""
    capfd.readouterr()
    try:
        code = load_script(name).main([str(word) for word in words])
    except SystemExit as stop:  # from the parser of flags
        code = stop.code
    said = capfd.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert code == 2 and said.out == "" and len(lines) == 1 and "Traceback" not in said.err, said
    assert len(lines[0]) < 500
    return lines[0]


def text_flags(world: tiny_world.TinyWorld) -> list[str]:
    """Flags that choose the tiny text-to-image model."""
    return ["--config", str(world.config), "--ckpt", str(world.ckpt), "--device", "cpu"]


def tiny_config(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The config of the tiny world with its model's parameters changed by `change`."""
    config = copy.deepcopy(tiny_world.CONFIG)
    change(config["model"]["params"])  # type: ignore[index]
    return config


def without_text(params: dict[str, Any]) -> None:
    """Make the tiny model's U-Net one without context."""
    unet = params["unet_config"]["params"]
    del unet["context_dim"], unet["transformer_depth"]
    unet["use_spatial_transformer"] = False


def concat(params: dict[str, Any]) -> None:
    """The kind of `inpainting_big`: latents of the masked image and the mask join the noisy latents."""
    without_text(params)
    params["unet_config"]["params"]["in_channels"] = 4 + 4 + 1
    params.update(conditioning_key="concat", concat_mode=True, cond_stage_config="__is_first_stage__")
    params["cond_stage_key"] = "masked_image"


def hybrid(params: dict[str, Any]) -> None:
    """The kind of the inpainting models of Stable Diffusion: a text, and mask and masked image beside the latents."""
    params["unet_config"]["params"]["in_channels"] = 4 + 1 + 4
    params["conditioning_key"] = "hybrid"


def write_model(folder: Path, config: dict[str, Any]) -> tuple[Path, Path]:
    """Config and random weights of a model as files: (config.yaml, model.safetensors)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    tiny_world.write_weights(folder / "model.safetensors", config)
    return folder / "config.yaml", folder / "model.safetensors"


def write_image(path: Path, width: int, height: int, seed: int = 0) -> Path:
    """A smooth random image as PNG."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path
