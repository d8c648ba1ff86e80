"""The token transformer of the BERT-like conditioners: pre-norm attention and feed-forward blocks.

Of the variants known under this name, the one that published checkpoints use, under their state-dict names
(``attn_layers.layers.<i>.<0: norm, 1: attention or feed-forward>``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ldm.modules.attention import FeedForward, multi_head
from ldm.util import UserError


class AbsolutePositionalEmbedding(nn.Module):
    """A learned vector for each position, drawn from N(0, 0.02^2)."""

    def __init__(self, dim: int, max_seq_len: int) -> None:
        super().__init__()
        self.emb = nn.Embedding(max_seq_len, dim)
        nn.init.normal_(self.emb.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L) to (1, L, dim). UserError for more tokens than positions."""
        length, positions = tokens.shape[1], self.emb.num_embeddings
        if length > positions:
            raise UserError(f"{length} tokens do not fit the {positions} positions of this conditioner; cut the text")
        return self.emb.weight[None, :length]


class Attention(nn.Module):
    """Multi-head self-attention of tokens, perhaps causal; only the output projection has a bias."""

    def __init__(
        self, dim: int, heads: int = 8, dim_head: int = 64, causal: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        inner = heads * dim_head
        self.heads, self.causal, self.dropout = heads, causal, dropout
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_k = nn.Linear(dim, inner, bias=False)
        self.to_v = nn.Linear(dim, inner, bias=False)
        self.to_out = nn.Linear(inner, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, L, dim) to the same shape; `mask` (B, L) is True where a token may be attended to."""
        allowed = None if mask is None else mask[:, None, None, :]  # (B, 1, 1, L)
        if self.causal and allowed is not None:
            length = x.shape[1]
            allowed = allowed & torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        dropout, causal = self.dropout if self.training else 0.0, self.causal and allowed is None
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        return self.to_out(multi_head(q, k, v, self.heads, allowed, dropout, causal))


class AttentionLayers(nn.Module):
    """`depth` pairs of attention and feed-forward, each behind a layer norm and with a residual."""

    layers: Any  # ModuleList of [norm, block], whose items the type checker cannot know

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int = 8,
        dim_head: int = 64,
        causal: bool = False,
        ff_mult: int = 4,
        attn_dropout: float = 0.0,
        ff_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim, self.depth = dim, depth
        self.layers = nn.ModuleList()
        for _ in range(depth):
            attention = Attention(dim, heads, dim_head, causal, attn_dropout)
            self.layers.append(nn.ModuleList([nn.LayerNorm(dim), attention]))
            self.layers.append(nn.ModuleList([nn.LayerNorm(dim), FeedForward(dim, mult=ff_mult, dropout=ff_dropout)]))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, L, dim) to the same shape; `mask` (B, L) is True where a token counts."""
        for norm, block in self.layers:
            x = x + (block(norm(x), mask) if isinstance(block, Attention) else block(norm(x)))
        return x


class Encoder(AttentionLayers):
    """Attention layers that see the whole sequence."""

    def __init__(self, dim: int, depth: int, **options: Any) -> None:
        if options.get("causal"):
            raise UserError("an Encoder sees the whole sequence; use AttentionLayers for a causal one")
        super().__init__(dim, depth, **options)


class TransformerWrapper(nn.Module):
    """Embeddings of tokens and positions, attention layers, a last norm, and logits over `num_tokens` words.

    Args:
        emb_dim: width of the embeddings, by default that of the layers.
        tie_embedding: the logits use the embeddings of the tokens.
        use_pos_emb: embed positions.
    """

    def __init__(
        self,
        *,
        num_tokens: int,
        max_seq_len: int,
        attn_layers: AttentionLayers,
        emb_dim: int | None = None,
        emb_dropout: float = 0.0,
        tie_embedding: bool = False,
        use_pos_emb: bool = True,
    ) -> None:
        super().__init__()
        emb_dim = attn_layers.dim if emb_dim is None else emb_dim
        self.max_seq_len, self.num_tokens = max_seq_len, num_tokens
        self.token_emb = nn.Embedding(num_tokens, emb_dim)
        nn.init.normal_(self.token_emb.weight, std=0.02)
        self.pos_emb = AbsolutePositionalEmbedding(emb_dim, max_seq_len) if use_pos_emb else None
        self.emb_dropout = nn.Dropout(emb_dropout)
        self.project_emb = nn.Linear(emb_dim, attn_layers.dim) if emb_dim != attn_layers.dim else nn.Identity()
        self.attn_layers = attn_layers
        self.norm = nn.LayerNorm(attn_layers.dim)
        self.to_logits = None if tie_embedding else nn.Linear(attn_layers.dim, num_tokens)

    def forward(self, x: Tensor, return_embeddings: bool = False, mask: Tensor | None = None) -> Tensor:
        """Token ids (B, L) to logits (B, L, num_tokens), or with `return_embeddings` to (B, L, dim)."""
        embedded = self.token_emb(x) if self.pos_emb is None else self.token_emb(x) + self.pos_emb(x)
        states = self.norm(self.attn_layers(self.project_emb(self.emb_dropout(embedded)), mask))  # (B, L, dim)
        if return_embeddings:
            return states
        return states @ self.token_emb.weight.t() if self.to_logits is None else self.to_logits(states)
