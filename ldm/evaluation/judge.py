"""From a run's pictures to scores: what each shows, every ratio with its interval, methods compared by prompts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ldm.data.emoji_scene import SOFT
from ldm.evaluation.manifest import Entry, FinishedRun
from ldm.evaluation.metrics import RATIOS, Box, PictureFacts, counts, picture_facts, visor_n
from ldm.evaluation.promptfiles import EvalPrompt
from ldm.evaluation.runner import Picture
from ldm.evaluation.statistics import Array, compare, estimate
from ldm.util import UserError

if TYPE_CHECKING:
    from ldm.evaluation.clipscores import ClipScore
    from ldm.evaluation.detectors import Detector
    from ldm.spacetime.clip import ClipBundle

logger = logging.getLogger(__name__)
Place = tuple[int, int]  # number of the prompt, seed
Differences = dict[str, dict[str, Any] | None]  # by ratio; None where there is nothing to compare


@dataclass(frozen=True)
class Judges:
    """Who looks at the pictures; `told` says so in the report, a line each."""

    detector: Detector
    clip_score: ClipScore | None = None
    colours: ClipBundle | None = None
    background: Callable[[Picture], str] | None = None  # its colour word
    told: tuple[str, ...] = ()


def judge_run(run: FinishedRun, judges: Judges) -> dict[str, Any]:
    """Look at every picture of a run. Pictures that lack or are damaged are counted and named, and scored nowhere.

    Raises:
        UserError: there is no picture to look at.
    """
    scored: dict[Entry, tuple[list[Box], PictureFacts]] = {}
    missing, corrupt = [], []
    for entry in sorted(run.entries, key=lambda item: (item.number, item.seed)):
        path = run.picture(entry)
        if not path.is_file():
            missing.append(entry.key)
            continue
        try:
            with Image.open(path) as image:
                picture = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError):
            corrupt.append(entry.key)
            continue
        scored[entry] = look(picture, run.prompts[entry.number], judges)
    for what, keys in (("missing", missing), ("damaged", corrupt)):
        if keys:
            logger.warning("%d pictures are %s: %s.", len(keys), what, ", ".join(keys))
    if not scored:
        raise UserError(f"{run.folder} has none of its {len(run.entries)} pictures; start the run again to make them")
    facts: dict[str, dict[Place, PictureFacts]] = {method: {} for method in run.methods}
    for entry, (_, found) in scored.items():
        facts[entry.method][entry.number, entry.seed] = found
    return {
        "settings": run.settings,
        "detector": judges.detector.name,
        "told": list(judges.told),
        "missing": missing,
        "corrupt": corrupt,
        "rows": score_methods(facts),
        "pictures": [
            {**asdict(entry), "boxes": [box.to_json() for box in boxes], "facts": asdict(found)}
            for entry, (boxes, found) in scored.items()
        ],
    }


def look(picture: Picture, prompt: EvalPrompt, judges: Judges) -> tuple[list[Box], PictureFacts]:
    """What one (H, W, 3) uint8 picture shows of its prompt, and the boxes by which this was judged."""
    names = list(dict.fromkeys(item.name for item in prompt.objects))
    boxes = judges.detector.detect(picture, names)
    facts = picture_facts(boxes, prompt, (picture.shape[1], picture.shape[0]))
    if judges.colours is not None and any(item.colour for item in prompt.objects):
        from ldm.evaluation.clipscores import colour_facts

        facts = replace(facts, colours=colour_facts(judges.colours, picture, boxes, prompt))
    if judges.background is not None and prompt.background in SOFT:
        facts = replace(facts, background=judges.background(picture) == prompt.background)
    if judges.clip_score is not None:
        facts = replace(facts, clip_score=judges.clip_score(picture, prompt.text))
    return boxes, facts


def score_methods(facts: dict[str, dict[Place, PictureFacts]]) -> list[dict[str, Any]]:
    """A row a method: every ratio with its interval, VISOR_1 to 4, and the differences from the first method.

    Args:
        facts: by method, then by prompt and seed. Methods are compared on the pictures that both have.
    """
    rows: list[dict[str, Any]] = []
    first = next(iter(facts))
    for method, pictures in facts.items():
        row: dict[str, Any] = {"method": method, "pictures": len(pictures), "ratios": {}, "visor": {}}
        for name in RATIOS:
            row["ratios"][name] = asdict(estimate(*_by_prompt(pictures, sorted(pictures), name)))
        groups: dict[int, list[PictureFacts]] = {}
        for number, seed in sorted(pictures):
            groups.setdefault(number, []).append(pictures[number, seed])
        for n in (1, 2, 3, 4):
            row["visor"][str(n)] = visor_n(list(groups.values()), n)
        if method != first:
            row["against"] = {"method": first, "differences": differences(pictures, facts[first])}
        rows.append(row)
    return rows


def differences(
    pictures: dict[Place, PictureFacts], reference: dict[Place, PictureFacts]
) -> Differences:
    """Every ratio of `pictures` less that of `reference`, on the pictures that both have."""
    common = sorted(set(pictures) & set(reference))
    found: Differences = {}
    for name in RATIOS:
        own, other = _by_prompt(pictures, common, name), _by_prompt(reference, common, name)
        difference = compare((own[0], other[0]), (own[1], other[1]))
        found[name] = asdict(difference) if difference else None
    return found


def _by_prompt(pictures: dict[Place, PictureFacts], places: Sequence[Place], name: str) -> tuple[Array, Array]:
    """Hits and totals of a ratio, (prompts,) each: those of a prompt's pictures added up."""
    sums: dict[int, tuple[float, float]] = {}
    for number, seed in places:
        hits, total = counts(pictures[number, seed])[name]
        before = sums.get(number, (0.0, 0.0))
        sums[number] = (before[0] + hits, before[1] + total)
    table = np.array(list(sums.values()), dtype=np.float64).reshape(-1, 2)  # (prompts, 2)
    return table[:, 0], table[:, 1]
