"""The text encoders of the Stable Diffusion models: texts to the context of the U-Net.

Their weights come with the diffusion checkpoint, so they are built without asking a model hub. `SmallCLIPTextEmbedder`
is the architecture of v1 at small width with a word-level vocabulary, trained with the U-Net of the emoji world.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ldm.arguments import Count, Depth
from ldm.modules.encoders.text_tower import PUBLISHED_TOWERS, PublishedTextNames, TextTower
from ldm.modules.encoders.tokenizer import WordTokenizer, clip_tokenizer, unread
from ldm.util import UserError

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

Device = str | torch.device | None


class AbstractEncoder(nn.Module):
    """A conditioning stage: `encode(conditions)` gives the context, by default as calling the module does."""

    def encode(self, *args: Any, **kwargs: Any) -> Any:
        return self(*args, **kwargs)

    def unread(self, text: str) -> str:
        """The end of a text that has no room in the context, "" where all of it has."""
        return ""


def texts_of(text: Sequence[str] | str) -> list[str]:
    """One text or several, as a list."""
    return [text] if isinstance(text, str) else list(text)


class TextEncoder(AbstractEncoder):
    """Texts to a context (B, L, C), on the device of the weights."""

    @property
    def device(self) -> torch.device:
        """Where the weights are; setting it moves them."""
        return next(self.parameters()).device

    @device.setter
    def device(self, device: str | torch.device) -> None:
        self.to(device)

    def freeze(self) -> None:
        """Evaluation mode, and no gradients for the weights."""
        self.eval().requires_grad_(False)

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Captions to token ids (B, L)."""
        raise NotImplementedError(f"{type(self).__name__} has no tokenizer")

    def encode(self, text: Sequence[str] | str) -> Tensor:
        """As calling the module does."""
        return self(text)


class CLIPTextEncoder(TextEncoder):
    """A CLIP text transformer and its tokenizer: captions to hidden states (B, L, C)."""

    transformer: PublishedTextNames

    def __init__(self, tower: TextTower) -> None:
        super().__init__()
        self.tower = tower
        self.transformer = PublishedTextNames(tower)

    def forward(self, text: Sequence[str] | str) -> Tensor:
        """Captions (B of them, or one) to their last hidden states (B, L, C)."""
        tokens = self.tokenize(texts_of(text))  # (B, L)
        return self.transformer(input_ids=tokens.to(self.device)).last_hidden_state


class FrozenCLIPEmbedder(CLIPTextEncoder):
    """The text encoder of Stable Diffusion v1: CLIP ViT-L/14, frozen, context (B, 77, 768).

    Args:
        version: names the architecture.
        device: where the weights go; if None they stay.
        max_length: token ids a caption, 2 to 77.
        freeze: leave out of the training.
        layer: "last"; "pooled", a context of one vector; or "hidden", the states of layer `layer_idx`.
    """

    def __init__(
        self,
        version: str = "openai/clip-vit-large-patch14",
        device: Device = None,
        max_length: Count = 77,
        freeze: bool = True,
        layer: str = "last",
        layer_idx: int | None = None,
    ) -> None:
        tower = PUBLISHED_TOWERS.get(version)
        if tower is None:
            raise UserError(f"Unknown text encoder {version!r}: choose one of {', '.join(PUBLISHED_TOWERS)}.")
        if not 2 <= max_length <= tower.context_length:
            raise UserError(f"max_length must be between 2 and {tower.context_length}, not {max_length}.")
        if layer not in ("last", "pooled", "hidden") or (layer == "hidden") != (layer_idx is not None):
            raise UserError("layer must be last, pooled, or hidden with a layer_idx")
        if abs(layer_idx or 0) > tower.layers:
            raise UserError(f"layer_idx must lie in -{tower.layers}..{tower.layers}, not {layer_idx}")
        super().__init__(tower)
        self.max_length, self.layer, self.layer_idx = max_length, layer, layer_idx
        if freeze:
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

    def forward(self, text: Sequence[str] | str) -> Tensor:
        """Captions (B of them, or one) to their context (B, max_length, C), or (B, 1, C) pooled."""
        tokens = self.tokenize(texts_of(text)).to(self.device)
        outputs = self.transformer(input_ids=tokens)
        if self.layer == "pooled":
            return outputs.pooler_output[:, None]
        return outputs.last_hidden_state if self.layer_idx is None else outputs.hidden_states[self.layer_idx]

    def unread(self, text: str) -> str:
        return unread(clip_tokenizer(), text, self.max_length)


class SmallCLIPTextEmbedder(CLIPTextEncoder):
    """The same architecture at small width over the words of `vocab_file`; trainable, context (B, 32, 128)."""

    def __init__(
        self, vocab_file: str, width: Count = 128, layers: Depth = 2, heads: Count = 4, context_length: Count = 32
    ) -> None:
        tokenizer = WordTokenizer(vocab_file, context_length=context_length)
        super().__init__(TextTower(width, layers, heads, tokenizer.vocab_size, context_length))
        self.tokenizer = tokenizer

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        return self.tokenizer(list(captions))  # (B, context_length)

    def unread(self, text: str) -> str:
        return self.tokenizer.unread(text)


class FrozenOpenCLIPEmbedder(TextEncoder):
    """The text encoder of Stable Diffusion 2: the text half of an OpenCLIP, context (B, 77, 1024).

    Args:
        arch: names the architecture, as `open_clip` does.
        version: accepted for published configs; the weights come with the checkpoint.
        device: where the weights go; if None they stay.
        max_length: token ids a caption.
        freeze: leave out of the training.
        layer: whose states are the context, after the last norm: "last" or "penultimate".
    """

    LAYERS = ("last", "penultimate")

    def __init__(
        self,
        arch: str = "ViT-H-14",
        version: str = "laion2b_s32b_b79k",
        device: Device = None,
        max_length: Count = 77,
        freeze: bool = True,
        layer: str = "last",
    ) -> None:
        super().__init__()
        if layer not in self.LAYERS:
            raise UserError(f"layer '{layer}' is neither {' nor '.join(self.LAYERS)}")
        try:
            import open_clip
        except ImportError as err:
            raise UserError(
                "the text encoder of Stable Diffusion 2 needs the package open_clip: pip install open_clip_torch"
            ) from err
        sizes = open_clip.get_model_config(arch)
        if sizes is None or {"hf_model_name", "proj_type"} & set(sizes["text_cfg"]):
            raise UserError(
                f"open_clip has no text transformer of its own called '{arch}'; for Stable Diffusion 2: ViT-H-14"
            )
        smallest = {"layers": 1, "width": 64, "head_width": 64, "image_size": 1, "patch_size": 1}  # it is left out
        self.model = open_clip.CLIP(
            sizes["embed_dim"], smallest, sizes["text_cfg"], quick_gelu=sizes.get("quick_gelu", False)
        )
        del self.model.visual
        length = self.model.context_length
        if not 2 <= max_length <= length:
            raise UserError(f"max_length must be between 2 and {length}, not {max_length}")
        # A checkpoint has no mask: it must have its value while the model is built on the meta device.
        mask = torch.full((length, length), -torch.inf, device="cpu").triu_(1)
        self.model.register_buffer("attn_mask", mask, persistent=False)
        self.tokenizer = open_clip.SimpleTokenizer(context_length=max_length)
        self.max_length, self.layer, self.layer_idx = max_length, layer, self.LAYERS.index(layer)
        if freeze:
            self.freeze()
        if device is not None:
            self.to(device)

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        return self.tokenizer(list(captions))  # (B, max_length)

    def forward(self, text: Sequence[str] | str) -> Tensor:
        """Captions (B of them, or one) to their context (B, max_length, C)."""
        return self.encode_with_transformer(self.tokenize(texts_of(text)).to(self.device))

    def encode_with_transformer(self, text: Tensor) -> Tensor:
        """Token ids (B, L) to a context (B, L, C)."""
        model: Any = self.model
        length = text.shape[1]
        x = model.token_embedding(text) + model.positional_embedding[:length]  # (B, L, C)
        return model.ln_final(self.text_transformer_forward(x, model.attn_mask[:length, :length]))

    def text_transformer_forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """States x (B, L, C) through the blocks, up to the one that `layer` names."""
        blocks: Any = self.model.transformer.resblocks
        for block in blocks[: len(blocks) - self.layer_idx]:
            x = block(x, attn_mask=None if attn_mask is None else attn_mask.to(x.dtype))
        return x

    def unread(self, text: str) -> str:
        return unread(clip_tokenizer(), text, self.max_length)  # the same byte pairs
