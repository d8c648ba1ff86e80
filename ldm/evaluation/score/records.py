"""Scores of an earlier result, so that a table grows without its images being made again.

A schedule that takes a minute an image is scored over many sittings: the result file holds a score for every
image, and the next run makes only those that it lacks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ldm.evaluation.methods import Method
from ldm.evaluation.prompts import RelationPrompt
from ldm.evaluation.runner import changed_keys, constants_of
from ldm.evaluation.scoring import ImageScore
from ldm.util import UserError

Known = dict[str, list[ImageScore]]  # by method label, of the first prompts


def read_known(
    paths: Sequence[Path], settings: dict[str, Any], prompts: Sequence[RelationPrompt], methods: Sequence[Method]
) -> Known:
    """The scores that result files hold of these methods on the first of these prompts.

    Args:
        paths: results of `evaluate.py table`; of two that know a method, the one that knows more images counts.
        settings: of this run; all but "count" must be those of the file.
        prompts, methods: of this run. A row of a method whose constants have changed since is refused.

    Raises:
        UserError: a file can't be read, or is of another model, other settings, prompts or constants.
    """
    known: Known = {}
    for path in paths:
        table = _read(path)
        _same_run(path, table, settings, prompts)
        rows = {row["method"]: row for row in table["rows"]}
        for method in methods:
            if method.label not in rows:
                continue
            row = rows[method.label]
            if row.get("constants") != json.loads(json.dumps(constants_of(method))):
                raise UserError(f"{path} has scores of '{method.label}' with other constants; leave the file out.")
            scores = [_score(item) for item in row["images"][: len(prompts)]]
            if len(scores) > len(known.get(method.label, [])):
                known[method.label] = scores
    return known


def _read(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        [(row["method"], row["images"]) for row in table["rows"]]
        table["settings"], table["prompts"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no result of evaluate.py table, or can't be read; leave it out.") from error
    return table


def _same_run(path: Path, table: dict[str, Any], settings: dict[str, Any], prompts: Sequence[RelationPrompt]) -> None:
    """UserError unless the file is of the same model, settings and prompts."""
    own, other = ({**part, "count": None} for part in (settings, table["settings"]))
    if changed := changed_keys(own, other):
        raise UserError(f"{path} was made with other settings ({', '.join(changed)}); leave it out.")
    wanted = json.loads(json.dumps([asdict(prompt) for prompt in prompts]))
    shared = min(len(wanted), len(table["prompts"]))
    if wanted[:shared] != table["prompts"][:shared]:
        raise UserError(f"{path} was made of other prompts; leave it out.")


def _score(item: dict[str, Any]) -> ImageScore:
    """What `ImageScore.to_json` wrote."""
    found, in_disc = item["found"], item["in_disc"]
    return ImageScore((found[0], found[1]), (in_disc[0], in_disc[1]), item["relation_right"], item["extra"])
