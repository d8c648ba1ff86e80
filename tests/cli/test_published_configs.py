"""Every published config trains a step by main.py, as it is but for sizes, folders and LPIPS's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

import main
from ldm import util
from ldm.util import load_config
from tests.golden_data import ROOT

# Ours, and later releases for inference, whose text encoder has one size.
NOT_FOR_TRAINING = ("configs/emoji/", "configs/stable-diffusion/v1-inpainting", "configs/stable-diffusion/v2-")
CONFIGS = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "configs").rglob("*.yaml"))]
CONFIGS = [path for path in CONFIGS if not path.startswith(NOT_FOR_TRAINING)]
SIDE = 32


class Captioned(Dataset[dict[str, Any]]):
    """Images with texts, tokens, classes and context vectors under the names that published configs have."""

    def __init__(self, width: int) -> None:
        self.width = width

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = np.full((SIDE, SIDE, 3), index - 0.5, np.float32)
        words = torch.full((7,), index) if self.width == 0 else "a cat"
        return {"image": image, "jpg": image, "txt": "a cat", "caption": words, "class_label": index} | (
            {"nix": torch.ones(2, self.width)} if self.width else {}
        )


def write_images(folder: Path) -> None:
    """Two images of a class, and a list of them."""
    rng = np.random.default_rng(0)
    (folder / "n1").mkdir()
    for n in range(2):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(folder / "n1" / f"{n}.png")
    (folder / "list.txt").write_text("n1/0.png\nn1/1.png\n")


def shrunk(config: Any, folder: Path) -> dict[str, Any]:
    """The entries that make a run of `config` a small one on the images of `folder`."""
    model: dict[str, Any] = {}
    data: dict[str, Any] = {"batch_size": 2, "num_workers": 0}
    params = config.model.params
    if "unet_config" in params:
        unet = {"model_channels": 32, "channel_mult": [1, 1], "num_res_blocks": 1, "attention_resolutions": [2]}
        unet |= {"context_dim": 32} if "context_dim" in params.unet_config.params else {}
        unet |= {"num_head_channels": 16} if "num_head_channels" in params.unet_config.params else {"num_heads": 2}
        first = {"ddconfig": {"ch": 32, "ch_mult": [1, 1], "attn_resolutions": []}, "ckpt_path": None}
        model = {"unet_config": {"params": unet}, "first_stage_config": {"params": first}, "image_size": SIDE // 2}
    else:
        model = {"ddconfig": {"ch": 32, "ch_mult": [1, 1], "attn_resolutions": []}}
        model["lossconfig"] = {"params": {"perceptual_weight": 0.0, "disc_start": 0}}
    text = params.get("cond_stage_config")
    width = 32
    if isinstance(text, str) or text is None:
        pass
    elif text.target.endswith("ClassEmbedder"):
        model["cond_stage_config"] = {"params": {"embed_dim": 32}}
    elif text.target.endswith("BERTEmbedder"):  # tokens, without the published vocabulary
        model["cond_stage_config"] = {"params": {"n_embed": 32, "n_layer": 1, "use_tokenizer": False, "vocab_size": 9}}
        width = 0
    elif text.target.endswith("FrozenCLIPEmbedder"):
        own = {"vocab_file": "configs/emoji/vocab.txt", "width": 32, "layers": 1, "heads": 2}
        own_target = "ldm.modules.encoders.modules.SmallCLIPTextEmbedder"
        model["cond_stage_config"] = {"target": own_target, "params": own}
    for split in ("train", "validation"):
        section = config.get("data", {}).get("params", {}).get(split)
        if section is None:
            section = {"target": "tests.cli.test_published_configs.Captioned", "params": {"width": width}}
            data[split] = section
        elif "imagenet" in section.target:
            size = {"size": SIDE} if "SR" in section.target else {"config": {"size": SIDE}}
            data[split] = {"params": {"data_root": str(folder), **size}}
        else:
            files = {"txt_file": str(folder / "list.txt"), "data_root": str(folder)}
            data[split] = {"params": {"size": SIDE, **files}}
    trainer = {"max_steps": 1, "accelerator": "cpu", "enable_model_summary": False, "limit_val_batches": 1}
    made = {"model": {"params": model}, "data": {"params": data}, "lightning": {"trainer": trainer}}
    if "data" not in config:
        made["data"]["target"] = "main.DataModuleFromConfig"
    return made


@pytest.mark.parametrize("path", CONFIGS)
def test_published_config_trains(path: str, tmp_path: Path) -> None:
    util.allow_targets("tests.")
    write_images(tmp_path)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(shrunk(load_config(ROOT / path), tmp_path)))
    base = ["--base", str(ROOT / path), str(tmp_path / "small.yaml")]
    assert main.main([*base, "-t", "True", "--logdir", str(tmp_path / "logs"), "--scale_lr", "False"]) == 0
    state: dict[str, Tensor] = torch.load(tmp_path / "logs/small/checkpoints/last.ckpt", weights_only=True)
    assert state["global_step"] == 1
