"""Attention layers of the latent-diffusion U-Net, with the spatial control of Wu et al. (ICCV 2023, arXiv 2304.03869).

On the rows of the batch that carry the prompt, and inside each object's region, every cross-attention blends the
attention to the prompt with the attention to the object's own description; on the unconditional rows, with that to
the object's negative text. See `CrossAttention.forward`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.modules import lean
from ldm.modules.diffusionmodules.util import GroupNorm32, checkpoint, zero_module
from ldm.util import default as default  # published here, too
from ldm.util import exists as exists

# Keys and values, each (B, L, H*D), of the prompt and of every local context, beside the prompt's context, by layer and
# by what they were computed with. The texts of an image stay the same, so a frozen layer projects each of them once.
Projections = dict[tuple[Any, ...], tuple[Tensor | None, list[tuple[Tensor, Tensor]]]]


class LocalAttention(NamedTuple):
    """What one cross-attention layer needs of the control, in the order of `CrossAttention.forward`."""

    local_contexts: Sequence[Tensor] | Tensor  # N x (B, L, C), one description per object
    masks: Sequence[Tensor] | Tensor  # N x (B, pixels), zero outside the object's region
    weights: Sequence[Tensor] | Tensor  # N x (B,), w_{i,t} of this step
    blend: str = "conditional"  # which row's attention is subtracted: "conditional" or "unconditional"
    pixels: Sequence[Tensor] | None = None  # N x (P_i,), where masks[i] is nonzero; from the masks if None
    projections: Projections | None = None  # keys and values of all texts, by layer; filled at first use
    negatives: int = 0  # how many of the N, the last ones, act on the unconditional rows


class Control(Protocol):
    """What the layers need of a control; `ldm.spacetime.control.SpatialControl` is one."""

    def local_attention(self, h: int, w: int, weights: Tensor | None) -> LocalAttention | None:
        """Local attention over an h x w grid with weights (N, B); None without objects."""

    def at_step(self, index: int, total: int, weights: Tensor) -> Tensor | None:
        """What a step takes instead of its weights (N, B); None for plain attention."""


class Projecting(Protocol):
    """What of a cross-attention layer the control uses; those of diffusers are such, too."""

    to_k: Any
    to_v: Any
    heads: int


def max_neg_value(t: Tensor) -> float:
    """What a score of t's type is set to where it must not count."""
    return -torch.finfo(t.dtype).max


def Normalize(in_channels: int) -> nn.GroupNorm:
    """Group normalization with the eps of the transformers, 1e-6."""
    return nn.GroupNorm(32, in_channels, eps=1e-6)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Multi-head scaled dot-product attention of (B, P, H*D) on (B, L, H*D), heads merged: (B, P, H*D).

    `mask` (B, ...), L entries an image, is True where the context counts; all count alike where none does.
    """
    bias = None
    if mask is not None:
        allowed = mask.flatten(1)[:, None, None].bool()  # (B, 1, 1, L)
        bias = torch.zeros_like(allowed, dtype=q.dtype).masked_fill(~allowed, max_neg_value(q))
    return multi_head(q, k, v, heads, bias)


def multi_head(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, dropout: float = 0.0, causal: bool = False
) -> Tensor:
    """Scaled dot-product attention of (B, P, H*D) on (B, L, H*D), heads split before and merged after: (B, P, H*D).

    Args:
        mask: broadcast to (B, H, P, L): boolean, True where a score counts, or added to the scores.
        dropout: of the attention weights.
        causal: whether a query sees keys up to its own place only; not with a mask.
    """
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # (B, H, P or L, D)
    return F.scaled_dot_product_attention(q, k, v, mask, dropout, causal).transpose(1, 2).flatten(2)


def project(
    layer: Projecting,
    contexts: Sequence[Tensor] | Tensor,
    dtype: torch.dtype,
    cache: Projections | None,
    prompt: Tensor | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Keys and values (B, L, H*D) of every context, for queries of `dtype`; see `Projections`.

    The cache belongs to the local contexts; of a `prompt` it is used while that is the same tensor.
    """

    def projected() -> list[tuple[Tensor, Tensor]]:
        return [(layer.to_k(context), layer.to_v(context)) for context in (one.to(dtype) for one in contexts)]

    used = (layer.to_k.weight, layer.to_v.weight)
    # What an adapter around a layer adds can change from step to step.
    alone = isinstance(layer.to_k, nn.Linear) and isinstance(layer.to_v, nn.Linear)
    constant = alone and not any(tensor.requires_grad for tensor in (*used, *contexts))
    # A tensor made in inference mode could not be saved for a backward pass later on.
    if cache is None or not constant or torch.is_inference_mode_enabled():
        return projected()
    key = (layer, dtype, prompt is None, *((weight.data_ptr(), weight._version) for weight in used))
    if key not in cache or cache[key][0] is not prompt:
        cache[key] = prompt, projected()
    return cache[key][1]


def add_local(layer: Projecting, out: Tensor, q: Tensor, local: LocalAttention) -> Tensor:
    """Add sum_i w_i m_i (a_i - g) to the rows of `out` (R, P, H*D), unconditional ones first.

    The output projection comes after: it is affine, and its bias cancels in each difference.
    """
    batch, rows = local.local_contexts[0].shape[0], out.shape[0]
    if rows not in (batch, 2 * batch) or (local.blend == "unconditional" and rows == batch):
        raise ValueError(f"{rows} rows do not fit {batch} local contexts with blend '{local.blend}'")
    projected = project(layer, local.local_contexts, q.dtype, local.projections)
    objects = len(projected) - local.negatives
    unconditional = out[:batch]
    if local.negatives and rows > batch:
        negative = range(objects, len(projected))
        unconditional = _blend(layer.heads, unconditional, unconditional, q[:batch], local, projected, negative)
    reference = unconditional if local.blend == "unconditional" else out[-batch:]
    result = _blend(layer.heads, out[-batch:], reference, q[-batch:], local, projected, range(objects))
    return result if rows == batch else torch.cat([unconditional, result])


def _blend(
    heads: int,
    result: Tensor,
    reference: Tensor,
    q: Tensor,
    local: LocalAttention,
    projected: Sequence[tuple[Tensor, Tensor]],
    which: range,
) -> Tensor:
    """`result` plus the sum of w_i m_i (a_i - reference) over these local contexts; all (B, P, H*D)."""
    for i in which:
        mask = local.masks[i]
        # Only pixels inside some image's region are computed; the rest of the sum is zero.
        where = mask.any(0).nonzero().squeeze(1) if local.pixels is None else local.pixels[i]  # (p,)
        if where.numel() == 0:
            continue
        a = attend(q.index_select(1, where), *projected[i], heads)  # (B, p, H*D)
        coefficient = (local.weights[i][:, None] * mask.index_select(1, where)).to(result.dtype)  # (B, p)
        difference = a - reference.index_select(1, where)
        result = result.index_add(1, where, coefficient[..., None] * difference)
    return result


class GEGLU(nn.Module):
    """Linear layer gated by GELU of a second one (Shazeer, arXiv 2002.05202)."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.proj = lean.Linear(dim_in, dim_out * 2)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim_in) -> (..., dim_out)."""
        return lean.geglu(self.proj(x))


class FeedForward(nn.Module):
    """Two-layer perceptron of a transformer block; the hidden width is `mult * dim`."""

    def __init__(
        self, dim: int, dim_out: int | None = None, mult: int = 4, glu: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        inner = int(dim * mult)
        project_in = GEGLU(dim, inner) if glu else nn.Sequential(lean.Linear(dim, inner), nn.GELU())
        self.net = nn.Sequential(project_in, nn.Dropout(dropout), lean.Linear(inner, dim_out or dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim_out)."""
        return self.net(x)


class CrossAttention(nn.Module):
    """Multi-head attention of pixels to a context (without one, to themselves), with optional control."""

    def __init__(
        self, query_dim: int, context_dim: int | None = None, heads: int = 8, dim_head: int = 64, dropout: float = 0.0
    ) -> None:
        super().__init__()
        inner = dim_head * heads
        context_dim = query_dim if context_dim is None else context_dim
        self.heads, self.scale = heads, dim_head**-0.5
        self.to_q = lean.Linear(query_dim, inner, bias=False)
        self.to_k = lean.Linear(context_dim, inner, bias=False)
        self.to_v = lean.Linear(context_dim, inner, bias=False)
        self.to_out = nn.Sequential(lean.Linear(inner, query_dim), nn.Dropout(dropout))

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        local_contexts: Sequence[Tensor] | Tensor | None = None,
        masks: Sequence[Tensor] | Tensor | None = None,
        weights: Sequence[Tensor] | Tensor | None = None,
        blend: str = "conditional",
        pixels: Sequence[Tensor] | None = None,
        projections: Projections | None = None,
        negatives: int = 0,
    ) -> Tensor:
        """Attention of `x` to `context`; with local contexts, on the last B rows and at pixel p,

            o(p) = g(p) + sum_i  w_i m_i(p) (a_i(p) - g(p))

        with g the attention to `context` and a_i the one to local context i. `blend="unconditional"` subtracts the
        result of the first B rows instead (the ICCV 2023 release). On those the last `negatives` local contexts act in
        the same way, by the g of these rows. Without local contexts: plain attention.

        Args:
            x: (R, pixels, query_dim); R is B, or 2B with the unconditional rows first.
            context: (R, L, context_dim).
            mask: (R, L), True where the context counts.
            local_contexts, masks, weights, blend, pixels, projections, negatives: see `LocalAttention`.
        Returns: (R, pixels, query_dim).
        """
        context = x if context is None else context
        q = self.to_q(x)  # (R, P, H*D)
        ((k, v),) = project(self, [context], q.dtype, None if context is x else projections, context)
        out = attend(q, k, v, self.heads, mask)  # (R, P, H*D)
        if local_contexts is not None and len(local_contexts):
            if masks is None or weights is None:
                raise ValueError("local contexts need a mask and a weight each")
            local = LocalAttention(local_contexts, masks, weights, blend, pixels, projections, negatives)
            out = add_local(self, out, q, local)
        return self.to_out(out)


class SpatialSelfAttention(nn.Module):
    """Single-head self-attention over the pixels of (B, C, H, W), with 1x1 convolutions as projections."""

    def __init__(self, in_channels: int, num_groups: int = 32) -> None:
        super().__init__()
        self.norm = GroupNorm32(num_groups, in_channels, eps=1e-6)
        self.q = lean.Conv2d(in_channels, in_channels, 1)
        self.k = lean.Conv2d(in_channels, in_channels, 1)
        self.v = lean.Conv2d(in_channels, in_channels, 1)
        self.proj_out = lean.Conv2d(in_channels, in_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        h = self.norm(x)
        q, k, v = (f(h).flatten(2).transpose(1, 2)[:, None] for f in (self.q, self.k, self.v))  # (B, 1, HW, C)
        h = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(h)


class LinearAttention(nn.Module):
    """Linear attention over pixels (Katharopoulos et al. 2020): softmax over the keys' pixels, no residual."""

    def __init__(self, dim: int, heads: int = 4, dim_head: int = 32) -> None:
        super().__init__()
        inner = heads * dim_head
        self.heads = heads
        self.to_qkv = lean.Conv2d(dim, 3 * inner, 1, bias=False)
        self.to_out = lean.Conv2d(inner, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        q, k, v = self.to_qkv(x).flatten(2).unflatten(1, (3, self.heads, -1)).unbind(1)  # each (B, H, D, h*w)
        context = k.softmax(dim=-1) @ v.transpose(-1, -2)  # (B, H, D, D)
        out = (context.transpose(-1, -2) @ q).flatten(1, 2)  # (B, H*D, h*w)
        return self.to_out(out.unflatten(2, x.shape[2:]))


class BasicTransformerBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, each behind a layer norm and with a residual.

    With `disable_self_attn` the first attends to the context, too.
    """

    def __init__(
        self,
        dim: int,
        n_heads: int,
        d_head: int,
        dropout: float = 0.0,
        context_dim: int | None = None,
        gated_ff: bool = True,
        checkpoint: bool = True,
        disable_self_attn: bool = False,
    ) -> None:
        super().__init__()
        self.disable_self_attn = disable_self_attn
        own = context_dim if disable_self_attn else None
        self.attn1 = CrossAttention(dim, own, heads=n_heads, dim_head=d_head, dropout=dropout)
        self.ff = FeedForward(dim, dropout=dropout, glu=gated_ff)
        self.attn2 = CrossAttention(dim, context_dim, heads=n_heads, dim_head=d_head, dropout=dropout)
        self.norm1 = lean.LayerNorm(dim)
        self.norm2 = lean.LayerNorm(dim)
        self.norm3 = lean.LayerNorm(dim)
        self.checkpoint = checkpoint

    def forward(self, x: Tensor, context: Tensor | None = None, local: LocalAttention | None = None) -> Tensor:
        """(R, P, dim) with context (R, L, context_dim) -> (R, P, dim)."""
        return checkpoint(partial(self._forward, local=local), (x, context), None, self.checkpoint)

    def _forward(self, x: Tensor, context: Tensor | None, local: LocalAttention | None) -> Tensor:
        x = self.attn1(self.norm1(x), context if self.disable_self_attn else None) + x
        x = self.attn2(self.norm2(x), context, **({} if local is None else local._asdict())) + x
        return self.ff(self.norm3(x)) + x


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a feature map, between two projections and a residual.

    Args:
        context_dim: one for all `depth` blocks, or a list with one for each.
        disable_self_attn: no block attends to the map itself.
        use_linear: the projections are linear layers instead of 1x1 convolutions.
        use_checkpoint: recompute each block in the backward pass.
    """

    def __init__(
        self,
        in_channels: int,
        n_heads: int,
        d_head: int,
        depth: int = 1,
        dropout: float = 0.0,
        context_dim: int | Sequence[int] | None = None,
        disable_self_attn: bool = False,
        use_linear: bool = False,
        use_checkpoint: bool = True,
    ) -> None:
        super().__init__()
        inner, self.in_channels, self.use_linear = n_heads * d_head, in_channels, use_linear
        each = [context_dim] * depth if context_dim is None or isinstance(context_dim, int) else list(context_dim)
        each = each * depth if len(each) == 1 else each
        self.norm = Normalize(in_channels)
        self.proj_in = lean.Linear(in_channels, inner) if use_linear else lean.Conv2d(in_channels, inner, 1)
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(
                inner,
                n_heads,
                d_head,
                dropout=dropout,
                context_dim=width,
                checkpoint=use_checkpoint,
                disable_self_attn=disable_self_attn,
            )
            for _, width in zip(range(depth), each, strict=True)
        )
        out = lean.Linear(inner, in_channels) if use_linear else lean.Conv2d(inner, in_channels, 1)
        self.proj_out = zero_module(out)

    def forward(
        self,
        x: Tensor,
        context: Tensor | Sequence[Tensor] | None = None,
        control: Control | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Map (R, C, h, w) to the same shape.

        Args:
            context: (R, L, context_dim), a list of one for each block, or None for self-attention in both attentions.
            control: regions of the objects, drawn on this layer's own h x w grid.
            weights: (N, B) of this denoising step, needed with `control`.
        """
        height, width = x.shape[-2:]
        local = None
        if control is not None and context is not None:
            local = control.local_attention(height, width, weights)
        h = self.norm(x)
        h = (h if self.use_linear else self.proj_in(h)).flatten(2).transpose(1, 2)  # (R, h*w, C or inner)
        h = self.proj_in(h) if self.use_linear else h
        for i, block in enumerate(self.transformer_blocks):
            h = block(h, context if context is None or isinstance(context, Tensor) else context[i], local)
        h = self.proj_out(h) if self.use_linear else h
        h = h.transpose(1, 2).unflatten(2, (height, width))  # (R, C or inner, h, w)
        return x + (h if self.use_linear else self.proj_out(h))
