"""The evaluation: prompts, methods, resuming runs, and the evaluation script's mistakes."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.evaluation import runner
from ldm.evaluation.calibration import contact_sheet, detect_images, pick_images, read_labels, start_labels
from ldm.evaluation.known import read_known
from ldm.evaluation.methods import parse_method
from ldm.evaluation.prompts import RULE_CENTERS, relation_prompts, rule_layout, single_prompts, swapped
from ldm.evaluation.report import build_table, markdown, targets
from ldm.evaluation.runner import ImageStore, Job, Sampling, changed_keys, constants_of, make_images, make_jobs
from ldm.evaluation.scoring import relation_holds
from ldm.generation.pipeline import ModelChoice, Pipeline, load_pipeline
from ldm.models.detector import Detection
from ldm.modules.encoders.tokenizer import WordTokenizer
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.util import UserError
from tests import tiny_world


def load_script() -> Any:
    path = Path(__file__).resolve().parents[2] / "scripts" / "evaluate.py"
    spec = importlib.util.spec_from_file_location("evaluate_script", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -------------------------------------------------------------------------------------------- prompts


def test_prompt_sets_are_fixed_and_share_no_pair() -> None:
    choose, report = relation_prompts("choose", 240), relation_prompts("report", 400)
    pairs = [{frozenset(prompt.names) for prompt in prompts} for prompts in (choose, report)]
    assert not pairs[0] & pairs[1]
    assert len({(p.names, p.relation) for p in report}) == 400
    assert relation_prompts("report", 10) == report[:10]
    assert {p.relation for p in report} == set(RULE_CENTERS)
    for prompt in report:
        assert all(phrase.lower() in prompt.text.lower() for phrase in prompt.phrases)
        assert not WordTokenizer().unknown_words(prompt.text)
    assert len({prompt.seed for prompt in report}) == 400


def test_prompt_set_mistakes() -> None:
    with pytest.raises(UserError, match="no prompt set"):
        relation_prompts("none", 3)
    with pytest.raises(UserError, match="has 880 prompts"):
        relation_prompts("choose", 5000)


def test_rule_layout_and_swap() -> None:
    prompt = next(p for p in relation_prompts("choose", 50) if p.relation == "above")
    layout = rule_layout(prompt)
    first, second = layout.objects
    assert relation_holds((first.x, first.y), (second.x, second.y), "above")
    assert (first.name, second.name) == prompt.names
    turned = swapped(layout)
    assert (turned.objects[0].x, turned.objects[0].y) == (second.x, second.y)
    assert turned.objects[0].phrase == first.phrase
    assert swapped(turned) == layout
    assert [p.name for p in single_prompts(48)][:24] == [p.name for p in single_prompts(48)][24:]


def test_targets_fall_back_to_the_rule() -> None:
    prompt = relation_prompts("choose", 1)[0]
    rule = tuple((item.x, item.y) for item in rule_layout(prompt).objects)
    assert targets(prompt, Layout(())) == rule
    only = Layout((LayoutObject("a thing", 0.1, 0.9, name=prompt.second),))
    assert targets(prompt, only) == (rule[0], (0.1, 0.9))


# -------------------------------------------------------------------------------------------- methods


def test_methods_are_read_from_words() -> None:
    assert not parse_method("base").controlled
    assert parse_method("fixed:weight=2").weight == 2
    assert parse_method("fixed:weight=1,swap=true").swap
    assert parse_method("fixed:weight=8,until=0.12").until == 0.12
    assert parse_method("fixed:weight=1,blend=unconditional").blend == "unconditional"
    against = parse_method("per-step:blend=conditional").preset
    assert against is not None and against.blend == "conditional"
    preset = parse_method("per-step:inner_steps=3,learning_rate=0.2").preset
    assert preset is not None and preset.inner_steps == 3 and preset.learning_rate == 0.2
    shared = parse_method("iccv-2023:shared=true")
    assert shared.preset is not None and shared.preset.shared and constants_of(shared)["preset"]["shared"] is True
    assert "shared" not in constants_of(parse_method("iccv-2023"))["preset"]  # results from before lack it
    labels = ("base", "fixed:weight=1", "fixed:weight=2", "per-step:learning_rate=0.2", "per-step")
    assert len({parse_method(label).folder for label in labels}) == len(labels)


@pytest.mark.parametrize(
    "text",
    [
        "best",
        "base:weight=1",
        "fixed:wait=1",
        "fixed:weight=x",
        "per-step:rounds",
        "per-step:mode=x",
        "per-step:inner_steps=0.5",
        "fixed:blend=none",
        "per-step:blend=x",
        "per-step:shared=true",
    ],
)
def test_method_mistakes(text: str) -> None:
    with pytest.raises(UserError):
        parse_method(text)


# --------------------------------------------------------------------------------------------- running


def fill(monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> list[tuple[str, int]]:
    """Replaces the diffusion model by flat images; returns the list of (method, seed) made."""
    made: list[tuple[str, int]] = []

    def flat(pipeline: Any, method: Any, prompts: Any, layouts: Any, seeds: Any, sampling: Any) -> Any:
        if stop_after is not None and len(made) >= stop_after:
            raise KeyboardInterrupt
        made.extend((method.label, seed) for seed in seeds)
        return [np.full((64, 64, 3), seed % 256, np.uint8) for seed in seeds]

    monkeypatch.setattr(runner, "generate_images", flat)
    return made


def test_a_stopped_run_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    jobs = make_jobs(relation_prompts("choose", 6))
    methods = [parse_method("base"), parse_method("fixed:weight=1")]
    fill(monkeypatch, stop_after=8)
    with pytest.raises(KeyboardInterrupt):
        make_images(ImageStore(tmp_path, {"a": 1}), methods, jobs, object, Sampling(), 2)  # type: ignore
    store = ImageStore(tmp_path, {"a": 1})
    assert [len(store.missing(method, jobs)) for method in methods] == [0, 4]
    made = fill(monkeypatch)
    make_images(store, methods, jobs, object, Sampling(), 2)  # type: ignore[arg-type, return-value]
    assert made == [("fixed:weight=1", job.seed) for job in jobs[2:]]
    assert store.load(methods[1], 3)[0, 0, 0] == jobs[3].seed % 256
    assert not list(tmp_path.rglob(".tmp*"))


def test_keys_that_differ_are_named_in_order() -> None:
    known, wanted = {"a": 1, "d": 0, "b": 2, "e": None}, {"a": 1, "d": 1, "b": 2, "c": 3}
    assert changed_keys(known, wanted) == changed_keys(wanted, known) == ["c", "d"]
    assert changed_keys(known, dict(known)) == []


def test_images_of_other_settings_are_refused(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, {"steps": 25})
    with pytest.raises(UserError, match=r"other settings \(steps\)"):
        ImageStore(tmp_path, {"steps": 50})
    store.claim(parse_method("per-step"))
    store.claim(parse_method("per-step"))
    (tmp_path / "per-step" / "method.json").write_text("{}")
    with pytest.raises(UserError, match="other settings"):
        store.claim(parse_method("per-step"))
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(UserError, match="can't be read"):
        ImageStore(tmp_path, {"steps": 25})


def test_only_two_objects_can_change_places() -> None:
    layout = rule_layout(relation_prompts("choose", 1)[0])
    method = parse_method("per-step:swap=true")
    assert method.arrange(layout) == swapped(layout)
    assert parse_method("per-step").arrange(layout) == layout
    single = Layout(layout.objects[:1], layout.prompt)
    assert method.arrange(single) == single


def test_images_are_swapped_only_where_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def look(pipeline: Any, method: Any, prompts: Any, layouts: Any, seeds: Any, sampling: Any) -> Any:
        seen[method.label] = layouts[0]
        return [np.zeros((64, 64, 3), np.uint8)] * len(seeds)

    monkeypatch.setattr(runner, "generate_images", look)
    jobs: list[Job] = make_jobs(relation_prompts("choose", 1))
    methods = [parse_method("fixed"), parse_method("fixed:swap=true")]
    make_images(ImageStore(tmp_path, {}), methods, jobs, object, Sampling())  # type: ignore
    assert seen["fixed"] == jobs[0].layout and seen["fixed:swap=true"] == swapped(jobs[0].layout)


class ByColor:
    """A stand-in for the detector: finds the first object in every image, and both in bright ones."""

    device = torch.device("cpu")

    def __init__(self, names: list[tuple[str, str]]) -> None:
        self.names = names

    def detect(self, images: torch.Tensor) -> list[list[Detection]]:
        rows = []
        for (first, second), image in zip(self.names, images, strict=True):
            both = [Detection(first, 0.9, 0.1, 0.1), Detection(second, 0.9, 0.9, 0.9)]
            rows.append(both if image.mean() > 0.5 else both[:1])
        return rows


def test_table_of_two_methods(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prompts = relation_prompts("choose", 8)
    jobs, methods = make_jobs(prompts), [parse_method("base"), parse_method("fixed:weight=1")]
    store = ImageStore(tmp_path, {})
    for method, level in zip(methods, (0, 255), strict=True):
        for job in jobs:
            store.save(method, job.index, np.full((64, 64, 3), level, np.uint8))
    detector: Any = ByColor([prompt.names for prompt in prompts])
    table = build_table(detector, store, methods, prompts, jobs, {"count": 8})
    base, fixed = table["rows"]
    right = sum(prompt.relation in ("left", "above") for prompt in prompts)
    assert base["object_recall"] == {"hits": 8, "total": 16, "value": 0.5}
    assert base["both_present"]["hits"] == 0 and base["relation_given_both"]["value"] is None
    assert fixed["both_and_right"]["hits"] == right
    assert fixed["against_base"]["object_recall"] == {"mean": 0.5, "low": 0.5, "high": 0.5}
    text = markdown(table)
    assert "| base | 0.500 (8/16) |" in text and "+0.500 (+0.500, +0.500)" in text
    json.dumps(table)


# --------------------------------------------------------------------------- with a tiny diffusion model


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tiny_world.TinyWorld:
    return tiny_world.build(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def pipeline(world: tiny_world.TinyWorld) -> Pipeline:
    choice = ModelChoice(world.config, world.ckpt, embedded=False)
    return load_pipeline(choice, device="cpu", clip=world.clip)


def make(pipeline: Pipeline, label: str, count: int = 2) -> list[np.ndarray]:
    jobs = make_jobs(relation_prompts("choose", 2))[-count:]
    return runner.generate_images(
        pipeline,
        parse_method(label),
        [job.prompt for job in jobs],
        [job.layout for job in jobs],
        [job.seed for job in jobs],
        Sampling(steps=3, scale=3.0),
    )


def test_methods_share_the_noise_and_differ_by_the_control(pipeline: Pipeline) -> None:
    base = make(pipeline, "base")
    assert base[0].shape == (32, 32, 3) and base[0].dtype == np.uint8
    for label in ("fixed:weight=0", "per-step:inner_steps=0,initial=0", "april-2023:rounds=1,initial=0"):
        for image, plain in zip(make(pipeline, label), base, strict=True):
            assert np.abs(image.astype(int) - plain).max() <= 1, label
    for label in ("fixed:weight=1", "per-step", "iccv-2023:rounds=1", "iccv-2023:rounds=2,shared=true"):
        assert not np.array_equal(make(pipeline, label)[0], base[0]), label


def test_a_image_is_the_same_alone_and_in_a_batch(pipeline: Pipeline) -> None:
    for label in ("base", "fixed:weight=1"):
        alone, together = make(pipeline, label, count=1)[0], make(pipeline, label)[1]
        assert np.abs(alone.astype(int) - together).max() <= 1


def test_table_and_single_from_the_command_line(
    world: tiny_world.TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script()
    model = ["--config", world.config, "--ckpt", world.ckpt, "--clip", world.clip, "--device", "cpu"]
    flags = [*map(str, model), "--steps", "2", "--count", "2", "--outdir", str(tmp_path / "images")]
    table = ["table", *flags, "--set", "choose", "--methods", "base", "fixed", "--out", str(tmp_path / "t.json")]
    assert script.main(table) == 0
    assert "| fixed |" in capsys.readouterr().out
    content = json.loads((tmp_path / "t.json").read_text())
    assert [row["object_recall"]["total"] for row in content["rows"]] == [4, 4]
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "images").rglob("*.png")}
    assert len(files) == 4
    assert script.main(table) == 0  # nothing is made again
    assert files == {file: file.stat().st_mtime_ns for file in files}
    assert script.main(["single", *flags, "--out", str(tmp_path / "s.json")]) == 0
    assert json.loads((tmp_path / "s.json").read_text())["recall"]["total"] == 2


# ----------------------------------------------------------------------------------------- calibration


def test_labels_by_hand(tmp_path: Path) -> None:
    for index in range(4):
        Image.new("RGB", (64, 64), (index, 0, 0)).save(tmp_path / f"000{index}.png")
    files = pick_images(tmp_path, 3)
    assert files == pick_images(tmp_path, 3) and len(set(files)) == 3
    with pytest.raises(UserError, match="fewer"):
        pick_images(tmp_path, 5)
    path = tmp_path / "out" / "labels.json"
    start_labels(files, path)
    with pytest.raises(UserError, match="exists already"):
        start_labels(files, path)
    labeled = read_labels(path)
    assert [item.load()[0, 0, 0] for item in labeled] == [int(file.stem) for file in files]
    assert contact_sheet([item.load() for item in labeled]).size == (5 * 278, 278)
    content = json.loads(path.read_text())
    content["images"][0]["objects"] = [{"name": "cat", "x": 0.5, "y": 0.25}]
    path.write_text(json.dumps(content))
    assert read_labels(path)[0].objects == [("cat", 0.5, 0.25)]
    content["images"][0]["objects"] = [{"name": "unicorn", "x": 0.5, "y": 0.25}]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="unicorn"):
        read_labels(path)
    path.write_text("[]")
    with pytest.raises(UserError, match="form"):
        read_labels(path)


def test_detecting_goes_in_batches() -> None:
    detector: Any = ByColor([("cat", "dog")] * 64)
    images = [np.full((64, 64, 3), 255 * (index % 2), np.uint8) for index in range(64)]
    found = detect_images(detector, images)
    assert [len(items) for items in found[:4]] == [1, 2, 1, 2]


# ---------------------------------------------------------------------------------------------- script


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["table", "--set", "all"], "invalid choice"),
        (["table", "--count", "0"], "whole number"),
        (["table", "--steps", "1001"], "whole number"),
        (["nothing"], "invalid choice"),
        (["table", "--count", "100000"], "has 1328 prompts"),
        (["table", "--methods", "magic"], "no method 'magic'"),
        (["calibrate", "--labels", "nowhere.json"], "can't be read"),
        (["detector", "--detector", "nowhere.safetensors"], "does not exist"),
        (["sheet", "--outdir", "nowhere", "--labels", "nowhere.json"], "holds 0 images"),
    ],
)
def test_mistakes_end_with_one_sentence(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = load_script().main(arguments)
    except SystemExit as exit_:
        code = exit_.code
    said = capsys.readouterr().err.strip()
    assert code == 2 and complaint in said
    assert said.startswith("error: ") and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "resumes"),
    [
        (["table"], True),
        (["single"], True),
        (["evidence"], True),
        (["detector"], False),
        (["score", "--run", "x"], False),
    ],
)
def test_an_interrupt_says_whether_the_command_goes_on(
    arguments: list[str], resumes: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(options: Any) -> str:
        raise KeyboardInterrupt

    script = load_script()
    monkeypatch.setitem(script.COMMANDS, arguments[0], interrupt)
    assert script.main(arguments) == 130
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("interrupted: what was being made was not written.")
    assert line.endswith("The same command goes on where it stopped.") == resumes


# ------------------------------------------------------------------------------------- earlier results


def test_a_table_grows_from_an_earlier_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prompts, settings = relation_prompts("choose", 6), {"steps": 25}
    jobs, methods = make_jobs(prompts), [parse_method("base"), parse_method("fixed:weight=1")]
    made = fill(monkeypatch)
    store = ImageStore(tmp_path / "first", settings)
    make_images(store, methods, jobs[:4], object, Sampling())  # type: ignore[arg-type, return-value]
    detector: Any = ByColor([prompt.names for prompt in prompts[:4]])
    first = build_table(detector, store, methods, prompts[:4], jobs[:4], {**settings, "count": 4})
    path = tmp_path / "first.json"
    path.write_text(json.dumps(first))
    known = read_known([path], {**settings, "count": 6}, prompts, methods)
    assert {label: len(scores) for label, scores in known.items()} == {"base": 4, "fixed:weight=1": 4}
    made.clear()
    other = ImageStore(tmp_path / "second", settings)
    counts = {label: len(scores) for label, scores in known.items()}
    make_images(other, methods, jobs, object, Sampling(), known=counts)  # type: ignore[arg-type, return-value]
    assert made == [(method.label, job.seed) for method in methods for job in jobs[4:]]
    detector.names = [prompt.names for prompt in prompts[4:]]
    table = build_table(detector, other, methods, prompts, jobs, {**settings, "count": 6}, known)
    assert [row["images"][:4] for row in table["rows"]] == [row["images"] for row in first["rows"]]
    assert all(len(row["images"]) == 6 and row["object_recall"]["total"] == 12 for row in table["rows"])


def test_results_that_do_not_belong_are_refused(tmp_path: Path) -> None:
    prompts, methods = relation_prompts("choose", 3), [parse_method("per-step")]
    row = {"method": "per-step", "constants": constants_of(methods[0]), "images": []}
    table = {"settings": {"steps": 25}, "prompts": [asdict(prompt) for prompt in prompts], "rows": [row]}
    path = tmp_path / "result.json"
    path.write_text(json.dumps(table))
    assert read_known([path], {"steps": 25, "count": 3}, prompts, methods) == {}
    with pytest.raises(UserError, match=r"other settings \(steps\)"):
        read_known([path], {"steps": 50}, prompts, methods)
    with pytest.raises(UserError, match="other prompts"):
        read_known([path], {"steps": 25}, relation_prompts("report", 3), methods)
    path.write_text(json.dumps({**table, "rows": [{**row, "constants": {}}]}))
    with pytest.raises(UserError, match="other constants"):
        read_known([path], {"steps": 25}, prompts, methods)
    for text in ("{", "[]", '{"rows": [1]}'):
        path.write_text(text)
        with pytest.raises(UserError, match="no result of"):
            read_known([path], {"steps": 25}, prompts, methods)
