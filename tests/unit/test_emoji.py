"""The emoji world: scenes, captions, tokens, and pairs for CLIP."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from ldm.categories import CATEGORIES, LABELS
from ldm.data.emoji.captions import caption, relation_between, relation_caption, true_caption, vocabulary
from ldm.data.emoji.degrade import degrade
from ldm.data.emoji.pairs import EmojiClipPairs, crop_box
from ldm.data.emoji.scene import IMAGE_SIZE, make_scene, overlap, scene_rng, swap_first_two
from ldm.data.emoji.scenes import EmojiScenes
from ldm.data.emoji.sprites import sprite
from ldm.modules.encoders.tokenizer import PAD_ID, UNKNOWN_ID, WordTokenizer, read_vocab, split_words
from ldm.relations import BELOW, LEFT, OPPOSITE
from ldm.util import UserError
from tests.training_parts import needs_font


@dataclass
class Item:
    name: str
    x: float
    y: float
    size: str = ""


CAT, DOG, BUS = Item("cat", 0.2, 0.5), Item("dog", 0.8, 0.4), Item("bus", 0.7, 0.9)


def test_vocabulary_file_is_the_grammars() -> None:
    words = read_vocab("configs/emoji/vocab.txt")
    assert words == vocabulary()
    assert 250 <= len(words) <= 400
    for category in CATEGORIES:
        assert set(split_words(f"{category.name} {category.plural}")) <= set(words)


def test_tokens_are_framed_padded_and_truncated() -> None:
    tokenizer = WordTokenizer()
    rows = tokenizer(["A cat, and the zyzzyva.", "", "cat " * 50])
    assert rows.shape == (3, 32) and rows.dtype == torch.int64
    words = {word: tokenizer.words.index(word) + 2 for word in ("a", "cat", ",", "and", "the", ".")}
    expected = [tokenizer.start_id, *(words[word] for word in ("a", "cat", ",", "and", "the")), UNKNOWN_ID]
    assert rows[0, :9].tolist() == [*expected, words["."], tokenizer.end_id]
    assert rows[0, 9:].eq(PAD_ID).all()
    assert rows[1, :3].tolist() == [tokenizer.start_id, tokenizer.end_id, PAD_ID]
    assert rows[2, -1] == tokenizer.end_id and rows[2, -2] == words["cat"]
    assert (rows.argmax(1) == torch.tensor([8, 1, 31])).all()  # CLIP finds the end of text so
    assert tokenizer.end_id == tokenizer.vocab_size - 1
    assert tokenizer.unknown_words("The cat saw a zyzzyva") == ["saw", "zyzzyva"]


@pytest.mark.parametrize(("text", "message"), [(None, "can't be read"), ("cat\ncat\n", "repeats"), ("", "empty")])
def test_vocabulary_mistakes_are_told(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "words.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        WordTokenizer(tmp_path / "words.txt")


@pytest.mark.parametrize(("first", "relation", "second"), [(CAT, LEFT, DOG), (BUS, BELOW, DOG)])
def test_relation_goes_by_the_longer_axis(first: Item, relation: str, second: Item) -> None:
    assert relation_between(first, second) == relation
    assert relation_between(second, first) == OPPOSITE[relation]


def test_seeds_give_the_captions_of_the_trained_models() -> None:
    """The shipped weights were trained on these; a change of a list or of an order shows here."""
    texts = [caption((CAT, DOG, BUS)[: 1 + seed % 3], random.Random(seed), "gray") for seed in range(2000)]
    assert texts[1] == "The real dog sitting near an orange cat"
    assert zlib.crc32("|".join(texts).encode()) == 3585146698


def test_shares_of_relations_in_two_object_captions() -> None:
    markers = {"left", "right", "above", "over", "top", "higher"}
    markers |= {"below", "under", "beneath", "lower", "underneath", "bottom", "upper"}
    rng = random.Random(0)
    texts = [caption((CAT, DOG), rng) for _ in range(4000)]
    related = [text for text in texts if markers & set(split_words(text))]
    assert 0.26 < len(related) / len(texts) < 0.36  # a fifth true, a tenth wrong, a few tails and verbs


def test_true_captions_name_every_object_and_no_wrong_relation() -> None:
    rng = random.Random(1)
    for _ in range(300):
        tokens = split_words(true_caption((CAT, DOG), rng, relation_rate=1.0).replace("under the sky", ""))
        assert {"cat", "kitten"} & set(tokens) and {"dog", "puppy"} & set(tokens)
        assert not {"above", "below", "under", "beneath", "underneath"} & set(tokens)


def test_relation_caption_may_be_turned_round_but_agrees() -> None:
    rng = random.Random(2)
    for _ in range(200):
        text = relation_caption(CAT, DOG, LEFT, rng).lower()
        tokens = split_words(text.replace("kitten", "cat").replace("puppy", "dog"))
        if "to the left of" in text and text.index("left") > 6:
            assert tokens.index("cat") < tokens.index("dog")


@needs_font
def test_scenes_depend_on_seed_and_index_alone() -> None:
    random.seed(5)
    first = EmojiScenes(size=10, seed=3)[7]
    random.seed(6)
    again, other = EmojiScenes(size=20, seed=3)[7], EmojiScenes(size=10, seed=4)[7]
    assert np.array_equal(first["image"], again["image"]) and first["caption"] == again["caption"]
    assert not np.array_equal(first["image"], other["image"])
    assert not np.array_equal(first["image"], EmojiScenes(size=10, seed=3, split="validation")[7]["image"])
    assert first["image"].shape == (128, 128, 3) and first["image"].dtype == np.float32
    assert first["image"].min() >= -1 and first["image"].max() <= 1


@needs_font
def test_objects_are_inside_apart_and_where_they_are_said_to_be() -> None:
    counts = [0] * 5
    for index in range(400):
        scene = make_scene(scene_rng(11, index))
        counts[len(scene.objects) - 1] += 1
        assert len({item.name for item in scene.objects}) == len(scene.objects)
        for item in scene.objects:
            left, top, right, bottom = item.box
            assert 0 <= left < right <= IMAGE_SIZE and 0 <= top < bottom <= IMAGE_SIZE
            assert max(right - left, bottom - top) == item.side
            assert (item.x, item.y) == ((left + right) / 2 / IMAGE_SIZE, (top + bottom) / 2 / IMAGE_SIZE)
            changed = np.abs(scene.image[top:bottom, left:right] - scene.backdrop.pixels[top:bottom, left:right])
            assert changed.max() > 30
        for first in scene.objects:
            assert all(overlap(first.box, second.box) <= 0.08 for second in scene.objects if second != first)
    assert 0.25 < counts[0] / 400 < 0.39 and 0.31 < counts[1] / 400 < 0.45 and counts[2] > 40 > counts[4] > 5


def test_overlap_of_hand_made_boxes() -> None:
    assert overlap((0, 0, 10, 10), (5, 5, 15, 15)) == 0.25
    assert overlap((0, 0, 10, 10), (8, 0, 12, 5)) == 0.5  # of the smaller box
    assert overlap((0, 0, 10, 10), (10, 0, 20, 10)) == 0.0


@needs_font
def test_swapping_turns_the_relation_round() -> None:
    turned = 0
    for index in range(40):
        scene = make_scene(scene_rng(1, index), ["cat", "bus"])
        image, (cat, bus) = swap_first_two(scene)
        assert image.shape == scene.image.shape
        assert all(min(item.box) >= 0 and max(item.box) <= IMAGE_SIZE for item in (cat, bus))
        turned += relation_between(cat, bus) == OPPOSITE[relation_between(*scene.objects)]
    assert turned > 32  # objects of different sizes near the edge do not fit into each other's place


@needs_font
def test_unconditional_share_drops_captions_and_no_image() -> None:
    plain, dropped = EmojiScenes(size=500, seed=1), EmojiScenes(size=500, seed=1, ucg_rate=0.1)
    empty = [index for index in range(500) if dropped[index]["caption"] == ""]
    assert 25 <= len(empty) <= 80
    assert np.array_equal(plain[empty[0]]["image"], dropped[empty[0]]["image"])


@needs_font
def test_close_ups_fill_the_image_and_change_no_other_scene() -> None:
    plain, close = EmojiScenes(size=60, seed=5), EmojiScenes(size=60, seed=5, close_ups=1.0)
    for index in range(60):
        first, second = plain.scene(index), close.scene(index)
        if len(first.objects) > 1:
            assert np.array_equal(first.image, second.image) and first.caption == second.caption
        else:
            (item,) = second.objects
            assert item.name == first.objects[0].name and 64 <= item.side <= 100
            assert min(item.box) >= 0 and max(item.box) <= IMAGE_SIZE


def test_missing_font_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ldm.data.emoji.sprites.FONT_PATH", tmp_path / "none.ttf")
    with pytest.raises(UserError, match="fonts-noto-color-emoji"):
        sprite(0, 99)


def test_crop_box_is_cut_at_the_border() -> None:
    assert crop_box(0.5, 0.5) == (38, 38, 89, 89)
    assert crop_box(0.1, 0.95) == (0, 96, 38, 128)


@needs_font
def test_clip_pairs_have_the_agreed_form() -> None:
    pairs = EmojiClipPairs(size=200, seed=2)
    labels = []
    for index in range(200):
        sample = pairs[index]
        assert sample["image"].shape == (3, 64, 64) and sample["image"].dtype == np.float32
        assert sample["image"].min() >= 0 and sample["image"].max() <= 1
        assert isinstance(sample["caption"], str) and sample["caption"]
        if sample["label"] >= 0:
            assert sample["caption"].startswith("A photo of ")
            assert not sample["caption"].startswith("A photo of the ")
        labels.append(sample["label"])
    assert -1 in labels and len(set(labels)) > 20
    assert np.array_equal(pairs[5]["image"], EmojiClipPairs(size=200, seed=2)[5]["image"])


@needs_font
def test_twins_differ_in_the_relation_alone() -> None:
    pairs = EmojiClipPairs(size=40, scene_rate=1.0, twin_rate=1.0, degrade_strength=0.0)
    for index in range(0, 40, 2):
        first, second = pairs[index], pairs[index + 1]
        words = [split_words(sample["caption"]) for sample in (first, second)]
        assert first["caption"] != second["caption"]
        assert not np.array_equal(first["image"], second["image"])
        for name in LABELS:
            assert (name in words[0]) == (name in words[1])


def test_degrading_keeps_shape_and_is_seeded() -> None:
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for seed in range(30):
        first, again = degrade(image, random.Random(seed)), degrade(image, random.Random(seed))
        assert first.shape == image.shape and first.dtype == np.uint8
        assert np.array_equal(first, again)
