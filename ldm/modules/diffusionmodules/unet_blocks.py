"""Blocks of the U-Nets in `openaimodel`, under the names of the published state dicts."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.modules.attention import Control, SpatialTransformer
from ldm.modules.diffusionmodules.util import avg_pool_nd, checkpoint, conv_nd, linear, normalization, zero_module
from ldm.modules.lean import norm_silu
from ldm.util import UserError


class HalfPrecision(nn.Module):
    """A network that computes in the dtype of its time embedding, and its published switches."""

    time_embed: nn.Sequential

    @property
    def dtype(self) -> torch.dtype:
        """The dtype the network computes in; setting it moves the network there."""
        return next(self.time_embed.parameters()).dtype

    @dtype.setter
    def dtype(self, dtype: torch.dtype) -> None:
        self.to(dtype)

    def convert_to_fp16(self) -> None:
        """Half precision for all weights."""
        self.half()

    def convert_to_fp32(self) -> None:
        """Single precision for all weights."""
        self.float()


class Upsample(nn.Module):
    """Nearest-neighbor upsampling by 2 (of the last two dimensions in 3D), then perhaps a convolution."""

    def __init__(
        self, channels: int, use_conv: bool, dims: int = 2, out_channels: int | None = None, padding: int = 1
    ) -> None:
        super().__init__()
        self.factor = (1, 2, 2) if dims == 3 else (2,) * dims
        if use_conv:
            self.conv = conv_nd(dims, channels, out_channels or channels, 3, padding=padding)
        self.use_conv = use_conv

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C_out, 2h, 2w)."""
        x = F.interpolate(x, scale_factor=self.factor, mode="nearest")
        return self.conv(x) if self.use_conv else x


class Downsample(nn.Module):
    """Downsampling by 2 (of the last two dimensions in 3D): a strided 3x3 convolution or average pooling."""

    def __init__(
        self, channels: int, use_conv: bool, dims: int = 2, out_channels: int | None = None, padding: int = 1
    ) -> None:
        super().__init__()
        stride = (1, 2, 2) if dims == 3 else 2
        if use_conv:
            self.op = conv_nd(dims, channels, out_channels or channels, 3, stride=stride, padding=padding)
        else:
            self.op = avg_pool_nd(dims, kernel_size=stride, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C_out, h/2, w/2)."""
        return self.op(x)


class TransposedUpsample(nn.Module):
    """Learned upsampling by 2, by a transposed convolution without padding."""

    def __init__(self, channels: int, out_channels: int | None = None, ks: int = 5) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, out_channels or channels, kernel_size=ks, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C_out, 2h + ks - 2, 2w + ks - 2)."""
        return self.up(x)


class TimestepBlock(nn.Module, ABC):
    """A module that takes the timestep embedding beside its input."""

    @abstractmethod
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x (B, C, ...) and emb (B, emb_channels)."""


class ResBlock(TimestepBlock):
    """Residual block conditioned on the timestep embedding, resampling its input if `up` or `down`."""

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        dropout: float,
        out_channels: int | None = None,
        use_conv: bool = False,
        use_scale_shift_norm: bool = False,
        dims: int = 2,
        use_checkpoint: bool = False,
        up: bool = False,
        down: bool = False,
    ) -> None:
        super().__init__()
        out_channels = out_channels or channels
        self.channels, self.out_channels = channels, out_channels
        self.use_scale_shift_norm = use_scale_shift_norm
        self.use_checkpoint = use_checkpoint
        self.in_layers = nn.Sequential(
            normalization(channels), nn.SiLU(), conv_nd(dims, channels, out_channels, 3, padding=1)
        )
        self.resample = up or down
        if self.resample:
            sampler = Upsample if up else Downsample
            self.h_upd, self.x_upd = sampler(channels, False, dims), sampler(channels, False, dims)
        emb_out = out_channels * (2 if use_scale_shift_norm else 1)
        self.emb_layers = nn.Sequential(nn.SiLU(), linear(emb_channels, emb_out))
        self.out_layers = nn.Sequential(
            normalization(out_channels),
            nn.SiLU(),
            nn.Dropout(p=dropout),
            zero_module(conv_nd(dims, out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection: nn.Module = nn.Identity()
        if out_channels != channels:
            kernel = 3 if use_conv else 1
            self.skip_connection = conv_nd(dims, channels, out_channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x (B, C, h, w), emb (B, emb_channels) -> (B, C_out, h', w')."""
        return checkpoint(self._forward, (x, emb), None, self.use_checkpoint)

    def _forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm, _, conv = self.in_layers
        h = norm_silu(norm, x)
        if self.resample:
            h, x = self.h_upd(h), self.x_upd(x)
        h = conv(h)
        emb_out = self.emb_layers(emb).to(h.dtype)
        emb_out = emb_out.reshape(*emb_out.shape, *((1,) * (h.dim() - 2)))  # (B, C_out or 2*C_out, 1, 1)
        norm, act, dropout, conv = self.out_layers
        if self.use_scale_shift_norm:
            scale, shift = emb_out.chunk(2, dim=1)
            h = act(norm(h) * (1 + scale) + shift)
        else:
            h = norm_silu(norm, h + emb_out)
        return self.skip_connection(x) + conv(dropout(h))


class QKVAttention(nn.Module):
    """Multi-head attention of stacked projections, whose channels are ordered (qkv, head, channel)."""

    order = ("qkv", "heads")

    def __init__(self, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads

    def forward(self, qkv: Tensor) -> Tensor:
        """(B, 3*C, P) -> (B, C, P)."""
        qkv_at = self.order.index("qkv") + 1
        shape = (3, self.n_heads, -1) if qkv_at == 1 else (self.n_heads, 3, -1)
        q, k, v = qkv.unflatten(1, shape).transpose(-1, -2).unbind(qkv_at)  # (B, H, P, D)
        return F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).flatten(1, 2)


class QKVAttentionLegacy(QKVAttention):
    """The same with channels ordered (head, qkv, channel)."""

    order = ("heads", "qkv")


class AttentionBlock(nn.Module):
    """Residual self-attention over all positions of a feature map."""

    def __init__(
        self,
        channels: int,
        num_heads: int = 1,
        num_head_channels: int = -1,
        use_checkpoint: bool = False,
        use_new_attention_order: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads if num_head_channels == -1 else channels // num_head_channels
        if channels % self.num_heads or (num_head_channels != -1 and channels % num_head_channels):
            raise UserError(f"{channels} channels do not divide into {self.num_heads} heads")
        self.use_checkpoint = use_checkpoint
        self.attention = (QKVAttention if use_new_attention_order else QKVAttentionLegacy)(self.num_heads)
        self.norm = normalization(channels)
        self.qkv = conv_nd(1, channels, channels * 3, 1)
        self.proj_out = zero_module(conv_nd(1, channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *spatial) -> the same shape."""
        return checkpoint(self._forward, (x,), None, self.use_checkpoint)

    def _forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)  # (B, C, P)
        h = self.attention(self.qkv(self.norm(flat)))
        return (flat + self.proj_out(h)).reshape(x.shape)


class AttentionPool2d(nn.Module):
    """Pooling by attention of the mean of all pixels to the pixels (CLIP, arXiv 2103.00020)."""

    def __init__(
        self, spacial_dim: int, embed_dim: int, num_heads_channels: int, output_dim: int | None = None
    ) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(embed_dim, spacial_dim**2 + 1) / math.sqrt(embed_dim))
        self.qkv_proj = conv_nd(1, embed_dim, 3 * embed_dim, 1)
        self.c_proj = conv_nd(1, embed_dim, output_dim or embed_dim, 1)
        self.attention = QKVAttention(embed_dim // num_heads_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) with h*w = spacial_dim^2 -> (B, output_dim)."""
        x = x.flatten(2)
        x = torch.cat([x.mean(dim=-1, keepdim=True), x], dim=-1) + self.positional_embedding.to(x.dtype)
        return self.c_proj(self.attention(self.qkv_proj(x)))[:, :, 0]


class TimestepEmbedSequential(nn.Sequential, TimestepBlock):
    """A sequence that hands each layer what it takes: the timestep embedding, or the context and control."""

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        emb: Tensor,
        context: Tensor | None = None,
        control: Control | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        for layer in self:
            if isinstance(layer, TimestepBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context, control, weights)
            else:
                x = layer(x)
        return x
