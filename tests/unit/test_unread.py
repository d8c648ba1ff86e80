"""The end of a text that a text encoder has no room for is found, and told once."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from ldm.backends.compvis import CompVis
from ldm.modules.encoders.modules import BERTTokenizer, FrozenCLIPEmbedder, SmallCLIPTextEmbedder
from ldm.modules.encoders.text_tower import PUBLISHED_TOWERS, TextTower
from tests.tiny_world import TinyWorld

LONG = "A cat to the left of a dog, " + "very " * 40 + "nice with a RED horse"


@pytest.fixture(scope="module")
def small() -> SmallCLIPTextEmbedder:
    return SmallCLIPTextEmbedder("configs/emoji/vocab.txt", width=8, layers=1, heads=1)


def test_words_of_the_embedded_model(small: SmallCLIPTextEmbedder) -> None:
    assert small.unread("a cat and a dog") == ""
    assert small.unread("a " * 30) == "" and small.unread("a " * 30 + "Dog!") == "Dog!"
    assert small.unread(LONG) == "very " * 19 + "nice with a RED horse"
    assert small.unread("É👍 " * 40 + "cat") == ""  # what is no word takes no room


@pytest.mark.parametrize("length", [77, 20])
def test_byte_pairs_of_clip(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    monkeypatch.setitem(PUBLISHED_TOWERS, "tiny", TextTower(8, 1, 1, 49408, 77))
    embedder = FrozenCLIPEmbedder("tiny", max_length=length)
    assert embedder.unread("a " * (length - 2)) == ""
    text = "a " * (length - 2) + "marvelous dog"
    assert embedder.unread(text) == "marvelous dog"
    assert embedder.tokenize([text])[0].tolist()[-2:] == embedder.tokenize(["a " * (length - 2)])[0].tolist()[-2:]


def test_word_pieces_of_bert(tmp_path) -> None:
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "##s"]))
    tokenizer = BERTTokenizer(max_length=6, vocab_file=vocab)
    assert tokenizer.unread("a cat a cat") == "" and tokenizer.unread("A cat a cat, a cats") == ", a cats"


def test_told_once_by_whatever_encodes(
    world: TinyWorld, small: SmallCLIPTextEmbedder, caplog: pytest.LogCaptureFixture
) -> None:
    model = SimpleNamespace(cond_stage_model=small, get_learned_conditioning=small.encode)
    backend = CompVis(model, {}, 5.0)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            backend.encode(["", "a cat", LONG])
    assert [record.getMessage().count("RED horse") for record in caplog.records] == [2]
