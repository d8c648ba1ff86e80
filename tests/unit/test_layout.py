"""Layouts as a user writes them: what is accepted, what is refused and in which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ldm.errors import UserError
from ldm.generation.layouts import read_layout
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.spacetime.shapes import Mask

CAT = {"phrase": "a cat", "x": 0.25, "y": 0.5}


def test_round_trip(tmp_path: Path) -> None:
    cat, dog = LayoutObject("A cat", 0, 1.0, weight=1.5, name="cat"), LayoutObject("a dog", 0.7, 0.2)
    layout = Layout((cat, dog), "A cat and a dog.")
    file = tmp_path / "layout.json"
    file.write_text(json.dumps(layout.to_json()))
    assert Layout.from_json(layout.to_json()) == read_layout(file) == layout


FOUNTAIN = {
    **{"phrase": "a fountain", "x": 0.5, "y": 0.5, "radius": 0.15, "prompt": "a marble fountain"},
    **{"negative_prompt": "statue", "weight": 1.0, "start": 0.1, "end": 0.5, "optimize": False, "name": "fountain"},
}
OTHERS = [
    {"phrase": "a bench", "box": [0.1, 0.6, 0.9, 0.95]},
    {"phrase": "a lamp", "ellipse": [0.5, 0.2, 0.1, 0.2], "negative_prompt": ""},
    {"phrase": "a path", "polygon": [[0.4, 1.0], [0.6, 1.0], [0.5, 0.6]], "weight": 2.0},
    {"phrase": "the sky", "mask": "sky.png", "end": 0.0},
]
EVERYTHING = {"prompt": "A garden.", "negative_prompt": "blurry", "objects": [CAT, FOUNTAIN, *OTHERS]}


def test_every_key_goes_both_ways(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 51], [255, 102]], np.uint8)).save(tmp_path / "sky.png")
    (tmp_path / "layout.json").write_text(json.dumps(EVERYTHING))
    layout = read_layout(tmp_path / "layout.json")
    assert layout.to_json() == EVERYTHING
    sky = layout.objects[-1].shape
    assert isinstance(sky, Mask) and np.allclose(sky.weights, [[0, 0.2], [1, 0.4]])
    centers = [(thing.x, thing.y) for thing in layout.objects[2:5]]
    assert np.allclose(centers, [(0.5, 0.775), (0.5, 0.2), (0.5, 0.8)])
    fountain = layout.objects[1]
    assert fountain.local_prompt == fountain.clip_text == "a marble fountain"
    assert fountain.bounds() == pytest.approx((0.35, 0.35, 0.65, 0.65))


def test_a_mask_of_one_gray_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.new("RGB", (4, 4), "white").save(tmp_path / "sky.png")
    (tmp_path / "layout.json").write_text(json.dumps({"objects": [OTHERS[3]]}))
    [thing] = read_layout(tmp_path / "layout.json").objects
    assert thing.shape is not None and (thing.shape.coverage(3, 3) == 1).all()
    assert "is of one gray: its object acts everywhere, by 1" in caplog.text


@pytest.mark.parametrize(
    ("mode", "color", "message"),
    [("L", 0, "paints nothing"), ("RGBA", (255, 0, 0, 0), "paints nothing"), (None, 0, "")],
)
def test_a_mask_that_cannot_be_used_is_refused(tmp_path: Path, mode: Any, color: Any, message: str) -> None:
    if mode:
        Image.new(mode, (4, 4), color).save(tmp_path / "sky.png")
    (tmp_path / "layout.json").write_text(json.dumps({"objects": [CAT, OTHERS[3]]}))
    with pytest.raises(UserError, match=f'layout: "mask" of object 2: .*{message or "sky.png does not exist"}'):
        read_layout(tmp_path / "layout.json")


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
        ({"objects": [], "negative_prompt": 1}, '"negative_prompt" must be a text'),
        ({"objects": [CAT, {"phrase": "a dog"}]}, r'object 2 lacks "x", "y" \(or one of "box", "ellipse"'),
        ({"objects": [{**CAT, "wieght": 1}]}, "did you mean 'weight'"),
        ({"objects": [{**CAT, "shape": None}]}, 'unknown keys "shape"'),
        ({"objects": [{**CAT, "box": [0, 0, 1, 1]}]}, r'object 1 has more than one shape \("box", "x", "y"\)'),
        ({"objects": [{**OTHERS[0], **OTHERS[1]}]}, r'more than one shape \("box", "ellipse"\)'),
        ({"objects": [{**OTHERS[0], "radius": 0.1}]}, 'object 1 has a "radius", which goes with "x" and "y"'),
        ({"objects": [{**CAT, "radius": 0}]}, '"radius" of object 1 must lie between 0.001 and 10'),
        ({"objects": [{**CAT, "prompt": ""}]}, '"prompt" of object 1 must be a text that is not empty'),
        ({"objects": [{**CAT, "negative_prompt": ["x"]}]}, '"negative_prompt" of object 1 must be a text'),
        ({"objects": [{**CAT, "start": -0.1}]}, '"start" of object 1 must lie between 0 and 1'),
        ({"objects": [{**CAT, "end": 20}]}, '"end" of object 1 must lie between 0 and 1'),
        ({"objects": [{**CAT, "start": 0.6, "end": 0.5}]}, "object 1 has its end, 0.5, before its start, 0.6"),
        ({"objects": [{**CAT, "optimize": 1}]}, '"optimize" of object 1 must be true or false'),
        ({"objects": [{"phrase": "a", "box": [0, 0, 1]}]}, r'"box" of object 1 must be \[left, top, right, bottom\]'),
        ({"objects": [{"phrase": "a", "box": "all"}]}, '"box" of object 1 must be'),
        ({"objects": [{"phrase": "a", "box": None}]}, '"box" of object 1 must be'),
        ({"objects": [{"phrase": "a", "box": [0.5, 0, 0.5, 1]}]}, '"box" of object 1 must .* left < right'),
        ({"objects": [{"phrase": "a", "box": [0, 0, float("nan"), 1]}]}, '"box" of object 1 must be a finite number'),
        ({"objects": [{"phrase": "a", "box": [10, 10, 200, 200]}]}, '"box" of object 1 must have coordinates'),
        ({"objects": [{"phrase": "a", "ellipse": [0.5, 0.5, 0, 1]}]}, '"ellipse" of object 1 must'),
        ({"objects": [{"phrase": "a", "polygon": []}]}, '"polygon" of object 1 must be a list of 3 to 1000 points'),
        ({"objects": [{"phrase": "a", "polygon": [[0, 0], [1, 1], 3]}]}, '"polygon" of object 1 must be points'),
        ({"objects": [{"phrase": "a", "polygon": [[0, 0], [1, 1], [0, "1"]]}]}, '"polygon" of object 1 must be a fin'),
        ({"objects": [{"phrase": "a", "polygon": [[0, 0], [1, 1], [0.5, 0.5]]}]}, '"polygon" of object 1 has no area'),
        ({"objects": [{"phrase": "a", "mask": 3}]}, '"mask" of object 1 must be a text'),
        ({"objects": [OTHERS[3]]}, '"mask" of object 1 is an image file, which can\'t be read here'),
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
