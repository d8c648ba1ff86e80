"""Annotation files of a few records (`layout_data.yaml`): COCO, captions, relation sentences, Visual Genome."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import yaml

DATA = yaml.safe_load(Path(__file__).with_name("layout_data.yaml").read_text(encoding="utf-8"))
CAPTIONS, RELATIONS, VG_IMAGE = DATA["captions"], DATA["relations"], DATA["visual_genome"]
FAULTS: dict[str, list[list[Any]]] = DATA["faults"]


def damaged(record: Any, place: str, value: Any) -> Any:
    """A copy of a record with `value` at a place ("objects/1/box"), or without it where the value is "gone"."""
    record = copy.deepcopy(record)
    *parents, last = (int(part) if part.isdigit() else part for part in place.split("/"))
    holder = record
    for part in parents:
        holder = holder[part]
    if value == "gone":
        del holder[last]
    else:
        holder[last] = value
    return record


def coco_file(kind: str) -> dict[str, Any]:
    """The contents of an annotation file: `instances` or `stuff`."""
    categories, boxes = DATA["coco"][kind]["categories"], DATA["coco"][kind]["boxes"]
    return {
        "images": [{"id": i, "width": 200, "height": 100, "file_name": f"{i}.jpg"} for i in (1, 2, 3)],
        "categories": [{"id": number, "name": name} for number, name in categories.items()],
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


def write_vg(folder: Path, images: list[dict[str, Any]], image_set: str = "train") -> None:
    """<set>.json of the MSDN split."""
    (folder / f"{image_set}.json").write_text(json.dumps(images))
