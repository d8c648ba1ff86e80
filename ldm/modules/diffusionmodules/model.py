"""Convolutional encoder and decoder of the autoencoders, and the DDPM U-Net they descend from (Ho et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def Normalize(in_channels: int, num_groups: int = 32) -> nn.GroupNorm:
    """Group normalisation as the autoencoders use it (eps 1e-6)."""
    return nn.GroupNorm(num_groups, in_channels, eps=1e-6, affine=True)


class Upsample(nn.Module):
    """Nearest doubling of (B, C, H, W), followed by a 3x3 convolution where `with_conv`."""

    def __init__(self, in_channels: int, with_conv: bool) -> None:
        super().__init__()
        self.with_conv = with_conv
        if with_conv:
            self.conv = nn.Conv2d(in_channels, in_channels, 3, padding=1)

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
            self.conv = nn.Conv2d(in_channels, in_channels, 3, stride=2, padding=0)

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
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        if temb_channels > 0:
            self.temb_proj = nn.Linear(temb_channels, out_channels)
        self.norm2 = Normalize(out_channels, num_groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            if conv_shortcut:
                self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 3, padding=1)
            else:
                self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """x (B, C_in, H, W), temb (B, T) or None, to (B, C_out, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        if temb is not None:
            h = h + self.temb_proj(F.silu(temb))[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        if self.in_channels != self.out_channels:
            x = self.conv_shortcut(x) if self.use_conv_shortcut else self.nin_shortcut(x)
        return x + h


class AttnBlock(nn.Module):
    """Single-head self-attention over the pixels of (B, C, H, W), with 1x1 convolutions as projections."""

    def __init__(self, in_channels: int, num_groups: int = 32) -> None:
        super().__init__()
        self.norm = Normalize(in_channels, num_groups)
        self.q = nn.Conv2d(in_channels, in_channels, 1)
        self.k = nn.Conv2d(in_channels, in_channels, 1)
        self.v = nn.Conv2d(in_channels, in_channels, 1)
        self.proj_out = nn.Conv2d(in_channels, in_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        h = self.norm(x)
        # (B, C, H, W) -> (B, 1, HW, C): one head as wide as the features.
        q, k, v = (f(h).flatten(2).transpose(1, 2)[:, None] for f in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(h)


class LinAttnBlock(nn.Module):
    """Linear attention (Katharopoulos et al. 2020) with one head: softmax over the keys' pixels, no residual."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.to_qkv = nn.Conv2d(in_channels, 3 * in_channels, 1, bias=False)
        self.to_out = nn.Conv2d(in_channels, in_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        q, k, v = self.to_qkv(x).flatten(2).chunk(3, dim=1)  # each (B, C, HW)
        context = k.softmax(dim=-1) @ v.transpose(1, 2)  # (B, C, C)
        return self.to_out((context.transpose(1, 2) @ q).reshape(x.shape))


def make_attn(in_channels: int, attn_type: str = "vanilla", num_groups: int = 32) -> nn.Module:
    """The attention of a level: "vanilla", "linear" or "none".

    Raises:
        ValueError: another name.
    """
    if attn_type == "vanilla":
        return AttnBlock(in_channels, num_groups)
    if attn_type == "linear":
        return LinAttnBlock(in_channels)
    if attn_type == "none":
        return nn.Identity()
    raise ValueError(f"attn_type '{attn_type}' is none of vanilla, linear, none")


class _Level(nn.Module):
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


class _Middle(nn.Module):
    """Block, attention, block at the lowest resolution."""

    def __init__(self, channels: int, attn_type: str, **block: Any) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(in_channels=channels, **block)
        self.attn_1 = make_attn(channels, attn_type, block["num_groups"])
        self.block_2 = ResnetBlock(in_channels=channels, **block)

    def forward(self, h: Tensor, temb: Tensor | None = None) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(h, temb)), temb)


def _level(widths: Sequence[tuple[int, int]], with_attn: bool, attn_type: str, **block: Any) -> _Level:
    """A level whose blocks map the given (in, out) channels; `block` goes to every :class:`ResnetBlock`."""
    blocks = [ResnetBlock(in_channels=i, out_channels=o, **block) for i, o in widths]
    return _Level(blocks, [make_attn(o, attn_type, block["num_groups"]) for _, o in widths] if with_attn else [])


class Encoder(nn.Module):
    """Image (B, in_channels, R, R) to features (B, z_channels or twice that, R/f, R/f), f = 2^(levels - 1).

    Args:
        ch: channels of the first level; level i has ``ch * ch_mult[i]``.
        attn_resolutions: resolutions (of a `resolution` x `resolution` image) that get self-attention.
        double_z: give mean and log variance.
        use_checkpoint: recompute each block in the backward pass.
        num_groups: of the group normalisations. With as many groups as channels a normalisation forgets every
            channel's level, and with it the colour of a plain background.
    """

    down: Any  # a ModuleList of _Level, whose items the type checker cannot know

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
        z_channels: int,
        double_z: bool = True,
        use_linear_attn: bool = False,
        attn_type: str = "vanilla",
        use_checkpoint: bool = False,
        num_groups: int = 32,
        **ignore_kwargs: Any,
    ) -> None:
        super().__init__()
        attn_type = "linear" if use_linear_attn else attn_type
        block: dict[str, Any] = {"temb_channels": 0, "dropout": dropout, "num_groups": num_groups}
        self.use_checkpoint = use_checkpoint
        self.num_res_blocks = num_res_blocks
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)
        self.down = nn.ModuleList()
        channels = ch
        for i, mult in enumerate(ch_mult):
            out = ch * mult
            widths = [(channels, out)] + [(out, out)] * (num_res_blocks - 1)
            with_attn = resolution // 2**i in attn_resolutions
            level = _level(widths, with_attn, attn_type, **block)
            if i < len(ch_mult) - 1:
                level.downsample = Downsample(out, resamp_with_conv)
            self.down.append(level)
            channels = out
        self.mid = _Middle(channels, attn_type, **block)
        self.norm_out = Normalize(channels, num_groups)
        self.conv_out = nn.Conv2d(channels, 2 * z_channels if double_z else z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, z, H/f, W/f)."""
        h = self.conv_in(x)
        for level in self.down:
            for index in range(len(level.block)):
                h = level.run(index, h, None, self.use_checkpoint)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """Latent (B, z_channels, h, w) to image (B, out_ch, f h, f w); arguments as :class:`Encoder`'s.

    Args:
        give_pre_end: return the features before the last normalisation.
        tanh_out: squash the image to (-1, 1).
    """

    up: Any

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
        z_channels: int,
        give_pre_end: bool = False,
        tanh_out: bool = False,
        use_linear_attn: bool = False,
        attn_type: str = "vanilla",
        use_checkpoint: bool = False,
        num_groups: int = 32,
        **ignore_kwargs: Any,
    ) -> None:
        super().__init__()
        attn_type = "linear" if use_linear_attn else attn_type
        block: dict[str, Any] = {"temb_channels": 0, "dropout": dropout, "num_groups": num_groups}
        self.give_pre_end, self.tanh_out, self.use_checkpoint = give_pre_end, tanh_out, use_checkpoint
        channels = ch * ch_mult[-1]
        self.conv_in = nn.Conv2d(z_channels, channels, 3, padding=1)
        self.mid = _Middle(channels, attn_type, **block)
        levels: list[_Level] = []
        for i in reversed(range(len(ch_mult))):
            out = ch * ch_mult[i]
            widths = [(channels, out)] + [(out, out)] * num_res_blocks
            level = _level(widths, resolution // 2**i in attn_resolutions, attn_type, **block)
            if i > 0:
                level.upsample = Upsample(out, resamp_with_conv)
            levels.insert(0, level)  # published names count from the highest resolution
            channels = out
        self.up = nn.ModuleList(levels)
        self.norm_out = Normalize(channels, num_groups)
        self.conv_out = nn.Conv2d(channels, out_ch, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """(B, z_channels, h, w) to (B, out_ch, f h, f w)."""
        h = self.conv_in(z)
        checkpointed = self.use_checkpoint and torch.is_grad_enabled()
        h = checkpoint(self.mid, h, use_reentrant=False) if checkpointed else self.mid(h)
        for level in reversed(self.up):
            for index in range(len(level.block)):
                h = level.run(index, h, None, self.use_checkpoint)
            if hasattr(level, "upsample"):
                h = level.upsample(h)
        if self.give_pre_end:
            return h
        h = checkpoint(self._image, h, use_reentrant=False) if checkpointed else self._image(h)
        return torch.tanh(h) if self.tanh_out else h

    def _image(self, h: Tensor) -> Tensor:
        return self.conv_out(F.silu(self.norm_out(h)))


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
        attn_type = "linear" if use_linear_attn else attn_type
        self.ch, self.use_timestep = ch, use_timestep
        temb_ch = 4 * ch if use_timestep else 0
        block: dict[str, Any] = {"temb_channels": temb_ch, "dropout": dropout, "num_groups": 32}
        if use_timestep:
            self.temb = nn.Module()
            self.temb.dense = nn.ModuleList([nn.Linear(ch, temb_ch), nn.Linear(temb_ch, temb_ch)])
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)
        self.down = nn.ModuleList()
        skips, channels = [ch], ch  # channels of every feature map the way up takes over
        for i, mult in enumerate(ch_mult):
            out = ch * mult
            widths = [(channels, out)] + [(out, out)] * (num_res_blocks - 1)
            level = _level(widths, resolution // 2**i in attn_resolutions, attn_type, **block)
            skips += [out] * num_res_blocks
            if i < len(ch_mult) - 1:
                level.downsample = Downsample(out, resamp_with_conv)
                skips.append(out)
            self.down.append(level)
            channels = out
        self.mid = _Middle(channels, attn_type, **block)
        levels: list[_Level] = []
        for i in reversed(range(len(ch_mult))):
            out, widths = ch * ch_mult[i], []
            for _ in range(num_res_blocks + 1):
                widths.append((channels + skips.pop(), out))
                channels = out
            level = _level(widths, resolution // 2**i in attn_resolutions, attn_type, **block)
            if i > 0:
                level.upsample = Upsample(out, resamp_with_conv)
            levels.insert(0, level)
        self.up = nn.ModuleList(levels)
        self.norm_out = Normalize(channels)
        self.conv_out = nn.Conv2d(channels, out_ch, 3, padding=1)

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
