"""Plans and records: what is made and judged is kept as facts, goes on in another clone, and gives the tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldm.evaluation.plan import Plan, Workshop, by_group, claim_methods, fill, read_plan
from ldm.evaluation.prompts.prompt import rule_layout
from ldm.evaluation.report.markdown import replace_block
from ldm.evaluation.report.tables import evidence_blocks, evidence_rows, table_markdown
from ldm.evaluation.run.methods import Method, parse_method
from ldm.evaluation.score.judge import Judges, score_methods
from ldm.evaluation.score.metrics import Box, ImageFacts
from ldm.evaluation.score.records import Record
from ldm.generation.draw import GeneratedImage
from ldm.paths import ROOT
from ldm.util import UserError
from tests.scripts_under_test import refusal

RESULTS = ROOT / "docs" / "results"


class ByBrightness:
    """A stand-in for a detector: in bright images whatever is asked for, in a row; nothing in dark ones."""

    name = "by brightness"

    def detect(self, image: Any, names: Sequence[str]) -> list[Box]:
        if image.mean() < 128:
            return []
        return [Box(name, 0.9, 0.2 + 0.5 * i, 0.4, 0.3 + 0.5 * i, 0.6) for i, name in enumerate(names)]


class FlatImages:
    """A stand-in for a studio: images that are dark by the plain model and bright by the others."""

    spread = 1.0

    def __init__(self) -> None:
        self.made = list[tuple[str, str, int]]()
        self.predictor = "a"

    def settings(self, prompts: Any) -> dict[str, Any]:
        return {"steps": 2, "predictor_sha256": self.predictor}

    def predicts(self, method: Method) -> bool:
        return method.label == "per-step"

    def place(self, method: Method, prompt: Any) -> Any:
        return rule_layout(prompt)

    def make(self, method: Method, texts: Sequence[str], layouts: Any, seeds: Sequence[int]) -> Any:
        self.made += [(method.label, text, seed) for text, seed in zip(texts, seeds, strict=True)]
        image = np.full((8, 8, 3), 0 if method.label == "base" else 255, np.uint8)
        return [GeneratedImage(*row, image) for row in zip(texts, seeds, layouts, strict=True)]


PLAN = """
steps: 2
scale: 5.0
layout: rule
titles: {base: plain model, per-step: "`per-step`, the default"}
sets: {one: one.txt, two: two.txt}
stages:
  - {methods: [base, per-step], count: 3, seeds: [7], batch: 2}
  - {methods: [base, "fixed:weight=1"], count: 4, seeds: [7, 8], batch: 2, sets: [one]}
"""


class Bench:
    """A plan in a folder, with images in another one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.studio = folder, FlatImages()
        lines = [f"Objects: cat, dog\nRelation: cat left of dog\nSentence: A cat left of a dog {n}\n" for n in range(4)]
        for name in ("one", "two"):
            (folder / f"{name}.txt").write_text("\n".join(lines))
        (folder / "plan.yaml").write_text(PLAN)
        self.plan = read_plan(folder / "plan.yaml", folder)

    def shop(self, images: str) -> Workshop:
        studio: Any = self.studio
        return Workshop(self.folder / images, studio, Judges(ByBrightness()), {"detector": "x"}, discs=True)

    def records(self, **settings: Any) -> dict[str, Record]:
        wanted = {"steps": 2, "detector": "x", **settings}
        return {name: Record.open(self.folder / f"{name}.jsonl", wanted) for name in self.plan.sets}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_record_goes_on_in_another_clone(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert fill(bench.plan, bench.records(), bench.shop("a"), minutes=0) == 25 and bench.studio.made == []
    assert fill(bench.plan, bench.records(), bench.shop("a")) == 0
    count = len(bench.studio.made)
    assert count == 25  # 3 prompts x 2 methods x 2 sets, and 4 prompts x 2 methods x 2 seeds less 3 that were there
    assert fill(bench.plan, bench.records(), bench.shop("b")) == 0 and len(bench.studio.made) == count
    head, *lines = map(json.loads, (tmp_path / "one.jsonl").read_text().splitlines())
    assert head["settings"] == {"steps": 2, "detector": "x"} and head["seconds"]["per-step"][0] == 3
    [line] = [line for line in lines if (line["method"], line["prompt"], line["seed"]) == ("per-step", 1, 7)]
    assert (line["found"], line["right"], line["in_disc"]) == ([True, True], [True], [True, True])
    edit(tmp_path / "one.jsonl", json.dumps(line, separators=(",", ":")) + "\n", "")
    assert fill(bench.plan, bench.records(), bench.shop("b")) == 0
    assert bench.studio.made[count:] == [("per-step", "A cat left of a dog 1", 8)]  # noise: seed 7 + number 1
    base, ours, fixed = evidence_rows(bench.plan, bench.records())
    assert [row["method"] for row in (base, ours, fixed)] == ["base", "per-step", "fixed:weight=1"]
    assert base["images"] == 3 + 8 and ours["images"] == 6 and fixed["images"] == 8
    assert ours["ratios"]["relation"]["value"] == 1 and base["ratios"]["relation"]["value"] == 0
    assert ours["against"]["differences"]["relation"]["prompts"] == 6
    assert fixed["against_second"]["differences"]["relation"]["prompts"] == 3  # prompts that both have
    assert "against_second" not in base and "against_second" not in ours


def test_records_of_other_settings_and_constants_are_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    fill(bench.plan, bench.records(), bench.shop("a"))
    with pytest.raises(UserError, match=r"other settings \(steps\)"):
        bench.records(steps=3)
    edit(tmp_path / "one.jsonl", '"inner_steps":1', '"inner_steps":9')
    with pytest.raises(UserError, match="another inner_steps; make them again with --again per-step"):
        fill(bench.plan, bench.records(), bench.shop("a"))
    records = bench.records()
    records["one"].drop("per-step")
    count = len(bench.studio.made)
    assert fill(bench.plan, records, bench.shop("b")) == 0 and len(bench.studio.made) == count + 3
    bench.studio.predictor = "another"
    with pytest.raises(UserError, match="'per-step' with another predictor_sha256"):
        fill(bench.plan, bench.records(), bench.shop("a"))
    head = '{"settings":{"steps":2,"detector":"x"},"constants":{},"seconds":{}}\n'
    for text in ("{", "[]", head + '{"method":"base","prompt":0,"seed":7,"found":"11"}', head + '{"method":"base"}'):
        (tmp_path / "one.jsonl").write_text(text)
        with pytest.raises(UserError, match="no record of images"):
            bench.records()


def test_a_table_grows_from_an_earlier_record(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    known = bench.records()["one"]
    fill(bench.plan, bench.records(), bench.shop("a"))
    known, count = Record.read(tmp_path / "one.jsonl"), len(bench.studio.made)
    methods = [parse_method("base"), parse_method("fixed:weight=1")]
    new = Record(tmp_path / "new.jsonl", known.settings)
    claim_methods(bench.plan, {"one": new, "two": new}, bench.shop("b"))
    new.take(known, methods, 2)
    assert {method: len(facts) for method, facts in new.facts.items()} == {"base": 4, "fixed:weight=1": 4}
    plan = Plan(bench.plan.sets, bench.plan.stages[1:], 2, 5.0, "rule")
    assert fill(plan, {"one": new}, bench.shop("b")) == 0
    assert len(bench.studio.made) == count + 8  # the other two prompts
    assert new.facts["base"] == known.facts["base"]
    for change, complaint in (
        ({"settings": {"steps": 3}}, r"other settings \(detector, steps\)"),
        ({"constants": {}}, "'base' with other constants"),
    ):
        other = Record.read(tmp_path / "one.jsonl")
        vars(other).update(change)
        with pytest.raises(UserError, match=complaint):
            new.take(other, methods, 4)


def test_blocks_of_the_pages(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    records = bench.records()
    fill(bench.plan, records, bench.shop("a"))
    rows = evidence_rows(bench.plan, records)
    blocks = evidence_blocks(bench.plan, records, rows, 0)
    assert "| `per-step` | 6 | 1.000 (12/12)<br>+1.000 (+1.000, +1.000), p 0.0" in blocks["table"]
    assert "| `fixed:weight=1` | +0.000 (+0.000, +0.000), p 1.000 |" in blocks["ablations"]
    assert "| `per-step` | 1.000 (6/6) | 1.000 (3/3) | 1.000 (6/6) | 1.000 (3/3) |" in blocks["styles"]
    assert "| `fixed:weight=1` | 1.000 (16/16) | 1.000 (8/8) | - | - |" in blocks["styles"]
    assert "| method | two objects: objects there | two objects: relation right | three: obj" in blocks["objects"]
    assert "| `fixed:weight=1` | 1.000 (16/16) | 1.000 (8/8) | - | - |" in blocks["objects"]
    assert "| plain model | 11 | 0.000 (0/22) |  | 0.000 (0/11) |  |" in blocks["summary"]
    assert "| `per-step`, the default | 6 | 1.000 (12/12) | +1.000 (+1.000, +1.000) | 1.000" in blocks["summary"]
    assert "25 images are scored, 0 of the plan are left. Prompts: 4 in the ONE style" in blocks["state"]
    assert by_group(bench.plan, records, lambda *_: "all")["per-step"]["all"]["relation"] == (6, 6)
    table = table_markdown(rows)
    assert table.startswith("| method | object recall | against base | all present |")
    assert "| per-step | 1.000 (12/12) | +1.000 (+1.000, +1.000) | 1.000 (6/6) | 1.000 (6/6) |" in table
    assert "| 1.000 (6/6) | +1.000 (+1.000, +1.000) | 1.000 (12/12) | +1.000 (+1.000, +1.000) |" in table
    assert "| plain model | 0.000 (0/22) |  | 0.000 (0/11) | - |" in table_markdown(rows, page=True)
    page = "a\n<!-- table -->\nold\n<!-- end table -->\nb"
    assert replace_block(page, "table", "new") == "a\n<!-- table -->\nnew\n<!-- end table -->\nb"
    with pytest.raises(ValueError):
        replace_block(page, "other", "new")


def test_mistakes_end_with_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = ["--out", tmp_path, "--outdir", tmp_path / "images"]
    rest = "steps: 2\nscale: 5\nlayout: rule"
    for text, complaint in (
        ("[", "can't be used"),
        (f"sets: {{a: nowhere.txt}}\nstages: []\n{rest}", "cannot be read"),
        (f"sets: {{}}\nstages: [{{sets: [b], methods: [base], count: 1, seeds: [1]}}]\n{rest}", "no set 'b'"),
        (f"sets: {{}}\nstages: [{{methods: [magic], count: 1, seeds: [1]}}]\n{rest}", "no method 'magic'"),
    ):
        (tmp_path / "plan.yaml").write_text(text)
        assert complaint in refusal(capfd, "evaluate", "evidence", "--plan", tmp_path / "plan.yaml", *out)
    assert "--minutes" in refusal(capfd, "evaluate", "evidence", "--minutes", "-1", *out)
    assert not (tmp_path / "evidence.jsonl").exists()


# ------------------------------------------------------------------------------------ the project's results


def test_the_plan_is_complete_and_goes_on() -> None:
    """The methods of the plan have the constants with which the records were made, and no image lacks."""
    plan = read_plan(ROOT / "configs" / "emoji" / "evidence.yaml", ROOT)
    records = {name: Record.read(RESULTS / f"evidence-{name}.jsonl") for name in plan.sets}
    for stage in plan.stages:
        for method, record in product(stage.methods, (records[name] for name in stage.sets)):
            predictor = record.constants[method.label].get("predictor_sha256")
            record.claim(method, {"predictor_sha256": predictor} if predictor else None)
        wanted = {(number, seed) for number in range(stage.count) for seed in stage.seeds}
        for method in stage.methods:
            assert all(wanted <= set(records[name].facts[method.label]) for name in stage.sets), method.label
    page = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    for name, block in evidence_blocks(plan, records, evidence_rows(plan, records), 0).items():
        assert f"<!-- {name} -->\n{block}\n<!-- end {name} -->" in page, "run evaluate.py evidence --page"


@pytest.mark.parametrize(("name", "block"), [("table-report", "results"), ("table-report-many", "results-many")])
def test_tables_of_the_readme_are_those_of_the_records(name: str, block: str) -> None:
    record = Record.read(RESULTS / f"{name}.jsonl")
    for label in record.facts:
        record.claim(parse_method(label))  # the constants are those of today, so that the table can grow
    made = table_markdown(score_methods(record.facts, 10_000), page=True)
    assert f"<!-- {block} -->\n{made}\n<!-- end {block} -->" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_records_without_constants_cannot_grow(tmp_path: Path) -> None:
    """As those of the time when constants were not kept; what they hold is only read."""
    record = Record(tmp_path / "old.jsonl", {"steps": 2})
    record.facts["base"] = {(0, 1): ImageFacts(found=(True, False))}
    record.write()
    record = Record.read(record.path)
    assert record.constants == {} and len(record.facts["base"]) == 1
    with pytest.raises(UserError, match="scores of 'base' with another swap"):
        record.claim(parse_method("base"))
