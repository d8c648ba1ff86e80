"""Blocks of the autoencoders and of the DDPM U-Net they descend from (Ho et al. 2020)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ldm.modules import lean
from ldm.modules.attention import LinearAttention
from ldm.modules.diffusionmodules.util import GroupNorm32
from ldm.modules.lean import norm_silu
from ldm.util import UserError


def nonlinearity(x: Tensor) -> Tensor:
    """Swish, x * sigmoid(x)."""
    return F.silu(x)


def Normalize(in_channels: int, num_groups: int = 32) -> nn.GroupNorm:
    """Group normalization as the autoencoders use it (eps 1e-6)."""
    return GroupNorm32(num_groups, in_channels, eps=1e-6)


class Upsample(nn.Module):
    """Nearest doubling of (B, C, H, W), followed by a 3x3 convolution where `with_conv`."""

    def __init__(self, in_channels: int, with_conv: bool) -> None:
        super().__init__()
        self.with_conv = with_conv
        if with_conv:
            self.conv = lean.Conv2d(in_channels, in_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 2H, 2W)."""
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.conv(x) if self.with_conv else x


class Downsample(nn.Module):
    """Halving of (B, C, H, W): a strided convolution padded to the right and below, or 2x2 averages."""

    def __init__(self, in_channels: int, with_conv: bool) -> None:
        super().__init__()
        self.with_conv = with_conv
        if with_conv:
            self.conv = lean.Conv2d(in_channels, in_channels, 3, stride=2, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H/2, W/2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1))) if self.with_conv else F.avg_pool2d(x, 2)


class ResnetBlock(nn.Module):
    """Two convolutions with a residual path; a time embedding is added between them where there is one."""

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int | None = None,
        conv_shortcut: bool = False,
        dropout: float = 0.0,
        temb_channels: int = 512,
        num_groups: int = 32,
    ) -> None:
        super().__init__()
        out_channels = out_channels or in_channels
        self.in_channels, self.out_channels = in_channels, out_channels
        self.use_conv_shortcut = conv_shortcut
        self.norm1 = Normalize(in_channels, num_groups)
        self.conv1 = lean.Conv2d(in_channels, out_channels, 3, padding=1)
        if temb_channels > 0:
            self.temb_proj = lean.Linear(temb_channels, out_channels)
        self.norm2 = Normalize(out_channels, num_groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = lean.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            if conv_shortcut:
                self.conv_shortcut = lean.Conv2d(in_channels, out_channels, 3, padding=1)
            else:
                self.nin_shortcut = lean.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """x (B, C_in, H, W), temb (B, T) or None, to (B, C_out, H, W)."""
        h = self.conv1(norm_silu(self.norm1, x))
        if temb is not None:
            h = h + self.temb_proj(F.silu(temb))[:, :, None, None]
        h = self.conv2(self.dropout(norm_silu(self.norm2, h)))
        if self.in_channels != self.out_channels:
            x = self.conv_shortcut(x) if self.use_conv_shortcut else self.nin_shortcut(x)
        return x + h


class AttnBlock(nn.Module):
    """Single-head self-attention over the pixels of (B, C, H, W), with 1x1 convolutions as projections."""

    def __init__(self, in_channels: int, num_groups: int = 32) -> None:
        super().__init__()
        self.norm = Normalize(in_channels, num_groups)
        self.q = lean.Conv2d(in_channels, in_channels, 1)
        self.k = lean.Conv2d(in_channels, in_channels, 1)
        self.v = lean.Conv2d(in_channels, in_channels, 1)
        self.proj_out = lean.Conv2d(in_channels, in_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        h = self.norm(x)
        # (B, C, H, W) -> (B, 1, HW, C): one head as wide as the features.
        q, k, v = (f(h).flatten(2).transpose(1, 2)[:, None] for f in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(h)


class LinAttnBlock(LinearAttention):
    """Linear attention with one head as wide as the features; no residual."""

    def __init__(self, in_channels: int) -> None:
        super().__init__(dim=in_channels, heads=1, dim_head=in_channels)


def make_attn(in_channels: int, attn_type: str = "vanilla", num_groups: int = 32) -> nn.Module:
    """The attention of a level: "vanilla", "linear" or "none".

    Raises:
        UserError: another name.
    """
    if attn_type == "vanilla":
        return AttnBlock(in_channels, num_groups)
    if attn_type == "linear":
        return LinAttnBlock(in_channels)
    if attn_type == "none":
        return nn.Identity()
    raise UserError(f"attn_type '{attn_type}' is none of vanilla, linear, none")


class Level(nn.Module):
    """Blocks of one resolution; the names are those of the published state dicts."""

    downsample: nn.Module
    upsample: nn.Module

    def __init__(self, blocks: Sequence[nn.Module], attns: Sequence[nn.Module]) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self.attn = nn.ModuleList(attns)

    def run(self, index: int, h: Tensor, temb: Tensor | None, checkpointed: bool) -> Tensor:
        """Block `index` and its attention; recomputed in the backward pass where `checkpointed`."""

        def body(h: Tensor) -> Tensor:
            h = self.block[index](h, temb)
            return self.attn[index](h) if len(self.attn) else h

        return checkpoint(body, h, use_reentrant=False) if checkpointed and torch.is_grad_enabled() else body(h)


class Middle(nn.Module):
    """Block, attention, block at the lowest resolution."""

    def __init__(self, channels: int, attn_type: str, **block: Any) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(in_channels=channels, **block)
        self.attn_1 = make_attn(channels, attn_type, block["num_groups"])
        self.block_2 = ResnetBlock(in_channels=channels, **block)

    def forward(self, h: Tensor, temb: Tensor | None = None) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(h, temb)), temb)


def make_level(widths: Sequence[tuple[int, int]], with_attn: bool, attn_type: str, **block: Any) -> Level:
    """A level whose blocks map the given (in, out) channels; `block` goes to every :class:`ResnetBlock`."""
    blocks = [ResnetBlock(in_channels=i, out_channels=o, **block) for i, o in widths]
    return Level(blocks, [make_attn(o, attn_type, block["num_groups"]) for _, o in widths] if with_attn else [])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layers:
    """What the encoder, the decoder and the DDPM U-Net share: arguments under their published names, and the ways."""

    ch: int  # channels of the first level; level i has ch * ch_mult[i]
    num_res_blocks: int  # of a level on the way down; one more on the way up
    attn_resolutions: Sequence[int]  # resolutions (of a `resolution` x `resolution` image) that get self-attention
    resolution: int
    ch_mult: Sequence[int] = (1, 2, 4, 8)
    dropout: float = 0.0
    resamp_with_conv: bool = True
    attn_type: str = "vanilla"  # vanilla | linear | none
    use_linear_attn: bool = False  # the same as attn_type "linear"
    # With as many groups as channels a group normalization forgets every channel's level, and with it the color
    # of a plain background.
    num_groups: int = 32
    temb_channels: int = 0  # width of the time embedding; 0 where there is none

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Layers:
        """From those of the `arguments` that belong here; TypeError where one without a default is missing."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: value for name, value in arguments.items() if name in names})

    @property
    def _block(self) -> dict[str, Any]:
        return {"temb_channels": self.temb_channels, "dropout": self.dropout, "num_groups": self.num_groups}

    @property
    def _attn(self) -> str:
        return "linear" if self.use_linear_attn else self.attn_type

    def _level(self, index: int, widths: Sequence[tuple[int, int]]) -> Level:
        with_attn = self.resolution // 2**index in self.attn_resolutions
        return make_level(widths, with_attn, self._attn, **self._block)

    def middle(self, channels: int) -> Middle:
        """What lies between the ways."""
        return Middle(channels, self._attn, **self._block)

    def down(self) -> tuple[nn.ModuleList, list[int]]:
        """The way from `ch` channels down, and the channels of every feature map on it, the first one's too."""
        levels, maps = nn.ModuleList(), [self.ch]
        for i, mult in enumerate(self.ch_mult):
            out = self.ch * mult
            level = self._level(i, [(maps[-1], out)] + [(out, out)] * (self.num_res_blocks - 1))
            maps += [out] * self.num_res_blocks
            if i < len(self.ch_mult) - 1:
                level.downsample = Downsample(out, self.resamp_with_conv)
                maps.append(out)
            levels.append(level)
        return levels, maps

    def up(self, channels: int, skips: Sequence[int] = ()) -> nn.ModuleList:
        """The way up from `channels`; `skips` are channels of the maps that join each block's input, last first."""
        levels: list[Level] = []
        rest = list(skips)
        for i in reversed(range(len(self.ch_mult))):
            out, widths = self.ch * self.ch_mult[i], []
            for _ in range(self.num_res_blocks + 1):
                widths.append((channels + (rest.pop() if rest else 0), out))
                channels = out
            level = self._level(i, widths)
            if i > 0:
                level.upsample = Upsample(out, self.resamp_with_conv)
            levels.insert(0, level)  # published names count from the highest resolution
        return nn.ModuleList(levels)
