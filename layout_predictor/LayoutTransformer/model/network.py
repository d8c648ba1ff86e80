"""RoBERTa with an embedding for object tokens and a mixture head per token."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from layout_predictor.LayoutTransformer.model.config import LayoutConfig
from layout_predictor.LayoutTransformer.model.mixture import NUMBERS
from layout_predictor.LayoutTransformer.model.roberta import RobertaEncoder


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
        self.encoder = RobertaEncoder(config)
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
