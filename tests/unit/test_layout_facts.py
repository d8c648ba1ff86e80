"""Prompts as people write them: what is read of them, and that layouts keep to it."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest

from layout_predictor.inference import load_predictor, predict_layout
from layout_predictor.inference.clauses import state
from layout_predictor.inference.prompt import clean
from layout_predictor.inference.solve import Fact, solve
from layout_predictor.inference.understand import understand
from layout_predictor.inference.wordings import read_wordings, score
from layout_predictor.LayoutTransformer.data.sample import Sample
from ldm.util import UserError

WORDINGS = Path(__file__).with_name("layout_wordings.yaml")


def phrases(sentence: str, **options: bool) -> list[str]:
    return [item.phrase for item in predict_layout(sentence, **options).objects]


def facts(sentence: str) -> list[tuple[str, ...]]:
    read = understand(sentence)
    return [(fact.kind, *(read.objects[n].phrase for n in fact.objects), *fact.sides) for fact in read.facts]


# ---------------------------------------------------------------------------------------------- wordings


def test_wordings_of_all_kinds() -> None:
    result = score(read_wordings(WORDINGS), predict_layout, draws=1, seed=3)
    assert result["at_0.95"] >= 0.97 * result["wordings"], result["not_always"]


def test_files_of_wordings(tmp_path: Path) -> None:
    lines = tmp_path / "w.jsonl"
    lines.write_text('{"kind": "k", "text": "{a} left of {b}", "expect": [["left", "a", "b"], ["absent", "c"]]}\n')
    assert score(read_wordings(lines), predict_layout, draws=2)["by_kind"] == {"k": 1.0}
    lines.write_text('{"kind": "k", "text": "{a} left of {b}", "expect": [["left", "b", "a"]]}\n')
    assert score(read_wordings(lines), predict_layout, draws=2)["not_always"] == {"{a} left of {b}": 0.0}
    (tmp_path / "w.yaml").write_text("- no wordings")
    with pytest.raises(UserError, match="wordings"):
        read_wordings(tmp_path / "w.yaml")


# ---------------------------------------------------------------------------------------------- prompts


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("(a cat:1.2) left of [[a dog]]", "a cat left of a dog"),
        ("\ufeff\u200ba cat\nabove a dog", "a cat above a dog"),
        ("a cat\n4k", "a cat. 4k"),
        ("a cat <lora:x:0.8>, a dog --ar 16:9 --no people", "a cat, a dog"),
        ("a cat. Negative prompt: a dog", "a cat."),
        ("1. a cat 2. a dog", "a cat. a dog"),
        ("ａ ｃａｔ_left of “a dog”", "a cat left of a dog"),
        ("a cat rihgt of a dog", "a cat right of a dog"),
    ],
)
def test_markup_goes(prompt: str, text: str) -> None:
    cleaned = clean(prompt)
    assert cleaned.text == text
    assert len(cleaned.origins) == len(text)
    start = text.index("cat")
    first, last = cleaned.original((start, start + 3))
    assert prompt[first:last] in ("cat", "ｃａｔ")


def test_what_was_read_otherwise_is_noted() -> None:
    predictor = load_predictor()
    assert predictor.predict("a cat abvoe a dog").notes == ('"abvoe" is read as "above"',)
    assert "lamp" in predictor.predict("a cat. a lamp.").notes[0]
    assert "not met" in predictor.predict("a cat left of a dog. The dog is left of the cat.").notes[0]
    assert predictor.predict("a cat left of a dog").notes == ()
    assert len(predictor.predict("a cat, " * 200).found) == 16


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("two black cats and a dog", ["a black cat", "a black cat", "a dog"]),
        ("an apple pie on a table", ["an apple pie", "a table"]),
        ("a glass of milk to the left of a slice of pizza", ["a glass of milk", "a slice of pizza"]),
        ("the Eiffel Tower to the right of the Statue of Liberty", ["the Eiffel Tower", "the Statue of Liberty"]),
        ("two dogs: the black one is to the left of the white one", ["a black dog", "a white dog"]),
        ("a cat to the left of a dog in the snow", ["a cat", "a dog"]),
        ("a cat in the style of Van Gogh above a dog, oil painting", ["a cat", "a dog"]),
        ("the sun above the sea", ["the sun", "the sea"]),
        ("a red and blue ball on a green and yellow box", ["a red and blue ball", "a green and yellow box"]),
        ("A man without a hat, no dogs", ["A man"]),
        ("a bird soars above a bus", ["a bird", "a bus"]),
        ("three drums", ["a drum"] * 3),
        ("a table surrounded by chairs", ["a table"] + ["a chair"] * 4),
    ],
)
def test_objects(sentence: str, expected: list[str]) -> None:
    assert phrases(sentence) == expected


def test_the_models_own_answer() -> None:
    sentence = "on the left a cat, on the right a dog"
    cat, dog = predict_layout(sentence).objects
    assert cat.x < 0.4 < 0.6 < dog.x
    raw = predict_layout(sentence, raw=True).objects
    assert raw[0].x > raw[1].x  # as the network has it
    assert predict_layout("two cats", raw=True).objects[0].phrase == "two cats"
    sample = Sample("left a cat, right a dog", ((7, 10), (20, 23)), ())
    predictor = load_predictor()
    [[cat_at, dog_at]] = predictor.centers_of([sample], checked=True)
    assert cat_at[0] < dog_at[0]


# ---------------------------------------------------------------------------------------------- facts, centers


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("a cat isn't to the left of a dog", [("right of", "a cat", "a dog")]),
        ("To the dog's left is a cat.", [("left of", "a cat", "the dog")]),
        ("a woman holding a baby", [("inside", "a baby", "a woman")]),
        ("a person riding a horse", [("on", "a person", "a horse")]),
        ("a dog in the foreground, a house in the background", [("front", "a dog", "a house")]),
        ("a cat on one side, a dog on the other", [("at", "a cat", "left"), ("at", "a dog", "right")]),
        ("a red cat on a couch", [("on", "a red cat", "a couch")]),
        ("a glass of milk left of a slice of cake", [("left of", "a glass of milk", "a slice of cake")]),
        ("a bowl of oranges", [("inside", "oranges", "a bowl")]),
        ("the right of way belongs to a bus", []),
    ],
)
def test_facts(sentence: str, expected: list[tuple[str, ...]]) -> None:
    assert facts(sentence) == expected
    assert state([]).facts == []


def test_centers_move_no_farther_than_facts_need() -> None:
    centers = [(0.3, 0.5), (0.7, 0.4)]
    assert solve(centers, [Fact("left of", (0, 1))]) == (centers, [])
    moved, unmet = solve(centers, [Fact("right of", (0, 1))])
    assert moved == [(0.7, 0.5), (0.3, 0.4)]  # exchanged on the axis of the fact
    assert not unmet
    moved, unmet = solve([(0.5, 0.5)] * 6, [Fact("line", tuple(range(6)), ("left", "right"))])
    assert [x for x, _ in moved] == sorted(x for x, _ in moved)
    assert not unmet
    _, unmet = solve(centers, [Fact("left of", (0, 1)), Fact("left of", (1, 0))])
    assert unmet
    moved, _ = solve([(0.5, 0.5)] * 5, [Fact("at", (0,), ("top", "left")), Fact("inside", (1, 2))])
    assert max(moved[0]) <= 0.3 + 1e-3
    apart = [math.dist(a, b) for a, b in itertools.combinations([moved[i] for i in (0, 1, 3, 4)], 2)]
    assert min(apart) > 0.19


@pytest.mark.parametrize(
    ("sentence", "objects"),
    [
        ("A banana on a yellow background.", ["A banana"]),
        ("a cat next to a dog against a plain light blue background", ["a cat", "a dog"]),
        ("a cat, dark green background", ["a cat"]),
        ("a dog and a cat in background", ["a dog", "a cat"]),
        ("a dog with a cat in the background", ["a dog", "a cat"]),
    ],
)
def test_the_background_of_an_image_is_no_object(sentence: str, objects: list[str]) -> None:
    assert phrases(sentence) == objects
