"""The DDPM U-Net (Ho et al. 2020), and every class of the autoencoders under its published path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.modules.diffusionmodules.model_blocks import (
    AttnBlock,
    Downsample,
    Layers,
    LinAttnBlock,
    Normalize,
    ResnetBlock,
    Upsample,
    make_attn,
    nonlinearity,
)
from ldm.modules.diffusionmodules.model_codec import Decoder, Encoder
from ldm.modules.diffusionmodules.model_rescale import (
    FirstStagePostProcessor,
    LatentRescaler,
    MergedRescaleDecoder,
    MergedRescaleEncoder,
    Resize,
    SimpleDecoder,
    UpsampleDecoder,
    Upsampler,
)

__all__ = [
    "AttnBlock",
    "Decoder",
    "Downsample",
    "Encoder",
    "FirstStagePostProcessor",
    "LatentRescaler",
    "LinAttnBlock",
    "MergedRescaleDecoder",
    "MergedRescaleEncoder",
    "Model",
    "Normalize",
    "ResnetBlock",
    "Resize",
    "SimpleDecoder",
    "Upsample",
    "UpsampleDecoder",
    "Upsampler",
    "get_timestep_embedding",
    "make_attn",
    "nonlinearity",
]


class Model(nn.Module):
    """The unconditional U-Net of DDPM: image (B, in_channels, R, R) and steps (B,) to (B, out_ch, R, R)."""

    down: Any
    up: Any
    temb: Any

    def __init__(
        self,
        *,
        ch: int,
        out_ch: int,
        ch_mult: Sequence[int] = (1, 2, 4, 8),
        num_res_blocks: int,
        attn_resolutions: Sequence[int],
        dropout: float = 0.0,
        resamp_with_conv: bool = True,
        in_channels: int,
        resolution: int,
        use_timestep: bool = True,
        use_linear_attn: bool = False,
        attn_type: str = "vanilla",
    ) -> None:
        super().__init__()
        layers = Layers(
            ch=ch,
            num_res_blocks=num_res_blocks,
            attn_resolutions=attn_resolutions,
            resolution=resolution,
            ch_mult=ch_mult,
            dropout=dropout,
            resamp_with_conv=resamp_with_conv,
            attn_type=attn_type,
            use_linear_attn=use_linear_attn,
            temb_channels=4 * ch if use_timestep else 0,
        )
        self.ch, self.use_timestep = ch, use_timestep
        if use_timestep:
            self.temb = nn.Module()
            self.temb.dense = nn.ModuleList([nn.Linear(ch, 4 * ch), nn.Linear(4 * ch, 4 * ch)])
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)
        self.down, maps = layers.down()
        self.mid = layers.middle(maps[-1])
        self.up = layers.up(maps[-1], maps)
        self.norm_out = Normalize(ch * ch_mult[0])
        self.conv_out = nn.Conv2d(ch * ch_mult[0], out_ch, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """x (B, in_channels, H, W), steps t (B,), a context (B, C, H, W) joined to x's channels where given."""
        if context is not None:
            x = torch.cat((x, context), dim=1)
        temb = None
        if self.use_timestep:
            if t is None:
                raise ValueError("this model needs the time steps t")
            first, second = self.temb.dense
            temb = second(F.silu(first(self._embed(t))))  # (B, 4 ch)
        h = self.conv_in(x)
        skips = [h]
        for level in self.down:
            for index in range(len(level.block)):
                h = level.run(index, h, temb, False)
                skips.append(h)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
                skips.append(h)
        h = self.mid(h, temb)
        for level in reversed(self.up):
            for index in range(len(level.block)):
                h = level.run(index, torch.cat((h, skips.pop()), dim=1), temb, False)
            if hasattr(level, "upsample"):
                h = level.upsample(h)
        return self.conv_out(F.silu(self.norm_out(h)))

    def _embed(self, t: Tensor) -> Tensor:
        return get_timestep_embedding(t, self.ch)


def get_timestep_embedding(timesteps: Tensor, embedding_dim: int) -> Tensor:
    """Sinusoidal embedding of DDPM (B,) to (B, dim): sine half first, frequencies spaced over dim/2 - 1."""
    half = embedding_dim // 2
    frequencies = torch.exp(
        -torch.log(torch.tensor(10000.0)) / (half - 1) * torch.arange(half, dtype=torch.float32)
    ).to(timesteps.device)
    angles = timesteps.float()[:, None] * frequencies[None]  # (B, dim/2)
    embedding = torch.cat((angles.sin(), angles.cos()), dim=1)
    return F.pad(embedding, (0, embedding_dim % 2))
