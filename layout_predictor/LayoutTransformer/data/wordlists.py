"""Word lists, phrases and sentence patterns: the YAML files in `words/`, each read once."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

_FOLDER = Path(__file__).parent / "words"
_COUNTED = re.compile(r"(\d+) x ?(.*)")


@cache
def read_yaml(path: Path) -> dict[str, Any]:
    """The contents of a YAML file of this package."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast
    loaded: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    return loaded


def word_file(name: str) -> dict[str, Any]:
    """The contents of `words/<name>.yaml`."""
    return read_yaml(_FOLDER / f"{name}.yaml")


def phrases(text: str) -> list[str]:
    """Phrases separated by semicolons; "3 x over" is "over" three times."""
    found: list[str] = []
    for part in text.split(";"):
        counted = _COUNTED.fullmatch(part.strip())
        found += [counted[2]] * int(counted[1]) if counted else [part.strip()]
    return found
