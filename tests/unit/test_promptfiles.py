"""Prompt files: the published formats, what they demand of an image, and files of another format."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from ldm.evaluation.directions import direction, stated_relations
from ldm.evaluation.promptfiles import (
    EvalObject,
    EvalPrompt,
    EvalRelation,
    from_json,
    parse_object,
    prompts_hash,
    read_prompt_file,
)
from ldm.util import UserError


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def names(prompt: EvalPrompt) -> list[str]:
    return [item.name for item in prompt.objects]


def test_blocks(tmp_path: Path) -> None:
    text = """
1.
Objects: cat, red car and dog
Relation: cat left of car; dog above car
Sentence: A cat left of a red car, with a dog above it.

Objects: man, horse
Relation: riding
Sentence: A man riding a horse.
Objects: bus, bird
Relation: under
Sentence: A bus under a bird.
"""
    first, second, third = read_prompt_file(written(tmp_path / "gpt.txt", text))
    assert first.text == "A cat left of a red car, with a dog above it."
    assert names(first) == ["cat", "car", "dog"] and first.objects[1].color == "red"
    assert first.relations == (EvalRelation(0, "left", 1), EvalRelation(2, "above", 1))
    assert names(second) == ["man", "horse"] and second.relations == () and second.unjudged == ("riding",)
    assert third.relations == (EvalRelation(0, "below", 1),)
    assert from_json(json.loads(json.dumps(first.to_json()))) == first
    assert prompts_hash([first]) != prompts_hash([second])


def test_sentences(tmp_path: Path) -> None:
    text = "A cat is to the left of a dog.\n\nTo the right of the bus is a car.\nA person on a bench\n"
    first, second, third = read_prompt_file(written(tmp_path / "coco.txt", text))
    assert names(first) == ["cat", "dog"] and first.relations == (EvalRelation(0, "left", 1),)
    assert names(second) == ["bus", "car"] and second.relations == (EvalRelation(1, "right", 0),)
    assert names(third) == ["person", "bench"] and third.relations == ()


def test_json_lines(tmp_path: Path) -> None:
    lines = [
        {
            "prompt": "A red bus above two cars.",
            "objects": ["red bus", {"name": "car", "count": 2}],
            "relations": [["red bus", "above", "car"]],
        },
        {
            "caption": "The cat is on the left side of the sofa.",
            "relation": "at the left side of",
            "subj": "cat",
            "obj": "sofa",
            "label": 1,
        },
        {"sentence": "A dog below a kite"},
    ]
    path = written(tmp_path / "p.jsonl", "\n".join(map(json.dumps, lines)))
    bus, vsr, dog = read_prompt_file(path)
    assert bus.objects == (EvalObject("bus", "a red bus", 1, "red"), EvalObject("car", "a car", 2))
    assert bus.relations == (EvalRelation(0, "above", 1),)
    assert names(vsr) == ["cat", "sofa"] and vsr.relations == (EvalRelation(0, "left", 1),)
    assert dog.relations == (EvalRelation(0, "below", 1),)
    assert read_prompt_file(written(tmp_path / "p.json", json.dumps(lines))) == [bus, vsr, dog]


def test_pickles(tmp_path: Path) -> None:
    words = ["A ", "cat ", "is ", "left ", "of ", "a ", "dog", "."]
    records = [
        ["A cat is left of a dog.", words, [1, 6], [[1, 6, "left"]], ["A cat", "a dog"]],
        "A cat above a dog",
        {"sentence": "A dog", "objects": ["dog"]},
    ]
    path = tmp_path / "vsr.pkl"
    path.write_bytes(pickle.dumps(records))
    published, plain, mapping = read_prompt_file(path)
    assert names(published) == ["cat", "dog"] and published.relations == (EvalRelation(0, "left", 1),)
    assert plain.relations == (EvalRelation(0, "above", 1),) and names(mapping) == ["dog"]
    path.write_bytes(pickle.dumps({7: "A cat above a dog"}))
    assert read_prompt_file(path) == [plain]
    path.write_bytes(pickle.dumps([Path("run me")]))
    with pytest.raises(UserError, match="could run code"):
        read_prompt_file(path)


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        ("to the left of", "left"),
        ("on the right side of", "right"),
        ("is over", "above"),
        ("beneath", "below"),
        ("underneath", "below"),
        ("on top of", "above"),
        ("right of", "right"),
        ("next to", None),
        ("rightly", None),
        ("overtaking", None),
    ],
)
def test_words_of_directions(words: str, meaning: str | None) -> None:
    assert direction(words) == meaning


def test_relations_are_read_between_neighbors() -> None:
    text = "a cat above a dog and a bus left of it"
    #       0123456789012345678901234567890123456
    cat, dog, bus, it = (2, 5), (14, 17), (24, 27), (36, 38)
    assert stated_relations(text, [[cat], [dog, it], [bus]]) == [(0, "above", 1), (2, "left", 1)]
    assert stated_relations("above all", [[(0, 5)]]) == []


def test_objects_in_words() -> None:
    assert parse_object("two dogs", "") == EvalObject("dog", "two dogs", 2)
    assert parse_object("three buses", "").name == "bus" and parse_object("four glasses", "").count == 4
    assert parse_object("The blue teddy bear", "") == EvalObject("teddy bear", "The blue teddy bear", 1, "blue")
    assert parse_object("orange", "") == EvalObject("orange", "an orange")


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("a.txt", 'A cat\n{"prompt": 1}\n', "line 2.*looks like JSON"),
        ("a.txt", "A cat\nObjects: cat\n", "line 2.*file of blocks"),
        ("a.txt", "A cat\n\n123\n", "line 3.*no sentence"),
        ("a.txt", "\n\n", "holds no prompt"),
        ("a.txt", "Objects: cat\nRelation: left\n\nSentence: A cat\n", "line 1.*no 'Sentence"),
        ("a.txt", "Objects: cat\nSentence: A cat\nAnswer: yes\n", "line 3.*'Answer: yes'"),
        ("a.txt", "Objects: cat\nRelation: left of\nSentence: A cat left\n", "line 1.*two objects"),
        ("a.jsonl", '{"prompt": "A cat"}\n{"prompt"', "line 2.*not valid JSON"),
        ("a.jsonl", '{"prompt": "A cat"}\n{"title": "A cat"}', "line 2.*no 'prompt'"),
        ("a.jsonl", '{"prompt": "A cat", "objects": "cat"}', "line 1.*must be lists"),
        ("a.jsonl", '{"prompt": "A", "objects": ["cat"], "relations": [["cat", "left", "cow"]]}', "line 1.*'cow'"),
        ("a.jsonl", '{"prompt": "A", "objects": [{"name": "cat", "count": 0}]}', "line 1.*count of 'cat'"),
        ("a.jsonl", '{"prompt": "A", "objects": [{"name": "cat", "color": "pale"}]}', "line 1.*'pale'"),
        ("a.jsonl", "3\n", "line 1 is a int"),
        ("a.json", "[1,\n", "line 1.*not valid JSON"),
        ("a.csv", "id,caption\n", r"not read from \*.csv"),
        ("a.txt", 'id,caption\n1,"A cat"\n', "line 2.*looks like a table"),
        ("a.txt", "A cat\nA\tcat\n", "line 2.*looks like a table"),
        ("a.txt", "<html>\nA cat\n", "line 1.*looks like markup"),
    ],
)
def test_other_formats_name_the_line(tmp_path: Path, file: str, text: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as raised:
        read_prompt_file(written(tmp_path / file, text))
    assert "\n" not in str(raised.value)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"A cat\n\x80\x04\xff")
    with pytest.raises(UserError, match="line 2.*not UTF-8"):
        read_prompt_file(tmp_path / "a.txt")
    with pytest.raises(UserError, match="cannot be read"):
        read_prompt_file(tmp_path / "nowhere.txt")
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04]")
    with pytest.raises(UserError, match="truncated or damaged"):
        read_prompt_file(tmp_path / "a.pkl")
