"""RoBERTa with an embedding for object tokens and a mixture head per token."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from layout_predictor.LayoutTransformer.model.mixture import NUMBERS
from layout_predictor.LayoutTransformer.model.roberta import RobertaEncoder
from ldm.util import UserError


@dataclass
class LayoutConfig:
    """Size of the encoder. The defaults are those of roberta-base, the published predictor."""

    vocab_size: int = 50265
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    feed_forward_size: int = 3072
    max_positions: int = 514  # two of them are never used: positions start after the padding id
    dropout: float = 0.1
    attention_dropout: float = 0.1
    pad_id: int = 1
    # How a fresh model starts; loading a checkpoint overwrites both.
    initializer_range: float = 0.02  # standard deviation of the weights; narrow models learn faster with more
    sinusoidal_positions: bool = False  # position embeddings start as sinusoids: distances are easy to learn
    mark_objects: bool = True  # whether the embedding of object tokens is learned; without, it stays zero

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> LayoutConfig:
        """From plain values. UserError for an unknown key, or sizes that make no model."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise UserError(f"unknown keys in the layout model's configuration: {', '.join(unknown)}")
        config = cls(**values)
        counts = ("vocab_size", "hidden_size", "num_layers", "num_heads", "feed_forward_size")
        ranges = {**dict.fromkeys(counts, (1, 10**7)), **dict.fromkeys(("dropout", "attention_dropout"), (0, 1))}
        for name, (least, most) in {**ranges, "num_layers": (1, 1000)}.items():
            if not least <= getattr(config, name) <= most:
                raise UserError(f"the layout model's {name} is {getattr(config, name)}; it must be {least} to {most}")
        if config.max_tokens < 3:
            raise UserError(f"max_positions {config.max_positions} leaves no room for a sentence")
        if config.hidden_size % config.num_heads:
            raise UserError(f"hidden_size {config.hidden_size} is not a multiple of num_heads {config.num_heads}")
        return config

    @property
    def max_tokens(self) -> int:
        """Longest sequence that has a position embedding."""
        return self.max_positions - self.pad_id - 1

    def roberta(self) -> RobertaEncoder:
        """A fresh encoder of these sizes."""
        return RobertaEncoder(
            vocab_size=self.vocab_size,
            width=self.hidden_size,
            layers=self.num_layers,
            heads=self.num_heads,
            feed_forward=self.feed_forward_size,
            positions=self.max_positions,
            pad_id=self.pad_id,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            initializer_range=self.initializer_range,
        )


def _sinusoids(count: int, width: int) -> Tensor:
    """Sines and cosines (count, width) of wavelengths from 2 pi to 2000 pi."""
    frequency = torch.exp(-math.log(1000.0) * torch.arange(0, width, 2) / width)  # (width / 2,)
    angle = torch.arange(count)[:, None] * frequency  # (count, width / 2)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class MixtureHead(nn.Module):
    """hidden -> hidden -> 30 numbers a token; no activation in between, as published."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.projection = nn.Linear(hidden_size, hidden_size)
        self.mixture = nn.Linear(hidden_size, NUMBERS)

    def forward(self, features: Tensor) -> Tensor:
        """(..., hidden) to (..., 30)."""
        return self.mixture(self.projection(features))


class LayoutModel(nn.Module):
    """Token ids and object positions in, raw mixture parameters per token out."""

    def __init__(self, config: LayoutConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = config.roberta()
        # RoBERTa has a single segment; the published encoder has no such table, so ours stays at zero.
        segment = self.encoder.embeddings.token_type_embeddings.weight
        nn.init.zeros_(segment)
        segment.requires_grad_(False)
        if config.sinusoidal_positions:
            positions = self.encoder.embeddings.position_embeddings.weight
            with torch.no_grad():
                positions.copy_(_sinusoids(*positions.shape) * config.initializer_range * math.sqrt(2))
        self.object_embedding = nn.Parameter(torch.randn(1, config.hidden_size) * 0.02)
        if not config.mark_objects:
            nn.init.zeros_(self.object_embedding)
            self.object_embedding.requires_grad_(False)
        self.head = MixtureHead(config.hidden_size)

    def encode(self, tokens: Tensor, is_object: Tensor) -> Tensor:
        """Features (B, L, hidden) of `tokens` (B, L) with `is_object` (B, L) bool marking object tokens."""
        present = tokens.ne(self.config.pad_id)  # (B, L)
        hidden = self.encoder.embeddings(tokens)  # (B, L, H), after layer norm and dropout
        hidden = hidden + is_object.unsqueeze(-1).to(hidden.dtype) * self.object_embedding
        blocked = torch.zeros(present.shape, dtype=hidden.dtype, device=hidden.device)
        blocked = blocked.masked_fill(~present, torch.finfo(hidden.dtype).min)
        return self.encoder(hidden, blocked[:, None, None, :])

    def forward(self, tokens: Tensor, is_object: Tensor, where: Tensor | None = None) -> Tensor:
        """Raw mixture parameters (B, L, 30), or those of the tokens `where` (P, 2: row, token) only, (P, 30).

        See `split_mixture`.
        """
        features = self.encode(tokens, is_object)  # (B, L, H)
        return self.head(features if where is None else features[where[:, 0], where[:, 1]])


def build_model(config: LayoutConfig, *, seed: int) -> LayoutModel:
    """A fresh model with weights drawn by `seed`; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LayoutModel(config)
