"""From a run's images to scores: what each shows, every ratio with its interval, methods compared by prompts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np

from ldm.categories import BACKGROUNDS
from ldm.evaluation.prompts.prompt import EvalPrompt
from ldm.evaluation.run.manifest import Entry, FinishedRun, load_image
from ldm.evaluation.score.clip import ClipScore, color_facts
from ldm.evaluation.score.detectors import Detector
from ldm.evaluation.score.metrics import RATIOS, Box, ImageFacts, Point, counts, image_facts, visor_n
from ldm.evaluation.score.statistics import RESAMPLES, Array, compare, estimate
from ldm.generation.images import ImageArray
from ldm.modules.encoders.openai_clip import ClipBundle
from ldm.util import UserError

logger = logging.getLogger(__name__)
ImageOf = tuple[int, int]  # number of the prompt, seed
Facts = Mapping[str, Mapping[ImageOf, ImageFacts]]  # by method
Tables = Mapping[str, tuple[Array, Array]]  # hits and totals of a ratio, (prompts,) each
T = TypeVar("T")
Differences = dict[str, dict[str, Any] | None]  # by ratio; None where there is nothing to compare


@dataclass(frozen=True)
class Judges:
    """Who looks at the images.

    Attributes:
        background: an image's color word.
        categories: names that the detector looks for beside those of the prompt, to count further objects.
        told: about the judges for the report, a line each.
    """

    detector: Detector
    clip_score: ClipScore | None = None
    colors: ClipBundle | None = None
    background: Callable[[ImageArray], str] | None = None
    categories: Sequence[str] = ()
    told: tuple[str, ...] = ()


def look(
    image: ImageArray, prompt: EvalPrompt, judges: Judges, targets: Sequence[Point] | None = None
) -> tuple[list[Box], ImageFacts]:
    """What one (H, W, 3) uint8 image shows of its prompt, and the boxes by which this was judged.

    Args:
        targets: where the prompt's objects should be, for hits in discs.
    """
    every = judges.detector.detect(image, list(dict.fromkeys([*prompt.names, *judges.categories])))
    boxes = [box for box in every if box.name in prompt.names]
    facts = image_facts(boxes, prompt, (image.shape[1], image.shape[0]), targets)
    if judges.categories:
        facts = replace(facts, extra=len(every) - sum(facts.found))
    if judges.colors is not None and any(item.color for item in prompt.objects):
        facts = replace(facts, colors=color_facts(judges.colors, image, boxes, prompt))
    if judges.background is not None and prompt.background in BACKGROUNDS:
        facts = replace(facts, background=judges.background(image) == prompt.background)
    if judges.clip_score is not None:
        facts = replace(facts, clip_score=judges.clip_score(image, prompt.text))
    return boxes, facts


def judge_run(run: FinishedRun, judges: Judges) -> dict[str, Any]:
    """Look at every image of a run. Images that lack or are damaged are counted and named, and scored nowhere.

    Raises:
        UserError: there is no image to look at.
    """
    scored: dict[Entry, tuple[list[Box], ImageFacts]] = {}
    missing, corrupt = [], []
    for entry in sorted(run.entries, key=lambda item: (item.number, item.seed)):
        path = run.image(entry)
        if not path.is_file():
            missing.append(entry.key)
        elif (image := load_image(path)) is None:
            corrupt.append(entry.key)
        else:
            scored[entry] = look(image, run.prompts[entry.number], judges)
    for what, keys in (("missing", missing), ("damaged", corrupt)):
        if keys:
            logger.warning("%d images are %s: %s.", len(keys), what, ", ".join(keys))
    if not scored:
        raise UserError(f"{run.folder} has none of its {len(run.entries)} images; start the run again to make them")
    facts: dict[str, dict[ImageOf, ImageFacts]] = {method: {} for method in run.methods}
    for entry, (_, found) in scored.items():
        facts[entry.method][entry.number, entry.seed] = found
    return {
        "settings": run.settings,
        "detector": judges.detector.name,
        "told": list(judges.told),
        "missing": missing,
        "corrupt": corrupt,
        "rows": score_methods(facts),
        "images": [
            {**asdict(entry), "boxes": [box.to_json() for box in boxes], "facts": found.to_json()}
            for entry, (boxes, found) in scored.items()
        ],
    }


def score_methods(facts: Facts, resamples: int = RESAMPLES, second: str | None = None) -> list[dict[str, Any]]:
    """`compare_methods` by the ratios of `RATIOS`, with VISOR_1 to 4 as "visor"."""
    rows = compare_methods(facts, _by_prompt, resamples, second)
    for row in rows:
        groups: dict[int, list[ImageFacts]] = {}
        for (number, _), shown in sorted(facts[row["method"]].items(), key=lambda item: item[0]):
            groups.setdefault(number, []).append(shown)
        row["visor"] = {str(n): visor_n(list(groups.values()), n) for n in (1, 2, 3, 4)}
    return rows


def compare_methods(
    images: Mapping[str, Mapping[ImageOf, T]],
    tables_of: Callable[[Mapping[ImageOf, T], Sequence[ImageOf]], Tables],
    resamples: int = RESAMPLES,
    second: str | None = None,
) -> list[dict[str, Any]]:
    """A row a method: every ratio with its interval, and the differences from the first method.

    Args:
        images: what is known of an image by method, then by prompt and seed. Methods are compared on the images that
            both have.
        tables_of: hits and totals of the ratios by name, (prompts,) each, of the given images.
        resamples: of the bootstrap.
        second: a method from which differences are given as well, under "against_second".
    """
    rows: list[dict[str, Any]] = []
    first = next(iter(images), None)
    for method, own in images.items():
        ratios = {name: asdict(estimate(*table, resamples)) for name, table in tables_of(own, sorted(own)).items()}
        row: dict[str, Any] = {"method": method, "images": len(own), "ratios": ratios}
        for key, other in (("against", first), ("against_second", second)):
            if other is not None and other in images and method not in (first, other):
                common = sorted(set(own) & set(images[other]))
                mine, others = tables_of(own, common), tables_of(images[other], common)
                row[key] = {"method": other, "differences": _differences(mine, others, resamples)}
        rows.append(row)
    return rows


def _differences(own: Tables, other: Tables, resamples: int) -> Differences:
    """Every ratio of the first method less that of the second."""
    found: Differences = {}
    for name, (hits, totals) in own.items():
        difference = compare((hits, other[name][0]), (totals, other[name][1]), resamples)
        found[name] = asdict(difference) if difference else None
    return found


def _by_prompt(images: Mapping[ImageOf, ImageFacts], places: Sequence[ImageOf]) -> Tables:
    """Hits and totals of every ratio, (prompts,) each: those of a prompt's images added up."""
    numbers = {number: row for row, number in enumerate(dict.fromkeys(number for number, _ in places))}
    sums = {name: np.zeros((2, len(numbers))) for name in RATIOS}
    for number, seed in places:
        for name, share in counts(images[number, seed]).items():
            sums[name][:, numbers[number]] += share
    return {name: (table[0], table[1]) for name, table in sums.items()}
