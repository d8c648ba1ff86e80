"""CLIP's text transformer (Radford et al. 2021), under the state-dict names of Stable Diffusion v1 checkpoints.

It gives what that of `transformers` gives, bit for bit; importing that one takes twice as long as importing torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ldm.modules.attention import multi_head


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


class TextStates(NamedTuple):
    """What a text transformer makes of token ids (B, L), in the order of transformers.

    Attributes:
        last_hidden_state: (B, L, C), the final norm applied.
        pooler_output: (B, C), those of the first end mark.
        hidden_states: of every layer, from the embeddings on, (B, L, C) without the final norm.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor
    hidden_states: tuple[Tensor, ...]


class CausalAttention(nn.Module):
    """Self-attention in which a token sees itself and those before it: (B, L, C) to (B, L, C)."""

    def __init__(self, tower: TextTower) -> None:
        super().__init__()
        self.heads = tower.heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(tower.width, tower.width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return self.out_proj(multi_head(q, k, v, self.heads, causal=True))


class FeedForward(nn.Module):
    """Two linear layers with the quick GELU, x sigmoid(1.702 x), between them."""

    def __init__(self, tower: TextTower) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(tower.width, 4 * tower.width), nn.Linear(4 * tower.width, tower.width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))


class Layer(nn.Module):
    """Attention and feed-forward network, each on normed states and added to them."""

    def __init__(self, tower: TextTower) -> None:
        super().__init__()
        self.self_attn, self.layer_norm1 = CausalAttention(tower), nn.LayerNorm(tower.width)
        self.mlp, self.layer_norm2 = FeedForward(tower), nn.LayerNorm(tower.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Embeddings(nn.Module):
    """Token ids (B, L) to the sum of the tokens' and the positions' vectors (B, L, C)."""

    position_ids: Tensor

    def __init__(self, tower: TextTower) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(tower.vocab_size, tower.width)
        self.position_embedding = nn.Embedding(tower.context_length, tower.width)
        positions = torch.arange(tower.context_length, device="cpu")[None]  # (1, L), which checkpoints hold
        self.register_buffer("position_ids", positions)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.token_embedding(tokens) + self.position_embedding.weight[: tokens.shape[1]]


class TextTransformer(nn.Module):
    """A CLIP text transformer with random weights; the highest token id is the end mark."""

    def __init__(self, tower: TextTower) -> None:
        super().__init__()
        self.end_id = tower.vocab_size - 1
        self.embeddings = Embeddings(tower)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(Layer(tower) for _ in range(tower.layers))})
        self.final_layer_norm = nn.LayerNorm(tower.width)
        self._draw(tower)

    def _draw(self, tower: TextTower) -> None:
        """Fresh weights, each drawn twice, as transformers does: a seed gives the same ones."""
        wide, deep = tower.width**-0.5, tower.width**-0.5 * (2 * tower.layers) ** -0.5
        groups: list[list[tuple[Any, float]]]
        groups = [[(self.embeddings.token_embedding, 0.02), (self.embeddings.position_embedding, 0.02)]]
        for layer in self.layers:
            attention, mlp = layer.self_attn, layer.mlp
            inner = [(projection, deep) for projection in (attention.q_proj, attention.k_proj, attention.v_proj)]
            groups += [[*inner, (attention.out_proj, wide)], [(mlp.fc1, (2 * tower.width) ** -0.5), (mlp.fc2, deep)]]
        for group in groups:
            for module, deviation in 2 * group:
                nn.init.normal_(module.weight, std=deviation)
                if isinstance(module, nn.Linear):
                    nn.init.zeros_(module.bias)

    @property
    def layers(self) -> Any:
        """Its layers, from the first on."""
        return self.encoder["layers"]

    def forward(self, tokens: Tensor) -> TextStates:
        """Token ids (B, L) to their states."""
        states = [self.embeddings(tokens)]
        for layer in self.layers:
            states.append(layer(states[-1]))
        last = self.final_layer_norm(states[-1])
        ends = (tokens == self.end_id).int().argmax(-1)
        return TextStates(last, last[torch.arange(len(last), device=last.device), ends], tuple(states))


class PublishedTextNames(nn.Module):
    """Holds a text transformer so that its state dict is named as in Stable Diffusion v1 checkpoints.

    Those have a `text_model.` prefix and an integer entry `embeddings.position_ids` (1, L). Loading makes the entry
    anew: it may be missing, and in checkpoints cast to half precision it holds floats.
    """

    def __init__(self, tower: TextTower) -> None:
        super().__init__()
        self.text_model = TextTransformer(tower)
        self.register_load_state_dict_pre_hook(_set_position_ids)

    def forward(self, input_ids: Tensor, output_hidden_states: bool = True) -> TextStates:
        """Token ids (B, L) to their states; those of all layers are always there, and callers may ask for them."""
        return self.text_model(input_ids)


def _set_position_ids(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give the state dict, before it is loaded, the one `position_ids` there can be."""
    weights = state_dict.get(f"{prefix}text_model.embeddings.position_embedding.weight")
    if weights is not None:  # on its device, for a model built on the meta device and loaded with assign=True
        assert isinstance(module, PublishedTextNames)
        length = module.text_model.embeddings.position_ids.shape[1]
        state_dict[f"{prefix}text_model.embeddings.position_ids"] = torch.arange(length, device=weights.device)[None]
