"""Runs of `layout_predictor/train.py`: one writer, nothing overwritten, no NaN, and whatever is killed goes on."""

from __future__ import annotations

import copy
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layout_predictor.LayoutTransformer.data.coco import box_statistics, read_objects
from layout_predictor.LayoutTransformer.data.sample import DataSection
from layout_predictor.LayoutTransformer.training.checkpoint import load_training
from layout_predictor.train import main
from ldm.errors import UserError
from ldm.locks import hold
from tests.golden_data import ROOT
from tests.tiny_layout_data import coco_file, damaged, write_coco
from tests.unit.test_layout_training import write_config


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line of error."""
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error", "interrupted"))]
    return line


def test_a_finished_run_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ["--cfg_path", str(write_config(tmp_path, "run"))]
    assert main(config) == 0
    last = tmp_path / "run" / "last.pth"
    before = last.read_bytes()
    for more in ([], ["--init_from", str(last)]):
        assert main([*config, *more]) == 2
        assert f"holds another run; go on with --resume {last}, or choose a folder with --output_dir" in told(capsys)
    assert main([*config, "--output_dir", str(tmp_path / "other"), "--init_from", str(last)]) == 0
    assert main([*config, "--resume", str(tmp_path / "other" / "last.pth")]) == 2  # of another run
    assert last.read_bytes() == before
    assert main([*config, "--resume", str(last)]) == 0  # there is nothing left to do


def test_one_writer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ["--cfg_path", str(write_config(tmp_path, "run"))]
    holder = "import sys, time; from ldm.locks import hold\nwith hold(sys.argv[1]): print(flush=True); time.sleep(60)"
    command = [sys.executable, "-c", holder, str(tmp_path / "run")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        assert main(config) == 2
        assert "another process is writing into" in told(capsys)
        other.kill()
    (tmp_path / "run" / ".tmp-x.pth").touch()
    assert main(config) == 0
    assert not list((tmp_path / "run").glob(".tmp-*"))
    with hold(tmp_path / "run"):  # let go of
        pass


@pytest.mark.parametrize("rate", [1e20, 1e38])
def test_weights_that_are_no_numbers_are_never_saved(
    rate: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["--cfg_path", str(write_config(tmp_path, "run", OUTPUT={"SAVE_EVERY": 1}))]
    steep = ["--cfg_path", str(write_config(tmp_path, "steep", BBOX_HEAD={"MAX_LR": rate}, OUTPUT={"SAVE_EVERY": 1}))]
    assert main(config) == 0
    assert main([*steep, "--init_from", str(tmp_path / "run" / "last.pth")]) == 2
    assert "lower MAX_LR and go on from last.pth" in told(capsys)
    for path in (tmp_path / "steep").glob("*.pth"):
        assert all(torch.isfinite(value).all() for value in load_training(path)["state_dict"].values())


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("MODEL", "num_heads", 3),
        ("MODEL", "hidden_size", 10**9),
        ("MODEL", "dropout", 7.0),
        ("MODEL", "num_layers", 0),
        ("MODEL", "max_positions", 2),
        ("TRAINING", "SEED", 10**30),
        ("TRAINING", "BATCH_SIZE", 0),
        ("TRAINING", "ACCELERATOR", "warp"),
        ("DATA", "TOKENIZER", "setup.py"),
        ("DATA", "TOKENIZER", "/"),
        ("OUTPUT", "OUTPUT_DIR", "setup.py"),
    ],
)
def test_wrong_values_are_one_line(
    section: str, key: str, value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, "run", **{section: {key: value}})
    assert main(["--cfg_path", str(config)]) == 2
    assert len(told(capsys)) < 500


def section_of(folder: Path) -> DataSection:
    return DataSection(tokenizer="", name="coco", annotations=str(folder), min_objects=1)


def write_boxes(folder: Path, **changes: Any) -> None:
    """The annotations of the tests with changes of the first one, a dog in image 1 of 200 x 100 pixels."""
    write_coco(folder)
    data = coco_file("instances")
    data["annotations"][0] |= changes
    (folder / "instances_train2017.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        ([20, 30, 60, 40], [20, 30, 60, 40]),
        ([150, 50, 100, 100], [150, 50, 50, 50]),
        ([-10, -10, 100, 60], [0, 0, 90, 50]),
        ([100, 50, 1e308, 1e308], [100, 50, 100, 50]),
        ([300, 300, 60, 60], None),
        ([20, 30, -60, -40], None),
        ([-1e308, 0, 1e308, 50], None),
    ],
)
def test_boxes_end_at_the_edge(box: list[float], inside: list[float] | None, tmp_path: Path) -> None:
    write_boxes(tmp_path, bbox=box)
    objects = read_objects(section_of(tmp_path))
    assert ("dog" in objects[1].categories) == (inside is not None)
    if inside is not None:
        found = objects[1].boxes[objects[1].categories.index("dog")] * [200, 100, 200, 100]
        left, top, w, h = inside
        assert found.tolist() == pytest.approx([left + w / 2, top + h / 2, w, h])
    assert all(boxes.min() >= 0 and boxes.max() <= 1 for boxes in (image.boxes for image in objects.values()))
    json.dumps(box_statistics(objects), allow_nan=False)


def test_crowds_are_left_out(tmp_path: Path) -> None:
    write_boxes(tmp_path, iscrowd=1, segmentation={"counts": [1, 2], "size": [100, 200]})
    assert "dog" not in read_objects(section_of(tmp_path))[1].categories


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5) | st.just("gone"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=5,
)
PLACES = [
    "images",
    "images/0",
    "images/0/id",
    "images/0/width",
    "categories/1/name",
    "categories/0/id",
    "annotations/0",
]
PLACES += [f"annotations/1/{key}" for key in ("bbox", "image_id", "category_id", "bbox/0", "bbox/3", "iscrowd", "id")]


@given(st.lists(st.tuples(st.sampled_from(PLACES), ANYTHING), min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
def test_damaged_annotations_give_finite_boxes_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, Any]]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "coco"
    folder.mkdir(exist_ok=True)
    write_coco(folder)
    data = copy.deepcopy(coco_file("instances"))
    for place, value in changes:
        try:
            data = damaged(data, place, value)
        except (KeyError, IndexError, TypeError):  # the change before took the place away
            continue
    data.setdefault("images", [])
    (folder / "instances_train2017.json").write_text(json.dumps(data))
    try:
        objects = read_objects(section_of(folder))
    except UserError as error:
        assert "\n" not in str(error)
        return
    boxes = np.concatenate([image.boxes for image in objects.values()])
    assert np.isfinite(boxes).all() and boxes.min() >= 0 and boxes.max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_at_random_moments_ends_as_if_never_killed(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    long = {"TRAINING": {"EPOCHS": 20}, "OUTPUT": {"SAVE_EVERY": 1, "KEEP": 1}}
    assert main(["--cfg_path", str(write_config(tmp_path, "whole", **long))]) == 0
    config, run = write_config(tmp_path, "part", **long), tmp_path / "part"
    command = [sys.executable, str(ROOT / "layout_predictor" / "train.py"), "--cfg_path", str(config)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    last, killed = run / "last.pth", 0

    def written() -> int:
        return last.stat().st_mtime_ns if last.exists() else 0

    while True:
        more = ["--resume", str(last)] if last.exists() else []
        process = subprocess.Popen([*command, *more], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        before, end = written(), time.monotonic() + 120
        while process.poll() is None and written() == before and time.monotonic() < end:
            time.sleep(0.01)
        if killed < 6:
            time.sleep(rng.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
            killed += 1
        _, err = process.communicate(timeout=300)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, err
    whole, part = (load_training(tmp_path / name / "last.pth")["state_dict"] for name in ("whole", "part"))
    assert all(torch.equal(value, part[name]) for name, value in whole.items())
    assert not list(run.rglob(".tmp-*"))
