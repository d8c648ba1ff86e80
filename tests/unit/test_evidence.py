"""The evidence: prompt files, words of images, records that go on in another clone, and the table."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldm.categories import NAMES
from ldm.evaluation import making
from ldm.evaluation.backgrounds import background_color
from ldm.evaluation.evidence import Record, Workshop, build_rows, by_group, fill, from_word, read_plan, to_word
from ldm.evaluation.evidence_tables import evidence_blocks
from ldm.evaluation.judge import Judges
from ldm.evaluation.making import Made, rule_layout
from ldm.evaluation.markdown import replace_block
from ldm.evaluation.methods import Method, parse_method
from ldm.evaluation.metrics import Box, ImageFacts, RelationFacts
from ldm.evaluation.promptfiles import from_sentence, read_prompt_file
from ldm.evaluation.prompts import SETS, pairs_of
from ldm.evaluation.promptsets import COUNTS, FILES, gpt_style, prompt_file, write_sets
from ldm.evaluation.runner import Sampling
from ldm.generation.pipeline import choose_model, load_pipeline
from ldm.modules.encoders.tokenizer import WordTokenizer, split_words
from ldm.paths import EMOJI_CONFIG, project_file
from ldm.spacetime.layout import Layout
from ldm.util import UserError
from tests.golden_data import ROOT
from tests.scripts_under_test import load_script, refusal

PROMPTS = ROOT / "data" / "prompts"


# ------------------------------------------------------------------------------------------------- prompts


@pytest.mark.slow
@pytest.mark.parametrize("style", FILES)
def test_the_predictor_places_objects_as_the_prompts_say(style: str) -> None:
    pipeline = load_pipeline(choose_model(project_file(EMOJI_CONFIG)))
    sides = {
        "left": lambda a, b: a.x < b.x,
        "right": lambda a, b: a.x > b.x,
        "above": lambda a, b: a.y < b.y,
        "below": lambda a, b: a.y > b.y,
    }
    stated = 0
    for prompt in read_prompt_file(PROMPTS / f"report-{FILES[style]}"):
        layout = pipeline.predict_layout(prompt.text)
        for relation in prompt.relations:
            pair = [prompt.objects[i].name for i in (relation.first, relation.second)]
            first, second = (next(o for o in layout.objects if name in o.phrase.lower()) for name in pair)
            assert sides[relation.direction](first, second), prompt.text
            stated += 1
    assert stated >= 38


@pytest.mark.parametrize("which", SETS)
@pytest.mark.parametrize("style", FILES)
def test_prompt_files_are_those_of_the_command(which: str, style: str) -> None:
    path = PROMPTS / f"{which}-{FILES[style]}"
    assert path.read_text(encoding="utf-8") == prompt_file(style, which)
    prompts = read_prompt_file(path)
    assert len({prompt.text for prompt in prompts}) == len(prompts) == COUNTS[which]
    pairs = {frozenset(pair) for pair in pairs_of(which)}
    words = WordTokenizer()
    for prompt in prompts:
        names = [item.name for item in prompt.objects]
        assert names and set(names) <= set(NAMES), prompt.text
        assert all(frozenset(pair) in pairs for pair in itertools.combinations(names, 2)), prompt.text
        assert not words.unknown_words(prompt.text) and len(split_words(prompt.text)) <= words.context_length - 2
        assert rule_layout(prompt).objects  # the directions agree with each other


def test_the_sets_are_large_enough_and_varied() -> None:
    report = {style: read_prompt_file(PROMPTS / f"report-{file}") for style, file in FILES.items()}
    assert sum(map(len, report.values())) >= 500
    assert {len(prompt.objects) for prompt in report["gpt"]} == {2, 3, 4, 5}
    assert sum(prompt.background is not None for prompt in report["coco"]) >= 40
    sizes = ("small", "big", "large", "tiny")
    assert sum(any(word in prompt.text for word in sizes) for prompt in report["coco"]) >= 30
    assert {r.direction for prompt in report["vsr"] for r in prompt.relations} == {"left", "right", "above", "below"}
    for stated, prompt in zip(gpt_style("report", COUNTS["report"]), report["gpt"], strict=True):
        assert tuple(item.name for item in prompt.objects) == stated.names
        assert tuple((r.first, r.direction, r.second) for r in prompt.relations) == stated.relations


def test_the_command_writes_them(tmp_path: Path) -> None:
    assert load_script("evaluate").main(["prompts", "--outdir", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in write_sets(tmp_path))


def test_backgrounds() -> None:
    from ldm.categories import BACKGROUNDS

    assert from_sentence("A cat on a green background.").background == "green"
    assert from_sentence("a cat against a pale Blue background").background == "blue"
    assert from_sentence("A cat in the background").background is None
    for word, color in BACKGROUNDS.items():
        image = np.empty((64, 64, 3), np.uint8)
        image[:] = np.array(color) + 5  # a lighter shade of it
        image[0:30, 10:50] = (10, 20, 30)  # an object at the edge
        assert background_color(image) == word


# -------------------------------------------------------------------------------------------------- methods


def test_what_methods_may_name() -> None:
    assert parse_method("base:guidance=7.5").guidance == 7.5
    fixed = parse_method("fixed:weight=2,radius=0.3,layout=rule,guidance=2,swap=true")
    assert (fixed.radius, fixed.layout, fixed.guidance, fixed.swap) == (0.3, "rule", 2, True)
    ours = parse_method("per-step:layout=rule,radius=0.1")
    assert ours.layout == "rule" and ours.preset is not None and ours.preset.radius == 0.1
    for wrong in ("base:layout=rule", "fixed:layout=none", "per-step:guidance=x", "fixed:swap=perhaps"):
        with pytest.raises(UserError):
            parse_method(wrong)


@pytest.mark.parametrize(("label", "guidance"), [("per-step:guidance=2", 2.0), ("per-step", None)])
def test_a_prompt_without_objects_keeps_the_guidance(
    label: str, guidance: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Method] = []

    def note(pipeline: Any, method: Method, prompts: Sequence[str], *_: Any) -> list[Any]:
        made.append(method)
        return [np.zeros((8, 8, 3), np.uint8)] * len(prompts)

    monkeypatch.setattr(making, "generate_images", note)
    nothing: Any = None  # no model is asked
    making.make(nothing, parse_method(label), ["Fog."], [Layout((), "Fog.")], [0], Sampling())
    assert made == [Method(label, guidance=guidance)]


# -------------------------------------------------------------------------------------------------- records


def facts(found: Sequence[bool], relation: tuple[bool, bool, bool], clip: float | None = None) -> ImageFacts:
    return ImageFacts(tuple(found), tuple(found), (RelationFacts(*relation),), clip_score=clip, background=True)


def test_words_keep_what_counts() -> None:
    for item in (
        facts((True, False), (False, False, False)),
        facts((True, True), (True, False, False), 27.43),
        facts((True, True), (True, True, True), 0.5),
        ImageFacts((), (), ()),
    ):
        assert from_word(to_word(item)) == item
    assert to_word(facts((True, True), (True, True, False), 27.431)) == "11:11:2:1:27.43"


class ByBrightness:
    """A stand-in for a detector: in bright images whatever is asked for, in a row; nothing in dark ones."""

    name = "by brightness"

    def detect(self, image: Any, names: Sequence[str]) -> list[Box]:
        if image.mean() < 128:
            return []
        return [Box(name, 0.9, 0.2 * i, 0.4, 0.2 * i + 0.1, 0.5) for i, name in enumerate(names)]


PLAN = """
steps: 2
scale: 5.0
layout: rule
sets: {one: one.txt, two: two.txt}
stages:
  - {methods: [base, per-step], count: 3, seeds: [7], batch: 2}
  - {methods: [base, "fixed:weight=1"], count: 4, seeds: [7, 8], batch: 2, sets: [one]}
"""


class Bench:
    """A plan in a folder, and images that are dark by the plain model and bright by the others."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, list[tuple[str, str, int]]()
        lines = [f"Objects: cat, dog\nRelation: cat left of dog\nSentence: A cat left of a dog {n}\n" for n in range(4)]
        for name in ("one", "two"):
            (folder / f"{name}.txt").write_text("\n".join(lines))
        (folder / "plan.yaml").write_text(PLAN)
        self.plan = read_plan(folder / "plan.yaml", folder)

    def make(self, method: Any, texts: Sequence[str], layouts: Any, seeds: Sequence[int]) -> list[Made]:
        self.made += [(method.label, text, seed) for text, seed in zip(texts, seeds, strict=True)]
        return [Made(np.full((8, 8, 3), 0 if method.label == "base" else 255, np.uint8)) for _ in texts]

    def shop(self, images: str) -> Workshop:
        return Workshop(
            self.folder / images,
            lambda prompts: {"steps": 2},
            lambda _, prompt: rule_layout(prompt),
            self.make,
            Judges(ByBrightness()),
        )

    def records(self, settings: dict[str, Any] | None = None) -> dict[str, Record]:
        return {
            name: Record(self.folder / f"evidence-{name}.json", settings or {"steps": 2}, len(prompts))
            for name, prompts in self.plan.sets.items()
        }


def test_a_record_goes_on_in_another_clone(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert fill(bench.plan, bench.records(), bench.shop("a"), minutes=0) == 25 and bench.made == []
    records = bench.records()
    assert fill(bench.plan, records, bench.shop("a")) == 0
    count = len(bench.made)
    assert count == 25  # 3 prompts x 2 methods x 2 sets, and 4 prompts x 2 methods x 2 seeds less 3 that were there
    assert fill(bench.plan, bench.records(), bench.shop("b")) == 0 and len(bench.made) == count  # no images are there
    content = json.loads((tmp_path / "evidence-one.json").read_text())
    content["words"]["per-step"]["7"][1] = None
    (tmp_path / "evidence-one.json").write_text(json.dumps(content))
    assert fill(bench.plan, bench.records(), bench.shop("b")) == 0
    assert bench.made[count:] == [("per-step", "A cat left of a dog 1", 8)]  # noise: seed 7 + number 1
    rows = build_rows(bench.records(), bench.plan.methods, "per-step")
    assert [row["method"] for row in rows] == ["base", "per-step", "fixed:weight=1"]
    base, ours, fixed = rows
    assert base["images"] == 3 + 8 and ours["images"] == 6 and fixed["images"] == 8
    assert ours["ratios"]["relation"]["value"] == 1 and base["ratios"]["relation"]["value"] == 0
    assert ours["against"]["differences"]["relation"]["prompts"] == 6
    assert fixed["against_second"]["differences"]["relation"]["prompts"] == 3  # prompts that both have
    assert "against_second" not in base and "against_second" not in ours


def test_records_of_other_settings_and_constants_are_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    fill(bench.plan, bench.records(), bench.shop("a"))
    with pytest.raises(UserError, match=r"other settings \(steps\)"):
        bench.records({"steps": 3})
    content = json.loads((tmp_path / "evidence-one.json").read_text())
    content["constants"]["per-step"]["preset"]["learning_rate"] = 9.0
    (tmp_path / "evidence-one.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="another learning_rate"):
        fill(bench.plan, bench.records(), bench.shop("a"))
    records = bench.records()
    records["one"].drop("per-step")
    count = len(bench.made)
    assert fill(bench.plan, records, bench.shop("b")) == 0 and len(bench.made) == count + 3
    known = bench.records()["two"]
    known.drop("per-step")
    known.claim(parse_method("per-step"), {"predictor_sha256": "old"})
    with pytest.raises(UserError, match="another predictor_sha256; make them again with --again per-step"):
        known.claim(parse_method("per-step"), {"predictor_sha256": "new"})
    for text in ("{", '{"settings": {"steps": 2}, "seconds": {}, "constants": {}, "words": {"base": {"7": ["11"]}}}'):
        (tmp_path / "evidence-one.json").write_text(text)
        with pytest.raises(UserError, match="damaged"):
            bench.records()


def test_blocks_of_the_page(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    records = bench.records()
    fill(bench.plan, records, bench.shop("a"))
    content = {
        "prompts": {"one": 4, "two": 4},
        "images_left": 0,
        "settings": {},
        "seconds_a_image": {"base": 0.7},
        "styles": by_group(bench.plan, records, lambda name, prompt: name),
        "objects": by_group(bench.plan, records, lambda name, prompt: str(len(prompt.objects))),
        "rows": build_rows(records, bench.plan.methods, "per-step"),
    }
    blocks = evidence_blocks(content)
    assert "| `per-step` | 6 | 1.000 (12/12)<br>+1.000 (+1.000, +1.000), p 0.0" in blocks["table"]
    assert "| `fixed:weight=1` | +0.000 (+0.000, +0.000), p 1.000 |" in blocks["ablations"]
    assert "| `per-step` | 1.000 (6/6) | 1.000 (3/3) | 1.000 (6/6) | 1.000 (3/3) |" in blocks["styles"]
    assert "| `fixed:weight=1` | 1.000 (16/16) | 1.000 (8/8) | - | - |" in blocks["styles"]
    assert "| method | two objects: objects there | two objects: relation right | three: obj" in blocks["objects"]
    assert "| `fixed:weight=1` | 1.000 (16/16) | 1.000 (8/8) | - | - |" in blocks["objects"]
    assert "| plain model | 11 | 0.000 (0/22) |  | 0.000 (0/11) |  |" in blocks["summary"]
    assert "| `per-step`, the default | 6 | 1.000 (12/12) | +1.000 (+1.000, +1.000) | 1.000" in blocks["summary"]
    assert "25 images are scored, 0 of the plan are left" in blocks["state"]
    page = "a\n<!-- table -->\nold\n<!-- end table -->\nb"
    assert replace_block(page, "table", "new") == "a\n<!-- table -->\nnew\n<!-- end table -->\nb"
    with pytest.raises(ValueError):
        replace_block(page, "other", "new")


def test_mistakes_end_with_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = ["--out", tmp_path, "--outdir", tmp_path / "images"]
    for text, complaint in (
        ("[", "can't be used"),
        ("sets: {a: nowhere.txt}\nstages: []\nsteps: 2\nscale: 5\nlayout: rule", "cannot be read"),
        (
            "sets: {}\nstages: [{sets: [b], methods: [base], count: 1, seeds: [1]}]\nsteps: 2\nscale: 5\nlayout: rule",
            "no set 'b'",
        ),
        (
            "sets: {}\nstages: [{methods: [magic], count: 1, seeds: [1]}]\nsteps: 2\nscale: 5\nlayout: rule",
            "no method 'magic'",
        ),
    ):
        (tmp_path / "plan.yaml").write_text(text)
        assert complaint in refusal(capfd, "evaluate", "evidence", "--plan", tmp_path / "plan.yaml", *out)
    assert "--minutes" in refusal(capfd, "evaluate", "evidence", "--minutes", "-1", *out)
    assert not (tmp_path / "evidence.json").exists()
