"""Text encoders that turn captions into the context of the U-Net's cross-attention, and every other conditioner.

`FrozenCLIPEmbedder` is the text tower of CLIP ViT-L/14 as Stable Diffusion v1 uses it; its weights come with
the diffusion checkpoint, so it is built from the architecture's numbers alone and never asks a model hub for
anything. `SmallCLIPTextEmbedder` is the same architecture at small width with a word-level vocabulary,
trained jointly with the U-Net of the emoji world. Both keep their parameters under the names of Stable
Diffusion v1 checkpoints, `transformer.text_model.*`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ldm.modules.encoders.base import AbstractEncoder
from ldm.modules.encoders.clip_embedders import FrozenClipImageEmbedder, FrozenCLIPTextEmbedder
from ldm.modules.encoders.embedders import (
    BERTEmbedder,
    BERTTokenizer,
    ClassEmbedder,
    SpatialRescaler,
    TransformerEmbedder,
)
from ldm.util import UserError

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

__all__ = [
    "AbstractEncoder",
    "BERTEmbedder",
    "BERTTokenizer",
    "ClassEmbedder",
    "FrozenCLIPEmbedder",
    "FrozenCLIPTextEmbedder",
    "FrozenClipImageEmbedder",
    "SmallCLIPTextEmbedder",
    "SpatialRescaler",
    "TextEncoder",
    "TransformerEmbedder",
]

END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class TextTower:
    """The numbers that fix a CLIP text transformer; quick GELU and the causal mask are common to all."""

    width: int  # channels of a token, and of the context given to the U-Net
    layers: int
    heads: int
    vocab_size: int = 49408
    context_length: int = 77  # positions, start and end of text included


PUBLISHED_TOWERS = {
    "openai/clip-vit-large-patch14": TextTower(width=768, layers=12, heads=12),
    "openai/clip-vit-base-patch16": TextTower(width=512, layers=12, heads=8),
    "openai/clip-vit-base-patch32": TextTower(width=512, layers=12, heads=8),
}


def build_text_transformer(tower: TextTower) -> CLIPTextModel:
    """A CLIP text transformer with random weights; works under `torch.device("meta")`."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=tower.vocab_size,
        hidden_size=tower.width,
        intermediate_size=4 * tower.width,
        projection_dim=tower.width,
        num_hidden_layers=tower.layers,
        num_attention_heads=tower.heads,
        max_position_embeddings=tower.context_length,
        hidden_act="quick_gelu",
        bos_token_id=tower.vocab_size - 2,
        eos_token_id=tower.vocab_size - 1,
        pad_token_id=None,
    )
    return CLIPTextModel(config)


def clip_package() -> Any:
    """The `clip` package; importing it warns of `pkg_resources`, which is no concern of a user's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import clip
    return clip


@lru_cache(maxsize=1)
def clip_tokenizer() -> CLIPTokenizer:
    """The byte-pair tokenizer of CLIP, made from the merges that come with the `clip` package.

    Ids equal those of `clip.tokenize` (which also unescapes HTML entities); only the padding differs, since
    Stable Diffusion v1 was trained with `<|endoftext|>` there and `clip.tokenize` writes 0.
    """
    from transformers import CLIPTokenizer

    published = clip_package().simple_tokenizer.SimpleTokenizer()
    merges: Any = sorted(published.bpe_ranks, key=published.bpe_ranks.__getitem__)
    return CLIPTokenizer(vocab=dict(published.encoder), merges=merges, pad_token=END_OF_TEXT)


class PublishedTextNames(nn.Module):
    """Holds a text transformer so that its state dict is named as in Stable Diffusion v1 checkpoints.

    Those have a `text_model.` prefix, which transformers 5 dropped, and an integer entry
    `embeddings.position_ids` (1, L), which it no longer saves. Saving writes both; loading does not mind
    whether `position_ids` is there, and does not trust its values: in checkpoints cast to half precision they
    are floats.
    """

    def __init__(self, transformer: nn.Module, context_length: int) -> None:
        super().__init__()
        self.context_length = context_length
        # transformers 4 had the prefix inside the model; either version is unwrapped to the bare transformer.
        self.text_model: Any = getattr(transformer, "text_model", transformer)
        embeddings = self.text_model.embeddings
        embeddings.register_buffer("position_ids", self._position_ids(embeddings.position_ids.device))
        self.register_load_state_dict_pre_hook(_set_position_ids)

    def _position_ids(self, device: torch.device) -> Tensor:
        return torch.arange(self.context_length, device=device)[None]  # (1, L), int64

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids (B, L) to the last hidden state (B, L, C), final layer norm applied."""
        return self.text_model(input_ids=tokens).last_hidden_state


def _set_position_ids(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before loading: give the state dict the one `position_ids` there can be."""
    assert isinstance(module, PublishedTextNames)
    weights = state_dict.get(f"{prefix}text_model.embeddings.position_embedding.weight")
    if weights is not None:  # on its device, for a model built on the meta device and loaded with assign=True
        state_dict[f"{prefix}text_model.embeddings.position_ids"] = module._position_ids(weights.device)


class TextEncoder(AbstractEncoder):
    """A CLIP text transformer and its tokenizer: captions in, last hidden states out."""

    transformer: PublishedTextNames

    def __init__(self, tower: TextTower) -> None:
        super().__init__()
        self.tower = tower
        self.transformer = PublishedTextNames(build_text_transformer(tower), tower.context_length)

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Captions to token ids (B, L), L at most `tower.context_length`."""
        raise NotImplementedError(f"{type(self).__name__} has no tokenizer")

    def forward(self, text: Sequence[str] | str) -> Tensor:
        """Captions (B of them, or one) to their context (B, L, C), on the device of the weights."""
        captions = [text] if isinstance(text, str) else list(text)
        tokens = self.tokenize(captions)  # (B, L)
        return self.transformer(tokens.to(self.transformer.text_model.final_layer_norm.weight.device))

    def encode(self, text: Sequence[str] | str) -> Tensor:
        """The same as calling the module, under the name that conditioning stages share."""
        return self(text)


class FrozenCLIPEmbedder(TextEncoder):
    """The text encoder of Stable Diffusion v1: CLIP ViT-L/14, frozen, context (B, 77, 768)."""

    def __init__(
        self,
        version: str = "openai/clip-vit-large-patch14",
        device: str | torch.device | None = None,
        max_length: int = 77,
    ) -> None:
        """`version` names the architecture; `device` is where the weights go at once (default: leave them).

        Raises UserError for an unknown version or a `max_length` outside 2..77.
        """
        tower = PUBLISHED_TOWERS.get(version)
        if tower is None:
            raise UserError(f"Unknown text encoder {version!r}: choose one of {', '.join(PUBLISHED_TOWERS)}.")
        if not 2 <= max_length <= tower.context_length:
            raise UserError(f"max_length must be between 2 and {tower.context_length}, not {max_length}.")
        super().__init__(tower)
        self.max_length = max_length
        self.freeze()
        if device is not None:
            self.to(device)

    @property
    def tokenizer(self) -> CLIPTokenizer:
        return clip_tokenizer()

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        batch = clip_tokenizer()(
            list(captions), truncation=True, max_length=self.max_length, padding="max_length", return_tensors="pt"
        )
        return batch["input_ids"]  # (B, max_length)

    def freeze(self) -> None:
        """Evaluation mode, and no gradients for the weights."""
        self.eval()
        self.requires_grad_(False)


class SmallCLIPTextEmbedder(TextEncoder):
    """The same architecture at small width over a word-level vocabulary; trainable, context (B, 32, 128)."""

    def __init__(
        self, vocab_file: str, width: int = 128, layers: int = 2, heads: int = 4, context_length: int = 32
    ) -> None:
        """`vocab_file` lists one word a line (see `WordTokenizer`); its end-of-text id is the highest one."""
        from ldm.modules.encoders.tokenizer import WordTokenizer

        tokenizer = WordTokenizer(vocab_file, context_length=context_length)
        tower = TextTower(width, layers, heads, tokenizer.vocab_size, context_length)
        super().__init__(tower)
        self.tokenizer = tokenizer

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        return self.tokenizer(list(captions))  # (B, context_length)
