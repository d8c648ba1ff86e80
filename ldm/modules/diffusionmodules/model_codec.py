"""Convolutional encoder and decoder of the autoencoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ldm.modules.diffusionmodules.model_blocks import (
    Downsample,
    Level,
    Middle,
    Normalize,
    Upsample,
    make_level,
)


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

    down: Any  # a ModuleList of Level, whose items the type checker cannot know

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
        self.ch, self.num_res_blocks, self.num_resolutions = ch, num_res_blocks, len(ch_mult)
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)
        self.down = nn.ModuleList()
        channels = ch
        for i, mult in enumerate(ch_mult):
            out = ch * mult
            widths = [(channels, out)] + [(out, out)] * (num_res_blocks - 1)
            with_attn = resolution // 2**i in attn_resolutions
            level = make_level(widths, with_attn, attn_type, **block)
            if i < len(ch_mult) - 1:
                level.downsample = Downsample(out, resamp_with_conv)
            self.down.append(level)
            channels = out
        self.mid = Middle(channels, attn_type, **block)
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
        self.mid = Middle(channels, attn_type, **block)
        levels: list[Level] = []
        for i in reversed(range(len(ch_mult))):
            out = ch * ch_mult[i]
            widths = [(channels, out)] + [(out, out)] * num_res_blocks
            level = make_level(widths, resolution // 2**i in attn_resolutions, attn_type, **block)
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
