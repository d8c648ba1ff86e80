"""The U-Net of latent diffusion, and its encoder half as a classifier.

Constructor arguments and state-dict names are those of the published configs and checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ldm.arguments import Count, Depth, Fraction
from ldm.modules.attention import Control, SpatialTransformer
from ldm.modules.diffusionmodules.unet_blocks import (
    AttentionBlock,
    AttentionPool2d,
    Downsample,
    HalfPrecision,
    QKVAttention,
    QKVAttentionLegacy,
    ResBlock,
    TimestepBlock,
    TimestepEmbedSequential,
    TransposedUpsample,
    Upsample,
)
from ldm.modules.diffusionmodules.util import conv_nd, linear, normalization, timestep_embedding, zero_module
from ldm.modules.lean import norm_silu
from ldm.util import UserError

__all__ = [
    "AttentionBlock",
    "AttentionPool2d",
    "Downsample",
    "EncoderUNetModel",
    "QKVAttention",
    "QKVAttentionLegacy",
    "ResBlock",
    "TimestepBlock",
    "TimestepEmbedSequential",
    "TransposedUpsample",
    "UNetModel",
    "Upsample",
]


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """The settings that all blocks of one U-Net share, and the paths made of them."""

    model_channels: int
    channel_mult: Sequence[int]
    num_res_blocks: Sequence[int]  # of each level
    attention_resolutions: Sequence[int]  # downsampling factors with attention
    dropout: float
    dims: int
    conv_resample: bool
    use_checkpoint: bool
    use_scale_shift_norm: bool
    resblock_updown: bool
    num_heads: int
    num_head_channels: int
    use_new_attention_order: bool
    transformer_depth: int = 0  # 0: AttentionBlock, else SpatialTransformer
    context_dim: int | Sequence[int] | None = None
    use_linear_in_transformer: bool = False
    disable_self_attentions: Sequence[bool] | None = None  # of each level
    disable_middle_self_attn: bool = False
    num_attention_blocks: Sequence[int] | None = None  # of each level: its first so many blocks have attention

    def res(self, channels: int, out_channels: int, up: bool = False, down: bool = False) -> ResBlock:
        return ResBlock(
            channels,
            4 * self.model_channels,
            self.dropout,
            out_channels=out_channels,
            dims=self.dims,
            use_checkpoint=self.use_checkpoint,
            use_scale_shift_norm=self.use_scale_shift_norm,
            up=up,
            down=down,
        )

    def attention(self, channels: int, num_heads: int, disable_self_attn: bool = False) -> nn.Module:
        """Attention at this width; `num_heads` counts for AttentionBlocks only."""
        if not self.transformer_depth:
            return AttentionBlock(
                channels,
                num_heads=num_heads,
                num_head_channels=self.num_head_channels,
                use_checkpoint=self.use_checkpoint,
                use_new_attention_order=self.use_new_attention_order,
            )
        heads = self.num_heads if self.num_head_channels == -1 else channels // self.num_head_channels
        return SpatialTransformer(
            channels,
            heads,
            channels // heads,
            depth=self.transformer_depth,
            context_dim=self.context_dim,
            disable_self_attn=disable_self_attn,
            use_linear=self.use_linear_in_transformer,
            use_checkpoint=self.use_checkpoint,
        )

    def block(self, level: int, index: int, channels: int, num_heads: int) -> list[nn.Module]:
        """Residual block `index` of this level, with attention where the level has it."""
        width = self.channel_mult[level] * self.model_channels
        layers: list[nn.Module] = [self.res(channels, width)]
        attending = self.num_attention_blocks is None or index < self.num_attention_blocks[level]
        if 2**level in self.attention_resolutions and attending:
            disabled = self.disable_self_attentions is not None and self.disable_self_attentions[level]
            layers.append(self.attention(width, num_heads, disabled))
        return layers

    def resample(self, channels: int, up: bool) -> nn.Module:
        if self.resblock_updown:
            return self.res(channels, channels, up=up, down=not up)
        return (Upsample if up else Downsample)(channels, self.conv_resample, dims=self.dims)

    def input_blocks(self, in_channels: int) -> tuple[nn.ModuleList, list[int]]:
        """The path down, and the number of channels that each of its blocks gives."""
        ch = self.model_channels
        blocks, widths = [TimestepEmbedSequential(conv_nd(self.dims, in_channels, ch, 3, padding=1))], [ch]
        for level, mult in enumerate(self.channel_mult):
            for index in range(self.num_res_blocks[level]):
                blocks.append(TimestepEmbedSequential(*self.block(level, index, ch, self.num_heads)))
                ch = mult * self.model_channels
                widths.append(ch)
            if level != len(self.channel_mult) - 1:
                blocks.append(TimestepEmbedSequential(self.resample(ch, up=False)))
                widths.append(ch)
        return nn.ModuleList(blocks), widths

    def middle_block(self, ch: int) -> TimestepEmbedSequential:
        attention = self.attention(ch, self.num_heads, self.disable_middle_self_attn)
        return TimestepEmbedSequential(self.res(ch, ch), attention, self.res(ch, ch))

    def output_blocks(self, widths: Sequence[int], num_heads: int) -> nn.ModuleList:
        """The path up; each block takes the output of one input block beside its own input."""
        blocks, skips, ch = nn.ModuleList(), list(widths), widths[-1]
        for level, mult in reversed(list(enumerate(self.channel_mult))):
            for i in range(self.num_res_blocks[level] + 1):
                layers = self.block(level, i, ch + skips.pop(), num_heads)
                ch = mult * self.model_channels
                if level and i == self.num_res_blocks[level]:
                    layers.append(self.resample(ch, up=True))
                blocks.append(TimestepEmbedSequential(*layers))
        return blocks


def _time_embed(model_channels: int) -> nn.Sequential:
    width = model_channels * 4
    return nn.Sequential(linear(model_channels, width), nn.SiLU(), linear(width, width))


class UNetModel(HalfPrecision):
    """U-Net with timestep embedding and attention; predicts the noise (or x_0, or v) of a noisy latent.

    Args:
        image_size: kept for configs; any size divisible by the downsampling factor will do.
        attention_resolutions: downsampling factors (1, 2, 4, ...) with attention after each residual block.
        num_classes: with class labels, their number.
        num_heads, num_head_channels: one of the two is needed; the second wins.
        num_heads_upsample: another `num_heads` for the AttentionBlocks of the path up.
        use_spatial_transformer: attend to a context of width `context_dim`, too.
        n_embed: predict logits over a codebook of this size instead of an image.
        use_checkpoint: recompute each block in the backward pass.
        legacy: accepted for published configs; without effect.
        disable_self_attentions, num_attention_blocks: for each level, attend to the context only; give its first so
            many blocks attention. `num_res_blocks` may be such a list, too.
        disable_middle_self_attn, use_linear_in_transformer: see `SpatialTransformer`.
    """

    def __init__(
        self,
        image_size: Count | Sequence[Count],
        in_channels: Count,
        model_channels: Count,
        out_channels: Count,
        num_res_blocks: Depth | Sequence[Depth],
        attention_resolutions: Sequence[Count],
        dropout: Fraction = 0,
        channel_mult: Sequence[Count] = (1, 2, 4, 8),
        conv_resample: bool = True,
        dims: int = 2,
        num_classes: Count | None = None,
        use_checkpoint: bool = False,
        use_fp16: bool = False,
        num_heads: int = -1,
        num_head_channels: int = -1,
        num_heads_upsample: int = -1,
        use_scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        use_new_attention_order: bool = False,
        use_spatial_transformer: bool = False,
        transformer_depth: Depth = 1,
        context_dim: Count | Sequence[Count] | None = None,
        n_embed: Count | None = None,
        legacy: bool = True,
        disable_self_attentions: Sequence[bool] | None = None,
        num_attention_blocks: Sequence[Depth] | None = None,
        disable_middle_self_attn: bool = False,
        use_linear_in_transformer: bool = False,
    ) -> None:
        super().__init__()
        blocks = [num_res_blocks] * len(channel_mult) if isinstance(num_res_blocks, int) else list(num_res_blocks)
        for name, levels in (
            ("num_res_blocks", blocks),
            ("disable_self_attentions", disable_self_attentions),
            ("num_attention_blocks", num_attention_blocks),
        ):
            if levels is not None and len(levels) != len(channel_mult):
                raise UserError(f"{name} needs an entry for each of the {len(channel_mult)} levels of channel_mult")
        if use_spatial_transformer != (context_dim is not None):
            raise UserError("use_spatial_transformer and context_dim belong together")
        if num_heads == -1 and num_head_channels == -1:
            raise UserError("either num_heads or num_head_channels has to be set")
        self.image_size, self.in_channels, self.out_channels = image_size, in_channels, out_channels
        self.model_channels, self.num_classes, self.num_res_blocks = model_channels, num_classes, blocks
        self.attention_resolutions, self.dropout, self.channel_mult = attention_resolutions, dropout, channel_mult
        self.conv_resample, self.use_checkpoint, self.num_heads = conv_resample, use_checkpoint, num_heads
        self.predict_codebook_ids = n_embed is not None
        plan = _Plan(
            model_channels=model_channels,
            channel_mult=channel_mult,
            num_res_blocks=blocks,
            attention_resolutions=attention_resolutions,
            dropout=dropout,
            dims=dims,
            conv_resample=conv_resample,
            use_checkpoint=use_checkpoint,
            use_scale_shift_norm=use_scale_shift_norm,
            resblock_updown=resblock_updown,
            num_heads=num_heads,
            num_head_channels=num_head_channels,
            use_new_attention_order=use_new_attention_order,
            transformer_depth=transformer_depth if use_spatial_transformer else 0,
            context_dim=context_dim,
            use_linear_in_transformer=use_linear_in_transformer,
            disable_self_attentions=disable_self_attentions,
            disable_middle_self_attn=disable_middle_self_attn,
            num_attention_blocks=num_attention_blocks,
        )
        self.time_embed = _time_embed(model_channels)
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, model_channels * 4)
        self.input_blocks, widths = plan.input_blocks(in_channels)
        self.middle_block = plan.middle_block(widths[-1])
        self.output_blocks = plan.output_blocks(widths, num_heads if num_heads_upsample == -1 else num_heads_upsample)
        ch = model_channels * channel_mult[0]
        self.out = nn.Sequential(
            normalization(ch), nn.SiLU(), zero_module(conv_nd(dims, ch, out_channels, 3, padding=1))
        )
        if n_embed is not None:
            self.id_predictor = nn.Sequential(normalization(ch), conv_nd(dims, ch, n_embed, 1))
        if use_fp16:
            self.half()

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor | None = None,
        context: Tensor | None = None,
        y: Tensor | None = None,
        control: Control | None = None,
        weights: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Predict from a batch of noisy inputs.

        Args:
            x: (R, in_channels, h, w).
            timesteps: (R,).
            context: (R, L, context_dim) for a spatial-transformer U-Net.
            y: (R,) class labels, if and only if the network has classes.
            control: objects of the last B rows (R = B, or 2B with the unconditional rows first).
            weights: (N, B) attention weights of this denoising step, needed with `control`.
        Returns: (R, out_channels, h, w), or (R, n_embed, h, w) logits, in the dtype of `x`.
        """
        if (y is not None) != (self.num_classes is not None):
            raise ValueError("class labels y are needed if and only if the model is class-conditional")
        if timesteps is None:
            raise ValueError("timesteps are needed")
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels).to(self.dtype))
        if y is not None:
            emb = emb + self.label_emb(y)
        h, skips = x.to(self.dtype), []
        for block in self.input_blocks:
            h = block(h, emb, context, control, weights)
            skips.append(h)
        h = self.middle_block(h, emb, context, control, weights)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb, context, control, weights)
        if self.predict_codebook_ids:
            return self.id_predictor(h).to(x.dtype)
        norm, _, conv = self.out
        return conv(norm_silu(norm, h)).to(x.dtype)


class EncoderUNetModel(HalfPrecision):
    """The downward half of the U-Net with a pooling head: a noise-aware classifier.

    Args: as `UNetModel`; `pool` is "adaptive", "attention", "spatial" or "spatial_v2".
    """

    def __init__(
        self,
        image_size: Count,
        in_channels: Count,
        model_channels: Count,
        out_channels: Count,
        num_res_blocks: Depth,
        attention_resolutions: Sequence[Count],
        dropout: Fraction = 0,
        channel_mult: Sequence[Count] = (1, 2, 4, 8),
        conv_resample: bool = True,
        dims: int = 2,
        use_checkpoint: bool = False,
        use_fp16: bool = False,
        num_heads: int = 1,
        num_head_channels: int = -1,
        num_heads_upsample: int = -1,
        use_scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        use_new_attention_order: bool = False,
        pool: str = "adaptive",
    ) -> None:
        super().__init__()
        self.model_channels, self.out_channels, self.pool = model_channels, out_channels, pool
        plan = _Plan(
            model_channels=model_channels,
            channel_mult=channel_mult,
            num_res_blocks=[num_res_blocks] * len(channel_mult),
            attention_resolutions=attention_resolutions,
            dropout=dropout,
            dims=dims,
            conv_resample=conv_resample,
            use_checkpoint=use_checkpoint,
            use_scale_shift_norm=use_scale_shift_norm,
            resblock_updown=resblock_updown,
            num_heads=num_heads,
            num_head_channels=num_head_channels,
            use_new_attention_order=use_new_attention_order,
        )
        self.time_embed = _time_embed(model_channels)
        self.input_blocks, widths = plan.input_blocks(in_channels)
        self.middle_block = plan.middle_block(widths[-1])
        last_size = image_size // 2 ** (len(channel_mult) - 1)
        pooled = sum(widths) + widths[-1] if pool.startswith("spatial") else widths[-1]
        self.out = nn.Sequential(*self._head(pool, pooled, out_channels, dims, last_size, num_head_channels))
        if use_fp16:
            self.half()

    @staticmethod
    def _head(pool: str, ch: int, out: int, dims: int, size: int, head_channels: int) -> Iterator[nn.Module]:
        if pool in ("adaptive", "attention"):
            yield from (normalization(ch), nn.SiLU())
        if pool == "adaptive":
            yield from (nn.AdaptiveAvgPool2d((1, 1)), zero_module(conv_nd(dims, ch, out, 1)), nn.Flatten())
        elif pool == "attention":
            if head_channels == -1:
                raise UserError("pool='attention' needs num_head_channels")
            yield AttentionPool2d(size, ch, head_channels, out)
        elif pool == "spatial":
            yield from (nn.Linear(ch, 2048), nn.ReLU(), nn.Linear(2048, out))
        elif pool == "spatial_v2":
            yield from (nn.Linear(ch, 2048), normalization(2048), nn.SiLU(), nn.Linear(2048, out))
        else:
            raise UserError(f"unknown pool '{pool}': use adaptive, attention, spatial or spatial_v2")

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """x (B, in_channels, h, w), timesteps (B,) -> (B, out_channels) logits in the dtype of `x`."""
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels).to(self.dtype))
        h, means = x.to(self.dtype), []
        for block in [*self.input_blocks, self.middle_block]:
            h = block(h, emb)
            means.append(h.mean(dim=(2, 3)))
        if self.pool.startswith("spatial"):
            h = torch.cat(means, dim=-1)  # (B, sum of widths)
        return self.out(h).to(x.dtype)
