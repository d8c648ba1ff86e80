"""Conditioners that are trained along with the diffusion model: classes, tokens, text by BERT's words, maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.modules.encoders.base import AbstractEncoder
from ldm.modules.x_transformer import Encoder, TransformerWrapper
from ldm.util import UserError

if TYPE_CHECKING:
    from transformers import BertTokenizer

BERT_WORDS = "bert-base-uncased"
INTERPOLATIONS = ("nearest", "linear", "bilinear", "trilinear", "bicubic", "area")


class ClassEmbedder(AbstractEncoder):
    """A learned vector for each class, as a context of one token.

    Args:
        embed_dim: width of the context.
        n_classes: number of classes (one more than the data has, where the last means "no class").
        key: entry of a batch that holds the labels.
    """

    def __init__(self, embed_dim: int, n_classes: int = 1000, key: str = "class") -> None:
        super().__init__()
        self.key, self.n_classes = key, n_classes
        self.embedding = nn.Embedding(n_classes, embed_dim)

    def forward(self, batch: Mapping[str, Any], key: str | None = None) -> Tensor:
        """Labels (B,) at `key` of a batch to a context (B, 1, embed_dim).

        Raises:
            UserError: the batch has no such entry, or a label is outside the classes.
        """
        key = key or self.key
        if key not in batch:
            raise UserError(f"the batch has no class labels '{key}'; it has {', '.join(map(str, batch))}")
        labels = torch.as_tensor(batch[key], device=self.embedding.weight.device).long()  # (B,)
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < self.n_classes:
            raise UserError(f"class labels must lie in 0..{self.n_classes - 1}, not {labels.tolist()}")
        return self.embedding(labels[:, None])

    def encode(self, batch: Mapping[str, Any], key: str | None = None) -> Tensor:
        """The same as calling the module."""
        return self(batch, key)


class TransformerEmbedder(AbstractEncoder):
    """Token ids (B, L) through a transformer: a context (B, L, n_embed)."""

    def __init__(
        self,
        n_embed: int,
        n_layer: int,
        vocab_size: int,
        max_seq_len: int = 77,
        device: str | torch.device | None = None,
        embedding_dropout: float = 0.0,
    ) -> None:
        """`device` is accepted for published configs: the tokens go where the weights are."""
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

    def encode(self, tokens: Any) -> Tensor:
        """The same as calling the module."""
        return self(tokens)


class BERTTokenizer(AbstractEncoder):
    """The word pieces of `bert-base-uncased`, padded to `max_length`.

    Args:
        device: accepted for published configs; ids are made on the CPU.
        vq_interface: give ``(None, None, [None, None, ids])`` from `encode`, as a vector quantizer would.
        max_length: ids a text, start and end marks included.
        vocab_file: BERT's list of word pieces, one a line; by default what `transformers` fetches or has kept.
    """

    def __init__(
        self,
        device: str | torch.device | None = None,
        vq_interface: bool = True,
        max_length: int = 77,
        vocab_file: str | Path | None = None,
    ) -> None:
        super().__init__()
        if max_length < 2:
            raise UserError(f"max_length must be at least 2 for the start and end marks, not {max_length}")
        self.vq_interface, self.max_length, self.vocab_file = vq_interface, max_length, vocab_file

    @cached_property
    def tokenizer(self) -> BertTokenizer:
        """Opened when the first text comes, so that building a model asks nothing of the network.

        Raises:
            UserError: the list of word pieces is neither here nor to be had.
        """
        from transformers import BertTokenizer

        if self.vocab_file is not None:
            path = Path(self.vocab_file)
            if not path.is_file():
                raise UserError(f"there is no list of word pieces at {path}; give BERT's vocab.txt as vocab_file")
            words = path.read_text(encoding="utf-8").splitlines()
            return BertTokenizer(vocab={word: index for index, word in enumerate(words)}, do_lower_case=True)
        try:
            return BertTokenizer.from_pretrained(BERT_WORDS)
        except (OSError, ValueError) as err:
            raise UserError(
                f"the word pieces of {BERT_WORDS} are not here and cannot be fetched; "
                "run once while online, or name BERT's vocab.txt as vocab_file"
            ) from err

    def forward(self, text: Sequence[str] | str) -> Tensor:
        """Texts (B of them, or one) to ids (B, max_length) int64."""
        texts = [text] if isinstance(text, str) else list(text)
        batch = self.tokenizer(
            texts, truncation=True, max_length=self.max_length, padding="max_length", return_tensors="pt"
        )
        return batch["input_ids"]

    @torch.no_grad()
    def encode(self, text: Sequence[str] | str) -> Any:
        """Ids, in the form that `vq_interface` asks for."""
        tokens = self(text)
        return (None, None, [None, None, tokens]) if self.vq_interface else tokens

    def decode(self, text: Any) -> Any:
        """`text` itself: there is nothing to undo."""
        return text


class BERTEmbedder(TransformerEmbedder):
    """Text by BERT's word pieces, or token ids, through a transformer trained with the diffusion model.

    Args:
        n_embed, n_layer: width and depth.
        use_tokenizer: the input is text; otherwise token ids.
        vocab_file: see :class:`BERTTokenizer`.
    """

    def __init__(
        self,
        n_embed: int,
        n_layer: int,
        vocab_size: int = 30522,
        max_seq_len: int = 77,
        device: str | torch.device | None = None,
        use_tokenizer: bool = True,
        embedding_dropout: float = 0.0,
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


class SpatialRescaler(nn.Module):
    """Maps (segmentations, images) at a smaller size and with other channels.

    Args:
        n_stages: how often the size is multiplied.
        method: of interpolation.
        multiplier: of the size, each time.
        in_channels, out_channels: with `out_channels`, a 1x1 convolution follows.
        bias: of that convolution.
    """

    def __init__(
        self,
        n_stages: int = 1,
        method: str = "bilinear",
        multiplier: float = 0.5,
        in_channels: int = 3,
        out_channels: int | None = None,
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
        """(B, in_channels, H, W) to (B, out_channels, H m^n, W m^n)."""
        for _ in range(self.n_stages):
            x = F.interpolate(x, scale_factor=self.multiplier, mode=self.method)
        return self.channel_mapper(x) if self.remap_output else x

    def encode(self, x: Tensor) -> Tensor:
        """The same as calling the module."""
        return self(x)
