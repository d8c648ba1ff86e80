"""Every network of the autoencoders under its published path: the DDPM U-Net, and decoders and rescalers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.arguments import Count, Depth, Fraction
from ldm.modules.diffusionmodules.model_blocks import (
    AttnBlock,
    Decoder,
    Downsample,
    Encoder,
    Layers,
    LinAttnBlock,
    Normalize,
    ResnetBlock,
    Upsample,
    make_attn,
    nonlinearity,
)
from ldm.modules.distributions.distributions import DiagonalGaussianDistribution
from ldm.util import UserError, instantiate_from_config

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
        ch: Count,
        out_ch: Count,
        ch_mult: Sequence[Count] = (1, 2, 4, 8),
        num_res_blocks: Depth,
        attn_resolutions: Sequence[Count],
        dropout: Fraction = 0.0,
        resamp_with_conv: bool = True,
        in_channels: Count,
        resolution: Count,
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
        """x (B, C, H, W), steps t (B,); a context (B, C', H, W) joins the channels of x; in_channels = C + C'."""
        if context is not None:
            x = torch.cat((x, context), dim=1)
        temb = None
        if self.use_timestep:
            if t is None:
                raise ValueError("this model needs the time steps t")
            first, second = self.temb.dense
            temb = second(F.silu(first(get_timestep_embedding(t, self.ch))))  # (B, 4 ch)
        h = self.conv_in(x)
        skips = [h]
        for level in self.down:
            for index in range(len(level.block)):
                h = level.run(index, h, temb)
                skips.append(h)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
                skips.append(h)
        h = self.mid(h, temb)
        for level in reversed(self.up):
            for index in range(len(level.block)):
                h = level.run(index, torch.cat((h, skips.pop()), dim=1), temb)
            if hasattr(level, "upsample"):
                h = level.upsample(h)
        return self.conv_out(F.silu(self.norm_out(h)))

    def get_last_layer(self) -> Tensor:
        """The weight of the last convolution."""
        return self.conv_out.weight


def get_timestep_embedding(timesteps: Tensor, embedding_dim: int) -> Tensor:
    """Sinusoidal embedding of DDPM (B,) -> (B, dim): sines first, frequencies spaced over dim/2 - 1."""
    half = embedding_dim // 2
    frequencies = torch.exp(
        -torch.log(torch.tensor(10000.0)) / (half - 1) * torch.arange(half, dtype=torch.float32)
    ).to(timesteps.device)
    angles = timesteps.float()[:, None] * frequencies[None]  # (B, dim/2)
    embedding = torch.cat((angles.sin(), angles.cos()), dim=1)
    return F.pad(embedding, (0, embedding_dim % 2))


# ---------------------------------------------------------------------------------------- decoders and rescalers


def _block(in_channels: int, out_channels: int, dropout: float = 0.0) -> ResnetBlock:
    return ResnetBlock(in_channels=in_channels, out_channels=out_channels, temb_channels=0, dropout=dropout)


class SimpleDecoder(nn.Module):
    """Three residual blocks and one doubling: (B, in_channels, h, w) to (B, out_channels, 2h, 2w)."""

    def __init__(self, in_channels: int, out_channels: int, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        c = in_channels
        blocks = (_block(c, 2 * c), _block(2 * c, 4 * c), _block(4 * c, 2 * c))
        layers = (nn.Conv2d(c, c, 1), *blocks, nn.Conv2d(2 * c, c, 1), Upsample(c, with_conv=True))
        self.model = nn.ModuleList(layers)
        self.norm_out = Normalize(c)
        self.conv_out = nn.Conv2d(c, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.model:
            x = layer(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class UpsampleDecoder(nn.Module):
    """Levels of residual blocks, a doubling between each two: (B, in_channels, h, w) to (B, out_channels, f h, f w).

    Args:
        ch: level i has ``ch * ch_mult[i]`` channels, counted from the lowest resolution.
        resolution: accepted for published configs; the network takes any size.
    """

    res_blocks: Any  # a ModuleList of ModuleLists, whose items the type checker cannot know

    def __init__(
        self,
        in_channels: Count,
        out_channels: Count,
        ch: Count,
        num_res_blocks: Depth,
        resolution: Count,
        ch_mult: Sequence[Count] = (2, 2),
        dropout: Fraction = 0.0,
    ) -> None:
        super().__init__()
        self.res_blocks, self.upsample_blocks = nn.ModuleList(), nn.ModuleList()
        channels = in_channels
        for level, mult in enumerate(ch_mult):
            out = ch * mult
            widths = [channels] + [out] * num_res_blocks
            self.res_blocks.append(nn.ModuleList([_block(width, out, dropout) for width in widths]))
            channels = out
            if level < len(ch_mult) - 1:
                self.upsample_blocks.append(Upsample(channels, with_conv=True))
        self.norm_out = Normalize(channels)
        self.conv_out = nn.Conv2d(channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for level, blocks in enumerate(self.res_blocks):
            for block in blocks:
                x = block(x)
            if level < len(self.upsample_blocks):
                x = self.upsample_blocks[level](x)
        return self.conv_out(F.silu(self.norm_out(x)))


class LatentRescaler(nn.Module):
    """Feature maps at `factor` times their size (nearest), between residual blocks and around one attention."""

    def __init__(self, factor: float, in_channels: int, mid_channels: int, out_channels: int, depth: int = 2) -> None:
        super().__init__()
        self.factor = factor
        self.conv_in = nn.Conv2d(in_channels, mid_channels, 3, padding=1)
        self.res_block1 = nn.ModuleList([_block(mid_channels, mid_channels) for _ in range(depth)])
        self.attn = AttnBlock(mid_channels)
        self.res_block2 = nn.ModuleList([_block(mid_channels, mid_channels) for _ in range(depth)])
        self.conv_out = nn.Conv2d(mid_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, out_channels, round(factor h), round(factor w))."""
        x = self.conv_in(x)
        for block in self.res_block1:
            x = block(x)
        x = self.attn(F.interpolate(x, size=[round(side * self.factor) for side in x.shape[2:]]))
        for block in self.res_block2:
            x = block(x)
        return self.conv_out(x)


class MergedRescaleEncoder(nn.Module):
    """Encoder, then rescaler: images (B, in_channels, H, W) to (B, out_ch, r H/f, r W/f), r = `rescale_factor`."""

    def __init__(
        self,
        in_channels: Count,
        ch: Count,
        resolution: Count,
        out_ch: Count,
        num_res_blocks: Depth,
        attn_resolutions: Sequence[Count],
        dropout: Fraction = 0.0,
        resamp_with_conv: bool = True,
        ch_mult: Sequence[Count] = (1, 2, 4, 8),
        rescale_factor: float = 1.0,
        rescale_module_depth: Depth = 1,
    ) -> None:
        super().__init__()
        width = ch * ch_mult[-1]
        layers = Layers(
            ch=ch,
            num_res_blocks=num_res_blocks,
            attn_resolutions=attn_resolutions,
            resolution=resolution,
            ch_mult=ch_mult,
            dropout=dropout,
            resamp_with_conv=resamp_with_conv,
        )
        self.encoder = Encoder(in_channels=in_channels, z_channels=width, double_z=False, **vars(layers))
        self.rescaler = LatentRescaler(rescale_factor, width, width, out_ch, rescale_module_depth)

    def forward(self, x: Tensor) -> Tensor:
        return self.rescaler(self.encoder(x))


class MergedRescaleDecoder(nn.Module):
    """Rescaler, then decoder: (B, z_channels, h, w) to images (B, out_ch, f r h, f r w), r = `rescale_factor`."""

    def __init__(
        self,
        z_channels: Count,
        out_ch: Count,
        resolution: Count,
        num_res_blocks: Depth,
        attn_resolutions: Sequence[Count],
        ch: Count,
        ch_mult: Sequence[Count] = (1, 2, 4, 8),
        dropout: Fraction = 0.0,
        resamp_with_conv: bool = True,
        rescale_factor: float = 1.0,
        rescale_module_depth: Depth = 1,
    ) -> None:
        super().__init__()
        width = z_channels * ch_mult[-1]
        layers = Layers(
            ch=ch,
            num_res_blocks=num_res_blocks,
            attn_resolutions=attn_resolutions,
            resolution=resolution,
            ch_mult=ch_mult,
            dropout=dropout,
            resamp_with_conv=resamp_with_conv,
        )
        self.decoder = Decoder(out_ch=out_ch, z_channels=width, **vars(layers))
        self.rescaler = LatentRescaler(rescale_factor, z_channels, width, width, rescale_module_depth)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.rescaler(x))


class Upsampler(nn.Module):
    """From `in_size` to about `out_size`: a rescaler for the odd rest, a decoder for the doublings.

    Args:
        in_size, out_size: sides; the second not smaller than the first.
        ch_mult: channels of every level over `in_channels`.
    """

    def __init__(
        self, in_size: int, out_size: int, in_channels: Count, out_channels: Count, ch_mult: Count = 2
    ) -> None:
        super().__init__()
        if out_size < in_size:
            raise UserError(f"an Upsampler cannot go from {in_size} to {out_size}; out_size must not be smaller")
        levels = int(math.log2(out_size // in_size)) + 1
        self.rescaler = LatentRescaler(1.0 + out_size % in_size, in_channels, 2 * in_channels, in_channels)
        layers = Layers(
            ch=in_channels, num_res_blocks=2, attn_resolutions=[], resolution=out_size, ch_mult=[ch_mult] * levels
        )
        self.decoder = Decoder(out_ch=out_channels, z_channels=in_channels, **vars(layers))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.rescaler(x))


class Resize(nn.Module):
    """Interpolation by a factor; never learned, as in the published code."""

    def __init__(self, in_channels: Count | None = None, learned: bool = False, mode: str = "bilinear") -> None:
        super().__init__()
        if learned:
            raise UserError("Resize has no learned variant; leave out learned: true")
        self.mode = mode

    def forward(self, x: Tensor, scale_factor: float = 1.0) -> Tensor:
        """(B, C, h, w) to (B, C, s h, s w), s = `scale_factor`."""
        if scale_factor == 1.0:
            return x
        return F.interpolate(x, mode=self.mode, align_corners=False, scale_factor=scale_factor)


class FirstStagePostProcessor(nn.Module):
    """Features of a frozen first stage, halved once per entry of `ch_mult`, as maps or as tokens.

    Args:
        in_channels: of the first stage's latent.
        pretrained_model, pretrained_config: the first stage, or its config.
        reshape: give tokens (B, h w, C) instead of maps.
        n_channels: level i has ``n_channels * ch_mult[i]`` channels; by default those of the encoder.
    """

    pretrained_model: Any

    def __init__(
        self,
        ch_mult: Sequence[Count],
        in_channels: Count,
        pretrained_model: nn.Module | None = None,
        reshape: bool = False,
        n_channels: int | None = None,
        dropout: Fraction = 0.0,
        pretrained_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if pretrained_config is None and pretrained_model is None:
            raise UserError("FirstStagePostProcessor needs a pretrained_model or a pretrained_config")
        self.pretrained_model, self.do_reshape = pretrained_model, reshape
        if pretrained_config is not None:
            self.instantiate_pretrained(pretrained_config)
        channels: int = n_channels or self.pretrained_model.encoder.ch
        self.proj_norm = Normalize(in_channels, num_groups=in_channels // 2)
        self.proj = nn.Conv2d(in_channels, channels, 3, padding=1)
        widths = [channels * mult for mult in (1, *ch_mult)]
        steps = zip(widths[:-1], widths[1:], strict=True)
        self.model = nn.ModuleList([ResnetBlock(in_channels=i, out_channels=o, dropout=dropout) for i, o in steps])
        self.downsampler = nn.ModuleList([Downsample(width, with_conv=False) for width in widths[1:]])

    def instantiate_pretrained(self, config: Mapping[str, Any]) -> None:
        """Build the first stage, frozen."""
        self.pretrained_model = instantiate_from_config(config).eval().requires_grad_(False)

    @torch.no_grad()
    def encode_with_pretrained(self, x: Tensor) -> Tensor:
        """The first stage's latent of images (B, C, H, W); the mode where it is a distribution."""
        latent = self.pretrained_model.encode(x)
        return latent.mode() if isinstance(latent, DiagonalGaussianDistribution) else latent

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to maps (B, C', h, w), or to tokens (B, h w, C')."""
        z = F.silu(self.proj(self.proj_norm(self.encode_with_pretrained(x))))
        for block, down in zip(self.model, self.downsampler, strict=True):
            z = down(block(z))
        return z.flatten(2).transpose(1, 2) if self.do_reshape else z
