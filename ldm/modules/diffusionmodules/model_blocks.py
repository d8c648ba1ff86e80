"""Encoder and decoder of the autoencoders, and their blocks, which the DDPM U-Net shares (Ho et al. 2020)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.arguments import Count, Depth, Fraction
from ldm.modules import lean
from ldm.modules.attention import LinearAttention
from ldm.modules.attention import SpatialSelfAttention as AttnBlock
from ldm.modules.diffusionmodules.util import GroupNorm32, checkpoint
from ldm.modules.lean import norm_silu
from ldm.util import UserError


def nonlinearity(x: Tensor) -> Tensor:
    """Swish, x * sigmoid(x)."""
    return F.silu(x)


def Normalize(in_channels: int, num_groups: int = 32) -> nn.GroupNorm:
    """Group normalization with the eps of the autoencoders, 1e-6."""
    return GroupNorm32(num_groups, in_channels, eps=1e-6)


class Upsample(nn.Module):
    """Nearest doubling of (B, C, H, W), then a 3x3 convolution if `with_conv`."""

    def __init__(self, in_channels: Count, with_conv: bool) -> None:
        super().__init__()
        self.with_conv = with_conv
        if with_conv:
            self.conv = lean.Conv2d(in_channels, in_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.conv(x) if self.with_conv else x


class Downsample(nn.Module):
    """Halving of (B, C, H, W): a strided convolution padded to the right and below, or 2x2 averages."""

    def __init__(self, in_channels: Count, with_conv: bool) -> None:
        super().__init__()
        self.with_conv = with_conv
        if with_conv:
            self.conv = lean.Conv2d(in_channels, in_channels, 3, stride=2, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1))) if self.with_conv else F.avg_pool2d(x, 2)


class ResnetBlock(nn.Module):
    """Two convolutions with a residual path; a time embedding, where there is one, is added between them."""

    def __init__(
        self,
        *,
        in_channels: Count,
        out_channels: Count | None = None,
        conv_shortcut: bool = False,
        dropout: Fraction = 0.0,
        temb_channels: int = 512,
        num_groups: Count = 32,
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
        """x (B, in_channels, H, W), temb (B, temb_channels) -> (B, out_channels, H, W)."""
        h = self.conv1(norm_silu(self.norm1, x))
        if temb is not None:
            h = h + self.temb_proj(F.silu(temb))[:, :, None, None]
        h = self.conv2(self.dropout(norm_silu(self.norm2, h)))
        if self.in_channels != self.out_channels:
            x = self.conv_shortcut(x) if self.use_conv_shortcut else self.nin_shortcut(x)
        return x + h


class LinAttnBlock(LinearAttention):
    """Linear attention with one head as wide as the features; no residual."""

    def __init__(self, in_channels: Count) -> None:
        super().__init__(dim=in_channels, heads=1, dim_head=in_channels)


def make_attn(in_channels: int, attn_type: str = "vanilla", num_groups: int = 32) -> nn.Module:
    """The attention of a level: "vanilla", "linear" or "none". Raises UserError for another name."""
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

    def run(self, index: int, h: Tensor, temb: Tensor | None = None, checkpointed: bool = False) -> Tensor:
        """Block `index` and its attention."""

        def body(h: Tensor) -> Tensor:
            h = self.block[index](h, temb)
            return self.attn[index](h) if len(self.attn) else h

        return checkpoint(body, (h,), None, checkpointed)


class Middle(nn.Module):
    """Block, attention, block at the lowest resolution."""

    def __init__(self, channels: int, attn_type: str, **block: Any) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(in_channels=channels, **block)
        self.attn_1 = make_attn(channels, attn_type, block["num_groups"])
        self.block_2 = ResnetBlock(in_channels=channels, **block)

    def forward(self, h: Tensor, temb: Tensor | None = None) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(h, temb)), temb)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layers:
    """What encoder, decoder and DDPM U-Net share: arguments under their published names, and the two paths."""

    ch: Count  # level i has ch * ch_mult[i] channels
    num_res_blocks: Depth  # of a level on the way down; one more on the way up
    attn_resolutions: Sequence[Count]  # resolutions (of a `resolution` x `resolution` image) with self-attention
    resolution: Count
    ch_mult: Sequence[Count] = (1, 2, 4, 8)
    dropout: Fraction = 0.0
    resamp_with_conv: bool = True
    attn_type: str = "vanilla"  # vanilla | linear | none
    use_linear_attn: bool = False  # the same as attn_type "linear"
    # With as many groups as channels, a group normalization forgets each channel's mean, and with it the color of a
    # plain background.
    num_groups: Count = 32
    temb_channels: int = 0  # width of the time embedding; 0: none

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Layers:
        """From those of the `arguments` that belong here; TypeError if one without a default is missing."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: value for name, value in arguments.items() if name in names})

    @property
    def _attn(self) -> str:
        return "linear" if self.use_linear_attn else self.attn_type

    @property
    def _block(self) -> dict[str, Any]:
        return {"temb_channels": self.temb_channels, "dropout": self.dropout, "num_groups": self.num_groups}

    def _level(self, index: int, inputs: Sequence[int]) -> Level:
        """Level `index`, a block for each number of input channels."""
        out = self.ch * self.ch_mult[index]
        blocks = [ResnetBlock(in_channels=channels, out_channels=out, **self._block) for channels in inputs]
        with_attn = self.resolution // 2**index in self.attn_resolutions
        return Level(blocks, [make_attn(out, self._attn, self.num_groups) for _ in blocks] if with_attn else [])

    def middle(self, channels: int) -> Middle:
        """What lies between the two paths."""
        return Middle(channels, self._attn, **self._block)

    def down(self) -> tuple[nn.ModuleList, list[int]]:
        """The path down from `ch` channels, and the channels of every feature map on it, its input included."""
        levels, maps = nn.ModuleList(), [self.ch]
        for i, mult in enumerate(self.ch_mult):
            out = self.ch * mult
            level = self._level(i, [maps[-1]] + [out] * (self.num_res_blocks - 1))
            maps += [out] * self.num_res_blocks
            if i < len(self.ch_mult) - 1:
                level.downsample = Downsample(out, self.resamp_with_conv)
                maps.append(out)
            levels.append(level)
        return levels, maps

    def up(self, channels: int, skips: Sequence[int] = ()) -> nn.ModuleList:
        """The path up from `channels`; `skips` are the channels that join each block's input, last first."""
        levels: list[Level] = []
        rest = list(skips)
        for i in reversed(range(len(self.ch_mult))):
            inputs = []
            for _ in range(self.num_res_blocks + 1):
                inputs.append(channels + (rest.pop() if rest else 0))
                channels = self.ch * self.ch_mult[i]
            level = self._level(i, inputs)
            if i > 0:
                level.upsample = Upsample(channels, self.resamp_with_conv)
            levels.insert(0, level)  # published names count from the highest resolution
        return nn.ModuleList(levels)


class Encoder(nn.Module):
    """Image (B, in_channels, H, W) to features (B, z_channels or twice that, H/f, W/f), f = 2^(levels - 1).

    Args:
        double_z: give mean and log variance.
        out_ch, ignore_kwargs: what else a `ddconfig` holds is the decoder's.
        use_checkpoint: recompute each block in the backward pass.
        The others: see `Layers`.
    """

    down: Any  # a ModuleList of Level, whose items the type checker cannot know

    def __init__(
        self,
        *,
        ch: Count,
        out_ch: Count | None = None,
        ch_mult: Sequence[Count] = (1, 2, 4, 8),
        num_res_blocks: Depth,
        attn_resolutions: Sequence[Count],
        dropout: Fraction = 0.0,
        resamp_with_conv: bool = True,
        in_channels: Count,
        resolution: Count,
        z_channels: Count,
        double_z: bool = True,
        use_linear_attn: bool = False,
        attn_type: str = "vanilla",
        num_groups: Count = 32,
        use_checkpoint: bool = False,
        **ignore_kwargs: Any,
    ) -> None:
        layers = Layers.of(locals())
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.ch, self.num_res_blocks, self.num_resolutions = layers.ch, layers.num_res_blocks, len(layers.ch_mult)
        self.conv_in = lean.Conv2d(in_channels, layers.ch, 3, padding=1)
        self.down, maps = layers.down()
        self.mid = layers.middle(maps[-1])
        self.norm_out = Normalize(maps[-1], layers.num_groups)
        self.conv_out = lean.Conv2d(maps[-1], 2 * z_channels if double_z else z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            for index in range(len(level.block)):
                h = level.run(index, h, None, self.use_checkpoint)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
        return self.conv_out(norm_silu(self.norm_out, self.mid(h)))


class Decoder(nn.Module):
    """Latent (B, z_channels, h, w) to image (B, out_ch, f h, f w).

    Args:
        give_pre_end: return the features before the last normalization.
        tanh_out: squash the image to (-1, 1).
        in_channels, ignorekwargs: what else a `ddconfig` holds is the encoder's.
        The others: as those of `Encoder`.
    """

    up: Any

    def __init__(
        self,
        *,
        ch: Count,
        out_ch: Count,
        ch_mult: Sequence[Count] = (1, 2, 4, 8),
        num_res_blocks: Depth,
        attn_resolutions: Sequence[Count],
        dropout: Fraction = 0.0,
        resamp_with_conv: bool = True,
        in_channels: Count | None = None,
        resolution: Count,
        z_channels: Count,
        give_pre_end: bool = False,
        tanh_out: bool = False,
        use_linear_attn: bool = False,
        attn_type: str = "vanilla",
        num_groups: Count = 32,
        use_checkpoint: bool = False,
        **ignorekwargs: Any,
    ) -> None:
        layers = Layers.of(locals())
        super().__init__()
        self.give_pre_end, self.tanh_out, self.use_checkpoint = give_pre_end, tanh_out, use_checkpoint
        channels = layers.ch * layers.ch_mult[-1]
        self.conv_in = lean.Conv2d(z_channels, channels, 3, padding=1)
        self.mid = layers.middle(channels)
        self.up = layers.up(channels)
        channels = layers.ch * layers.ch_mult[0]
        self.norm_out = Normalize(channels, layers.num_groups)
        self.conv_out = lean.Conv2d(channels, out_ch, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = checkpoint(self.mid, (self.conv_in(z),), None, self.use_checkpoint)
        for level in reversed(self.up):
            for index in range(len(level.block)):
                h = level.run(index, h, None, self.use_checkpoint)
            if hasattr(level, "upsample"):
                h = level.upsample(h)
        if self.give_pre_end:
            return h
        h = checkpoint(self._image, (h,), None, self.use_checkpoint)
        return torch.tanh(h) if self.tanh_out else h

    def _image(self, h: Tensor) -> Tensor:
        return self.conv_out(norm_silu(self.norm_out, h))
