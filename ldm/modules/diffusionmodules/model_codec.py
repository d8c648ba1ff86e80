"""Convolutional encoder and decoder of the autoencoders."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ldm.modules import lean
from ldm.modules.diffusionmodules.model_blocks import Layers, Normalize
from ldm.modules.lean import norm_silu


class Encoder(nn.Module):
    """Image (B, in_channels, R, R) to features (B, z_channels or twice that, R/f, R/f), f = 2^(levels - 1).

    Args:
        double_z: give mean and log variance.
        use_checkpoint: recompute each block in the backward pass.
        shared: see :class:`Layers`; what else a ``ddconfig`` holds, the decoder's part, is not used.
    """

    down: Any  # a ModuleList of Level, whose items the type checker cannot know

    def __init__(
        self, *, in_channels: int, z_channels: int, double_z: bool = True, use_checkpoint: bool = False, **shared: Any
    ) -> None:
        super().__init__()
        layers = Layers.of(shared)
        self.use_checkpoint = use_checkpoint
        self.ch, self.num_res_blocks, self.num_resolutions = layers.ch, layers.num_res_blocks, len(layers.ch_mult)
        self.conv_in = lean.Conv2d(in_channels, layers.ch, 3, padding=1)
        self.down, maps = layers.down()
        self.mid = layers.middle(maps[-1])
        self.norm_out = Normalize(maps[-1], layers.num_groups)
        self.conv_out = lean.Conv2d(maps[-1], 2 * z_channels if double_z else z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, z, H/f, W/f)."""
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
        use_checkpoint, shared: as :class:`Encoder`'s.
    """

    up: Any

    def __init__(
        self,
        *,
        out_ch: int,
        z_channels: int,
        give_pre_end: bool = False,
        tanh_out: bool = False,
        use_checkpoint: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__()
        layers = Layers.of(shared)
        self.give_pre_end, self.tanh_out, self.use_checkpoint = give_pre_end, tanh_out, use_checkpoint
        channels = layers.ch * layers.ch_mult[-1]
        self.conv_in = lean.Conv2d(z_channels, channels, 3, padding=1)
        self.mid = layers.middle(channels)
        self.up = layers.up(channels)
        channels = layers.ch * layers.ch_mult[0]
        self.norm_out = Normalize(channels, layers.num_groups)
        self.conv_out = lean.Conv2d(channels, out_ch, 3, padding=1)

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
        return self.conv_out(norm_silu(self.norm_out, h))
