"""CLIP's text transformer and its tokenizer, under the state-dict names of Stable Diffusion v1 checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import CLIPTextModel


@dataclass(frozen=True)
class TextTower:
    """The sizes of a CLIP text transformer; quick GELU and the causal mask are common to all."""

    width: int  # channels of a token, and of the context given to the U-Net
    layers: int
    heads: int
    vocab_size: int = 49408
    context_length: int = 77  # start and end of text included


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


class PublishedTextNames(nn.Module):
    """Holds a text transformer so that its state dict is named as in Stable Diffusion v1 checkpoints.

    Those have a `text_model.` prefix, which transformers 5 dropped, and an integer entry
    `embeddings.position_ids` (1, L), which it no longer saves. Both are saved here. Loading makes the entry anew:
    it may be missing, and in checkpoints cast to half precision it holds floats.
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

    def forward(self, input_ids: Tensor, **options: Any) -> Any:
        """Token ids (B, L) to what transformers gives: `last_hidden_state` (B, L, C), the final norm applied, ..."""
        return self.text_model(input_ids=input_ids, **options)


def _set_position_ids(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give the state dict, before it is loaded, the one `position_ids` there can be."""
    assert isinstance(module, PublishedTextNames)
    weights = state_dict.get(f"{prefix}text_model.embeddings.position_embedding.weight")
    if weights is not None:  # on its device, for a model built on the meta device and loaded with assign=True
        state_dict[f"{prefix}text_model.embeddings.position_ids"] = module._position_ids(weights.device)
