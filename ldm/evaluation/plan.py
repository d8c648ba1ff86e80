"""Images that are made, judged and kept as records: prompt sets by methods and seeds, in the order of a plan."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldm.errors import DAMAGED
from ldm.evaluation.prompts.files import read_prompt_file
from ldm.evaluation.prompts.prompt import EvalPrompt, rule_layout
from ldm.evaluation.run.harness import Task, run_tasks
from ldm.evaluation.run.manifest import load_image
from ldm.evaluation.run.methods import Method, Placing, parse_method
from ldm.evaluation.run.studio import Studio
from ldm.evaluation.score.judge import Facts, ImageOf, Judges, look
from ldm.evaluation.score.metrics import ImageFacts, Point, counts
from ldm.evaluation.score.records import Record
from ldm.spacetime.layout import Layout
from ldm.util import UserError

logger = logging.getLogger(__name__)
BATCHES = {"fixed": 16, "per-step": 8, "whole-chain": 4}  # images made together, by the mode of the preset
_PLAIN_BATCH = 16
_PREDICTOR = "predictor_sha256"
_SET_STEP = 100_000  # prompts of the second set count from here in the pooled table, and so on


@dataclass(frozen=True)
class Stage:
    """Images of the first `count` prompts of each of `sets`, by every method and seed.

    `batch` of them are made together; None is what suits the method.
    """

    sets: tuple[str, ...]
    methods: tuple[Method, ...]
    count: int
    seeds: tuple[int, ...]
    batch: int | None = None


@dataclass(frozen=True)
class Plan:
    """What is to be made; `sets` are the prompts by name, `layout` says who gives the centers.

    `titles` are what the summary calls the methods.
    """

    sets: Mapping[str, Sequence[EvalPrompt]]
    stages: tuple[Stage, ...]
    steps: int
    scale: float
    layout: Placing
    titles: Mapping[str, str] = field(default_factory=dict)

    @property
    def methods(self) -> list[Method]:
        """In the order of the plan."""
        return list(dict.fromkeys(method for stage in self.stages for method in stage.methods))


def read_plan(path: Path, root: Path) -> Plan:
    """The plan of a YAML file; paths of prompts are relative to `root`. UserError for one that can't be used."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
        sets = {name: read_prompt_file(root / file) for name, file in content["sets"].items()}
        stages = tuple(
            Stage(
                tuple(map(str, entry.get("sets", sets))),
                tuple(parse_method(text) for text in entry["methods"]),
                int(entry["count"]),
                tuple(map(int, entry["seeds"])),
                int(entry.get("batch", 16)),
            )
            for entry in content["stages"]
        )
        titles = content.get("titles", {})
        plan = Plan(sets, stages, int(content["steps"]), float(content["scale"]), content["layout"], titles)
    except (*DAMAGED, yaml.YAMLError) as error:
        raise UserError(f"the plan {path} can't be used ({error!r:.120}); see configs/emoji/evidence.yaml") from None
    if unknown := {name for stage in stages for name in stage.sets} - set(sets):
        raise UserError(f"the plan {path} has no set '{sorted(unknown)[0]}'; it has {', '.join(sets)}")
    return plan


# -------------------------------------------------------------------------------------------------- making


@dataclass(frozen=True)
class Workshop:
    """Where images are made and who judges them.

    Attributes:
        folder: holds a folder of images for every prompt set.
        identity: of the judges, among the settings of the records.
        discs: whether hits in the discs of the layout are counted.
    """

    folder: Path
    studio: Studio
    judges: Judges
    identity: Mapping[str, Any]
    discs: bool = False

    def record_settings(self, prompts: Sequence[EvalPrompt]) -> dict[str, Any]:
        """Settings of a prompt set's record; the predictor counts among the constants of methods that use it."""
        return {k: v for k, v in {**self.studio.settings(prompts), **self.identity}.items() if k != _PREDICTOR}


def claim_methods(plan: Plan, records: Mapping[str, Record], shop: Workshop) -> None:
    """Note the constants of all methods. UserError if one has images that were made with others."""
    predictor = shop.studio.settings([]).get(_PREDICTOR)
    for stage in plan.stages:
        for method in stage.methods:
            more = {_PREDICTOR: predictor} if predictor and shop.studio.predicts(method) else None
            for name in stage.sets:
                records[name].claim(method, more)


def fill(plan: Plan, records: Mapping[str, Record], shop: Workshop, minutes: float | None = None) -> int:
    """Make and judge what the records lack, in the order of the plan; how many images lack still.

    Stops before the next batch when `minutes` are over. A kill loses the batch in work.

    Raises:
        UserError: of the folder (see `run_tasks`), a method's constants, or an image that can't be made.
    """
    claim_methods(plan, records, shop)
    todo = list(_missing(plan, records))
    end = None if minutes is None else time.monotonic() + 60 * minutes
    left = sum(len(tasks) for _, tasks, _ in todo)
    for name, tasks, size in todo:
        for first in range(0, len(tasks), size):
            if end is not None and time.monotonic() >= end:
                return left
            batch = tasks[first : first + size]
            _make_and_judge(shop, name, plan.sets[name], batch, records[name])
            left -= len(batch)
            logger.info("%s, %s: %d images are left of all", name, batch[0].method.label, left)
    return left


def _missing(plan: Plan, records: Mapping[str, Record]) -> Iterator[tuple[str, list[Task], int]]:
    """(set, images of one method, batch size) of what lacks; nothing twice."""
    seen: set[tuple[str, str, int, int]] = set()
    for stage in plan.stages:
        for method in stage.methods:
            for name in stage.sets:
                known, tasks = records[name].facts.get(method.label, {}), []
                for seed in stage.seeds:
                    for number, prompt in enumerate(plan.sets[name][: stage.count]):
                        key = (name, method.label, number, seed)
                        if key not in seen and (number, seed) not in known:
                            tasks.append(Task(method, number, prompt, seed))
                        seen.add(key)
                if tasks:
                    mode = method.preset.mode if method.preset else None
                    yield name, tasks, stage.batch or (BATCHES[mode] if mode else _PLAIN_BATCH)


def _make_and_judge(
    shop: Workshop, name: str, prompts: Sequence[EvalPrompt], tasks: Sequence[Task], record: Record
) -> None:
    folder, studio, method = shop.folder / name, shop.studio, tasks[0].method
    started = time.perf_counter()
    summary = run_tasks(
        folder, prompts, tasks, studio.settings(prompts), studio.place, studio.make, batch_size=len(tasks)
    )
    if summary.failed:
        key, reason = next(iter(summary.failed.items()))
        raise UserError(f"{folder / key} can't be made: {reason}")
    if summary.made:
        record.took(method.label, summary.made, time.perf_counter() - started)
    for task in tasks:
        image = load_image(folder / f"{task.entry.key}.png")
        assert image is not None
        aims = targets(task.prompt, studio.place(method, task.prompt), studio.spread) if shop.discs else None
        shown = look(image, task.prompt, shop.judges, aims)[1]
        record.facts.setdefault(method.label, {})[task.number, task.seed] = shown
    record.write()


def targets(prompt: EvalPrompt, layout: Layout, spread: float = 1.0) -> list[Point]:
    """Where the prompt's objects should be: the layout's centers, or the rule's where it lacks one."""
    centers = {item.name: (item.x, item.y) for item in layout.objects}
    rule = rule_layout(prompt, spread)
    return [centers.get(item.name, (item.x, item.y)) for item in rule.objects]


# --------------------------------------------------------------------------------------------------- pooling


def pooled(plan: Plan, records: Mapping[str, Record]) -> Facts:
    """The facts of all records together, methods in the order of the plan."""
    pool: dict[str, dict[ImageOf, ImageFacts]] = {}
    for method in plan.methods:
        for index, record in enumerate(records.values()):
            for (number, seed), shown in record.facts.get(method.label, {}).items():
                pool.setdefault(method.label, {})[index * _SET_STEP + number, seed] = shown
    return pool


Groups = dict[str, dict[str, dict[str, tuple[float, float]]]]  # hits and total by method, group and ratio


def by_group(plan: Plan, records: Mapping[str, Record], group: Callable[[str, EvalPrompt], str]) -> Groups:
    """Hits and total by method, group and ratio ("object_recall", "relation"), where there is an image.

    Args:
        group: name of a prompt set and a prompt of it -> name of its group.
    """
    found: Groups = {}
    for method in plan.methods:
        for name, record in records.items():
            for (number, _), shown in record.facts.get(method.label, {}).items():
                own = found.setdefault(method.label, {}).setdefault(group(name, plan.sets[name][number]), {})
                for ratio in ("object_recall", "relation"):
                    before, share = own.get(ratio, (0, 0)), counts(shown)[ratio]
                    own[ratio] = before[0] + share[0], before[1] + share[1]
    return found
