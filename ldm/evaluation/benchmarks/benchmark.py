"""What all benchmarks share: cases read from a file, scores of images, and the columns of a table."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ldm.evaluation.benchmarks.boxes import Detection
from ldm.evaluation.benchmarks.lmd import ASK
from ldm.evaluation.benchmarks.seven_bench import accuracy, auc, surest_overlaps
from ldm.evaluation.benchmarks.t2i_compbench import Depth
from ldm.evaluation.prompts.prompt import EvalPrompt
from ldm.evaluation.score.detectors import canonical
from ldm.evaluation.score.metrics import Counts
from ldm.evaluation.score.statistics import Array
from ldm.files import read_yaml
from ldm.util import UserError

logger = logging.getLogger(__name__)
PUBLISHED: dict[str, Any] = read_yaml(Path(__file__).with_name("benchmarks.yaml"))


@dataclass(frozen=True)
class Case:
    """A prompt of a benchmark.

    Attributes:
        id: what the benchmark's own folder calls it.
        group: its task or scenario.
        prompt: what is drawn, with the objects of the stated layout.
        names: what scores call the detections by.
        asked: what the judgment needs beside.
        line: of the file, where the benchmark's folder holds it.
    """

    id: str
    group: str
    prompt: EvalPrompt
    names: tuple[str, ...]
    asked: Any = None
    line: str = ""


@dataclass(frozen=True)
class Score:
    """What an image is worth.

    Attributes:
        value: by the published rule, from 0 to 1.
        corrected: by the corrected rule.
        both: whether all objects are there.
        faults: what is wrong, in words.
        overlaps: IoU of each object of the layout with a detection.
        detected: whether any of these objects is there.
    """

    value: float
    corrected: float
    both: bool = True
    faults: tuple[str, ...] = ()
    overlaps: tuple[float, ...] = ()
    detected: bool = False

    def to_json(self) -> dict[str, Any]:
        """All fields by name."""
        return asdict(self)


Size = tuple[int, int]  # width and height, in pixels
Groups = Sequence[tuple[Case, Sequence[Score]]]  # the scores of all images of each prompt
Columns = dict[str, tuple[Array, Array]]  # hits and totals, (prompts,) each; a column is their ratio


def column(groups: Groups, count: Callable[[Case, Score], Counts]) -> tuple[Array, Array]:
    """Hits and totals of every prompt: those of its images added up."""
    return prompts_column(groups, lambda case, scores: np.sum([count(case, score) for score in scores], axis=0))


def prompts_column(groups: Groups, count: Callable[[Case, Sequence[Score]], Any]) -> tuple[Array, Array]:
    """Hits and totals of every prompt, counted for its images together."""
    hits, totals = np.array([count(case, scores) for case, scores in groups], dtype=float).reshape(-1, 2).T
    return hits, totals


def value_of(case: Case, score: Score) -> Counts:
    """The published score of an image."""
    return score.value, 1


def corrected_of(case: Case, score: Score) -> Counts:
    """The corrected score of an image."""
    return score.corrected, 1


def _of_group(group: str, case: Case, score: Score) -> Counts:
    return (score.value, 1) if case.group == group else (0, 0)


def by_group(groups: Groups) -> Columns:
    """A column of each group's mean, in the order of the file."""
    return {name: column(groups, partial(_of_group, name)) for name in dict.fromkeys(case.group for case, _ in groups)}


class Benchmark(ABC):
    """A published benchmark; its constants and published results are in benchmarks.yaml.

    Args:
        name: a key of `PUBLISHED`.
        threshold: least score of a detection that counts, instead of the published ones.

    Attributes:
        published: whether the cases that were read are all of the original.
    """

    pattern: ClassVar[str]  # of an image's path in the benchmark's own folder, with groups "id" and "label"
    first: ClassVar[int] = 0  # label of a prompt's first image there
    ask: ClassVar[str] = "{}"  # what a detector with an open vocabulary is asked for a name
    depth: ClassVar[bool] = False  # whether the judgment needs a depth map
    no_layout: str | None = None  # why the benchmark states no layout, where it does not

    def __init__(self, name: str, threshold: float | None = None) -> None:
        self.name, self.threshold, self.published = name, threshold, False
        self.facts: Mapping[str, Any] = PUBLISHED[name]

    @property
    def limit(self) -> float:
        """Least score that a detector need give."""
        return self.facts["threshold"] if self.threshold is None else self.threshold

    def least(self, published: float) -> float:
        """The judgment's own limit of a score: none where a threshold was given, which the detector has applied."""
        return published if self.threshold is None else -1.0

    def read(self, path: Path) -> list[Case]:
        """The cases of a prompt file.

        Raises:
            UserError: it is missing, another benchmark's, or a line lacks a field.
        """
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(f"the prompt file {path} cannot be read: {error.strerror}") from None
        other = next((key for key, facts in PUBLISHED.items() if facts.get("sha256") == digest), self.name)
        if other != self.name:
            raise UserError(f"{path} is the prompt file of {PUBLISHED[other]['title']}; write `benchmark {other}`")
        cases = self.read_cases(path)
        self.published |= digest == self.facts.get("sha256")
        if not self.published:
            logger.warning("%s is not %s's own file: compare with no published result.", path, self.facts["title"])
        if not cases:
            raise UserError(f"{path} holds no prompt; give {self.facts['file']}")
        return cases

    @abstractmethod
    def read_cases(self, path: Path) -> list[Case]:
        """The cases of a file that is there."""

    @abstractmethod
    def judge(self, case: Case, detections: Sequence[Detection], size: Size, depth: Depth | None) -> Score:
        """The score of an image, without its layout."""

    @abstractmethod
    def columns(self, groups: Groups) -> Columns:
        """The benchmark's own table."""

    @abstractmethod
    def place(self, case: Case, number: int, label: int) -> str:
        """The path of an image in the benchmark's own folder, relative; `number` of the case, from 0."""

    def id_of(self, text: str) -> str:
        """The id of a case from the name of its file or folder."""
        return text

    def label_of(self, text: str, number: int, images: int) -> int:
        """The label of an image of case `number` from its file's name, in a folder of so many images a prompt."""
        return int(text)

    def check_folder(self, folder: Path, case: Case, images: Sequence[Path]) -> None:  # noqa: B027  most accept all
        """UserError if the images of a case are not as the benchmark's evaluator wants them."""

    def table(self, groups: Groups) -> Columns:
        """The benchmark's own columns, then those of the corrected rule and of the layout."""

        def iou(case: Case, score: Score) -> Counts:
            return sum(score.overlaps), len(score.overlaps)

        def area(case: Case, score: Score) -> Counts:
            return auc(accuracy(score.overlaps, score.detected)), len(score.overlaps) > 0

        groups = [(case, scores) for case, scores in groups if scores]
        return {**self.columns(groups), "layout IoU": column(groups, iou), "layout AUC": column(groups, area)}


def overlaps_of(
    wanted: Sequence[tuple[str, Sequence[float]]], detections: Sequence[Detection], names: Sequence[str]
) -> tuple[tuple[float, ...], bool]:
    """IoU of every wanted box, in pixels, with a detection of its name, and whether there is any.

    Args:
        names: what was looked for; where the layout has other names, synonyms meet.
    """
    exact = {name for name, _ in wanted} <= {name.removeprefix(ASK) for name in names}

    def known(name: str) -> str:
        return name.removeprefix(ASK) if exact else canonical(name)

    boxes = [(known(name), box) for name, box in wanted]
    named = [replace(one, name=known(one.name)) for one in detections]
    kinds = {name for name, _ in boxes}
    return tuple(surest_overlaps(boxes, named)), any(one.name in kinds for one in named)
