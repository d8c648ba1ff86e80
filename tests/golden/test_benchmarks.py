"""Scorers of published benchmarks against what the original functions return for made-up detections.

All cases are read from the folder that BENCHMARK_GOLDEN names, by default ../shared/golden/benchmarks, with the prompt
files beside it; the few of tests/golden/benchmarks.json are always there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layout_predictor.LayoutTransformer.data.categories import THINGS, spoken_name
from ldm.evaluation.benchmarks import geneval, lmd, seven_bench, t2i_compbench, visor
from ldm.evaluation.benchmarks.benchmark import Case, Columns, Score
from ldm.evaluation.benchmarks.boxes import Detection, iou
from ldm.evaluation.benchmarks.suites import open_benchmark
from ldm.evaluation.prompts.prompt import EvalPrompt
from ldm.evaluation.score.metrics import geneval_relations
from ldm.util import UserError
from tests.golden_data import ROOT

GOLDEN = Path(os.environ.get("BENCHMARK_GOLDEN", ROOT.parent / "shared" / "golden" / "benchmarks"))
DATA = ROOT.parent / "shared" / "data" / "benchmarks"
OWN = ROOT / "tests" / "golden" / "benchmarks.json"
NOUNS = {"dog": "dogs", "cat": "cats", "car": "cars", "boy": "boys", "girl": "girls", "television": "televisions"}


@cache
def _content(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def cases(file: str, section: str) -> Iterator[Any]:
    """Our own cases of a section, and all others where they are."""
    yield from _content(OWN).get(file, {}).get(section, ())
    path = GOLDEN / f"{file}.json"
    yield from _content(path)[section] if path.is_file() else ()


def test_all_cases_are_there() -> None:
    if not GOLDEN.is_dir():
        pytest.skip(f"{GOLDEN} is not there (BENCHMARK_GOLDEN names it): only the cases of {OWN.name} are checked")
    for file, sections in _content(OWN).items():
        for section, own in sections.items():
            assert len(list(cases(file, section))) > len(own)


def detections(entries: list[Any], names: Any = None) -> list[Detection]:
    """Of dictionaries, or of lists of name or query number, score and box."""
    found = []
    for entry in entries:
        if isinstance(entry, dict):
            name = entry.get("class", entry.get("label"))
            found.append(Detection(name, entry["score"], entry["box"], entry.get("color")))
        else:
            found.append(Detection(names[entry[0]] if names else entry[0], entry[1], entry[2]))
    return found


def test_geneval() -> None:
    for case in cases("geneval", "images"):
        options = geneval.Options(**case.get("options", {}))
        found, meta = detections(case["detections"]), case["meta"]
        assert geneval.keep(found, meta["tag"], options) == case["kept"], case
        faults = geneval.judge(found, meta, options)
        assert (not faults) == case["correct"], case
        for fault, expected in zip(faults, case["failed"], strict=True):
            assert (fault.kind, fault.name) == (expected["kind"], expected["class"]), case
            assert fault.need in (0, expected.get("need", expected.get("below", fault.need))), case
            if fault.kind in ("count", "exclude"):
                assert fault.found == expected["found"], case
    for case in cases("geneval", "relative_position"):
        relations = geneval_relations(case["a"], case["b"], case.get("position_threshold", 0.1))
        assert sorted(relations) == sorted(case["relations"]), case
    for a, b, value in cases("geneval", "iou"):
        assert iou(a, b, 1) == pytest.approx(value, abs=1e-9)


def test_visor() -> None:
    for case in cases("visor", "pictures"):
        first, second = case["objects"]
        found = detections(case["detections"], case["objects"])
        assert [list(one.center) for one in found if one.score > visor.THRESHOLD] == case["centroid"]
        assert visor.judge(found, (first, second), case["relation"]) == (case["recall"], case["sra"]), case


def scored(values: dict[tuple[str, str], list[Score]]) -> list[tuple[Case, list[Score]]]:
    """Groups of scores by (group, id)."""
    return [(Case(key, group, EvalPrompt(""), (), group), scores) for (group, key), scores in values.items()]


def shares(columns: Columns) -> dict[str, float]:
    """The value of every column that counted something."""
    sums = {name: (hits.sum(), totals.sum()) for name, (hits, totals) in columns.items()}
    return {name: hits / total for name, (hits, total) in sums.items() if total}


def test_geneval_summary() -> None:
    for case in cases("geneval", "summary"):
        values: dict[tuple[str, str], list[Score]] = {}
        for tag, prompt, correct in case["rows"]:
            values.setdefault((tag, str(prompt)), []).append(Score(correct, correct))
        found = shares(open_benchmark("geneval").columns(scored(values)))
        assert found["overall"] == pytest.approx(case["overall"], abs=1e-9), case
        assert found["prompts with a correct image"] == pytest.approx(case["correct_prompts"], abs=1e-9)
        for tag, right, images in case["tasks"]:
            assert found[tag] == pytest.approx(right / images, abs=1e-9)


def test_visor_sets() -> None:
    suite = open_benchmark("visor")
    for case in cases("visor", "sets"):
        groups: dict[int, tuple[Case, list[Score]]] = {}
        prompts = {number: (first, second, relation) for number, first, second, relation in case["prompts"]}
        for number, _, found in case["pictures"]:
            first, second, relation = prompts[number]
            names = tuple(name for name in (first, second) if name)
            own = Case(str(number), relation, EvalPrompt(""), names, relation)
            score = suite.judge(own, detections(found, [first, second]), (512, 512), None)
            groups.setdefault(number, (own, []))[1].append(score)
        values = shares(suite.columns(list(groups.values())))
        if "error" in case:
            assert "VISOR cond" not in values
            continue
        for name in ("OA", "VISOR cond", "VISOR uncond", "VISOR_1", "VISOR_2", "VISOR_3", "VISOR_4"):
            assert 100 * values[name] == pytest.approx(case[name.replace(" ", "_")], abs=1e-9), (case, name)


def test_seven_bench_aggregate() -> None:
    for case in cases("7bench", "aggregate"):
        ranges = _content(GOLDEN / "7bench.json")["about"]["ranges"][case["benchmark"]]
        values: dict[tuple[str, str], list[Score]] = {}
        for group, (first, last) in ranges.items():
            for i in range(first, last + 1):
                left_out = case["left_out"] is not None
                if not (left_out and 8 <= i <= 15):
                    numbers = [k for k in range(case["pictures"]) if not (left_out and k == 1 and i % 7 == 0)]
                    aucs = [((7919 * i + 104729 * k + 13) % 1001) / 1000 for k in numbers]
                    values[group, str(i)] = [Score(auc, auc) for auc in aucs]
        found = shares(open_benchmark("7bench").columns(scored(values)))
        for name, value in case["layout"].items():
            own = found.get(name, found.get(f"all, {name}"))
            assert own is None if value is None else own == pytest.approx(value, abs=5.1e-5), (name, value)


def test_visor_prompts() -> None:
    entries = list(visor.make_entries([spoken_name(thing) for thing in THINGS]))
    texts = "\n".join(entry["text"] for entry in entries)
    assert len(entries) == 31_680 and hashlib.sha256(texts.encode()).hexdigest() == visor.TEXTS_SHA256


def test_lmd_prompts_and_layouts() -> None:
    for case in cases("lmd", "prompts"):
        if "error" in case:
            with pytest.raises(UserError):
                print(case, lmd.question(case["prompt"]))
            continue
        asked = lmd.question(case["prompt"])
        assert asked.kind == case["type"] and list(asked.queries) == case["queries"], case
        assert [[name] for name in asked.names] == case["names"], case
        assert list(asked.numbers) == case.get("numbers", []) and list(asked.sides) == case.get("relation", []), case
    for case in cases("lmd", "layouts"):
        boxes = [(name, (x, y, x + w, y + h)) for name, (x, y, w, h) in case["boxes"]]
        assert lmd.judge(lmd.question(case["prompt"]), boxes) == case["success"], case


def test_lmd_images() -> None:
    for case in cases("lmd", "pictures"):
        asked = lmd.question(case["prompt"])
        limits = (
            lmd.Limits(case["options"]["score"], case["options"]["nms"], case["options"]["class_aware"])
            if ("options" in case)
            else lmd.LIMITS[case["preset"]]
        )
        found = detections(case["detections"], asked.queries)
        kept = lmd.keep(found, [entry[0] for entry in case["detections"]], limits)
        assert kept == case["kept"], case
        assert lmd.judge(asked, lmd.named([found[index] for index in kept])) == case["success"], case


def test_lmd_answers() -> None:
    for case in cases("lmd", "texts"):
        if "error" in case:
            with pytest.raises(UserError):
                lmd.read_answer(case["text"])
            continue
        answer = lmd.read_answer(case["text"])
        assert [[name, list(box)] for name, box in answer.boxes] == case["boxes"], case
        assert (answer.background, answer.negative) == (case["background"], case["negative"]), case
    if (DATA / "lmd").is_dir():
        cached = _content(DATA / "lmd" / "cache_lmd_v0.1_gpt-4.json")
        for case in cases("lmd", "written"):
            answer = lmd.read_answer(cached[case["prompt"]][0])
            assert [[name, list(box)] for name, box in answer.boxes] == case["boxes"], case
            assert (answer.background, answer.negative) == (case["background"], case["negative"]), case


def test_seven_bench() -> None:
    for case in cases("7bench", "pictures"):
        found = seven_bench.overlaps([tuple(item) for item in case["objects"]], detections(case["detections"]))
        assert found.ious == pytest.approx(case["iou"], abs=1e-9) and found.chosen == case["chosen"], case
        assert found.accuracy == pytest.approx(case["accuracy"], abs=1e-9), case
        assert found.auc == pytest.approx(case["auc"], abs=1e-9), case
    for a, b, value in cases("7bench", "iou"):
        assert iou(a, b, 1) == pytest.approx(value, abs=1e-9)


def depth_map(entry: Any) -> t2i_compbench.Depth:
    depth = np.full(entry["size"], entry["background"])
    for x0, y0, x1, y1, value in entry["rects"]:
        depth[y0:y1, x0:x1] = value
    return depth


def test_t2i_compbench_relations() -> None:
    for case in cases("t2i_compbench", "position_2d"):
        score = t2i_compbench.relation_2d(case["relation"], case["a"], case["b"])
        assert "error" in case or score == pytest.approx(case["score"], abs=1e-9), case
    for case in cases("t2i_compbench", "position_3d"):
        score = t2i_compbench.relation_3d(case["relation"], case["a"], case["b"], depth_map(case["depth"]))
        assert "error" in case or score == pytest.approx(case["score"], abs=1e-9), case
    for section in ("spatial_2d", "spatial_3d"):
        for case in cases("t2i_compbench", section):
            asked = t2i_compbench.Spatial(case["obj1"], case["locality"], case["obj2"])
            found = detections(case["detections"])
            if section == "spatial_2d":
                score = t2i_compbench.spatial_2d(asked, found)
            else:
                score = t2i_compbench.spatial_3d(asked, found, depth_map(case["depth"]))
            assert "error" in case or score == pytest.approx(case["score"], abs=1e-9), case


def test_t2i_compbench_numbers() -> None:
    for a, b, value in cases("t2i_compbench", "merge"):
        assert t2i_compbench.same_thing(a, b) == bool(value), (a, b)
    words = DATA / "t2i_compbench" / "new_objects.txt"
    nouns = t2i_compbench.read_nouns(words.read_text()) if words.is_file() else NOUNS
    for case in cases("t2i_compbench", "numeracy"):
        found = detections(case["detections"])
        if "error" in case:
            with pytest.raises(UserError):
                print(case, t2i_compbench.read_numbers(case["prompt"], nouns))
            continue
        asked = t2i_compbench.read_numbers(case["prompt"], nouns)
        assert asked == list(zip(case["objects"], case["numbers"], strict=True)), case
        assert [one.name for one in t2i_compbench.merged(found)] == case["kept"], case
        assert t2i_compbench.numeracy(asked, found) == pytest.approx(case["score"], abs=1e-9), case


def test_t2i_compbench_three_in_one() -> None:
    for case in cases("t2i_compbench", "three_in_one"):
        lists = {
            kind: [text for text, own in zip(case["prompts"], case["kinds"], strict=True) if own == kind]
            for kind in ("spatial", "action")
        }
        for index, answer in enumerate(case["answers"]):
            scores = {name: case[name][index] for name in ("attribute", "spatial", "action")}
            prompt = case["prompts"][index // case["pictures_per_prompt"]]
            assert t2i_compbench.three_in_one(prompt, scores, **lists) == pytest.approx(answer, abs=1e-9), case


def test_t2i_compbench_prompts() -> None:
    for kind in ("2d", "3d", "complex"):
        section = "complex_2d" if kind == "complex" else f"spatial_{kind}"
        for case in cases("t2i_compbench_parse", section):
            asked = t2i_compbench.read_spatial(case["prompt"], kind)
            assert (asked.first, asked.relation, asked.second) == (case["obj1"], case["locality"], case["obj2"]), case
    words = DATA / "t2i_compbench" / "new_objects.txt"
    nouns = t2i_compbench.read_nouns(words.read_text()) if words.is_file() else NOUNS
    for case in cases("t2i_compbench_parse", "numeracy"):
        asked = t2i_compbench.read_numbers(case["prompt"], nouns)
        assert asked == list(zip(case["objects"], case["numbers"], strict=True)), case
