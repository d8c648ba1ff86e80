"""The benchmarks whose files hold boxes: LMD, and 7Bench with C-Bench and O-Bench."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ldm.errors import DAMAGED
from ldm.evaluation.benchmarks import lmd, seven_bench
from ldm.evaluation.benchmarks.benchmark import (
    Benchmark,
    Case,
    Columns,
    Groups,
    Score,
    Size,
    by_group,
    column,
    corrected_of,
    value_of,
)
from ldm.evaluation.benchmarks.boxes import Detection
from ldm.evaluation.benchmarks.t2i_compbench import Depth
from ldm.evaluation.prompts.files import text_lines, text_of_lines
from ldm.evaluation.prompts.prompt import EvalObject, EvalPrompt
from ldm.evaluation.score.metrics import Counts
from ldm.files import read_json
from ldm.generation.layouts import boxes_of_row
from ldm.util import UserError


class Lmd(Benchmark):
    """Four kinds of prompts; the answers of a language model beside them are the layouts."""

    pattern = r"(?P<id>\d+)/img_(?P<label>[^/]*)\.png"

    def read_cases(self, path: Path) -> list[Case]:
        """See `Benchmark`. The n-th occurrence of a prompt has the n-th answer of cache_*.json beside it."""
        answers: dict[str, list[str]] = {}
        for file in sorted(path.parent.glob("cache_*.json"))[:1]:
            try:
                answers = {prompt: list(own) for prompt, own in read_json(file).items()}
            except DAMAGED:
                raise UserError(f"{file} can't be read as the cached answers of LMD; restore it") from None
        cases: list[Case] = []
        seen: Counter[str] = Counter()
        for where, text in text_of_lines(text_lines(path), path):
            try:
                asked = lmd.question(text)
                own = answers.get(text, ())
                answer = lmd.read_answer(own[seen[text]]) if seen[text] < len(own) else None
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
            seen[text] += 1
            if answer is None:  # without a layout: what is asked for
                self.no_layout = f"'{text}' has no layout: put LMD's cache_lmd_v0.1_gpt-4.json beside {path.name}"
                objects = [
                    EvalObject(query.removeprefix(lmd.ASK), query.removeprefix(lmd.ASK)) for query in asked.queries
                ]
            else:
                corners = [(name, (x, y, x + w, y + h)) for name, (x, y, w, h) in answer.boxes]
                objects = [_wanted(name, box, lmd.SIDE) for name, box in corners]
            both = (asked, lmd.question(text, whole=True))
            names = tuple(dict.fromkeys(query for one in both for query in one.queries))
            cases.append(Case(str(len(cases)), _lmd_kind(asked.kind), EvalPrompt(text, tuple(objects)), names, both))
        return cases

    def judge(self, case: Case, detections: Sequence[Detection], size: Size, depth: Depth | None) -> Score:
        """See `Benchmark`."""
        limits = replace(lmd.LIMITS["readme"], score=self.least(lmd.LIMITS["readme"].score))
        kept = lmd.keep(detections, [case.names.index(one.name) for one in detections], limits)
        boxes = lmd.named([detections[index] for index in kept])
        right, corrected = (
            lmd.judge(asked, boxes, whole) for asked, whole in zip(case.asked, (False, True), strict=True)
        )
        seen = ", ".join(name for name, _ in boxes) or "nothing"
        return Score(right, corrected, faults=() if right else (f"{case.group}: {seen}",))

    def columns(self, groups: Groups) -> Columns:
        """See `Benchmark`."""
        both = {"overall": column(groups, value_of), "overall, corrected": column(groups, corrected_of)}
        return {**by_group(groups), **both}

    def place(self, case: Case, number: int, label: int) -> str:
        """See `Benchmark`."""
        if label:
            raise UserError("LMD's evaluator reads exactly one image of a prompt; export with one of --seeds")
        return f"{number}/img_0.png"

    def label_of(self, text: str, number: int, images: int) -> int:
        """See `Benchmark`; any name will do."""
        return 0

    def check_folder(self, folder: Path, case: Case, images: Sequence[Path]) -> None:
        """See `Benchmark`."""
        if len(images) > 1:
            raise UserError(
                f"{images[0].parent} has {len(images)} images; LMD's evaluator wants exactly one of a prompt"
            )


def _lmd_kind(kind: str) -> str:
    return "numeracy" if kind == "numeracy_2obj" else kind


def _wanted(name: str, box: Sequence[float], side: int) -> EvalObject:
    """An object with the place of its box in an image of side x side pixels."""
    left, top, right, bottom = (value / side for value in box)
    return EvalObject(name, name, box=(left, top, right, bottom))


class SevenBench(Benchmark):
    """Scenarios of one to eight boxes; also C-Bench and O-Bench."""

    first = 1
    pattern = r"(?P<id>\d+)_[^/]*/(?P<label>\d+)\.(?!png$|csv$)[^/]*"

    def read_cases(self, path: Path) -> list[Case]:
        """See `Benchmark`."""
        rows = csv.DictReader(text_lines(path))
        if lacking := [
            key for key in ("id", "category", "prompt", "obj1", "bbox1") if key not in (rows.fieldnames or ())
        ]:
            raise UserError(f"{path} has no column '{lacking[0]}'; give {self.facts['file']}")
        cases = []
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if not (row["id"] or "").isdigit() or not row["prompt"]:
                raise UserError(f"{where} lacks its id or its prompt; restore the file")
            objects = boxes_of_row(row, where)
            wanted = tuple(_wanted(name, box, seven_bench.SIDE) for name, box in objects)
            names = tuple(dict.fromkeys(name for name, _ in objects))
            group = f"{row['category']}, {len(objects)} obj"
            cases.append(Case(row["id"], group, EvalPrompt(row["prompt"], wanted), names, tuple(objects)))
        return cases

    def judge(self, case: Case, detections: Sequence[Detection], size: Size, depth: Depth | None) -> Score:
        """See `Benchmark`; the original cuts the boxes to whole pixels."""
        whole = [replace(one, box=[int(value) for value in one.box]) for one in detections]
        found = seven_bench.overlaps(case.asked, whole)
        ratios = [side / seven_bench.SIDE for side in (*size, *size)]
        boxes = [(name, [v * r for v, r in zip(box, ratios, strict=True)]) for name, box in case.asked]
        ious = seven_bench.surest_overlaps(boxes, detections)
        corrected = seven_bench.auc(seven_bench.accuracy(ious, bool(found.chosen)))
        faults = [f"{name}: IoU {value:.2f}" for name, value in found.ious.items() if value < 0.5]
        return Score(found.auc, corrected, len(found.chosen) == len(found.ious), tuple(faults))

    def columns(self, groups: Groups) -> Columns:
        """See `Benchmark`."""

        def of_size(size: str, case: Case, score: Score) -> Counts:
            return (score.value, 1) if case.group.endswith(size) else (0, 0)

        sizes = sorted({case.group.rpartition(", ")[2] for case, _ in groups})
        return {
            "AUC of all": column(groups, value_of),
            **by_group(groups),
            **{f"all, {size}": column(groups, partial(of_size, f", {size}")) for size in sizes},
            "AUC of all, corrected": column(groups, corrected_of),
        }

    def place(self, case: Case, number: int, label: int) -> str:
        """See `Benchmark`."""
        return f"{case.id}_{case.prompt.text}/{label}.jpg"
