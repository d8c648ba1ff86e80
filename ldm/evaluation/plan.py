"""The evidence of the README: prompt sets by methods and seeds, made bit by bit and kept as scores, not as images.

A plan (``configs/emoji/evidence.yaml``) lists what is to be made, in order. For every prompt set one JSON file keeps a
short word an image, from which all scores can be computed again; what has a word is never made again, in another clone
as well. The word of an image is ``found:counted:relations:background:clip``, as in ``11:10:2:-:27.43``: a digit an
object for found and for counted; a digit a relation, 0 an object lacks, 1 wrong, 2 right, 3 right by GenEval's margin
as well; ``1``, ``0`` or ``-`` for the background; the CLIP score.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ldm.evaluation.harness import Make, Place, Task, run_tasks
from ldm.evaluation.judge import Differences, Judges, differences, look, score_methods
from ldm.evaluation.judge import Place as ImageOf
from ldm.evaluation.methods import Method, parse_method
from ldm.evaluation.metrics import ImageFacts, RelationFacts, counts
from ldm.evaluation.promptfiles import EvalPrompt, read_prompt_file
from ldm.evaluation.runner import changed_keys, constants_of
from ldm.util import UserError, atomic_write

logger = logging.getLogger(__name__)
_SET_STEP = 100_000  # prompts of the second set count from here in the pooled table, and so on


# --------------------------------------------------------------------------------------------------- words


def to_word(facts: ImageFacts) -> str:
    """The word of an image; :func:`from_word` reads it. Colors of objects are not kept."""
    relations = "".join(str(relation.both + relation.right + relation.with_margin) for relation in facts.relations)
    background = "-" if facts.background is None else str(int(facts.background))
    clip = "-" if facts.clip_score is None else f"{facts.clip_score:.2f}"
    return ":".join((_digits(facts.found), _digits(facts.counted), relations, background, clip))


def from_word(word: str) -> ImageFacts:
    """What :func:`to_word` wrote. ValueError for anything else."""
    found, counted, relations, background, clip = word.split(":")
    if set(found + counted) - set("01") or set(relations) - set("0123"):
        raise ValueError(word)
    return ImageFacts(
        tuple(digit == "1" for digit in found),
        tuple(digit == "1" for digit in counted),
        tuple(RelationFacts(digit >= "1", digit >= "2", digit >= "3") for digit in relations),
        clip_score=None if clip == "-" else float(clip),
        background=None if background == "-" else background == "1",
    )


def _digits(values: Sequence[bool]) -> str:
    return "".join(str(int(value)) for value in values)


# ---------------------------------------------------------------------------------------------------- plan


@dataclass(frozen=True)
class Stage:
    """Images of the first `count` prompts of each of `sets`, by every method and seed, `batch` together."""

    sets: tuple[str, ...]
    methods: tuple[Method, ...]
    count: int
    seeds: tuple[int, ...]
    batch: int


@dataclass(frozen=True)
class Plan:
    """What is to be made; `sets` are the prompts by name."""

    sets: dict[str, list[EvalPrompt]]
    stages: tuple[Stage, ...]
    steps: int
    scale: float
    layout: Any  # "predictor" or "rule"

    @property
    def methods(self) -> list[str]:
        """Labels, in the order of the plan."""
        return list(dict.fromkeys(method.label for stage in self.stages for method in stage.methods))


def read_plan(path: Path, root: Path) -> Plan:
    """The plan of a YAML file; paths of prompts are relative to `root`. UserError for one that can't be used."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        sets = {name: read_prompt_file(root / file) for name, file in content["sets"].items()}
        stages = tuple(
            Stage(
                tuple(entry.get("sets", sets)),
                tuple(parse_method(text) for text in entry["methods"]),
                int(entry["count"]),
                tuple(map(int, entry["seeds"])),
                int(entry.get("batch", 16)),
            )
            for entry in content["stages"]
        )
        plan = Plan(sets, stages, int(content["steps"]), float(content["scale"]), str(content["layout"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"the plan {path} can't be used ({error!r:.120}); see configs/emoji/evidence.yaml") from None
    if unknown := {name for stage in stages for name in stage.sets} - set(sets):
        raise UserError(f"the plan {path} has no set '{sorted(unknown)[0]}'; it has {', '.join(sets)}")
    return plan


# ------------------------------------------------------------------------------------------------- records


class Record:
    """The words of one prompt set in their file: by method and seed a list with a word, or None, a prompt.

    Raises:
        UserError: the file is damaged, or holds scores made with other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any], count: int) -> None:
        self.path, self.settings, self.count = path, settings, count
        self.words: dict[str, dict[str, list[str | None]]] = {}
        self.seconds: dict[str, list[float]] = {}  # by method: images timed, seconds in all
        self.constants: dict[str, dict[str, Any]] = {}  # by method
        if not path.exists():
            return
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            known, self.words, self.seconds = content["settings"], content["words"], content["seconds"]
            self.constants = dict(content["constants"])
            for rows in self.words.values():
                for row in rows.values():
                    row += [None] * (count - len(row))
                    [from_word(word) for word in row if word is not None]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{path} is damaged; restore it, or remove it to make its images again") from None
        if changed := changed_keys(known, settings):
            raise UserError(
                f"{path} holds scores made with other settings ({', '.join(changed)}); name another --out or remove it"
            )

    def claim(self, method: Method, more: dict[str, Any] | None = None) -> None:
        """Note the method's constants, and `more` that it depends on. UserError if its words were made with others."""
        own = json.loads(json.dumps({**constants_of(method), **(more or {})}))
        known = self.constants.setdefault(method.label, own)
        pairs = [(known, own), (known.get("preset", {}), own.get("preset", {}))]
        changed = sorted(key for old, new in pairs for key in {*old} & {*new} - {"preset"} if old[key] != new[key])
        if changed:
            raise UserError(
                f"{self.path} holds scores of '{method.label}' with another {', '.join(changed)}; make them again with "
                f"--again {method.label}, or name another --out"
            )

    def drop(self, method: str) -> None:
        """Forget all words of a method."""
        for kept in (self.words, self.seconds, self.constants):
            kept.pop(method, None)  # type: ignore[attr-defined]

    def has(self, method: str, number: int, seed: int) -> bool:
        """Whether this image has a word."""
        return self.words.get(method, {}).get(str(seed), [None] * self.count)[number] is not None

    def add(self, method: str, number: int, seed: int, facts: ImageFacts) -> None:
        """Note what an image shows; :meth:`write` makes it last."""
        rows = self.words.setdefault(method, {})
        rows.setdefault(str(seed), [None] * self.count)[number] = to_word(facts)

    def took(self, method: str, images: int, seconds: float) -> None:
        """Note how long the making of images took."""
        before = self.seconds.get(method, [0, 0.0])
        self.seconds[method] = [before[0] + images, round(before[1] + seconds, 1)]

    def write(self) -> None:
        """All of it or nothing; a line a method and seed."""
        lines = [
            f"  {json.dumps(method)}: {{\n"
            + ",\n".join(f"   {json.dumps(seed)}: {json.dumps(_cut(row))}" for seed, row in rows.items())
            + "\n  }"
            for method, rows in self.words.items()
        ]
        settings = json.dumps(self.settings, indent=1)
        seconds, constants = json.dumps(self.seconds), json.dumps(self.constants)
        with atomic_write(self.path) as temporary:
            body = ",\n".join(lines)
            head = f'{{"settings": {settings},\n "seconds": {seconds},\n "constants": {constants},\n'
            temporary.write_text(f'{head} "words": {{\n{body}\n }}\n}}\n', encoding="utf-8")

    def facts(self) -> dict[str, dict[ImageOf, ImageFacts]]:
        """By method, then by prompt and seed."""
        return {
            method: {
                (number, int(seed)): from_word(word)
                for seed, row in rows.items()
                for number, word in enumerate(row)
                if word is not None
            }
            for method, rows in self.words.items()
        }


def _cut(row: list[str | None]) -> list[str | None]:
    """Without what lacks at the end."""
    length = max((number + 1 for number, word in enumerate(row) if word is not None), default=0)
    return row[:length]


# -------------------------------------------------------------------------------------------------- making


@dataclass(frozen=True)
class Workshop:
    """Where images are made and who judges them; `place` and `make` as of :func:`run_tasks`, for every set."""

    folder: Path
    settings: Callable[[Sequence[EvalPrompt]], dict[str, Any]]
    place: Place
    make: Make
    judges: Judges
    predictor: str | None = None  # hash of its weights, on which the methods depend whose layouts it makes


def fill(plan: Plan, records: dict[str, Record], shop: Workshop, minutes: float | None = None) -> int:
    """Make and judge what the records lack, in the order of the plan; how many images lack still.

    Stops before the next batch when `minutes` are over. A kill loses the batch in work.

    Raises:
        UserError: of the folder (see :func:`run_tasks`), or an image that can't be made.
    """
    for stage in plan.stages:
        for method in stage.methods:
            for name in stage.sets:
                predicted = method.controlled and (method.layout or plan.layout) == "predictor"
                records[name].claim(method, {"predictor_sha256": shop.predictor} if predicted else None)
    todo = list(_missing(plan, records))
    end = None if minutes is None else time.monotonic() + 60 * minutes
    left = sum(len(tasks) for _, tasks, _ in todo)
    for name, tasks, size in todo:
        for first in range(0, len(tasks), size):
            if end is not None and time.monotonic() >= end:
                return left
            batch = tasks[first : first + size]
            _make_and_judge(name, plan.sets[name], batch, records[name], shop)
            left -= len(batch)
            logger.info("%s, %s: %d images are left of all", name, batch[0].method.label, left)
    return left


def _missing(plan: Plan, records: dict[str, Record]) -> Iterator[tuple[str, list[Task], int]]:
    """(set, images of one method, batch size) of what lacks; nothing twice."""
    seen: set[tuple[str, str, int, int]] = set()
    for stage in plan.stages:
        for method in stage.methods:
            for name in stage.sets:
                tasks = []
                for seed in stage.seeds:
                    for number, prompt in enumerate(plan.sets[name][: stage.count]):
                        key = (name, method.label, number, seed)
                        if key not in seen and not records[name].has(method.label, number, seed):
                            tasks.append(Task(method, number, prompt, seed))
                        seen.add(key)
                if tasks:
                    yield name, tasks, stage.batch


def _make_and_judge(
    name: str, prompts: Sequence[EvalPrompt], tasks: Sequence[Task], record: Record, shop: Workshop
) -> None:
    folder = shop.folder / name
    started = time.perf_counter()
    summary = run_tasks(folder, prompts, tasks, shop.settings(prompts), shop.place, shop.make, batch_size=len(tasks))
    if summary.failed:
        key, reason = next(iter(summary.failed.items()))
        raise UserError(f"{folder / key} can't be made: {reason}")
    label = tasks[0].method.label
    if summary.made:
        record.took(label, summary.made, time.perf_counter() - started)
    for task in tasks:
        with Image.open(folder / f"{task.entry.key}.png") as file:
            image = np.asarray(file.convert("RGB"))
        record.add(label, task.number, task.seed, look(image, task.prompt, shop.judges)[1])
    record.write()


# --------------------------------------------------------------------------------------------------- table


def build_rows(records: dict[str, Record], methods: Sequence[str], second: str) -> list[dict[str, Any]]:
    """A row a method over all sets together, compared with the first method and with `second` on common images."""
    pooled: dict[str, dict[ImageOf, ImageFacts]] = {}
    for index, record in enumerate(records.values()):
        for method, images in record.facts().items():
            for (number, seed), shown in images.items():
                pooled.setdefault(method, {})[index * _SET_STEP + number, seed] = shown
    facts = {method: pooled[method] for method in methods if method in pooled}
    if not facts:
        return []
    rows = score_methods(facts)
    for row in rows:
        if second in facts and row["method"] not in (methods[0], second):
            found: Differences = differences(facts[row["method"]], facts[second])
            row["against_second"] = {"method": second, "differences": found}
    return rows


def by_group(
    plan: Plan, records: dict[str, Record], group: Callable[[str, EvalPrompt], str]
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Hits and total by method, group and ratio ("object_recall", "relation"), where there is an image.

    Args:
        group: name of a prompt set and a prompt of it -> name of its group.
    """
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = {method: {} for method in plan.methods}
    for name, record in records.items():
        for method, images in record.facts().items():
            for (number, _), shown in images.items():
                own = found.setdefault(method, {}).setdefault(group(name, plan.sets[name][number]), {})
                for ratio in ("object_recall", "relation"):
                    sums = own.setdefault(ratio, {"hits": 0, "total": 0})
                    for part, value in zip(sums, counts(shown)[ratio], strict=True):
                        sums[part] += value
    return {method: found[method] for method in plan.methods if found[method]}
