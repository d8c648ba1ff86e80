"""Layouts as a user writes them: what is accepted, what is refused and in which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ldm.errors import UserError
from ldm.generation.layouts import read_layout
from ldm.spacetime.layout import Layout, LayoutObject

CAT = {"phrase": "a cat", "x": 0.25, "y": 0.5}


def test_round_trip(tmp_path: Path) -> None:
    cat, dog = LayoutObject("A cat", 0, 1.0, weight=1.5, name="cat"), LayoutObject("a dog", 0.7, 0.2)
    layout = Layout((cat, dog), "A cat and a dog.")
    file = tmp_path / "layout.json"
    file.write_text(json.dumps(layout.to_json()))
    assert Layout.from_json(layout.to_json()) == read_layout(file) == layout


def test_optional_values_are_left_out() -> None:
    layout = Layout.from_json({"objects": [CAT]})
    assert layout.to_json() == {"objects": [CAT]}
    assert Layout.from_json({"objects": []}).objects == ()


def test_duplicates_are_kept() -> None:
    assert len(Layout.from_json({"objects": [CAT, CAT]}).objects) == 2


@pytest.mark.parametrize(
    ("phrase", "local_prompt", "clip_text"),
    [
        ("The motorcycle", "a photo of The motorcycle", "A photo of motorcycle"),
        ("a bus", "a photo of a bus", "A photo of a bus"),
        ("the lathe on the table", "a photo of the lathe on the table", "A photo of lathe on table"),
    ],
)
def test_texts_of_an_object(phrase: str, local_prompt: str, clip_text: str) -> None:
    entry = LayoutObject(phrase, 0.5, 0.5)
    assert (entry.local_prompt, entry.clip_text) == (local_prompt, clip_text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "must be a JSON object"),
        ({}, 'lacks "objects"'),
        ({"objects": CAT}, "must be a list"),
        ({"objects": ["a cat"]}, "object 1 must be a JSON object"),
        ({"objects": [CAT], "promt": "x"}, 'unknown keys "promt"'),
        ({"objects": [CAT], "prompt": 3}, '"prompt" must be a text'),
        ({"objects": [CAT, {"phrase": "a dog", "x": 0.5}]}, 'object 2 lacks "y"'),
        ({"objects": [{**CAT, "wieght": 1}]}, 'unknown keys "wieght"'),
        ({"objects": [{**CAT, "x": 1.01}]}, '"x" of object 1 must lie between 0 and 1, got 1.01'),
        ({"objects": [{**CAT, "y": -0.1}]}, '"y" of object 1 must lie between 0 and 1'),
        ({"objects": [{**CAT, "x": float("nan")}]}, '"x" of object 1 must be a finite number'),
        ({"objects": [{**CAT, "x": 10**400}]}, '"x" of object 1 must be a finite number'),
        ({"objects": [{**CAT, "x": "0.5"}]}, '"x" of object 1 must be a finite number'),
        ({"objects": [{**CAT, "y": True}]}, '"y" of object 1 must be a finite number'),
        ({"objects": [{**CAT, "weight": float("inf")}]}, '"weight" of object 1 must be a finite number'),
        ({"objects": [{**CAT, "phrase": " "}]}, '"phrase" of object 1 must be a text'),
        ({"objects": [{**CAT, "name": 7}]}, '"name" of object 1 must be a text'),
    ],
)
def test_wrong_content_is_refused(content: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        Layout.from_json(content)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe{", b""])
def test_a_file_that_is_not_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "layout.json").write_bytes(content)
    with pytest.raises(UserError, match="is not valid JSON"):
        read_layout(tmp_path / "layout.json")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_layout(path)
