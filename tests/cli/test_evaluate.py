"""scripts/evaluate.py: images made and judged from the command line, labels by eye, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ldm.evaluation import commands
from ldm.evaluation.score.calibration import agreement, contact_sheet, pick_images, read_labels, start_labels
from ldm.evaluation.score.metrics import Box
from ldm.paths import ROOT
from ldm.util import UserError
from tests import tiny_world
from tests.scripts_under_test import load_script, refusal


def test_table_and_single_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world, run = tiny_world.build(tmp_path), load_script("evaluate").main
    model = ["--config", world.config, "--ckpt", world.ckpt, "--clip", world.clip, "--device", "cpu"]
    flags = [*map(str, model), "--steps", "2", "--outdir", str(tmp_path / "images")]
    page, out = tmp_path / "page.md", tmp_path / "t.jsonl"
    page.write_text("<!-- choose -->\n<!-- end choose -->\n")
    table = ["table", *flags, "--set", "choose", "--methods", "base", "fixed", "--out", str(out), "--page", str(page)]
    assert run([*table, "--count", "2"]) == 0
    assert "| fixed |" in capsys.readouterr().out and "| plain model |" in page.read_text()
    head, *lines = map(json.loads, out.read_text().splitlines())
    assert [(line["method"], line["prompt"], line["seed"]) for line in lines] == [
        *(("base", n, 1000) for n in range(2)),
        *(("fixed", n, 1000) for n in range(2)),
    ]
    assert all({"found", "both", "right", "in_disc", "extra"} <= set(line) for line in lines)
    assert head["settings"]["steps"] == 2 and head["constants"]["fixed"]["initial"] == 1
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "images").rglob("*.png")}
    assert len(files) == 4
    assert run([*table, "--count", "2"]) == 0  # nothing is made again
    assert files == {file: file.stat().st_mtime_ns for file in files}
    known = ["--known", str(out), "--outdir", str(tmp_path / "others"), "--out", str(tmp_path / "more.jsonl")]
    assert run([*table, "--count", "3", *known]) == 0
    assert sorted(file.name for file in (tmp_path / "others").rglob("*.png")) == ["00002-s1000.png"] * 2
    assert set(out.read_text().splitlines()[1:]) < set((tmp_path / "more.jsonl").read_text().splitlines())
    capsys.readouterr()
    assert run([*table, "--count", "4", "--minutes", "0"]) == 0  # a table of what is there
    assert "| fixed |" in (said := capsys.readouterr().out) and "4 images are left" in said
    assert "| plain model |" in page.read_text() and len(out.read_text().splitlines()) == 5
    assert run([*table, "--count", "4", "--minutes", "0", "--out", str(tmp_path / "none.jsonl")]) == 2
    assert "--minutes" in capsys.readouterr().err and not (tmp_path / "none.jsonl").exists()
    rows = out.read_bytes()
    assert run([*table, "--count", "2", "--steps", "3"]) == 2  # these are results of 2 steps
    assert "steps" in capsys.readouterr().err and out.read_bytes() == rows
    assert run(["single", *flags, "--count", "2", "--out", str(tmp_path / "s.json")]) == 0
    assert json.loads((tmp_path / "s.json").read_text())["recall"]["total"] == 2


def test_prompts_from_the_command_line(tmp_path: Path) -> None:
    assert load_script("evaluate").main(["prompts", "--outdir", str(tmp_path)]) == 0
    for path in (ROOT / "data" / "prompts").iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_labels_by_hand(tmp_path: Path) -> None:
    for index in range(4):
        Image.new("RGB", (128, 128), (index, 0, 0)).save(tmp_path / f"000{index}.png")
    files = pick_images(tmp_path, 3)
    assert files == pick_images(tmp_path, 3) and len(set(files)) == 3
    with pytest.raises(UserError, match="fewer"):
        pick_images(tmp_path, 5)
    path = tmp_path / "out" / "labels.json"
    start_labels(files, path)
    with pytest.raises(UserError, match="exists already"):
        start_labels(files, path)
    labeled = read_labels(path)
    assert [image[0, 0, 0] for image, _ in labeled] == [int(file.stem) for file in files]
    assert contact_sheet([image for image, _ in labeled]).size == (5 * 278, 278)
    content = json.loads(path.read_text())
    content["images"][0]["objects"] = [{"name": "cat", "x": 0.5, "y": 0.25}]
    path.write_text(json.dumps(content))
    assert read_labels(path)[0][1] == [("cat", 0.5, 0.25)]
    content["images"][0]["objects"] = [{"name": "unicorn", "x": 0.5, "y": 0.25}]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="unicorn"):
        read_labels(path)
    path.write_text("[]")
    with pytest.raises(UserError, match="form"):
        read_labels(path)


def test_agreement_of_a_detector() -> None:
    class Sees:
        name = "one cat"

        def detect(self, image: Any, names: Any) -> list[Box]:
            return [Box("cat", 0.9, 0.4, 0.4, 0.6, 0.6)]

    image = np.zeros((64, 64, 3), np.uint8)
    found = agreement(Sees(), [(image, [("cat", 0.5, 0.5)]), (image, [("dog", 0.5, 0.5), ("cat", 0.1, 0.5)])])
    assert (found.matched, found.detected, found.present) == (1, 2, 3)


def test_the_detector_on_labeled_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "calibration.json"
    assert load_script("evaluate").main(["calibrate", "--out", str(out)]) == 0
    assert "50 generated images: precision 0.952 (158/166), recall 0.963 (158/164)" in capsys.readouterr().out
    kept, made = (json.loads(path.read_text()) for path in (ROOT / "docs/results/calibration.json", out))
    error = made["generated"].pop("center_error_px")
    assert error == pytest.approx(kept["generated"].pop("center_error_px"), abs=1e-3) and made == kept


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("table --set all", "invalid choice"),
        ("table --count 0", "whole number"),
        ("table --steps 1001", "whole number"),
        ("nothing", "invalid choice"),
        ("table --count 100000", "has 3024 prompts"),
        ("table --methods magic", "no method 'magic'"),
        ("table --clip nowhere", "is not a file"),
        ("table --dtype float16", "go with --model"),
        ("table --known nowhere", "no record of images"),
        ("calibrate --labels nowhere.json", "can't be read"),
        ("detector --detector nowhere.safetensors", "does not exist"),
        ("sheet --outdir nowhere --labels nowhere.json", "holds 0 images"),
    ],
)
def test_mistakes_end_with_one_sentence(arguments: str, complaint: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert complaint in refusal(capfd, "evaluate", *arguments.split())


@pytest.mark.parametrize(
    ("arguments", "resumes"),
    [("table", True), ("single", True), ("evidence", True), ("detector", False), ("score --run x", False)],
)
def test_an_interrupt_says_whether_the_command_goes_on(
    arguments: str, resumes: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(options: Any) -> Any:
        raise KeyboardInterrupt

    words = arguments.split()
    monkeypatch.setitem(commands.COMMANDS, words[0], interrupt)
    assert load_script("evaluate").main(words) == 130
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("interrupted: what was being made was not written.")
    assert line.endswith("The same command goes on where it stopped.") == resumes
