"""A complete small world with random weights, as files: what a user's checkpoints look like, but small."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from ldm.modules.encoders.openai_clip import save_clip
from ldm.modules.encoders.tokenizer import WordTokenizer, clip_part
from ldm.util import instantiate_from_config, save_safetensors

CONFIG = yaml.safe_load("""
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    linear_start: 0.00085
    linear_end: 0.012
    timesteps: 1000
    first_stage_key: image
    cond_stage_key: caption
    image_size: 8
    channels: 4
    conditioning_key: crossattn
    scale_factor: 1.0
    use_ema: false
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params: {image_size: 8, in_channels: 4, out_channels: 4, model_channels: 32, attention_resolutions: [1, 2],
        num_res_blocks: 1, channel_mult: [1, 1], num_heads: 2, use_spatial_transformer: true, transformer_depth: 1,
        context_dim: 32, legacy: false}
    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
        embed_dim: 4
        ddconfig: {double_z: true, z_channels: 4, resolution: 32, in_channels: 3, out_ch: 3, ch: 32,
          ch_mult: [1, 1, 1], num_res_blocks: 1, attn_resolutions: [], dropout: 0.0}
        lossconfig: {target: torch.nn.Identity}
    cond_stage_config:
      target: ldm.modules.encoders.modules.SmallCLIPTextEmbedder
      params: {vocab_file: configs/emoji/vocab.txt, width: 32, layers: 1, heads: 2}
""")
LAYOUT = {
    "prompt": "a cat to the left of a dog",
    "objects": [
        {"phrase": "a cat", "x": 0.25, "y": 0.5, "name": "cat"},
        {"phrase": "a dog", "x": 0.75, "y": 0.5, "name": "dog"},
    ],
}


@dataclass(frozen=True)
class TinyWorld:
    """Paths of its files. Images are 32x32; sizes go in multiples of 32, as for the embedded model."""

    config: Path
    ckpt: Path
    clip: Path
    layout: Path

    def flags(self) -> list[str]:
        """The script's flags that choose this world."""
        named = {"--config": self.config, "--ckpt": self.ckpt, "--clip": self.clip, "--layout": self.layout}
        return [*(str(word) for pair in named.items() for word in pair), "--device", "cpu"]


def build(folder: Path) -> TinyWorld:
    """Write the files of the world into `folder`."""
    world = TinyWorld(*(folder / name for name in ("tiny.yaml", "tiny.safetensors", "clip.safetensors", "a.json")))
    world.config.write_text(yaml.safe_dump(CONFIG))
    world.layout.write_text(json.dumps(LAYOUT))
    write_weights(world.ckpt, CONFIG)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        words = WordTokenizer()
        clip = clip_part("model").CLIP(16, 32, 1, 64, 16, words.context_length, words.vocab_size, 64, 1, 1)
    save_clip(clip.state_dict(), world.clip)
    return world


def write_weights(path: Path, config: Mapping[str, Any]) -> None:
    """Random weights of the model of a config as safetensors."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = instantiate_from_config(config["model"])
        for parameter in model.model.parameters():
            if not parameter.any():  # published zero-initialized layers would make the U-Net's output 0
                torch.nn.init.normal_(parameter, std=0.05)
    save_safetensors(path, model.state_dict())
