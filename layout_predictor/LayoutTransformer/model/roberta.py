"""The encoder of RoBERTa (Liu et al. 2019), under the state-dict names of `transformers`.

It gives what that one gives, bit for bit; importing that one takes twice as long as importing torch.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class Embeddings(nn.Module):
    """Token ids (B, L) to normed vectors (B, L, H): token, segment and position; positions count from `pad_id` + 1."""

    def __init__(self, vocab_size: int, width: int, positions: int, pad_id: int, dropout: float) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, width, padding_idx=pad_id)
        self.token_type_embeddings = nn.Embedding(1, width)  # there is one segment
        self.LayerNorm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.position_embeddings = nn.Embedding(positions, width, padding_idx=pad_id)
        self.pad_id = pad_id

    def forward(self, tokens: Tensor) -> Tensor:
        present = tokens.ne(self.pad_id)
        position = present.cumsum(1) * present + self.pad_id
        x = self.word_embeddings(tokens) + self.token_type_embeddings.weight[0] + self.position_embeddings(position)
        return self.dropout(self.LayerNorm(x))


class SelfAttention(nn.Module):
    """Attention (B, L, H) to (B, L, H); `mask` (B, 1, 1, L) is added to the scores."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.heads, self.dropout = heads, dropout

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        projected = (projection(x) for projection in (self.query, self.key, self.value))
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in projected)  # (B, heads, L, H / heads)
        dropped = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, mask, dropped, scale=q.shape[-1] ** -0.5)
        return out.transpose(1, 2).flatten(2)


class Added(nn.Module):
    """A linear layer whose result is added to `before` and normed."""

    def __init__(self, width: int, to: int, dropout: float) -> None:
        super().__init__()
        self.dense, self.LayerNorm, self.dropout = nn.Linear(width, to), nn.LayerNorm(to), nn.Dropout(dropout)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(x)) + before)


class Layer(nn.Module):
    """Attention and feed-forward network."""

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        attention = {"self": SelfAttention(width, heads, attention_dropout), "output": Added(width, width, dropout)}
        self.attention = nn.ModuleDict(attention)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, feed_forward)})
        self.output = Added(feed_forward, width, dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention["output"](self.attention["self"](x, mask), x)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class RobertaEncoder(nn.Module):
    """Embeddings and layers.

    Args:
        vocab_size, width, layers, heads, feed_forward: sizes.
        positions: of the table, of which those up to `pad_id` are never used.
        dropout, attention_dropout: of states, and of attention weights.
        initializer_range: standard deviation of fresh weights.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        width: int,
        layers: int,
        heads: int,
        feed_forward: int,
        positions: int,
        pad_id: int,
        dropout: float,
        attention_dropout: float,
        initializer_range: float,
    ) -> None:
        super().__init__()
        self.embeddings = Embeddings(vocab_size, width, positions, pad_id, dropout)
        sizes = width, heads, feed_forward, dropout, attention_dropout
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(*sizes) for _ in range(layers))})
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=initializer_range)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding) and module.padding_idx is not None:
                nn.init.zeros_(module.weight[module.padding_idx])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Embedded tokens (B, L, H) to features (B, L, H); `mask` (B, 1, 1, L) is added to the attention's scores."""
        layers: Any = self.encoder["layer"]
        for layer in layers:
            x = layer(x, mask)
        return x
