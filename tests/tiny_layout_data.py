"""Annotation files of a few records: COCO, captions, relation sentences, Visual Genome."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

# [caption, words, [word index, category, phrase], ...] by image id; image 9 has no annotation.
CAPTIONS: dict[int, list[list[Any]]] = {
    1: [
        [
            "A dog looks at a small cat.",
            ["A ", "dog ", "looks ", "at ", "a ", "small ", "cat", "."],
            [1, "dog", "A dog"],
            [6, "cat", "a small cat"],
        ],
        [
            "A zebra on a desk",
            ["A ", "zebra ", "on ", "a ", "desk"],
            [1, "zebra", "A zebra"],
            [4, "desk-stuff", "a desk"],
        ],
        ["A zebra.", ["A ", "zebra", "."], [1, "zebra", "A zebra"]],
    ],
    2: [["The dog", ["The ", "dog"], [1, 18, "The dog"]]],
    9: [["A cat", ["A ", "cat"], [1, "cat", "A cat"]]],
}
_LONG = ["A ", "cat ", "is ", "under ", "a ", "bus, ", *["far "] * 40, "away."]
# [sentence, words, objects, relations, phrases]
RELATIONS: list[list[Any]] = [
    ["A cat under a bus.", ["A ", "cat ", "under ", "a ", "bus", "."], [1, 4], [[1, 4, "below"]], ["A cat", "a bus"]],
    ["".join(_LONG), _LONG, [1, 5], [[1, 5, "below"]], ["A cat", "a bus"]],
    ["A dog above a car.", ["A ", "dog ", "above ", "a ", "car", "."], [1, 4], [[1, 4, "above"]], ["A dog", "a car"]],
]


def coco_file(kind: str) -> dict[str, Any]:
    """`instances` or `stuff` of three images of 200 x 100 pixels."""
    names = {"instances": {16: "bird", 17: "cat", 18: "dog"}, "stuff": {110: "desk-stuff", 183: "other"}}[kind]
    boxes = {
        "instances": [
            (1, 18, [20, 30, 60, 40]),
            (1, 17, [120, 30, 40, 40]),
            (1, 17, [10, 10, 40, 40]),
            (1, 16, [0, 0, 10, 10]),  # below 2% of the image
            (2, 18, [100, 50, 50, 50]),
            (3, 18, [0, 0, 200, 100]),
        ],
        "stuff": [(1, 110, [0, 60, 200, 40]), (1, 183, [0, 0, 200, 100]), (2, 110, [0, 0, 200, 50])],
    }[kind]
    return {
        "images": [{"id": i, "width": 200, "height": 100, "file_name": f"{i}.jpg"} for i in (1, 2, 3)],
        "categories": [{"id": number, "name": name} for number, name in names.items()],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "bbox": box, "segmentation": [[0, 0, 1, 1]]}
            for i, (image, category, box) in enumerate(boxes, start=1)
        ],
    }


def write_coco(folder: Path, image_set: str = "train2017") -> None:
    """instances_<set>.json and stuff_<set>.json."""
    for kind in ("instances", "stuff"):
        (folder / f"{kind}_{image_set}.json").write_text(json.dumps(coco_file(kind)))


def write_captions(path: Path) -> Path:
    """CAPTIONS as the published pickle or as JSON lines, by the suffix."""
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(CAPTIONS))
        return path
    lines = [
        json.dumps({"image_id": image, "caption": caption, "words": words, "candidates": candidates})
        for image, records in CAPTIONS.items()
        for caption, words, *candidates in records
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def vg_image() -> dict[str, Any]:
    """Two men and a kite in 100 x 100 pixels."""
    return {
        "width": 100,
        "height": 100,
        "objects": [
            {"class": "man", "box": [10, 30, 30, 70]},
            {"class": "kite", "box": [60, 10, 80, 30]},
            {"class": "man", "box": [60, 70, 80, 90]},
        ],
        "relationships": [
            {"sub_id": 0, "predicate": "left of", "obj_id": 1},
            {"sub_id": 0, "predicate": "holding", "obj_id": 1},
            {"sub_id": 2, "predicate": "under", "obj_id": 1},
        ],
        "regions": [
            {"phrase": ["two", "kites", "in", "the", "sky"], "box": [50, 0, 100, 50]},
            {"phrase": "a man far away", "box": [90, 0, 100, 10]},
        ],
    }


def write_vg(folder: Path, images: list[dict[str, Any]], image_set: str = "train") -> None:
    """<set>.json of the MSDN split."""
    (folder / f"{image_set}.json").write_text(json.dumps(images))
