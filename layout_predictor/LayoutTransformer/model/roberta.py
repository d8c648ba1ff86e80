"""The encoder of RoBERTa (Liu et al. 2019), under the state-dict names of `transformers`.

It gives what that one gives, bit for bit; importing that one takes twice as long as importing torch.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from layout_predictor.LayoutTransformer.model.config import LayoutConfig
from ldm.modules.attention import multi_head


class Embeddings(nn.Module):
    """Token ids (B, L) to normed vectors (B, L, H): token, segment and position; positions count from `pad_id` + 1."""

    def __init__(self, config: LayoutConfig) -> None:
        super().__init__()
        width, pad_id = config.hidden_size, config.pad_id
        self.word_embeddings = nn.Embedding(config.vocab_size, width, padding_idx=pad_id)
        self.token_type_embeddings = nn.Embedding(1, width)  # there is one segment
        self.LayerNorm, self.dropout = nn.LayerNorm(width), nn.Dropout(config.dropout)
        self.position_embeddings = nn.Embedding(config.max_positions, width, padding_idx=pad_id)
        self.pad_id = pad_id

    def forward(self, tokens: Tensor) -> Tensor:
        present = tokens.ne(self.pad_id)
        position = present.cumsum(1) * present + self.pad_id
        x = self.word_embeddings(tokens) + self.token_type_embeddings.weight[0] + self.position_embeddings(position)
        return self.dropout(self.LayerNorm(x))


class SelfAttention(nn.Module):
    """Attention (B, L, H) to (B, L, H); `mask` (B, 1, 1, L) is added to the scores."""

    def __init__(self, config: LayoutConfig) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(config.hidden_size, config.hidden_size) for _ in range(3))
        self.heads, self.dropout = config.num_heads, config.attention_dropout

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        return multi_head(self.query(x), self.key(x), self.value(x), self.heads, mask, dropout)


class Added(nn.Module):
    """A linear layer whose result is added to `before` and normed."""

    def __init__(self, width: int, to: int, dropout: float) -> None:
        super().__init__()
        self.dense, self.LayerNorm, self.dropout = nn.Linear(width, to), nn.LayerNorm(to), nn.Dropout(dropout)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(x)) + before)


class Layer(nn.Module):
    """Attention and feed-forward network."""

    def __init__(self, config: LayoutConfig) -> None:
        super().__init__()
        width, feed_forward, dropout = config.hidden_size, config.feed_forward_size, config.dropout
        attention = {"self": SelfAttention(config), "output": Added(width, width, dropout)}
        self.attention = nn.ModuleDict(attention)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, feed_forward)})
        self.output = Added(feed_forward, width, dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention["output"](self.attention["self"](x, mask), x)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class RobertaEncoder(nn.Module):
    """Embeddings and layers."""

    def __init__(self, config: LayoutConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(config) for _ in range(config.num_layers))})
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=config.initializer_range)
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
