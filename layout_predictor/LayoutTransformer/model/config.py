"""What the layout model is built from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

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
