"""Objects of a sentence, keeping centres apart, and the embedded predictor."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest

from layout_predictor.inference import Predictor, load_predictor, predict_layout
from layout_predictor.inference.inference_coco import main
from layout_predictor.inference.objects import category_of, find_objects
from layout_predictor.inference.predictor import DEFAULT_WEIGHTS
from layout_predictor.inference.separate import separate
from layout_predictor.LayoutTransformer.data.categories import STUFF, THINGS
from ldm.util import UserError


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load_predictor()


def phrases(sentence: str, **options: bool) -> list[str]:
    return [item.phrase for item in find_objects(sentence, **options)]


def test_there_are_171_categories() -> None:
    assert len(THINGS) == 80
    assert len(STUFF) == 91


def test_words_are_matched_whole() -> None:
    assert category_of(["the", "cathedral"]) is None
    assert category_of(["an", "orange", "cat"]) == ("cat", 1)
    assert category_of(["two", "teddy", "bears"]) == ("teddy bear", 2)
    assert category_of(["the", "motorbikes"]) == ("motorcycle", 1)
    assert category_of(["a", "bus", "stop"]) is None


def test_objects_of_a_sentence() -> None:
    assert phrases("The motorcycle is parking to the right of a bus.") == ["The motorcycle", "a bus"]
    assert phrases("A dog sits with a cat beneath it.") == ["A dog", "a cat"]
    assert phrases("There is a knife, green spoon, and blue bowl on it.") == [
        "a knife",
        "green spoon",
        "blue bowl",
    ]
    assert phrases("The idea is to the left of a bus.") == ["a bus"]
    assert phrases("The lantern is to the left of a bus.", all_nouns=True) == ["The lantern", "a bus"]


def test_repeated_phrases() -> None:
    assert phrases("A dog to the left of another dog.") == ["A dog", "another dog"]
    assert phrases("The dog is to the left of the dog.") == ["The dog", "the dog"]
    assert phrases("A red car is above a boat, and the car is left of a bus.") == [
        "A red car",
        "a boat",
        "a bus",
    ]
    assert phrases("The red car is above a boat, and the blue car is left of it.") == [
        "The red car", "a boat", "the blue car",
    ]  # fmt: skip


def test_marked_words_are_where_they_should_be() -> None:
    sentence = "A baseball glove is above a cell phone, and the glove is small."
    glove, phone = find_objects(sentence)
    assert sentence[slice(*glove.marked)] == "glove"
    assert glove.marked[0] == sentence.rindex("glove")
    assert sentence[slice(*phone.marked)] == "phone"
    assert glove.name == "baseball glove"


def test_centres_are_kept_apart() -> None:
    assert separate([(0.3, 0.5), (0.7, 0.5)]) == [(0.3, 0.5), (0.7, 0.5)]
    for centres in (
        [(0.5, 0.5), (0.5, 0.5)],
        [(0.5, 0.5), (0.52, 0.6)],
        [(0.98, 0.5), (0.97, 0.5), (0.9, 0.9)],
        [(0.5, 0.5), (0.5, 0.55), (0.55, 0.5), (0.5, 0.45)],
    ):
        moved = separate(centres)
        assert moved == separate(centres)
        for a, b in itertools.combinations(moved, 2):
            assert math.dist(a, b) > 0.2 - 1e-6
        assert all(0 <= value <= 1 for centre in moved for value in centre)
    a, b = separate([(0.5, 0.62), (0.52, 0.5)])  # the lower one stays the lower one
    assert a[1] > b[1]


def test_embedded_predictor(predictor: Predictor) -> None:
    assert DEFAULT_WEIGHTS.stat().st_size < 2.5e6
    layout = predict_layout("The motorcycle is parking to the right of a bus.")
    motorcycle, bus = layout.objects
    assert (motorcycle.phrase, motorcycle.name, bus.name) == ("The motorcycle", "motorcycle", "bus")
    assert motorcycle.x > bus.x + 0.2
    assert layout.prompt == "The motorcycle is parking to the right of a bus."
    above, below = predictor.layout("A clock hangs above a chair.").objects
    assert above.y < below.y - 0.2
    one, two = predictor.layout("A dog to the left of another dog.").objects
    assert one.x < two.x


def test_sampling_and_empty_layouts(predictor: Predictor) -> None:
    sentence = "A cat is under a table."
    assert predictor.layout(sentence, sample=True, seed=3) == predictor.layout(sentence, sample=True, seed=3)
    assert predictor.layout("Nothing is here.").objects == ()
    with pytest.raises(UserError, match="empty"):
        predictor.layout("  ")
    with pytest.raises(UserError, match="shorten"):
        predictor.layout("a cat " * 200)


def test_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sentence = "The silver bed was situated to the right of the white couch."
    assert main(["--sentence", sentence]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == sentence
    assert lines[1].startswith("The silver bed position: (0.")
    assert lines[2].startswith("the white couch position: (0.")
    assert main(["--sentence", "Freedom is a state of mind."]) == 2
    assert "no object" in capsys.readouterr().err
    assert main(["--sentence", sentence, "--checkpoint", str(tmp_path / "none.safetensors")]) == 2
    assert "no layout predictor at" in capsys.readouterr().err
