"""Layout files of other programs: told by their content, read as regions, and written."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ldm.cli import convert_layout
from ldm.errors import UserError
from ldm.generation.layouts import read_layout, read_layouts, write_layout
from ldm.generation.settings import LAYOUT_FORMS
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.spacetime.shapes import Box

BOXES = [["a cat", [64, 128, 192, 256]], ["a dog", [320, 128, 128, 256]]]  # x, y, width, height
CAT, DOG = Box(0.125, 0.25, 0.5, 0.75), Box(0.625, 0.25, 0.875, 0.75)
ANSWER = (
    "[('a cat', [64, 128, 192, 256]), ('a dog', [320, 128, 128, 256])]\nBackground prompt: a park\nNegative prompt: "
)
COCO = {
    "images": [{"id": 7, "width": 640, "height": 480, "file_name": "7.jpg"}, {"id": 8, "width": 10, "height": 10}],
    "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
    "annotations": [
        {"image_id": 7, "category_id": 17, "bbox": [80, 120, 240, 240], "iscrowd": 0},
        {"image_id": 7, "category_id": 18, "bbox": [400, 120, 300, 240]},
        {"image_id": 7, "category_id": 18, "bbox": [0, 0, 640, 480], "iscrowd": 1},
    ],
}
ROWS = 'id,category,prompt,obj1,bbox1,obj2,bbox2\n004,x,"A cat, a dog",cat,"64,128,256,384",dog,"320,128,448,384"\n'


def wrote(folder: Path, content: Any, name: str = "given") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def shapes(layout: Layout) -> list[Any]:
    return [thing.shape for thing in layout.objects]


@pytest.mark.parametrize(
    ("content", "kind", "prompt", "negative"),
    [
        (BOXES, "LMD's boxes", None, None),
        (
            {"gen_boxes": BOXES, "bg_prompt": "a park", "neg_prompt": "snow"},
            "LMD's boxes",
            "a park with a cat, a dog",
            "snow",
        ),
        ({"gen_boxes": BOXES, "prompt": "two pets", "bg_prompt": ""}, "LMD's boxes", "two pets", None),
        ({"two pets": [ANSWER + "snow"]}, "LMD's cache", "two pets", "snow"),
        ({"two pets": [ANSWER + "None", "damaged"]}, "LMD's cache", "two pets", None),
        (
            {"phrases": ["a cat", "a dog"], "boxes": [list(CAT.bounds), list(DOG.bounds)], "prompt": "two pets"},
            "GLIGEN's phrases and boxes",
            "two pets",
            None,
        ),
        ({"phrases": ["a cat", "a dog"], "locations": [list(CAT.bounds), list(DOG.bounds)]}, "GLIGEN's", None, None),
        (ROWS, "7Bench's rows", "A cat, a dog", None),
    ],
)
def test_boxes_of_other_programs(tmp_path: Path, content: Any, kind: str, prompt: str | None, negative: str) -> None:
    file = read_layouts(wrote(tmp_path, content))
    layout = file.choose()
    assert file.kind.startswith(kind)
    assert (layout.prompt, layout.negative_prompt) == (prompt, negative)
    assert shapes(layout) == [CAT, DOG]
    assert [thing.phrase.split()[-1] for thing in layout.objects] == ["cat", "dog"]


def test_annotations_of_an_image(tmp_path: Path) -> None:
    """Crowds are left out; what leaves the image is cut off."""
    file = read_layouts(wrote(tmp_path, COCO))
    layout = file.choose(which="7")
    assert shapes(layout) == [Box(0.125, 0.25, 0.5, 0.75), Box(0.625, 0.25, 1.0, 0.75)]
    assert [(thing.phrase, thing.name) for thing in layout.objects] == [("a cat", "cat"), ("a dog", "dog")]
    assert file.choose(which="8").objects == ()
    with pytest.raises(UserError, match=r"2 layouts and none for this prompt; choose one with --layout-id: 7, 8"):
        file.choose("two pets")
    with pytest.raises(UserError, match=r"none for --layout-id 77; did you mean '7'"):
        file.choose(which="77")


def test_a_prompt_chooses_its_layout(tmp_path: Path) -> None:
    path = wrote(tmp_path, {"two pets": [ANSWER + "None"], "nothing": ["[]\nBackground prompt: a park"]})
    assert shapes(read_layouts(path).choose("two pets")) == [CAT, DOG]
    assert read_layouts(path).choose("nothing").objects == ()
    with pytest.raises(UserError, match="2 layouts and none for this prompt"):
        read_layout(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([["a cat", [1, 2, 3]]], "LMD's boxes but is damaged"),
        ([["a cat", [1, 2, "wide", 3]]], "LMD's boxes but is damaged"),
        ({"phrases": ["a cat"], "boxes": []}, "1 phrases and 0 boxes"),
        ({"phrases": ["a cat"]}, "GLIGEN's phrases and boxes but is damaged"),
        ({"phrases": ["a cat"], "boxes": [[10, 20, 300, 400]]}, r"object 1 \(a cat\)"),
        ({"phrases": [" "], "boxes": [[0, 0, 1, 1]]}, "object 1 has no phrase"),
        ({**COCO, "annotations": [{"image_id": 7}]}, "COCO's annotations but is damaged"),
        ({**COCO, "annotations": 3}, "COCO's annotations but is damaged"),
        ({"p": ["[('a cat', [1, 2])]\nBackground prompt: a"]}, "boxes .* can't be read"),
        (ROWS.replace("64,128,256,384", "64;128"), "has the box '64;128'"),
        (ROWS.replace(",dog,", ",,"), "lacks 'obj2'"),
        ("[" * 100_000, "is not valid JSON"),
        ("id,obj1,bbox1\n", "0 layouts"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_layout(wrote(tmp_path, content))


@pytest.mark.parametrize("form", LAYOUT_FORMS)
def test_what_is_written_is_read_again(tmp_path: Path, form: str) -> None:
    pair = (LayoutObject.shaped("a cat", CAT), LayoutObject.shaped("a dog", DOG))
    layout = Layout(pair, "two pets", None if form in ("coco", "7bench") else "snow")
    write_layout(tmp_path / "written", layout, form)
    read = read_layouts(tmp_path / "written").choose()
    assert shapes(read) == [CAT, DOG]
    assert (read.prompt, read.negative_prompt) == (layout.prompt, layout.negative_prompt)


def test_what_is_lost_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        write_layout(tmp_path / "a.json", Layout((LayoutObject("a cat", 0.5, 0.5, weight=2.0),)), "gligen")
    assert "left out, or replaced by the box around it: disc, weight" in caplog.text
    assert shapes(read_layout(tmp_path / "a.json")) == [Box(0.3, 0.3, 0.7, 0.7)]


def test_a_mask_lies_beside_its_layout(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8), np.uint8)
    pixels[:4, :4] = 255
    Image.fromarray(pixels).save(tmp_path / "sky.png")
    path = wrote(tmp_path, {"objects": [{"phrase": "the sky", "mask": "sky.png"}]})
    assert read_layout(path).objects[0].bounds() == (0, 0, 0.5, 0.5)
    (tmp_path / "sky.png").unlink()
    with pytest.raises(UserError, match=r'"mask" of object 1.*sky.png does not exist'):
        read_layout(path)


def test_the_script_converts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = wrote(tmp_path, {"two pets": [ANSWER]}), tmp_path / "layout.json"
    assert convert_layout.main([str(source), str(target)]) == 0
    assert "LMD's cache" in capsys.readouterr().out
    assert shapes(read_layout(target)) == [CAT, DOG]
    assert convert_layout.main([str(source), str(target)]) == 2
    assert "is there already" in capsys.readouterr().err
