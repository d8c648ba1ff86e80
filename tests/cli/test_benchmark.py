"""scripts/evaluate.py benchmark: drawn, looked at, scored and reported, whole or in parts, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ldm.evaluation.benchmarks import looking
from ldm.evaluation.report.markdown import replace_block
from ldm.evaluation.report.tables import benchmark_markdown
from ldm.evaluation.score.metrics import Box
from ldm.paths import ROOT
from tests import tiny_world
from tests.scripts_under_test import load_script, refusal

VISOR = [
    {
        "unique_id": number,
        "num_objects": 2,
        "obj_1_attributes": [first],
        "obj_2_attributes": [second],
        "rel_type": "above",
        "text": f"a {first} above a {second}",
    }
    for number, (first, second) in enumerate([("cat", "dog"), ("bus", "kite")])
]


def test_a_benchmark_from_prompts_to_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world, run = tiny_world.build(tmp_path), load_script("evaluate").main
    prompts = tmp_path / "visor.json"
    prompts.write_text(json.dumps(VISOR))
    model = ["--config", world.config, "--ckpt", world.ckpt, "--clip", world.clip, "--device", "cpu", "--steps", "2"]
    common = ["benchmark", "visor", "--prompts", prompts, "--detector", "emoji", "--threshold", "0"]

    def benchmark(outdir: str, *more: Any) -> dict[str, Any]:
        words = [*common, "--outdir", tmp_path / outdir, *more]
        assert run([str(word) for word in words]) == 0
        file = tmp_path / outdir / "scores.json"
        return json.loads(file.read_text()) if file.is_file() else {}  # type: ignore[no-any-return]

    flags = [*model, "--methods", "base,fixed", "--seeds", "1", "2", "--batch-size", "4"]
    scores = benchmark("whole", *flags, "--export", tmp_path / "out")
    assert "| `fixed` | 4 |" in capsys.readouterr().out
    assert (
        list(scores["rows"][0]["ratios"])[:4] == ["OA", "VISOR uncond", "VISOR cond", "VISOR_1"]
        and scores["references"] is None
    )
    assert scores["rows"][1]["against"]["method"] == "base" and len(scores["images"]) == 8
    page = (tmp_path / "whole" / "report.html").read_text()
    assert "a cat above a dog" in page and "<th>OA</th>" in page and "As published" not in page
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "whole").rglob("*.png")}
    assert benchmark("whole", *flags) == scores  # nothing is made again
    assert before == {path: path.stat().st_mtime_ns for path in before}
    for part in ("0/2", "1/2"):
        assert benchmark("parts", *flags, "--shard", part) == {}
    assert benchmark("parts", *flags)["rows"] == scores["rows"]
    assert sorted(path.name for path in (tmp_path / "out" / "base").iterdir()) == [
        "0_0.png",
        "0_1.png",
        "1_0.png",
        "1_1.png",
    ]
    own = benchmark("own", "--images", tmp_path / "out" / "fixed")["rows"][0]
    assert own["ratios"]["OA"] == scores["rows"][1]["ratios"]["OA"] and own["method"] == "fixed"
    (tmp_path / "out" / "fixed" / "1_1.png").unlink()
    words = [*common, "--outdir", tmp_path / "own", "--images", tmp_path / "out" / "fixed"]
    assert run([str(word) for word in words]) == 2
    said = capsys.readouterr().err
    lost = str(tmp_path / "out" / "fixed" / "1_1.png")
    assert f"1 of 4 images are missing or damaged and were not scored: {lost}" in said
    assert json.loads((tmp_path / "own" / "scores.json").read_text())["missing"] == [lost]


def test_published_results_stand_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Sees:
        name, categories = "stub", None

        def detect(self, image: Any, names: Any) -> list[Box]:
            return [Box(name, 0.9, 0.5 * n, 0.1, 0.5 * n + 0.4, 0.5) for n, name in enumerate(names)]

    monkeypatch.setattr(looking, "open_detector", lambda *arguments: Sees())
    for number in range(2):  # a person to the left of a bicycle, and the other way round
        Image.new("RGB", (32, 32)).save(tmp_path / f"{number}_0.png")
    words = ["benchmark", "visor", "--images", str(tmp_path), "--outdir", str(tmp_path / "out"), "--to", "2"]
    assert load_script("evaluate").main(words) == 0
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores["rows"][0]["ratios"]["VISOR uncond"]["value"] == 1  # what is named first stands to the left
    page = (tmp_path / "out" / "report.html").read_text()
    own, published, _ = page.partition("As published")
    assert "100.00" in own and "18.81" not in own and "18.81" in page and "github.com/microsoft/VISOR" in page


@pytest.mark.parametrize(
    "name", [path.stem.removeprefix("benchmark-") for path in (ROOT / "docs" / "results").glob("benchmark-*.json")]
)
def test_tables_of_the_page_are_those_of_the_results(name: str) -> None:
    scores = json.loads((ROOT / "docs" / "results" / f"benchmark-{name}.json").read_text())
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    assert replace_block(page, name, benchmark_markdown(scores)) == page


GENEVAL = (
    '{"tag": "colors", "include": [{"class": "cat", "count": 1, "color": "red"}], "prompt": "a photo of a red cat"}\n'
)


@pytest.mark.parametrize(
    ("name", "content", "more", "complaint"),
    [
        ("magic", GENEVAL, "", "no benchmark 'magic'"),
        ("geneval", None, "", "--prompts is missing"),
        ("geneval", "nowhere", "", "cannot be read"),
        ("geneval", "a cat\n", "", "line 1: not valid JSON"),
        ("geneval", GENEVAL + '{"tag": "colors", "prompt": "x"}\n', "", 'line 2 lacks "include"'),
        ("geneval", GENEVAL.replace('"count": 1', '"count": "one"'), "", 'line 1 has another kind of "count"'),
        ("geneval", GENEVAL.replace("red", "mauve"), "", "wants the color 'mauve'"),
        ("geneval", GENEVAL.replace('"color": "red"', '"position": ["near", 0]'), "", "the position"),
        ("geneval", GENEVAL.replace('"count": 1', '"count": 0'), "", "wants 0 of 'cat'"),
        ("geneval", GENEVAL, "--methods magic", "no method 'magic'"),
        ("geneval", GENEVAL, "--images nowhere", "no folder of GenEval's images"),
        ("geneval", GENEVAL.replace('"cat"', '"skateboard"'), "", "no class for 1 of 1 names (skateboard)"),
        ("geneval", GENEVAL, "--colors nowhere.pt", "nowhere.pt"),
        ("visor", '[{"unique_id": 0}]', "", 'lacks "obj_1_attributes"'),
        ("visor", json.dumps([{**VISOR[0], "obj_1_attributes": []}]).replace('"dog"', "null"), "", "names no object"),
        ("visor", "[]", "", "holds no prompt"),
        ("t2i-2d", "a cat and a dog", "", "states no relation"),
        ("t2i-2d", "a cat/kitten next to a dog", "", "no file name can keep"),
        ("t2i-3d", "a cat in front of a dog", "", "--layout predicted"),
        ("t2i-numeracy", "two dogs", "", "new_objects.txt"),
        ("lmd", "A realistic photo of a scene with two red cars", "", "line 1"),
        ("lmd", "A realistic photo of a scene with two dogs", "", "cache_lmd"),
        (
            "lmd",
            "A realistic photo of a scene without cats",
            "--layout predicted --seeds 1 2 --export out",
            "exactly one",
        ),
        ("7bench", "id,prompt\n0,a cat", "", "no column 'category'"),
        ("7bench", 'id,category,prompt,obj1,bbox1\n0,x,a cat,cat,"0,0,9"', "", "has the box '0,0,9'"),
        ("7bench", "id,category,prompt,obj1,bbox1\n0,x,a cat,cat,", "", "lacks 'bbox1'"),
    ],
)
def test_mistakes_end_with_one_sentence(
    name: str, content: str | None, more: str, complaint: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "prompts"
    if content not in (None, "nowhere"):
        path.write_text(str(content))
    words = ["benchmark", name, *(["--prompts", path] if content else []), "--detector", "emoji", *more.split()]
    assert complaint in refusal(capfd, "evaluate", *words, "--outdir", tmp_path / "out")
    assert not list(tmp_path.rglob("*.png"))
