"""Conditioners: what turns captions, classes, tokens, images or maps into the context of the U-Net.

Those of the Stable Diffusion models and of the emoji world are in `text_encoders`; all stand here by their names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm import hub
from ldm.arguments import Count, Depth, Fraction
from ldm.modules.encoders.openai_clip import load_clip
from ldm.modules.encoders.text_encoders import (
    AbstractEncoder,
    Device,
    FrozenCLIPEmbedder,
    FrozenOpenCLIPEmbedder,
    SmallCLIPTextEmbedder,
    texts_of,
)
from ldm.modules.encoders.text_tower import PUBLISHED_TOWERS as PUBLISHED_TOWERS
from ldm.modules.encoders.text_tower import TextTower as TextTower
from ldm.modules.encoders.tokenizer import unread
from ldm.modules.x_transformer import Encoder, TransformerWrapper
from ldm.util import UserError

if TYPE_CHECKING:
    from transformers import BertTokenizer

__all__ = [
    "AbstractEncoder",
    "BERTEmbedder",
    "BERTTokenizer",
    "ClassEmbedder",
    "FrozenCLIPEmbedder",
    "FrozenCLIPTextEmbedder",
    "FrozenClipImageEmbedder",
    "FrozenOpenCLIPEmbedder",
    "SmallCLIPTextEmbedder",
    "SpatialRescaler",
    "TransformerEmbedder",
]

BERT_WORDS = "bert-base-uncased"
ADVICE = "name a copy as vocab_file in the params of the config's cond_stage_config"
INTERPOLATIONS = ("nearest", "linear", "bilinear", "trilinear", "bicubic", "area")


class FrozenCLIPTextEmbedder(AbstractEncoder):
    """One CLIP vector a text, repeated `n_repeat` times: a context (B, n_repeat, C).

    Args:
        version: published name or path of a CLIP, see `load_clip`.
        max_length: accepted for published configs; the model says how long a text may be.
        normalize: scale each vector to length 1.
    """

    def __init__(
        self,
        version: str = "ViT-L/14",
        device: Device = None,
        max_length: Count = 77,
        n_repeat: Count = 1,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        if n_repeat < 1:
            raise UserError(f"n_repeat must be at least 1, not {n_repeat}")
        bundle = load_clip(version, device)
        self.bundle, self.model, self.tokenize = bundle, bundle.model, bundle.tokenize
        self.max_length, self.n_repeat, self.normalize = max_length, n_repeat, normalize

    def freeze(self) -> None:
        """Evaluation mode, and no gradients for the weights (as it is built)."""
        self.model.eval().requires_grad_(False)

    def forward(self, text: Sequence[str] | str) -> Tensor:
        """Texts (B of them, or one) to vectors (B, C)."""
        tokens = self.tokenize(texts_of(text)).to(self.model.logit_scale.device)  # (B, L)
        z = self.model.encode_text(tokens)
        return F.normalize(z, dim=1) if self.normalize else z

    def encode(self, text: Sequence[str] | str) -> Tensor:
        """Texts to a context (B, n_repeat, C)."""
        return self(text)[:, None].expand(-1, self.n_repeat, -1)

    def unread(self, text: str) -> str:
        return self.bundle.unread(text)


class FrozenClipImageEmbedder(AbstractEncoder):
    """One CLIP vector (B, C) an image.

    Args:
        model: published name or path of a CLIP.
        jit: accepted for published configs; the weights always run as plain modules.
        antialias: smooth images before they are made smaller.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: str, jit: bool = False, device: Device = None, antialias: bool = False) -> None:
        super().__init__()
        bundle = load_clip(model, device)
        self.model, self.resolution, self.antialias = bundle.model, bundle.resolution, antialias
        self.register_buffer("mean", torch.tensor(bundle.mean, device=device), persistent=False)
        self.register_buffer("std", torch.tensor(bundle.std, device=device), persistent=False)

    def preprocess(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] as CLIP takes them: (B, 3, R, R), normalized."""
        from kornia.enhance import normalize
        from kornia.geometry.transform import resize

        size = (self.resolution, self.resolution)
        x = resize(x, size, interpolation="bicubic", align_corners=True, antialias=self.antialias)
        return normalize((x + 1.0) / 2.0, self.mean, self.std)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to vectors (B, C)."""
        return self.model.encode_image(self.preprocess(x))


# --------------------------------------------------------------------- trained with the diffusion model


class ClassEmbedder(AbstractEncoder):
    """A learned vector for each class, as a context of one token.

    Args:
        embed_dim: width of the context.
        n_classes: one more than the data has, where the last means "no class".
        key: entry of a batch that holds the labels.
    """

    def __init__(self, embed_dim: Count, n_classes: Count = 1000, key: str = "class") -> None:
        super().__init__()
        self.key, self.n_classes = key, n_classes
        self.embedding = nn.Embedding(n_classes, embed_dim)

    def forward(self, batch: Mapping[str, Any], key: str | None = None) -> Tensor:
        """Labels (B,) at `key` of a batch to a context (B, 1, embed_dim).

        Raises:
            UserError: no such entry, or a label outside the classes.
        """
        key = key or self.key
        if key not in batch:
            raise UserError(f"the batch has no class labels '{key}'; it has {', '.join(map(str, batch))}")
        labels = torch.as_tensor(batch[key], device=self.embedding.weight.device).long()  # (B,)
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < self.n_classes:
            raise UserError(f"class labels must lie in 0..{self.n_classes - 1}, not {labels.tolist()}")
        return self.embedding(labels[:, None])


class TransformerEmbedder(AbstractEncoder):
    """Token ids (B, L) through a transformer: a context (B, L, n_embed).

    Args:
        device: accepted for published configs; the tokens go where the weights are.
    """

    def __init__(
        self,
        n_embed: Count,
        n_layer: Depth,
        vocab_size: Count,
        max_seq_len: Count = 77,
        device: Device = None,
        embedding_dropout: Fraction = 0.0,
    ) -> None:
        super().__init__()
        self.transformer = TransformerWrapper(
            num_tokens=vocab_size,
            max_seq_len=max_seq_len,
            attn_layers=Encoder(dim=n_embed, depth=n_layer),
            emb_dropout=embedding_dropout,
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids (B, L) to (B, L, n_embed).

        Raises:
            UserError: an id outside the vocabulary, or more tokens than positions.
        """
        tokens = tokens.to(self.transformer.token_emb.weight.device)
        size = self.transformer.num_tokens
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < size:
            raise UserError(f"token ids must lie in 0..{size - 1}; this conditioner has a vocabulary of {size}")
        return self.transformer(tokens, return_embeddings=True)

    def encode(self, x: Any) -> Tensor:
        """As calling the module does."""
        return self(x)


class BERTTokenizer(AbstractEncoder):
    """The word pieces of `bert-base-uncased`, padded to `max_length`.

    Args:
        device: accepted for published configs; ids are made on the CPU.
        vq_interface: `encode` gives ``(None, None, [None, None, ids])``, as a vector quantizer would.
        max_length: ids a text, start and end marks included.
        vocab_file: BERT's list of word pieces, one a line; by default the hub's, kept here or fetched.
    """

    def __init__(
        self,
        device: Device = None,
        vq_interface: bool = True,
        max_length: Count = 77,
        vocab_file: str | Path | None = None,
    ) -> None:
        super().__init__()
        if max_length < 2:
            raise UserError(f"max_length must be at least 2 for the start and end marks, not {max_length}")
        self.vq_interface, self.max_length, self.vocab_file = vq_interface, max_length, vocab_file

    @cached_property
    def tokenizer(self) -> BertTokenizer:
        """Opened at the first text, so that a model is built offline. UserError if the word pieces cannot be had."""
        path = Path(self.vocab_file or hub.fetch(BERT_WORDS, "vocab.txt", ADVICE))
        if not path.is_file():
            raise UserError(f"there is no list of word pieces at {path}; {ADVICE}")
        from transformers import BertTokenizer

        words = path.read_text(encoding="utf-8-sig").splitlines()
        return BertTokenizer(vocab={word: index for index, word in enumerate(words)}, do_lower_case=True)

    def forward(self, text: Sequence[str] | str) -> Tensor:
        """Texts (B of them, or one) to ids (B, max_length) int64."""
        batch = self.tokenizer(
            texts_of(text), truncation=True, max_length=self.max_length, padding="max_length", return_tensors="pt"
        )
        return batch["input_ids"]

    @torch.no_grad()
    def encode(self, text: Sequence[str] | str) -> Any:
        """Ids, in the form that `vq_interface` asks for."""
        tokens = self(text)
        return (None, None, [None, None, tokens]) if self.vq_interface else tokens

    def unread(self, text: str) -> str:
        return unread(self.tokenizer, text, self.max_length)

    def decode(self, text: Any) -> Any:
        """`text` itself: there is nothing to undo."""
        return text


class BERTEmbedder(TransformerEmbedder):
    """Text by BERT's word pieces, or token ids, through a transformer.

    Args:
        use_tokenizer: the input is text; otherwise token ids.
        vocab_file: see `BERTTokenizer`.
    """

    def __init__(
        self,
        n_embed: Count,
        n_layer: Depth,
        vocab_size: Count = 30522,
        max_seq_len: Count = 77,
        device: Device = None,
        use_tokenizer: bool = True,
        embedding_dropout: Fraction = 0.0,
        vocab_file: str | Path | None = None,
    ) -> None:
        super().__init__(n_embed, n_layer, vocab_size, max_seq_len, device, embedding_dropout)
        self.use_tknz_fn = use_tokenizer
        if use_tokenizer:
            self.tknz_fn = BERTTokenizer(vq_interface=False, max_length=max_seq_len, vocab_file=vocab_file)

    def forward(self, text: Any) -> Tensor:
        """Texts, or token ids (B, L), to a context (B, L, n_embed)."""
        if isinstance(text, Tensor):
            return super().forward(text)
        if not self.use_tknz_fn:
            raise UserError("this conditioner takes token ids, not text (its config has use_tokenizer: false)")
        return super().forward(self.tknz_fn(text))

    def encode(self, text: Any) -> Tensor:
        """As calling the module does."""
        return self(text)

    def unread(self, text: str) -> str:
        return self.tknz_fn.unread(text) if self.use_tknz_fn else ""


class SpatialRescaler(AbstractEncoder):
    """Maps (B, in_channels, H, W) scaled `n_stages` times by `multiplier`, then perhaps a 1x1 convolution.

    Args:
        method: of interpolation.
        out_channels: of the convolution; None: no convolution.
        bias: of the convolution.
    """

    def __init__(
        self,
        n_stages: Depth = 1,
        method: str = "bilinear",
        multiplier: float = 0.5,
        in_channels: Count = 3,
        out_channels: Count | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if n_stages < 0:
            raise UserError(f"n_stages must not be negative, but is {n_stages}")
        if method not in INTERPOLATIONS:
            raise UserError(f"method '{method}' is none of {', '.join(INTERPOLATIONS)}")
        self.n_stages, self.method, self.multiplier = n_stages, method, multiplier
        self.remap_output = out_channels is not None
        if out_channels is not None:
            self.channel_mapper = nn.Conv2d(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.n_stages):
            x = F.interpolate(x, scale_factor=self.multiplier, mode=self.method)
        return self.channel_mapper(x) if self.remap_output else x

    def encode(self, x: Tensor) -> Tensor:
        """As calling the module does."""
        return self(x)
