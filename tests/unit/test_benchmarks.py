"""Published benchmarks: files read, images judged by what a detector sees, corrected rules, folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.evaluation.benchmarks import geneval, lmd, looking, seven_bench, t2i_compbench, visor
from ldm.evaluation.benchmarks.benchmark import Benchmark
from ldm.evaluation.benchmarks.boxes import Detection
from ldm.evaluation.benchmarks.folders import export_images, find_images
from ldm.evaluation.benchmarks.suites import open_benchmark
from ldm.evaluation.prompts.prompt import given_layout
from ldm.evaluation.score.clip import crop_of
from ldm.evaluation.score.metrics import Box
from ldm.util import UserError

NEXT = Detection("dog", 0.9, (0, 0, 50, 50)), Detection("cat", 0.8, (300, 0, 350, 50))
FILES = {
    "geneval": (
        "evaluation_metadata.jsonl",
        '{"tag": "position", "include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": '
        '["left of", 0]}], "prompt": "a photo of a dog left of a cat"}\n'
        '{"tag": "counting", "include": [{"class": "computer mouse", "count": 2}], "exclude": '
        '[{"class": "computer mouse", "count": 3}], "prompt": "a photo of two computer mouses"}\n',
    ),
    "visor": (
        "text_spatial_rel_phrases.json",
        '[{"unique_id": 7, "num_objects": 2, "obj_1_attributes": ["dog"], "obj_2_attributes": ["cat"], "rel_type": '
        '"to the left of", "text": "a dog to the left of a cat"}]',
    ),
    "t2i-2d": ("spatial_val.txt", "a dog on the left of a cat\r\na girl next to a boy"),
    "t2i-3d": ("3d_spatial_val.txt", "a dog in front of a cat"),
    "t2i-complex": ("complex_val.txt", "The red hat was on top of the brown coat.\nThe wind blew and the dog slept.\n"),
    "t2i-numeracy": ("numeracy_val.txt", "two dogs and one cat\n"),
    "lmd": (
        "prompts.txt",
        "A realistic photo of a scene with a dog on the left and a cat on the right\n"
        "A realistic photo of a scene without cats\nA realistic photo of a scene with three dogs\n",
    ),
    "7bench": (
        "7bench.csv",
        'id,category,prompt,obj1,bbox1,obj2,bbox2\n000,object_binding,A dog,dog,"0,0,49,49",,\n'
        '001,object_binding,A dog and a cat,dog,"0,0,49,49",cat,"256,0,511,255"\n',
    ),
}
RIGHT = {"geneval": 1.0, "visor": 1.0, "t2i-2d": 0.925, "t2i-numeracy": 0.75, "lmd": 1.0, "7bench": 0.95}


def write(folder: Path, name: str) -> Path:
    file, content = FILES[name]
    path = folder / file
    path.write_bytes(content.encode())
    (folder / "new_objects.txt").write_text("dog - dogs\ncat - cats\n")
    answer = "[('a dog', [0, 0, 128, 128]), ('a cat', [256, 0, 128, 128])]\nBackground prompt: A room\nNegative prompt:"
    answers = {line: [answer] for line in FILES["lmd"][1].splitlines()}
    (folder / "cache_lmd.json").write_text(json.dumps(answers))
    return path


@pytest.mark.parametrize("name", FILES)
def test_files_are_read_and_images_judged(name: str, tmp_path: Path) -> None:
    suite = open_benchmark(name, threshold=0.0)
    cases = suite.read(write(tmp_path, name))
    assert not suite.published and len({case.id for case in cases}) == len(cases)
    first = cases[0]
    found = [Detection(n, 0.9, NEXT["cat" in n].box) for n in first.names if "dog" in n or "cat" in n]
    depth = np.zeros((479, 479)) if suite.depth else None
    score, nothing = (suite.judge(first, seen, (512, 512), depth) for seen in (found, []))
    if name in RIGHT:
        assert score.value == pytest.approx(RIGHT[name], abs=0.03) and nothing.value == 0 and nothing.faults
    table = suite.table([(first, [score, nothing])])
    assert table and all(hits.shape == totals.shape == (1,) for hits, totals in table.values())


def test_stated_layouts(tmp_path: Path) -> None:
    def centers(name: str, number: int) -> list[tuple[str, float, float]]:
        prompt = open_benchmark(name).read(write(tmp_path, name))[number].prompt
        return [(item.phrase, item.x, item.y) for item in given_layout(prompt).objects]

    assert centers("geneval", 0) == [("a cat", 0.75, 0.5), ("a dog", 0.25, 0.5)]
    assert centers("geneval", 1) == [("a computer mouse", 0.25, 0.5), ("a computer mouse", 0.75, 0.5)]
    assert centers("t2i-2d", 1) == [("a girl", 0.25, 0.5), ("a boy", 0.75, 0.5)]
    assert centers("lmd", 0) == [("a dog", 0.125, 0.125), ("a cat", 0.625, 0.125)]
    assert centers("7bench", 1)[1] == ("cat", pytest.approx(0.749, abs=1e-4), pytest.approx(0.249, abs=1e-4))
    assert [item[0] for item in centers("t2i-numeracy", 0)] == ["a dog", "a dog", "a cat"]
    (tmp_path / "cache_lmd.json").unlink()
    suite = open_benchmark("lmd")
    suite.read(tmp_path / "prompts.txt")
    assert suite.no_layout and "cache_lmd" in suite.no_layout


def test_corrected_rules() -> None:
    twice = [Detection("dog", 0.95, (0, 0, 50, 50)), Detection("dog", 0.94, (0, 0, 50, 50)), NEXT[1]]
    counting: dict[str, Any] = {"tag": "counting", "include": [{"class": "dog", "count": 2}]}
    assert not geneval.judge(twice, counting) and geneval.judge(twice, counting, geneval.CORRECTED)
    near = {"tag": "position", "include": [{"class": "cat", "count": 1}]}
    near["include"].append({"class": "dog", "count": 1, "position": ["left of", 0]})  # type: ignore[attr-defined]
    apart = [Detection("dog", 0.9, (0, 0, 100, 100)), Detection("cat", 0.9, (30, 0, 130, 100))]
    assert geneval.judge(apart, near) and not geneval.judge(apart, near, geneval.CORRECTED)
    pairs = [Detection("dog", 0.9, (400, 0, 410, 10)), Detection("dog", 0.2, (0, 0, 9, 9)), NEXT[1]]
    assert visor.judge(pairs, ("dog", "cat"), "to the left of") == (2, 1)
    assert visor.judge(pairs, ("dog", "cat"), "to the left of", surest=True) == (2, 0)
    prompt = "A realistic photo of a scene with two cats and three dogs"
    boxes = [("a cat", (0, 0, 9, 9))] * 2
    assert lmd.judge(lmd.question(prompt), boxes) and not lmd.judge(lmd.question(prompt, True), boxes, whole=True)
    cattle = lmd.question("A realistic photo of a scene without cats")
    assert not lmd.judge(cattle, [("a cattle", (0, 0, 9, 9))]) and lmd.judge(cattle, [("a cattle", (0, 0, 9, 9))], True)
    wanted = [("cat", (0, 0, 9, 9)), ("cat", (100, 0, 109, 9))]
    found = [Detection("cat", 0.9, (0, 0, 9, 9)), Detection("cat", 0.8, (100, 0, 109, 9))]
    assert seven_bench.overlaps(wanted, found).ious == {"cat": 1.0}
    assert seven_bench.surest_overlaps(wanted, found) == [1.0, 1.0]
    assert seven_bench.surest_overlaps(wanted[:1], found[::-1]) == [1.0]
    carrots = [Detection("carrot", 0.9, (0, 0, 9, 9))]
    assert (
        t2i_compbench.numeracy([("car", 1)], carrots) == 1 and t2i_compbench.numeracy([("car", 1)], carrots, True) == 0
    )
    people = [Detection("person", 0.8, (10 * i, 0, 10 * i + 9, 9)) for i in range(3)]
    two = [("boy", 2), ("girl", 1)]
    assert t2i_compbench.numeracy(two, people) == 0.5 and t2i_compbench.numeracy(two, people, True) == 1
    same = t2i_compbench.Spatial("person", "on the left of", "person")
    assert t2i_compbench.spatial_2d(same, people) == 0 < t2i_compbench.spatial_2d(same, people, True) == 0.9
    depth = np.zeros((100, 100))
    depth[:, :50] = 1  # the left half is near
    sides = t2i_compbench.Spatial("dog", "in front of", "cat")
    boxes_3d = [Detection("dog", 1.0, (20, 0, 50, 50)), Detection("cat", 1.0, (30, 0, 70, 50))]
    assert (
        t2i_compbench.spatial_3d(sides, boxes_3d, depth) != t2i_compbench.spatial_3d(sides, boxes_3d, depth, True) > 0.5
    )


@pytest.mark.parametrize("name", [name for name in FILES if name != "t2i-3d"])
def test_folders_round_trip(name: str, tmp_path: Path) -> None:
    suite = open_benchmark(name)
    cases = suite.read(write(tmp_path, name))
    images = {}
    for number in range(len(cases)):
        for sample in range(suite.first, suite.first + (1 if name == "lmd" else 2)):
            images[number, sample] = tmp_path / f"{number}-{sample}.png"
            Image.new("RGB", (64, 64), (100 * number, 100 * sample, 9)).save(images[number, sample])
    for _ in range(2):  # the second time all is there
        export_images(tmp_path / "out", suite, cases, images)
    found = find_images(tmp_path / "out", suite, cases)
    assert list(found) == list(images)
    for place, path in found.items():
        colors = np.asarray(Image.open(path))[0, 0].astype(int) - np.asarray(Image.open(images[place]))[0, 0]
        assert np.abs(colors).max() < 4
    next(iter(found.values())).write_bytes(b"mine")
    with pytest.raises(UserError, match="differs"):
        export_images(tmp_path / "out", suite, cases, images)
    assert next(iter(found.values())).read_bytes() == b"mine"
    other = open_benchmark("visor" if name != "visor" else "lmd")
    with pytest.raises(UserError, match="is no folder of"):
        find_images(tmp_path / "out", other, cases)


def test_folders_of_other_prompts(tmp_path: Path) -> None:
    suite = open_benchmark("geneval")
    cases = suite.read(write(tmp_path, "geneval"))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    export_images(tmp_path / "out", suite, cases, {(0, 0): tmp_path / "a.png"})
    with pytest.raises(UserError, match="has the prompt 'a photo of a dog left of a cat'"):
        find_images(tmp_path / "out", suite, [replace(cases[1], id="00000")])
    with pytest.raises(UserError, match="none of the 0 prompts"):
        find_images(tmp_path / "out", suite, [])
    lmd_suite = open_benchmark("lmd")
    lmd_cases = lmd_suite.read(write(tmp_path, "lmd"))
    for number in range(2):
        (tmp_path / "lmd" / "0").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "lmd" / "0" / f"img_{number}.png")
    with pytest.raises(UserError, match="exactly one"):
        find_images(tmp_path / "lmd", lmd_suite, lmd_cases)


class Sees:
    """A detector of COCO that sees a mouse, and counts how often it looked."""

    name, categories, looks = "stub", ("mouse", "dog", "cat"), 0

    def detect(self, image: Any, names: Sequence[str]) -> list[Box]:
        self.looks += 1
        return [Box(name, 0.95, 0.25, 0.25, 0.5, 0.75) for name in names]


def test_what_was_seen_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sees = Sees()
    monkeypatch.setattr(looking, "open_detector", lambda *arguments: sees)
    suite: Benchmark = open_benchmark("geneval")
    cases = suite.read(write(tmp_path, "geneval"))
    looker = looking.Looker(suite, tmp_path, "stub")
    looker.check(cases)
    Image.new("RGB", (64, 32)).save(tmp_path / "a.png")
    for _ in range(2):
        seen = looker.look("base/0", tmp_path / "a.png", cases[1])
        assert seen is not None and seen.size == (64, 32)
        assert seen.detections == (Detection("computer mouse", 0.95, [16, 8, 32, 24]),)
    assert sees.looks == 1
    Image.new("RGB", (64, 32), (1, 1, 1)).save(tmp_path / "a.png")
    looker.look("base/0", tmp_path / "a.png", cases[1])
    assert sees.looks == 2 and looker.look("base/1", tmp_path / "none.png", cases[1]) is None
    with pytest.raises(UserError, match="no class for 2 of 5 names .hat, coat."):
        looker.check([*cases, *open_benchmark("t2i-complex").read(write(tmp_path, "t2i-complex"))])


def test_depth_is_scaled_to_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "open_detector", lambda *arguments: Sees())
    suite = open_benchmark("t2i-3d")
    case = suite.read(write(tmp_path, "t2i-3d"))[0]
    looker = looking.Looker(suite, tmp_path, "stub", depth="stub")
    looker.depth_network = lambda image: {"predicted_depth": torch.linspace(-3, 5, 16).expand(8, 16)}
    Image.new("RGB", (64, 32)).save(tmp_path / "a.png")
    for _ in range(2):  # made, and read again
        seen = looker.look("base/0", tmp_path / "a.png", case)
        assert seen is not None and seen.depth is not None and seen.depth.shape == (240, 480)
        assert seen.depth.min() == 0 and seen.depth.max() == 1 and seen.depth[0, 0] < seen.depth[0, -1]
    assert suite.judge(case, seen.detections, seen.size, seen.depth).both


def test_colors_are_judged_on_masked_crops() -> None:
    image = np.full((8, 8, 3), 200, np.uint8)
    mask = np.zeros((8, 8), bool)
    mask[2:4, 2:4] = True
    crop = crop_of(image, Box("cat", 1, 0.25, 0.25, 0.75, 0.75, mask))
    assert crop.shape == (4, 4, 3) and (crop[:2, :2] == 200).all() and (crop[2:] == 0x99).all()
