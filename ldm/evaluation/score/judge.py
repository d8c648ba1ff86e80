"""From a run's images to scores: what each shows, every ratio with its interval, methods compared by prompts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ldm.data.emoji.scene import SOFT
from ldm.evaluation.manifest import Entry, FinishedRun
from ldm.evaluation.metrics import RATIOS, Box, ImageFacts, counts, image_facts, visor_n
from ldm.evaluation.promptfiles import EvalPrompt
from ldm.evaluation.runner import ImageArray
from ldm.evaluation.statistics import Array, compare, estimate
from ldm.util import UserError

if TYPE_CHECKING:
    from ldm.evaluation.clipscores import ClipScore
    from ldm.evaluation.detectors import Detector
    from ldm.modules.encoders.openai_clip import ClipBundle

logger = logging.getLogger(__name__)
Place = tuple[int, int]  # number of the prompt, seed
Differences = dict[str, dict[str, Any] | None]  # by ratio; None where there is nothing to compare


@dataclass(frozen=True)
class Judges:
    """Who looks at the images; `told` says so in the report, a line each."""

    detector: Detector
    clip_score: ClipScore | None = None
    colors: ClipBundle | None = None
    background: Callable[[ImageArray], str] | None = None  # its color word
    told: tuple[str, ...] = ()


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
            continue
        try:
            with Image.open(path) as file:
                image = np.asarray(file.convert("RGB"))
        except (OSError, SyntaxError, ValueError):
            corrupt.append(entry.key)
            continue
        scored[entry] = look(image, run.prompts[entry.number], judges)
    for what, keys in (("missing", missing), ("damaged", corrupt)):
        if keys:
            logger.warning("%d images are %s: %s.", len(keys), what, ", ".join(keys))
    if not scored:
        raise UserError(f"{run.folder} has none of its {len(run.entries)} images; start the run again to make them")
    facts: dict[str, dict[Place, ImageFacts]] = {method: {} for method in run.methods}
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
            {**asdict(entry), "boxes": [box.to_json() for box in boxes], "facts": asdict(found)}
            for entry, (boxes, found) in scored.items()
        ],
    }


def look(image: ImageArray, prompt: EvalPrompt, judges: Judges) -> tuple[list[Box], ImageFacts]:
    """What one (H, W, 3) uint8 image shows of its prompt, and the boxes by which this was judged."""
    names = list(dict.fromkeys(item.name for item in prompt.objects))
    boxes = judges.detector.detect(image, names)
    facts = image_facts(boxes, prompt, (image.shape[1], image.shape[0]))
    if judges.colors is not None and any(item.color for item in prompt.objects):
        from ldm.evaluation.clipscores import color_facts

        facts = replace(facts, colors=color_facts(judges.colors, image, boxes, prompt))
    if judges.background is not None and prompt.background in SOFT:
        facts = replace(facts, background=judges.background(image) == prompt.background)
    if judges.clip_score is not None:
        facts = replace(facts, clip_score=judges.clip_score(image, prompt.text))
    return boxes, facts


def score_methods(facts: dict[str, dict[Place, ImageFacts]]) -> list[dict[str, Any]]:
    """A row a method: every ratio with its interval, VISOR_1 to 4, and the differences from the first method.

    Args:
        facts: by method, then by prompt and seed. Methods are compared on the images that both have.
    """
    rows: list[dict[str, Any]] = []
    first = next(iter(facts))
    for method, images in facts.items():
        row: dict[str, Any] = {"method": method, "images": len(images), "ratios": {}, "visor": {}}
        for name in RATIOS:
            row["ratios"][name] = asdict(estimate(*_by_prompt(images, sorted(images), name)))
        groups: dict[int, list[ImageFacts]] = {}
        for number, seed in sorted(images):
            groups.setdefault(number, []).append(images[number, seed])
        for n in (1, 2, 3, 4):
            row["visor"][str(n)] = visor_n(list(groups.values()), n)
        if method != first:
            row["against"] = {"method": first, "differences": differences(images, facts[first])}
        rows.append(row)
    return rows


def differences(images: dict[Place, ImageFacts], reference: dict[Place, ImageFacts]) -> Differences:
    """Every ratio of `images` less that of `reference`, on the images that both have."""
    common = sorted(set(images) & set(reference))
    found: Differences = {}
    for name in RATIOS:
        own, other = _by_prompt(images, common, name), _by_prompt(reference, common, name)
        difference = compare((own[0], other[0]), (own[1], other[1]))
        found[name] = asdict(difference) if difference else None
    return found


def _by_prompt(images: dict[Place, ImageFacts], places: Sequence[Place], name: str) -> tuple[Array, Array]:
    """Hits and totals of a ratio, (prompts,) each: those of a prompt's images added up."""
    sums: dict[int, tuple[float, float]] = {}
    for number, seed in places:
        hits, total = counts(images[number, seed])[name]
        before = sums.get(number, (0.0, 0.0))
        sums[number] = (before[0] + hits, before[1] + total)
    table = np.array(list(sums.values()), dtype=np.float64).reshape(-1, 2)  # (prompts, 2)
    return table[:, 0], table[:, 1]
