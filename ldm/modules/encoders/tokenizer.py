"""Word-level tokens for the emoji world: a small closed vocabulary in a plain text file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import LongTensor

from ldm.paths import ROOT
from ldm.util import UserError

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
