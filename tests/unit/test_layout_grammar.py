"""Generated sentences: spans, relations, centers, variety; batches and readers."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from layout_predictor.LayoutTransformer.data import lexicon
from layout_predictor.LayoutTransformer.data.dataset import GrammarSource
from layout_predictor.LayoutTransformer.data.grammar import generate
from layout_predictor.LayoutTransformer.data.sample import DataSection, Sample, collate
from layout_predictor.LayoutTransformer.data.story import Pattern, Story
from layout_predictor.LayoutTransformer.data.tokenizer import SentenceTokenizer, token_at, train_tokenizer
from ldm.relations import RELATIONS, gap
from ldm.util import UserError

ROOT = Path(__file__).resolve().parents[2]
COUNT = 400
NOUNLESS = {"one", "other", "former", "latter"}


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [generate(5, i) for i in range(COUNT)]


@pytest.fixture(scope="module")
def tokenizer() -> SentenceTokenizer:
    return SentenceTokenizer.from_file(ROOT / "configs" / "emoji" / "layout_tokenizer.json")


def test_centers_satisfy_what_is_stated(samples: list[Sample]) -> None:
    for sample in samples:
        assert sample.centers is not None
        assert sample.centers.min() >= 0.15 - 1e-9
        assert sample.centers.max() <= 0.85 + 1e-9
        for a, relation, b in sample.relations:
            assert gap(relation, sample.centers[a], sample.centers[b]) > 0.14
        distance = np.linalg.norm(sample.centers[:, None] - sample.centers[None], axis=-1) + np.eye(len(sample.centers))
        assert distance.min() >= 0.25 - 1e-9


def test_spans_are_the_head_nouns(samples: list[Sample]) -> None:
    for sample in samples:
        assert len(sample.spans) == len(sample.names) == len(set(sample.spans))
        for (start, end), name in zip(sample.spans, sample.names, strict=True):
            assert sample.text[start:end].lower() in {name.split()[-1].lower(), *NOUNLESS}


def test_sentences_vary_and_repeat_by_seed(samples: list[Sample]) -> None:
    assert generate(5, 7).text == samples[7].text
    assert len({sample.text for sample in samples}) > 0.98 * COUNT
    counts = {len(sample.spans) for sample in samples}
    assert counts == {1, 2, 3, 4, 5}
    text = " ".join(sample.text.lower() for sample in samples)
    for phrase in ["to the left of", "to its right", "on top of", "beneath", "under", "above it", ", which", "while"]:
        assert phrase in text
    assert {relation for s in samples for _, relation, _ in s.relations} == set(RELATIONS)
    assert any(not sample.relations for sample in samples)


def test_two_of_a_kind_and_nounless_mentions(samples: list[Sample]) -> None:
    marked = {sample.text[start:end].lower() for sample in samples for start, end in sample.spans}
    assert len(NOUNLESS & marked) >= 2
    assert any(" another " in sample.text.lower() for sample in samples)


def test_a_pronoun_states_its_relation_of_all_that_it_could_mean() -> None:
    story = Story(random.Random(3))
    story.pronoun_rate = 1.0
    while len({thing.pronouns for thing in story.things}) != 1 or len(story.things) < 3:
        story.things = []
        for _ in range(3):
            story.new_thing()
    roles = {"A": 0, "B": 1, "C": 2}
    pattern = Pattern("{A} {r1} {B} , with {C} {r2.A}", "Ar1B Cr2A")
    assert story.tell(pattern, roles, {"r1": "above", "r2": "left of"})
    assert set(story.edges) == {(0, "above", 1), (2, "left of", 0), (2, "left of", 1)}
    story.edges.clear()
    assert story.tell(Pattern(", with {C} {r.bare}", "CrA"), roles, {"r": "below"})
    assert set(story.edges) == {(2, "below", 0), (2, "below", 1)}


def test_places_in_the_picture() -> None:
    for index in range(4000):
        sample = generate(9, index)
        if "top left corner" in sample.text.lower() and len(sample.spans) == 1:
            assert sample.centers is not None
            assert (sample.centers < 0.5).all()
            return
    raise AssertionError("no sentence about a corner")


def told(pattern: Pattern, roles: str, relations: dict[str, str]) -> Story:
    """A story of one pattern about as many singular things as it has roles."""
    story = Story(random.Random(4))
    while len(story.things) < len(roles):
        story.new_thing()
        if story.things[-1].noun.plural:
            story.things.pop()
    assert story.tell(pattern, {role: i for i, role in enumerate(roles)}, relations)
    return story


def test_a_side_next_to_something_is_no_place_in_the_picture() -> None:
    beside = Pattern("{B} {B.be} {part} , and next to {B.it} , {r.there} , {A.be} {A}", "ArB", only="side")
    story = told(beside, "AB", {"r": "left of"})
    assert story.edges == [(0, "left of", 1)] and not story.regions
    story = told(Pattern("{r.alone} there {A.be} {A} , and {r-.alone} {B} {B.sit}"), "AB", {"r": "left of"})
    assert story.edges == [(0, "left of", 1)] and story.regions == [(0, "left of"), (1, "right of")]


def test_kinds_of_sentences() -> None:
    text = "\n".join(generate(6, i).text for i in range(3000))
    kinds = "'s left|'s right|\nBetween the |\nWhat |\nPut |\nNobody noticed |being the one | goes |\nHaving "
    for phrase in kinds.split("|"):
        assert phrase.lower() in text.lower(), phrase
    assert any(f"\n{height}" in text.lower() for height in lexicon.SLOTS["up"])


def test_batches_mark_the_first_sub_word(samples: list[Sample], tokenizer: SentenceTokenizer) -> None:
    part = samples[:16]
    batch = collate(part, tokenizer, 192)
    assert batch.is_object.sum() == len(batch.where) == sum(len(sample.spans) for sample in part)
    assert len(batch.relations) == sum(len(sample.relations) for sample in part)
    assert (batch.tokens[:, 0] == 0).all()
    row, token = batch.where[0].tolist()
    ids, offsets = tokenizer.encode(part[0].text)
    assert offsets[token][0] == part[0].spans[0][0]
    assert batch.tokens[row, : len(ids)].tolist() == ids
    assert not torch.isnan(batch.centers).any()
    with pytest.raises(UserError, match="at most 4"):
        collate(part, tokenizer, 4)


def test_tokenizer_ids_and_offsets() -> None:
    tokenizer = train_tokenizer(["a cat above a dog"] * 20, 280)
    ids, offsets = tokenizer.encode("Cat above zqx")
    assert ids[0] == 0
    assert ids[-1] == 2
    assert offsets[token_at(offsets, 10)][0] == 10
    assert SentenceTokenizer.from_json(tokenizer.to_json()).encode("Cat above zqx") == (ids, offsets)
    with pytest.raises(UserError, match="cannot be read"):
        SentenceTokenizer.from_json("{")


def test_source_is_a_function_of_the_step() -> None:
    one, other = (GrammarSource(DataSection("", seed=3), 4) for _ in range(2))
    other.batch(30)
    assert [s.text for s in one.batch(9)] == [s.text for s in other.batch(9)]
    assert {s.text for s in one.batch(9)} != {s.text for s in one.batch(10)}
