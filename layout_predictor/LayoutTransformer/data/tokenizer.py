"""Sub-words: a byte-level BPE with RoBERTa's special tokens (<s> 0, <pad> 1, </s> 2, <unk> 3).

The embedded predictor has a small one of its own, trained on the grammar; any `tokenizer.json` of the
`tokenizers` library with these ids will do, RoBERTa's included.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from layout_predictor.LayoutTransformer.data.records import find_file
from ldm import hub
from ldm.util import UserError

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
PAD_ID = 1


class SentenceTokenizer:
    """Token ids of a sentence and the token at which a word starts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        found = tuple(tokenizer.token_to_id(token) for token in SPECIAL)
        if found != (0, 1, 2, 3):
            raise UserError(f"the tokenizer's special tokens {SPECIAL} have ids {found}, not (0, 1, 2, 3)")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, name: str) -> SentenceTokenizer:
        """From a tokenizer.json, a folder with one, or by its name on the Hugging Face hub ("roberta-base")."""
        path = find_file(name)
        if path.is_dir():
            return cls.from_file(path / "tokenizer.json")
        if path.suffix == ".json" or path.is_file():
            return cls.from_file(path)
        return cls.from_file(hub.fetch(name, "tokenizer.json", "name a tokenizer.json in DATA.TOKENIZER"))

    @classmethod
    def from_file(cls, path: str | Path) -> SentenceTokenizer:
        """Read a tokenizer.json."""
        if not Path(path).is_file():
            raise UserError(f"no tokenizer file at {path}")
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"the tokenizer {path} cannot be read: {error}") from None

    @classmethod
    def from_json(cls, text: str) -> SentenceTokenizer:
        """From the contents of a tokenizer.json."""
        try:
            found = Tokenizer.from_str(text)
        except Exception as error:  # the library raises plain Exception for a malformed file
            raise UserError(f"the tokenizer file cannot be read: {error}") from None
        return cls(found)

    def to_json(self) -> str:
        """The tokenizer.json."""
        return self.tokenizer.to_str()

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids with <s> and </s>, and the characters of each token (without a leading blank)."""
        encoding = self.tokenizer.encode(text)
        return encoding.ids, encoding.offsets


def token_at(offsets: list[tuple[int, int]], start: int) -> int:
    """Index of the first token of the word that begins at character `start`."""
    for index, (first, last) in enumerate(offsets):
        if last > start and last > first:
            return index
    raise ValueError(f"no token at character {start}")


def train_tokenizer(sentences: Iterable[str], vocab_size: int) -> SentenceTokenizer:
    """A byte-level BPE of `vocab_size` entries; case is dropped, every word starts with a blank."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    return SentenceTokenizer(tokenizer)
