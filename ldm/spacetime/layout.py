"""Layouts: the objects of a prompt, where their centers lie, and how hard each is steered.

The JSON form, as a user writes it and as it is saved beside an image (`prompt`, `weight` and `name` are
optional):

    {"prompt": "A cat to the left of a dog.",
     "objects": [{"phrase": "A cat", "x": 0.25, "y": 0.5, "weight": 1.0, "name": "cat"},
                 {"phrase": "a dog", "x": 0.75, "y": 0.5}]}
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm.util import UserError


@dataclass(frozen=True)
class LayoutObject:
    """One object: its phrase as it stands in the prompt, and its center.

    Attributes:
        phrase: e.g. "a bus".
        x, y: center as a fraction of the image's width and height; x to the right, y down.
        weight: initial attention weight, None for the schedule's own.
        name: category name where it is known, e.g. "bus".
    """

    phrase: str
    x: float
    y: float
    weight: float | None = None
    name: str | None = None

    @property
    def local_prompt(self) -> str:
        """The local description L_i whose attention is blended in (paper, section 3.2)."""
        return f"a photo of {self.phrase}"

    @property
    def clip_text(self) -> str:
        """What the object's crop is compared with in the CLIP loss."""
        return "A photo of " + re.sub(r"\bthe ", "", self.phrase.lower())

    @classmethod
    def from_json(cls, entry: Any, where: str = "object") -> LayoutObject:
        """Check and build one entry of "objects"; `where` names it in the UserError."""
        _check_keys(entry, {"phrase", "x", "y"}, {"weight", "name"}, where)
        phrase, name, weight = entry["phrase"], entry.get("name"), entry.get("weight")
        if not isinstance(phrase, str) or not phrase.strip():
            raise UserError(f'layout: "phrase" of {where} must be a text that is not empty, got {phrase!r}')
        if name is not None and not isinstance(name, str):
            raise UserError(f'layout: "name" of {where} must be a text, got {name!r}')
        x, y = (_number(entry[key], f'"{key}" of {where}') for key in ("x", "y"))
        for key, value in (("x", x), ("y", y)):
            if not 0 <= value <= 1:
                raise UserError(f'layout: "{key}" of {where} must lie between 0 and 1, got {value:g}')
        if weight is not None:
            weight = _number(weight, f'"weight" of {where}')
        return cls(phrase.strip(), x, y, weight, name)

    def to_json(self) -> dict[str, Any]:
        """The entry of "objects" that `from_json` reads; unknown values are left out."""
        entry = {"phrase": self.phrase, "x": self.x, "y": self.y, "weight": self.weight, "name": self.name}
        return {key: value for key, value in entry.items() if value is not None}


@dataclass(frozen=True)
class Layout:
    """The objects of one image, in the order of the prompt; equal phrases stay separate objects."""

    objects: tuple[LayoutObject, ...]
    prompt: str | None = None

    @classmethod
    def from_json(cls, source: str | Path | Mapping[str, Any]) -> Layout:
        """Read a layout from a JSON file or from its parsed content.

        Raises: UserError, one sentence, for a file that cannot be read or content of another form.
        """
        content: Any = _read(Path(source)) if isinstance(source, (str, Path)) else source
        _check_keys(content, {"objects"}, {"prompt"}, "the file")
        prompt, objects = content.get("prompt"), content["objects"]
        if prompt is not None and not isinstance(prompt, str):
            raise UserError(f'layout: "prompt" must be a text, got {prompt!r}')
        if not isinstance(objects, (list, tuple)):
            raise UserError('layout: "objects" must be a list of objects with "phrase", "x" and "y"')
        numbered = enumerate(objects, start=1)
        return cls(tuple(LayoutObject.from_json(entry, f"object {i}") for i, entry in numbered), prompt)

    def to_json(self) -> dict[str, Any]:
        """The content that `from_json` reads."""
        content: dict[str, Any] = {} if self.prompt is None else {"prompt": self.prompt}
        content["objects"] = [entry.to_json() for entry in self.objects]
        return content


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"layout file {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # not UTF-8, or not JSON
        raise UserError(f"layout file {path} is not valid JSON: {error}") from error


def _check_keys(entry: Any, needed: set[str], optional: set[str], where: str) -> None:
    if not isinstance(entry, Mapping):
        raise UserError(f"layout: {where} must be a JSON object with {_listed(needed)}")
    if missing := needed - set(entry):
        raise UserError(f"layout: {where} lacks {_listed(missing)}")
    if unknown := set(entry) - needed - optional:
        known = _listed(needed | optional)
        raise UserError(f"layout: {where} has unknown keys {_listed(unknown)}; known are {known}")


def _listed(keys: set[str]) -> str:
    return ", ".join(f'"{key}"' for key in sorted(keys, key=str))


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UserError(f"layout: {where} must be a finite number, got {value!r}")
    return float(value)
