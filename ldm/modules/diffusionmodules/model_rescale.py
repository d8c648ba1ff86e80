"""Decoders and rescalers around the autoencoder's encoder and decoder, under their published names and arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.modules.diffusionmodules.model_blocks import AttnBlock, Downsample, Normalize, ResnetBlock, Upsample
from ldm.modules.diffusionmodules.model_codec import Decoder, Encoder
from ldm.modules.distributions.distributions import DiagonalGaussianDistribution
from ldm.util import UserError, instantiate_from_config


def _block(in_channels: int, out_channels: int, dropout: float = 0.0) -> ResnetBlock:
    return ResnetBlock(in_channels=in_channels, out_channels=out_channels, temb_channels=0, dropout=dropout)


class SimpleDecoder(nn.Module):
    """Three residual blocks and one doubling: (B, in_channels, h, w) to (B, out_channels, 2h, 2w)."""

    def __init__(self, in_channels: int, out_channels: int, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        c = in_channels
        self.model = nn.ModuleList(
            [
                nn.Conv2d(c, c, 1),
                _block(c, 2 * c),
                _block(2 * c, 4 * c),
                _block(4 * c, 2 * c),
                nn.Conv2d(2 * c, c, 1),
                Upsample(c, with_conv=True),
            ]
        )
        self.norm_out = Normalize(c)
        self.conv_out = nn.Conv2d(c, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, out_channels, 2h, 2w)."""
        for layer in self.model:
            x = layer(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class UpsampleDecoder(nn.Module):
    """Levels of residual blocks with a doubling between each two: no attention, no middle.

    Args:
        ch: level i has ``ch * ch_mult[i]`` channels, counted from the lowest resolution.
        resolution: accepted for published configs; the network takes any size.
    """

    res_blocks: Any  # a ModuleList of ModuleLists, whose items the type checker cannot know

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        ch: int,
        num_res_blocks: int,
        resolution: int,
        ch_mult: Sequence[int] = (2, 2),
        dropout: float = 0.0,
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
        """(B, in_channels, h, w) to (B, out_channels, f h, f w), f = 2^(levels - 1)."""
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
        x = F.interpolate(x, size=[round(side * self.factor) for side in x.shape[2:]])
        x = self.attn(x)
        for block in self.res_block2:
            x = block(x)
        return self.conv_out(x)


class MergedRescaleEncoder(nn.Module):
    """An encoder whose features are rescaled: (B, in_channels, R, R) to (B, out_ch, ...)."""

    def __init__(
        self,
        in_channels: int,
        ch: int,
        resolution: int,
        out_ch: int,
        num_res_blocks: int,
        attn_resolutions: Sequence[int],
        dropout: float = 0.0,
        resamp_with_conv: bool = True,
        ch_mult: Sequence[int] = (1, 2, 4, 8),
        rescale_factor: float = 1.0,
        rescale_module_depth: int = 1,
    ) -> None:
        super().__init__()
        width = ch * ch_mult[-1]
        self.encoder = Encoder(
            in_channels=in_channels,
            num_res_blocks=num_res_blocks,
            ch=ch,
            ch_mult=ch_mult,
            z_channels=width,
            double_z=False,
            resolution=resolution,
            attn_resolutions=attn_resolutions,
            dropout=dropout,
            resamp_with_conv=resamp_with_conv,
            out_ch=out_ch,
        )
        self.rescaler = LatentRescaler(rescale_factor, width, width, out_ch, rescale_module_depth)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, in_channels, H, W) to (B, out_ch, r H/f, r W/f), r = `rescale_factor`."""
        return self.rescaler(self.encoder(x))


class MergedRescaleDecoder(nn.Module):
    """A decoder behind a rescaler: (B, z_channels, h, w) to (B, out_ch, ...)."""

    def __init__(
        self,
        z_channels: int,
        out_ch: int,
        resolution: int,
        num_res_blocks: int,
        attn_resolutions: Sequence[int],
        ch: int,
        ch_mult: Sequence[int] = (1, 2, 4, 8),
        dropout: float = 0.0,
        resamp_with_conv: bool = True,
        rescale_factor: float = 1.0,
        rescale_module_depth: int = 1,
    ) -> None:
        super().__init__()
        width = z_channels * ch_mult[-1]
        self.decoder = Decoder(
            out_ch=out_ch,
            z_channels=width,
            attn_resolutions=attn_resolutions,
            dropout=dropout,
            resamp_with_conv=resamp_with_conv,
            in_channels=out_ch,
            num_res_blocks=num_res_blocks,
            ch_mult=ch_mult,
            resolution=resolution,
            ch=ch,
        )
        self.rescaler = LatentRescaler(rescale_factor, z_channels, width, width, rescale_module_depth)

    def forward(self, x: Tensor) -> Tensor:
        """(B, z_channels, h, w) to images (B, out_ch, f r h, f r w), r = `rescale_factor`."""
        return self.decoder(self.rescaler(x))


class Upsampler(nn.Module):
    """From `in_size` to about `out_size`: a rescaler for the odd rest, a decoder for the doublings.

    Args:
        in_size, out_size: sides; the second not smaller than the first.
        ch_mult: channels of every level over `in_channels`.

    Raises:
        UserError: `out_size` is smaller than `in_size`.
    """

    def __init__(self, in_size: int, out_size: int, in_channels: int, out_channels: int, ch_mult: int = 2) -> None:
        super().__init__()
        if out_size < in_size:
            raise UserError(f"an Upsampler cannot go from {in_size} to {out_size}; out_size must not be smaller")
        levels = int(math.log2(out_size // in_size)) + 1
        self.rescaler = LatentRescaler(1.0 + out_size % in_size, in_channels, 2 * in_channels, in_channels)
        self.decoder = Decoder(
            out_ch=out_channels,
            resolution=out_size,
            z_channels=in_channels,
            num_res_blocks=2,
            attn_resolutions=[],
            in_channels=in_channels,
            ch=in_channels,
            ch_mult=[ch_mult] * levels,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, out_channels, ...)."""
        return self.decoder(self.rescaler(x))


class Resize(nn.Module):
    """Interpolation by a factor; never learned, as in the published code."""

    def __init__(self, in_channels: int | None = None, learned: bool = False, mode: str = "bilinear") -> None:
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

    Raises:
        UserError: neither a first stage nor a config of one.
    """

    pretrained_model: Any

    def __init__(
        self,
        ch_mult: Sequence[int],
        in_channels: int,
        pretrained_model: nn.Module | None = None,
        reshape: bool = False,
        n_channels: int | None = None,
        dropout: float = 0.0,
        pretrained_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if pretrained_config is not None:
            pretrained_model = instantiate_from_config(pretrained_config).eval().requires_grad_(False)
        if pretrained_model is None:
            raise UserError("FirstStagePostProcessor needs a pretrained_model or a pretrained_config")
        self.pretrained_model, self.do_reshape = pretrained_model, reshape
        channels: int = n_channels or self.pretrained_model.encoder.ch
        self.proj_norm = Normalize(in_channels, num_groups=in_channels // 2)
        self.proj = nn.Conv2d(in_channels, channels, 3, padding=1)
        widths = [channels * mult for mult in (1, *ch_mult)]
        steps = zip(widths[:-1], widths[1:], strict=True)
        self.model = nn.ModuleList([ResnetBlock(in_channels=i, out_channels=o, dropout=dropout) for i, o in steps])
        self.downsampler = nn.ModuleList([Downsample(width, with_conv=False) for width in widths[1:]])

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
