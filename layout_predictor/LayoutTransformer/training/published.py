"""Configurations with the sections of the published ones (DATASETS, DATALOADER, SOLVER), said in ours."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ldm.files import read_yaml

logger = logging.getLogger(__name__)

KEYS = read_yaml(Path(__file__).parents[2] / "configs" / "other_keys.yaml")


def is_published(content: Mapping[str, Any]) -> bool:
    """Whether a configuration has a section that only published ones have."""
    model = content.get("MODEL")
    return bool(set(KEYS["published_sections"]) & set(content)) or isinstance(model, Mapping) and "ENCODER" in model


def translate(content: Mapping[str, Any], known: Collection[str], source: str | Path) -> dict[str, dict[str, Any]]:
    """Our sections of a published configuration; what has no place in them is named in the log, a line a section.

    Args:
        known: our keys, as SECTION.KEY.
        source: its file, for the log.
    """
    made: dict[str, dict[str, Any]] = {}
    unused: dict[str, list[str]] = {}
    for path, value in _leaves(content):
        target = _target(path)
        section, _, key = target.partition(".")
        if target == "DATA.NAME":
            value = str(value).lower()
        if target not in known and target != "DATA.FOLDER" or key == "pretrained" and not isinstance(value, str):
            section, _, key = path.partition(".")
            unused.setdefault(section, []).append(key)
        else:
            made.setdefault(section, {})[key] = value
    data = made.get("DATA", {})
    folder = data.pop("FOLDER", None)
    if (name := data.get("NAME", "coco")) in KEYS["data_sets"]:
        own = dict(KEYS["data_sets"][name])
        usual = Path(own.pop("FOLDER"))
        given = usual if folder is None else Path(str(folder))
        given = given if given.name == usual.name else given / usual.name  # of this data set, or of all of them
        filled = {key: value.format(given) if isinstance(value, str) else value for key, value in own.items()}
        made["DATA"] = {**filled, **data}
    for section, keys in unused.items():
        logger.info("%s: not needed here of %s: %s", source, section, ", ".join(keys))
    return made


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every entry that is no section."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _target(path: str) -> str:
    """Our name of an entry, where a pattern knows it; else its own."""
    for pattern, target in KEYS["published"].items():
        if found := re.fullmatch(pattern, path):
            return found.expand(target)
    return path
