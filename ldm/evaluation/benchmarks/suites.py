"""The benchmarks by name: how each reads its file, judges an image and calls its columns."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from layout_predictor.LayoutTransformer.data.categories import THINGS, spoken_name
from ldm.evaluation.benchmarks import geneval, t2i_compbench, visor
from ldm.evaluation.benchmarks.benchmark import (
    PUBLISHED,
    Benchmark,
    Case,
    Columns,
    Groups,
    Score,
    Size,
    by_group,
    column,
    corrected_of,
    prompts_column,
    value_of,
)
from ldm.evaluation.benchmarks.boxes import Detection
from ldm.evaluation.benchmarks.folders import check_line
from ldm.evaluation.benchmarks.layout_suites import Lmd, SevenBench
from ldm.evaluation.benchmarks.t2i_compbench import Depth
from ldm.evaluation.prompts.files import json_lines, text_lines, text_of_lines
from ldm.evaluation.prompts.prompt import COLORS, EvalObject, EvalPrompt, EvalRelation
from ldm.evaluation.score.metrics import Counts
from ldm.relations import ABOVE, BELOW, LEFT, RELATIONS, RIGHT, with_article
from ldm.util import UserError

_MOST = 100  # of a thing in an image


def open_benchmark(name: str, threshold: float | None = None) -> Benchmark:
    """The benchmark of a name; see `Benchmark`. UserError if there is none."""
    if name not in PUBLISHED:
        raise UserError(f"there is no benchmark '{name}'; choose one of {', '.join(PUBLISHED)}")
    kinds: dict[str, type[Benchmark]] = {"geneval": GenEval, "visor": Visor, "lmd": Lmd, "t2i-numeracy": Numeracy}
    kinds |= {"t2i-2d": Spatial, "t2i-3d": Spatial3D, "t2i-complex": Spatial}
    return kinds.get(name, SevenBench)(name, threshold)


def _fields(record: Any, kinds: Mapping[str, type | tuple[type, ...]], where: str, file: str) -> list[Any]:
    """The values of a record's fields. UserError naming one that lacks or is of another kind."""
    if not isinstance(record, Mapping):
        raise UserError(f"{where} is no JSON object; give {file}")
    for key, kind in kinds.items():
        if not isinstance(record.get(key), kind):
            state = "lacks" if key not in record else "has another kind of"
            raise UserError(f'{where} {state} "{key}"; give {file}')
    return [record[key] for key in kinds]


def _relation(index: int, position: Any, clauses: int, where: str) -> EvalRelation:
    """GenEval's position of clause `index`: a relation, and the number of the clause that it is about."""
    if isinstance(position, list) and len(position) == 2:
        relation, target = position
        if relation in RELATIONS and target in range(clauses) and target != index:
            return EvalRelation(index, relation, target)
    raise UserError(f"{where} has the position {position}, which can't be judged; write as ['left of', 0]")


class GenEval(Benchmark):
    """Six tasks, scored right or wrong; overall is the mean of the tasks."""

    pattern = r"(?P<id>\d+)/samples/(?P<label>\d+)\.png"

    def read_cases(self, path: Path) -> list[Case]:
        """See `Benchmark`."""
        cases, file = [], self.facts["file"]
        for number, (where, record) in enumerate(json_lines(path)):
            tag, include, text = _fields(record, {"tag": str, "include": list, "prompt": str}, where, file)
            exclude = _fields(record, {"exclude": list}, where, file)[0] if "exclude" in record else []
            names, objects, relations = [], [], []
            for clause in (*include, *exclude):
                name, count = _fields(clause, {"class": str, "count": int}, where, file)
                if not 1 <= count <= _MOST:
                    raise UserError(f"{where} wants {count} of '{name}'; that many can't be judged")
                names.append(name)
            for index, (name, clause) in enumerate(zip(names, include, strict=False)):
                count, color = clause["count"], clause.get("color")
                if color not in (None, *COLORS):
                    raise UserError(f"{where} wants the color {color!r}, which is not one of {', '.join(COLORS)}")
                phrase = with_article(f"{color} {name}" if color else name) if count == 1 else f"{count} {name}"
                objects.append(EvalObject(name, phrase, count, color))
                if "position" in clause:
                    relations.append(_relation(index, clause["position"], len(include), where))
            prompt = EvalPrompt(text, tuple(objects), tuple(relations))
            own = tuple(dict.fromkeys(names))
            cases.append(Case(f"{number:05d}", tag, prompt, own, record, json.dumps(record)))
        return cases

    def judge(self, case: Case, detections: Sequence[Detection], size: Size, depth: Depth | None) -> Score:
        """See `Benchmark`."""
        options = (
            replace(one, threshold=self.least(one.threshold), counting_threshold=self.least(one.counting_threshold))
            for one in (geneval.PUBLISHED, geneval.CORRECTED)
        )
        faults, corrected = (geneval.judge(detections, case.asked, one) for one in options)
        words = [
            f"{fault.name}: {fault.kind.replace('_', ' ')}"
            + (f", {fault.found} for {fault.need}" if fault.need else "")
            for fault in faults
        ]
        return Score(not faults, not corrected, all(fault.kind != "count" for fault in faults), tuple(words))

    def columns(self, groups: Groups) -> Columns:
        """See `Benchmark`; every image weighs as its share of its task, so that the ratio is the mean of the tasks."""
        images: Counter[str] = Counter()
        for case, scores in groups:
            images[case.group] += len(scores)

        def weighed(corrected: bool, case: Case, score: Score) -> Counts:
            weight = images.total() / len(images) / images[case.group]
            return weight * (score.corrected if corrected else score.value), weight

        return {
            "overall": column(groups, partial(weighed, False)),
            **by_group(groups),
            "prompts with a correct image": prompts_column(groups, lambda _, scores: (any(s.value for s in scores), 1)),
            "overall, corrected": column(groups, partial(weighed, True)),
        }

    def place(self, case: Case, number: int, label: int) -> str:
        """See `Benchmark`."""
        return f"{number:05d}/samples/{label:04d}.png"

    def id_of(self, text: str) -> str:
        """See `Benchmark`."""
        return f"{int(text):05d}"

    def check_folder(self, folder: Path, case: Case, images: Sequence[Path]) -> None:
        """See `Benchmark`."""
        check_line(images[0].parents[1] / "metadata.jsonl", case.prompt.text)


class Visor(Benchmark):
    """Relations of two objects; without a file the original prompts are made."""

    pattern = r"(?P<id>\d+)_(?P<label>\d+)\.png"
    ask = "a photo of a {}"

    def read_cases(self, path: Path) -> list[Case]:
        """See `Benchmark`. UserError for a file of as many prompts as the original that differs from it."""
        cases = [self._case(record, where) for where, record in json_lines(path)]
        texts = "\n".join(case.prompt.text for case in cases)
        self.published = hashlib.sha256(texts.encode()).hexdigest() == visor.TEXTS_SHA256
        if len(cases) == visor.PROMPTS and not self.published:
            raise UserError(f"{path} has other texts than the benchmark; leave out --prompts to make the original ones")
        return cases

    def made(self) -> list[Case]:
        """The original prompts."""
        self.published = True
        return [self._case(entry, "the rule") for entry in visor.make_entries([spoken_name(thing) for thing in THINGS])]

    def _case(self, record: Any, where: str) -> Case:
        kinds = {"unique_id": int, "obj_1_attributes": list, "obj_2_attributes": list, "rel_type": str, "text": str}
        number, firsts, seconds, relation, text = _fields(record, kinds, where, "VISOR's text_spatial_rel_phrases.json")
        names = [name for name in (*firsts[:1], *seconds[:1]) if name is not None]
        if not names or not all(isinstance(name, str) for name in names):
            raise UserError(f"{where} names no object in 'obj_1_attributes'; restore the file")
        objects = tuple(EvalObject(name, with_article(name)) for name in names)
        stated = (EvalRelation(0, visor.RELATIONS[relation], 1),) if relation in visor.RELATIONS else ()
        return Case(str(number), relation, EvalPrompt(text, objects, stated), tuple(names), relation)

    def judge(self, case: Case, detections: Sequence[Detection], size: Size, depth: Depth | None) -> Score:
        """See `Benchmark`."""
        first, second = (*case.names, None)[:2]
        limit = self.least(visor.THRESHOLD)
        assert first is not None
        recall, right = visor.judge(detections, (first, second), case.asked, limit=limit)
        corrected = visor.judge(detections, (first, second), case.asked, surest=True, limit=limit)[1]
        found = {one.name for one in detections}
        faults = [f"no {name}" for name in case.names if name not in found]
        if recall == 2 and not right:
            faults.append(f"not {case.asked}")
        return Score(right, corrected, recall == 2, tuple(faults))

    def columns(self, groups: Groups) -> Columns:
        """See `Benchmark`."""

        def stated(case: Case) -> bool:
            return case.asked in visor.RELATIONS

        def at_least(n: int, case: Case, scores: Sequence[Score]) -> Counts:
            return stated(case) * (sum(score.value for score in scores) >= n), stated(case)

        found: Columns = {
            "OA": column(groups, lambda case, score: (stated(case) * score.both, stated(case))),
            "VISOR uncond": column(groups, lambda case, score: (stated(case) * score.value, stated(case))),
            "VISOR cond": column(groups, lambda case, score: (stated(case) * score.value, stated(case) * score.both)),
        }
        found |= {f"VISOR_{n}": prompts_column(groups, partial(at_least, n)) for n in (1, 2, 3, 4)}
        corrected = column(groups, lambda case, score: (stated(case) * score.corrected, stated(case)))
        return {**found, "VISOR uncond, corrected": corrected}

    def place(self, case: Case, number: int, label: int) -> str:
        """See `Benchmark`."""
        return f"{case.id}_{label}.png"


class _T2I(Benchmark):
    """Images are named by their prompts, ten of a prompt numbered on through the file."""

    pattern = r"samples/(?P<id>[^_/]*)_(?P<label>\d{6})\.png"

    def read_cases(self, path: Path) -> list[Case]:
        """See `Benchmark`."""
        cases = []
        for where, text in text_of_lines(text_lines(path), path):
            if re.search(r"[/_{}\[\]]", text):
                raise UserError(f"{where}: '{text[:60]}' has a mark (/ _ {{ [) that no file name can keep")
            cases.append(self.case(text, where))
        return cases

    def case(self, text: str, where: str) -> Case:
        """The case of a prompt. UserError, beginning with `where`, for one of another category."""
        raise NotImplementedError

    def columns(self, groups: Groups) -> Columns:
        """See `Benchmark`."""
        return {"score": column(groups, value_of), "score, corrected": column(groups, corrected_of)}

    def place(self, case: Case, number: int, label: int) -> str:
        """See `Benchmark`."""
        return f"samples/{case.id}_{number * self.facts['samples'] + label:06d}.png"

    def label_of(self, text: str, number: int, images: int) -> int:
        """See `Benchmark`. UserError for images that are not numbered through the file."""
        labels = [int(text) - number * each for each in (self.facts["samples"], images)]
        label = next((label for label in labels if 0 <= label < self.facts["samples"]), None)
        if label is None:
            raise UserError(f"prompt {number} has an image of number {text}; number {images} a prompt through the file")
        return label


class Spatial(_T2I):
    """Two nouns and a relation in the plane."""

    sides = {"left": LEFT, "right": RIGHT, "top": ABOVE, "bottom": BELOW}

    @property
    def kind(self) -> str:
        """Which words are read."""
        return self.name.removeprefix("t2i-")

    def case(self, text: str, where: str) -> Case:
        """See `_T2I`; most complex prompts state no relation and score nothing."""
        asked, plain = (t2i_compbench.read_spatial(text, self.kind, people=people) for people in (False, True))
        if asked.relation is None and (self.kind != "complex" or len(text.split()) < 4):
            raise UserError(f"{where}: '{text}' states no relation of {self.facts['title']}; give {self.facts['file']}")
        nouns = [noun for noun in (plain.first, plain.second) if noun]
        objects = tuple(EvalObject(noun, with_article(noun)) for noun in nouns)
        side = next((word for word in self.sides if re.search(rf"\b{word}\b", asked.relation or "")), None)
        stated = (EvalRelation(0, self.sides[side], 1),) if side and len(objects) == 2 else ()
        unjudged = (asked.relation,) if asked.relation and not stated else ()
        names = dict.fromkeys(noun for noun in (asked.first, asked.second) if noun)
        return Case(text, self.kind, EvalPrompt(text, objects, stated, unjudged), tuple(names), asked)

    def judge(self, case: Case, detections: Sequence[Detection], size: Size, depth: Depth | None) -> Score:
        """See `Benchmark`."""
        found = self.seen(detections, size)
        published, corrected = (self.score(case.asked, found, depth, mended) for mended in (False, True))
        missing = [f"no {name}" for name in case.names if not any(name in one.name for one in found)]
        wrong = [f"not {case.asked.relation}"] if not missing and published < 0.75 else []
        return Score(published, corrected, not missing, (*missing, *wrong))

    def seen(self, detections: Sequence[Detection], size: Size) -> list[Detection]:
        """Detections that count, the surest first, in pixels of the resized image."""
        limit = self.least(t2i_compbench.THRESHOLD)
        order = sorted((one for one in detections if one.score > limit), key=lambda one: -one.score)
        return [one.scaled(t2i_compbench.resized(*size)) for one in order]

    def score(self, asked: Any, found: list[Detection], depth: Depth | None, corrected: bool) -> float:
        """The score of an image by one of both rules."""
        return t2i_compbench.spatial_2d(asked, found, corrected)


class Spatial3D(Spatial):
    """Two nouns, one in front of or behind the other."""

    depth = True
    no_layout = "in front and behind are no places in the plane: use centers of your own"

    def score(self, asked: Any, found: list[Detection], depth: Depth | None, corrected: bool) -> float:
        """See `Spatial`."""
        assert depth is not None
        return t2i_compbench.spatial_3d(asked, found, depth, corrected)


class Numeracy(Spatial):
    """Nouns and their numbers; the list of nouns lies beside the prompts."""

    def read_cases(self, path: Path) -> list[Case]:
        """See `Benchmark`."""
        words = path.with_name("new_objects.txt")
        self.nouns = t2i_compbench.read_nouns("\n".join(text_lines(words)))
        return super().read_cases(path)

    def case(self, text: str, where: str) -> Case:
        """See `_T2I`."""
        try:
            asked = t2i_compbench.read_numbers(text, self.nouns)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        objects = [EvalObject(one, with_article(one) if n == 1 else f"{n} {self.nouns[one]}", n) for one, n in asked]
        names = dict.fromkeys(t2i_compbench.label(noun) for noun, _ in asked)
        return Case(text, self.kind, EvalPrompt(text, tuple(objects)), tuple(names), asked)

    def judge(self, case: Case, detections: Sequence[Detection], size: Size, depth: Depth | None) -> Score:
        """See `Benchmark`."""
        found = self.seen(detections, size)
        published, corrected = (t2i_compbench.numeracy(case.asked, found, mended) for mended in (False, True))
        known = Counter(one.name for one in t2i_compbench.merged(found))
        wanted = [(t2i_compbench.label(noun), number) for noun, number in case.asked]
        faults = [f"{known[noun]} {noun} for {number}" for noun, number in wanted if known[noun] != number]
        return Score(published, corrected, all(known[noun] for noun, _ in wanted), tuple(faults))
