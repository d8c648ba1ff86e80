"""The table of the evaluation: scores of all methods, as JSON and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ldm.evaluation.calibration import ImageArray, detect_images
from ldm.evaluation.markdown import markdown_table
from ldm.evaluation.methods import Method
from ldm.evaluation.prompts import RelationPrompt, rule_layout
from ldm.evaluation.runner import ImageStore, Job, constants_of
from ldm.evaluation.scoring import ImageScore, Point, paired_bootstrap, per_prompt, score_image, summarize
from ldm.models.detector import EmojiDetector
from ldm.spacetime.layout import Layout
from ldm.util import atomic_write

_COLUMNS = {
    "object_recall": "object recall",
    "both_present": "both present",
    "relation_given_both": "relation right, given both",
    "both_and_right": "both present and right",
    "disc_hits": "hits in target disc",
}
_COMPARED = ("object_recall", "both_and_right", "disc_hits")


def targets(prompt: RelationPrompt, layout: Layout) -> tuple[Point, Point]:
    """Where the prompt's objects should be: the layout's centers, or the rule's where it lacks one."""
    centers = dict(zip(prompt.names, ((item.x, item.y) for item in rule_layout(prompt).objects), strict=True))
    centers.update({item.name: (item.x, item.y) for item in layout.objects if item.name in centers})
    return centers[prompt.first], centers[prompt.second]


def score_method(
    detector: EmojiDetector, images: Sequence[ImageArray], prompts: Sequence[RelationPrompt], jobs: Sequence[Job]
) -> list[ImageScore]:
    """A score a prompt, in order."""
    found = detect_images(detector, images)
    return [
        score_image(detections, prompt.names, prompt.relation, targets(prompt, job.layout))
        for detections, prompt, job in zip(found, prompts, jobs, strict=True)
    ]


def build_table(
    detector: EmojiDetector,
    store: ImageStore,
    methods: Sequence[Method],
    prompts: Sequence[RelationPrompt],
    jobs: Sequence[Job],
    settings: dict[str, Any],
    known: Mapping[str, Sequence[ImageScore]] | None = None,
) -> dict[str, Any]:
    """Scores of finished images: every method's counts and paired differences from the first.

    ``known``: by method label, scores of the first images, which are taken as they are.
    """
    rows: list[dict[str, Any]] = []
    reference: list[ImageScore] | None = None
    for method in methods:
        scores = list((known or {}).get(method.label, ()))
        done = len(scores)
        images = [store.load(method, job.index) for job in jobs[done:]]
        if images:
            scores += score_method(detector, images, prompts[done:], jobs[done:])
        row: dict[str, Any] = {"method": method.label, "constants": constants_of(method)}
        row.update({name: ratio.to_json() for name, ratio in summarize(scores).items()})
        row["extra_objects_per_image"] = float(per_prompt(scores)["extra_objects"].mean())
        if reference is None:
            reference = scores
        else:
            row["against_" + methods[0].label] = _differences(scores, reference)
        row["images"] = [score.to_json() for score in scores]
        rows.append(row)
    return {"settings": settings, "prompts": [asdict(prompt) for prompt in prompts], "rows": rows}


def _differences(scores: Sequence[ImageScore], reference: Sequence[ImageScore]) -> dict[str, Any]:
    """Mean paired difference and 95% interval of every column that each prompt has a value for."""
    own, other = per_prompt(scores), per_prompt(reference)
    return {name: asdict(paired_bootstrap(own[name], other[name])) for name in own}


# What the README calls the methods; others are called by their label.
NAMES = {
    "base": "plain model",
    "per-step": "`per-step`, the default",
    "fixed:weight=1,blend=unconditional": "fixed weight 1",
    "fixed:weight=6,until=0.12": "fixed weight 6 in the first 12% of the steps, the paper's equation",
    "fixed:weight=1,blend=unconditional,swap=true": "fixed weight 1, centers exchanged",
}


def markdown(table: dict[str, Any], readme: bool = False) -> str:
    """The table for people: ratios with counts, differences with intervals.

    Args:
        readme: with the README's names of the methods, as it stands there.
    """
    first = table["rows"][0]["method"]
    heads = ["" if readme else "method"]
    for name, title in _COLUMNS.items():
        heads.append(title)
        if name in _COMPARED:
            heads.append("difference" if readme else f"against {first}")
    lines = [heads]
    for row in table["rows"]:
        cells = [NAMES.get(row["method"], f"`{row['method']}`") if readme else row["method"]]
        for name in _COLUMNS:
            cells.append(_ratio(row[name]))
            if name in _COMPARED:
                cells.append(_interval(row.get("against_" + first, {}).get(name)))
        lines.append(cells)
    return markdown_table(lines)


def _ratio(entry: dict[str, Any]) -> str:
    value = "-" if entry["value"] is None else f"{entry['value']:.3f}"
    return f"{value} ({entry['hits']}/{entry['total']})"


def _interval(entry: dict[str, float] | None) -> str:
    return "" if entry is None else f"{entry['mean']:+.3f} ({entry['low']:+.3f}, {entry['high']:+.3f})"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a result, all of it or nothing. Raises UserError if the folder can't be written."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
