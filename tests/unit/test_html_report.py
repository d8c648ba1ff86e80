"""The report: scored runs, the page about them, and the page in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ldm.evaluation.prompts.files import parse_object
from ldm.evaluation.prompts.prompt import EvalPrompt, EvalRelation, rule_layout
from ldm.evaluation.report.html import mean_curve, plot, report, write_report
from ldm.evaluation.run.harness import make_tasks, run_tasks
from ldm.evaluation.run.manifest import FinishedRun, read_run
from ldm.evaluation.run.methods import parse_method
from ldm.evaluation.score import detectors
from ldm.evaluation.score.judge import Judges, judge_run
from ldm.evaluation.score.metrics import Box
from ldm.generation.draw import GeneratedImage
from ldm.util import UserError
from tests.golden_data import ROOT
from tests.scripts_under_test import load_script, refusal

MAGENTA, GRAY = (250, 10, 200), (120, 120, 120)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "chrome-headless-shell")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)


class ByColor:
    """A stand-in for a detector: cat left of dog in a magenta image, nothing in a gray one."""

    name = "detector <by color>"

    def detect(self, image: Any, names: Sequence[str]) -> list[Box]:
        if tuple(image[0, 0]) != MAGENTA:
            return []
        return [Box("cat", 0.9, 0.1, 0.3, 0.4, 0.7), Box("dog", 0.8, 0.6, 0.3, 0.9, 0.7)]


def make_run(folder: Path) -> FinishedRun:
    """Four prompts by two methods: all gray but for the optimized images of prompts 0 to 2."""
    prompts = [
        EvalPrompt(
            f"A <cat> left of a dog & {n}",
            tuple(parse_object(o, "") for o in ("cat", "dog")),
            (EvalRelation(0, "left of", 1),),
        )
        for n in range(4)
    ]

    def make(method: Any, texts: Sequence[str], layouts: Sequence[Any], seeds: Sequence[int]) -> Any:
        made = []
        for text, seed, layout in zip(texts, seeds, layouts, strict=True):
            optimized = method.preset is not None
            image = np.full((16, 16, 3), MAGENTA if optimized and not text.endswith("3") else GRAY, np.uint8)
            curves = {"global": [1.0, 0.5], "local": [2.0, 1.5]} if optimized else {}
            weights = np.array([[1.0, 3.0], [2.0, 2.0]]) if optimized else None
            made.append(GeneratedImage(text, seed, layout, image, weights, curves))
        return made

    tasks = make_tasks(prompts, [parse_method("base"), parse_method("per-step")], [1])
    run_tasks(folder, prompts, tasks, {"steps": 2}, lambda _, prompt: rule_layout(prompt), make)
    return read_run(folder)


def test_scores_of_a_run(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    scores = judge_run(run, Judges(ByColor(), lambda image, text: 20.0))
    base, ours = scores["rows"]
    assert (base["method"], ours["method"], base["images"]) == ("base", "per-step", 4)
    assert base["ratios"]["object_recall"]["value"] == 0 and base["ratios"]["relation_given_both"]["value"] is None
    recall = ours["ratios"]["object_recall"]
    assert (recall["hits"], recall["total"], recall["value"]) == (6, 8, 0.75) and recall["low"] < 0.75 < recall["high"]
    assert ours["visor"]["1"] == (3, 4) and ours["visor"]["2"] == (0, 0)  # one seed
    difference = ours["against"]["differences"]["relation"]
    assert ours["against"]["method"] == "base" and difference["value"] == 0.75 and difference["prompts"] == 4
    # Three of four prompts differ, all in one direction: of 2^3 exchanges 2 are as large, p = 0.25.
    assert difference["p"] == pytest.approx(0.25, abs=0.04)
    assert ours["ratios"]["clip_score"]["value"] == 20 and ours["ratios"]["color"]["value"] is None


def test_lost_images_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = make_run(tmp_path)
    (tmp_path / "base" / "00001-s1.png").unlink()
    (tmp_path / "per-step" / "00002-s1.png").write_bytes(b"\x89PNG nothing")
    scores = judge_run(run, Judges(ByColor()))
    assert scores["missing"] == ["base/00001-s1"] and scores["corrupt"] == ["per-step/00002-s1"]
    assert "base/00001-s1" in caplog.text and "per-step/00002-s1" in caplog.text
    base, ours = scores["rows"]
    assert (base["images"], ours["images"]) == (3, 3)
    assert ours["against"]["differences"]["relation"]["prompts"] == 2  # those that both methods have
    page = report(run, scores)
    assert "1 images are missing and scored nowhere: base/00001-s1." in page and "per-step/00002-s1" in page
    for path in tmp_path.glob("*/*.png"):
        path.unlink()
    with pytest.raises(UserError, match="none of its 8 images"):
        judge_run(run, Judges(ByColor()))


class Tags(HTMLParser):
    """Collects tags with their attributes, and sees that they close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    scores = json.loads(json.dumps(judge_run(run, Judges(ByColor(), told=("Colors: none.",)))))
    page = report(run, scores)
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    for tag, attributes in tags.found:  # nothing from outside
        assert tag not in ("link", "script", "img", "iframe", "a")
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:image/png;base64,") or name not in attributes
    assert "http" not in page and "url(" not in page
    kinds = [attributes.get("class") for _, attributes in tags.found]
    assert kinds.count("image") == 8 and kinds.count("box") == 6  # two boxes in each of three images
    assert kinds.count("disc") == 8  # two in each optimized image; none where the layout plays no part
    assert kinds.count("plot") == 2 + 4  # mean losses and weights, and the losses of four images
    # Worst first: prompt 3, of which both methods miss both objects.
    assert re.findall(r"<h3>A &lt;cat&gt; left of a dog &amp; (\d)</h3>", page) == ["3", "0", "1", "2"]
    assert "no cat; no dog" in page and "detector &lt;by color&gt;" in page and "Colors: none." in page
    assert "0.750" in page and "6/8" in page and "p&nbsp;" in page
    short = report(run, scores, cases=1)
    assert short.count("<h3>") == 1 and "1 of 4 prompts and seeds" in short
    with pytest.raises(UserError, match="not those of this run"):
        report(run, {"rows": []})


def test_curves() -> None:
    assert mean_curve([[1, 3], [3]]) == [2, 3] and mean_curve([]) == []
    assert plot({}) is None and plot({"a": []}) is None
    drawn = plot({"falling": [1.0, 0.0], "level": [0.5]})
    assert drawn is not None and (drawn["low"], drawn["high"], drawn["longest"]) == (0, 1, 2)
    falling, level = (line["points"] for line in drawn["lines"])
    assert falling == "44.0,10.0 352.0,140.0"  # from the top left to the bottom right of the frame
    assert level == "44.0,75.0 352.0,75.0"


# Hosts that Chromium itself calls at its start, whatever page it shows.
OWN_HOSTS = ("google.com", "googleapis.com", "gvt1.com", "gstatic.com")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed to open the report in")


def screenshot(page: Path, folder: Path, height: int = 2600) -> NDArray[np.int64]:
    """What headless Chromium shows of a page, (H, W, 3); the page must not ask for anything outside itself."""
    shot, log = folder / "shot.png", folder / "net.json"
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        f"--log-net-log={log}",
        f"--window-size=1280,{height}",
        f"--screenshot={shot}",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert shot.is_file(), done.stderr[-2000:]
    asked = re.findall(r'"url":"(?:https?|wss?)://([^/":?]+)', log.read_text(errors="replace"))
    assert [host for host in asked if not host.endswith(OWN_HOSTS)] == []
    with Image.open(shot) as image:
        return np.asarray(image.convert("RGB")).astype(np.int64)


@needs_browser
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    """Headless Chromium without network shows the images, the boxes and the discs in their colors."""
    run = make_run(tmp_path / "run")
    path = write_report(run, judge_run(run, Judges(ByColor())), tmp_path / "report.html")
    pixels = screenshot(path, tmp_path)

    def share(color: tuple[int, int, int]) -> float:
        return float((np.abs(pixels - color).max(-1) <= 6).mean())

    assert share(MAGENTA) > 0.01 and share(GRAY) > 0.02  # three and five images
    assert share((0xD5, 0x5E, 0x00)) > 2e-4 and share((0x00, 0x72, 0xB2)) > 2e-4  # boxes, discs and curves
    assert share((255, 255, 255)) > 0.3


@needs_browser
def test_the_report_of_the_demo_in_a_browser(tmp_path: Path) -> None:
    """The commands of `make demo`, with fewer steps and prompts, on the embedded model: every image is shown."""
    if not (ROOT / "models" / "emoji" / "model.safetensors").is_file():
        pytest.skip("the embedded model is not there")
    words = re.search(r"txt2img-gpt.py (.*?)--outdir", (ROOT / "Makefile").read_text().replace("\\\n", ""))
    assert words is not None
    wanted = words[1].replace("--to 6", "--to 2").replace("--steps 25", "--steps 3").split()
    wanted = [str(ROOT / word) if (ROOT / word).is_file() else word for word in wanted]
    assert load_script("txt2img-gpt").main([*wanted, "--outdir", str(tmp_path), "--device", "cpu"]) == 0
    for command in ("score", "report"):
        assert load_script("evaluate").main([command, "--run", str(tmp_path)]) == 0
    pixels = screenshot(tmp_path / "report.html", tmp_path)
    paths = sorted(tmp_path.glob("*/*-s42.png"))
    assert len(paths) == 4
    for path in paths:
        with Image.open(path) as image:
            drawn = np.asarray(image.convert("RGB")).astype(np.int64)
        # Pixels keep their colors on the page: of the corner's color there are as many as an enlarged corner has.
        assert (np.abs(pixels - drawn[0, 0]).max(-1) <= 3).sum() >= 9, path


# ------------------------------------------------------------------------------------------------- commands


def test_score_and_report_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path)
    monkeypatch.setattr(detectors, "open_detector", lambda *words: ByColor())
    script = load_script("evaluate")
    assert script.main(["score", "--run", str(tmp_path), "--detector", "transformers:any"]) == 0
    said = capsys.readouterr().out
    assert "per-step: object_recall 0.750 (6/8)" in said and str(tmp_path / "scores.json") in said
    assert "No CLIP was named" in json.loads((tmp_path / "scores.json").read_text())["told"][0]
    assert script.main(["report", "--run", str(tmp_path)]) == 0
    assert str(tmp_path / "report.html") in capsys.readouterr().out
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert script.main(["score", "--run", str(tmp_path)]) == 0  # the embedded CLIP, with colors
    told = json.loads((tmp_path / "scores.json").read_text())
    assert "CLIP score" in told["told"][0] and told["rows"][0]["ratios"]["clip_score"]["value"] is not None


def test_score_of_a_run_that_lacks_images_says_so_once_the_others_are_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path)
    (tmp_path / "base" / "00001-s1.png").unlink()
    (tmp_path / "per-step" / "00002-s1.png").write_bytes(b"\x89PNG nothing")
    monkeypatch.setattr(detectors, "open_detector", lambda *words: ByColor())
    words = ["score", "--run", str(tmp_path), "--detector", "transformers:any"]
    assert load_script("evaluate").main(words) == 2
    said = capsys.readouterr()
    assert "per-step: object_recall 0.667 (4/6)" in said.out and str(tmp_path / "scores.json") in said.out
    last = said.err.splitlines()[-1]
    assert last.startswith("error: 2 of 8 images are missing or damaged") and "start the run again" in last
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["missing"] == ["base/00001-s1"] and scores["corrupt"] == ["per-step/00002-s1"]
    make_run(tmp_path)  # the run again makes both
    assert load_script("evaluate").main(words) == 0


def test_mistakes_end_with_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    make_run(run)
    for words, complaint in (
        (["score"], "--run"),
        (["score", "--run", tmp_path / "nowhere"], "holds no run"),
        (["score", "--run", run, "--detector", "yolo"], "no detector 'yolo'"),
        (["score", "--run", run, "--detector", f"transformers:{tmp_path}"], "can't be loaded"),
        (["score", "--run", run, "--clip", tmp_path / "nowhere"], "can't be loaded"),
        (["report", "--run", run], "can't be read"),
        (["report", "--run", run, "--cases", "0"], "--cases: must be"),
    ):
        assert complaint in refusal(capfd, "evaluate", *words)
    (run / "scores.json").write_text("{}")
    assert "not those of this run" in refusal(capfd, "evaluate", "report", "--run", run)
    assert not (run / "report.html").exists()
