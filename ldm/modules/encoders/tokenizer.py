"""Tokens of texts: words of the emoji world, from a small closed vocabulary in a text file, and CLIP's byte pairs."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import LongTensor

from ldm.paths import ROOT
from ldm.util import UserError

if TYPE_CHECKING:
    from transformers import CLIPTokenizer, PreTrainedTokenizerFast

PAD_ID = 0
UNKNOWN_ID = 1
_TOKEN = re.compile(r"[a-z]+|[0-9]+|[,.']")
DEFAULT_VOCAB = ROOT / "configs" / "emoji" / "vocab.txt"


def split_words(text: str) -> list[str]:
    """Lower-case words, numbers and the marks ``, . '`` of a text, in order; everything else separates."""
    return _TOKEN.findall(text.lower())


def read_vocab(vocab_file: str | Path) -> list[str]:
    """The words of a vocabulary file, one a line. UserError if it is missing, empty or repeats a word."""
    path = Path(vocab_file)
    if not path.is_absolute() and not path.exists():
        path = ROOT / path  # configs name the file relative to the repository
    try:
        words = path.read_text(encoding="utf-8-sig").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The vocabulary file {vocab_file} can't be read: {error}.") from error
    if not words:
        raise UserError(f"The vocabulary file {vocab_file} is empty; it should hold one word a line.")
    if len(set(words)) != len(words):
        raise UserError(f"The vocabulary file {vocab_file} repeats a word; each may stand once.")
    return words


class WordTokenizer:
    """Turns sentences into padded rows of word numbers.

    0 pads, 1 is a word outside the vocabulary, then come the words in the order of the file, the start mark and, as
    the highest number, by which OpenAI's CLIP finds it, the end mark.

    Args:
        vocab_file: one word a line; a relative path is looked up here and in the repository.
        context_length: numbers a row.
    """

    def __init__(self, vocab_file: str | Path = DEFAULT_VOCAB, context_length: int = 32) -> None:
        if context_length < 2:
            raise UserError(f"A context of {context_length} tokens has no room for the start and end marks.")
        self.words = read_vocab(vocab_file)
        self.context_length = context_length
        self.ids = {word: index for index, word in enumerate(self.words, start=UNKNOWN_ID + 1)}
        self.start_id = len(self.words) + 2
        self.end_id = self.start_id + 1
        self.vocab_size = self.end_id + 1

    def encode(self, text: str) -> list[int]:
        """The numbers of one text with its start and end marks, cut to the context length, unpadded."""
        ids = [self.ids.get(word, UNKNOWN_ID) for word in split_words(text)]
        return [self.start_id, *ids[: self.context_length - 2], self.end_id]

    def for_transformers(self) -> PreTrainedTokenizerFast:
        """The same tokenizer as one of `transformers`."""
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
        from transformers import PreTrainedTokenizerFast

        marks = {"<|pad|>": PAD_ID, "<|unknown|>": UNKNOWN_ID, "<|start|>": self.start_id, "<|end|>": self.end_id}
        pad, unknown, start, end = marks
        made = Tokenizer(models.WordLevel({**self.ids, **marks}, unk_token=unknown))
        made.normalizer = normalizers.Lowercase()
        made.pre_tokenizer = pre_tokenizers.Split(Regex(_TOKEN.pattern), behavior="removed", invert=True)
        made.post_processor = processors.TemplateProcessing(
            single=f"{start} $A {end}", special_tokens=[(mark, marks[mark]) for mark in (start, end)]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=made,
            model_max_length=self.context_length,
            bos_token=start,
            eos_token=end,
            unk_token=unknown,
            pad_token=pad,
        )

    def unread(self, text: str) -> str:
        """The end of the text that is cut off, "" where nothing is."""
        words = list(re.finditer(_TOKEN.pattern, text, re.IGNORECASE))
        most = self.context_length - 2
        return text[words[most].start() :].strip() if len(words) > most else ""

    def unknown_words(self, text: str) -> list[str]:
        """The words of the text that the vocabulary lacks, each once, in order."""
        return list(dict.fromkeys(word for word in split_words(text) if word not in self.ids))

    def __call__(self, texts: Sequence[str] | str) -> LongTensor:
        """Tokens of a batch of texts: (B, context_length) int64."""
        batch = [texts] if isinstance(texts, str) else texts
        rows = torch.full((len(batch), self.context_length), PAD_ID, dtype=torch.long)
        for row, text in zip(rows, batch, strict=True):
            ids = self.encode(text)
            row[: len(ids)] = torch.tensor(ids)
        return rows  # type: ignore[return-value]


@cache
def clip_part(name: str) -> Any:
    """A file of the `clip` package as a module: "model", "simple_tokenizer".

    Neither needs torchvision, which ``import clip`` loads, and which takes as long as torch.
    """
    if (loaded := sys.modules.get(f"clip.{name}")) is not None:
        return loaded
    package = importlib.util.find_spec("clip")
    if package is None or package.origin is None:
        raise ImportError("there is no package 'clip'")
    spec = importlib.util.spec_from_file_location(f"clip.{name}", Path(package.origin).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _byte_pairs() -> Any:
    return clip_part("simple_tokenizer").SimpleTokenizer()


def clip_tokens(texts: Sequence[str], context_length: int) -> LongTensor:
    """What `clip.tokenize` makes of texts, long ones cut: (B, context_length) int64, 0 after the end."""
    pairs = _byte_pairs()
    start, end = (pairs.encoder[mark] for mark in ("<|startoftext|>", "<|endoftext|>"))
    rows = torch.zeros(len(texts), context_length, dtype=torch.long)
    for row, text in zip(rows, texts, strict=True):
        ids = [start, *pairs.encode(text)[: context_length - 2], end]
        row[: len(ids)] = torch.tensor(ids)
    return rows  # type: ignore[return-value]


@cache
def clip_tokenizer() -> CLIPTokenizer:
    """The byte-pair tokenizer of CLIP, made from the merges that come with the `clip` package.

    It pads with `<|endoftext|>`, as Stable Diffusion v1 was trained, where `clip_tokens` writes 0.
    """
    from transformers import CLIPTokenizer

    published = _byte_pairs()
    merges: Any = sorted(published.bpe_ranks, key=published.bpe_ranks.__getitem__)
    return CLIPTokenizer(vocab=dict(published.encoder), merges=merges, pad_token="<|endoftext|>")


def unread(tokenizer: Any, text: str, max_length: int) -> str:
    """The end of a text that a tokenizer of `transformers` cuts off at `max_length` ids, marks included."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    most = max_length - 2
    return text[offsets[most][0] :].strip() if len(offsets) > most else ""
