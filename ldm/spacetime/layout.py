"""Layouts: the objects of a prompt, where their centers lie, and how hard each is steered.

As JSON, where `prompt`, `weight` and `name` are optional:

    {"prompt": "A cat to the left of a dog.",
     "objects": [{"phrase": "A cat", "x": 0.25, "y": 0.5, "weight": 1.0, "name": "cat"},
                 {"phrase": "a dog", "x": 0.75, "y": 0.5}]}
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ldm.errors import UserError

RADIUS = 0.2  # of an object's disc, and half the side of its crop, as a fraction of the image's sides


@dataclass(frozen=True)
class LayoutObject:
    """An object of a prompt and its center."""

    phrase: str  # as it stands in the prompt, e.g. "a bus"
    x: float  # center as a fraction of the image's width, to the right
    y: float  # and of its height, down
    weight: float | None = None  # initial attention weight; None for the preset's own
    name: str | None = None  # category where it is known, e.g. "bus"

    @property
    def local_prompt(self) -> str:
        """The local description L_i whose attention is blended in (section 3.2)."""
        return f"a photo of {self.phrase}"

    @property
    def clip_text(self) -> str:
        """What the object's crop is compared with in the CLIP loss."""
        return "A photo of " + re.sub(r"\bthe ", "", self.phrase.lower())

    @classmethod
    def from_json(cls, entry: Any, where: str = "object") -> LayoutObject:
        """Check and build an entry of "objects"; `where` names it in the UserError."""
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
        return cls(phrase.strip(), x, y, None if weight is None else _number(weight, f'"weight" of {where}'), name)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads; unknown values are left out."""
        return {key: value for key, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Layout:
    """The objects of one image, in the order of the prompt; equal phrases stay separate objects."""

    objects: tuple[LayoutObject, ...]
    prompt: str | None = None

    @classmethod
    def from_json(cls, content: Any) -> Layout:
        """A layout from its parsed JSON. Raises UserError for content of another form."""
        _check_keys(content, {"objects"}, {"prompt"}, "the file")
        prompt, objects = content.get("prompt"), content["objects"]
        if prompt is not None and not isinstance(prompt, str):
            raise UserError(f'layout: "prompt" must be a text, got {prompt!r}')
        if not isinstance(objects, list | tuple):
            raise UserError('layout: "objects" must be a list of objects with "phrase", "x" and "y"')
        numbered = enumerate(objects, start=1)
        return cls(tuple(LayoutObject.from_json(entry, f"object {i}") for i, entry in numbered), prompt)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        prompt = {} if self.prompt is None else {"prompt": self.prompt}
        return {**prompt, "objects": [entry.to_json() for entry in self.objects]}


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
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise UserError(f"layout: {where} must be a finite number, got {value!r:.60}")
    return float(value)
