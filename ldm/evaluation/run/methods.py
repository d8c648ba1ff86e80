"""The ways of making an image that the evaluation compares, and how they are named on the command line.

``base`` is the plain model; ``fixed``, ``per-step``, ``april-2023`` and ``iccv-2023`` are presets. Constants may
follow, as in ``per-step:inner_steps=2,learning_rate=0.2`` or ``iccv-2023:shared=true``. Those of
``fixed:weight=8,until=0.12`` say which weight every object has up to which part of the steps.
``blend=unconditional`` or ``conditional`` says what the local attention is measured against, ``radius`` is that of the
discs, ``swap=true`` exchanges the centers of the first two objects. ``guidance`` and ``layout`` (predictor, rule, or
given: what a benchmark states) are those of the run unless a method names its own: ``base:guidance=7.5``,
``per-step:layout=rule``.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ldm import boundary
from ldm.evaluation.prompts.prompt import boxed, swapped
from ldm.evaluation.run.manifest import changed_keys
from ldm.spacetime.control import Blend
from ldm.spacetime.layout import Layout
from ldm.spacetime.presets import PRESETS, Preset
from ldm.util import UserError

Placing = Literal["predictor", "rule", "given"]  # who gives the centers; "given": what the prompt file states
DEFAULT_METHODS = ("base", "fixed:weight=1", "per-step", "april-2023", "iccv-2023")
_FIXED = {"weight": "initial", "until": "release", "blend": "blend", "radius": "radius"}  # constants of a fixed weight


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        label: what the user wrote.
        preset: None for the plain model.
        swap: whether the centers of the first two objects are exchanged.
        guidance, layout: None where they are the run's.
        box: side of a box that takes the place of each disc; None leaves the discs.
        best_of: images made of each, of which the one with the least loss is kept.
    """

    label: str
    preset: Preset | None = None
    swap: bool = False
    guidance: float | None = None
    layout: Placing | None = None
    box: float | None = None
    best_of: int = 1

    @property
    def folder(self) -> str:
        """The label as a folder name."""
        return re.sub(r"[^a-z0-9.=-]+", "_", self.label.lower())

    def arrange(self, layout: Layout) -> Layout:
        """The layout that the method draws."""
        layout = swapped(layout) if self.swap else layout
        return layout if self.box is None else boxed(layout, self.box)


def split_methods(words: Sequence[str]) -> list[str]:
    """Methods joined by commas or blanks; a constant (key=value) belongs to the method before it."""
    methods: list[str] = []
    for part in ",".join(words).split(","):
        if methods and re.fullmatch(r"\s*\w+=[^:]*", part):
            methods[-1] += f",{part.strip()}"
        elif part.strip():
            methods.append(part.strip())
    return methods


def parse_method(text: str) -> Method:
    """The method of a command-line word. Raises UserError naming what is possible."""
    name, _, rest = text.partition(":")
    options = _options(rest, text)
    if name != "base" and name not in PRESETS:
        raise UserError(f"There is no method '{name}'; choose one of base, {', '.join(PRESETS)}.")
    shared: dict[str, Any] = {}
    if "guidance" in options:
        shared["guidance"] = _value(options.pop("guidance"), boundary.GUIDANCE, text)
    if "best_of" in options:
        shared["best_of"] = _value(options.pop("best_of"), boundary.COUNT, text)
    if name == "base":
        _refuse(options, ("guidance", "best_of"), text)
        return Method(text, **shared)
    if "layout" in options:
        shared["layout"] = _value(options.pop("layout"), Placing, text)
    if "box" in options:
        shared["box"] = _value(options.pop("box"), boundary.number(0.001, 1), text)
    if "swap" in options:
        shared["swap"] = _value(options.pop("swap"), bool, text)
    preset, names = PRESETS[name], None
    if name == "fixed":
        preset, names = dataclasses.replace(preset, initial=1.0, release=1.0, blend="conditional"), _FIXED
    return Method(text, preset=_changed(preset, options, names, text), **shared)


def _options(text: str, whole: str) -> dict[str, str]:
    parts = [part for part in text.split(",") if part]
    if any("=" not in part for part in parts):
        raise UserError(f"'{whole}' is not understood; write constants as name:key=value,key=value.")
    return {key.strip(): value.strip() for key, _, value in (part.partition("=") for part in parts)}


def _refuse(options: Mapping[str, str], known: Sequence[str], whole: str) -> None:
    if unknown := [key for key in options if key not in known]:
        raise UserError(f"'{whole}' has the unknown constant '{unknown[0]}'; this method takes {', '.join(known)}.")


def _changed(preset: Preset, options: Mapping[str, str], names: Mapping[str, str] | None, whole: str) -> Preset:
    """The preset with the given constants, converted to the type of what they replace; `names` of their fields."""
    kinds: dict[str, Any] = {field.name: type(getattr(preset, field.name)) for field in dataclasses.fields(preset)}
    kinds["blend"] = Blend
    if names is None:
        names = {key: key for key, kind in kinds.items() if kind in (bool, int, float, Blend)}
    _refuse(options, (*names, "swap", "layout", "guidance", "box", "best_of"), whole)
    changes = {names[key]: _value(value, kinds[names[key]], whole) for key, value in options.items()}
    if idle := next((name for name in changes if preset.ignores(name)), None):
        raise UserError(f"'{whole}' sets {idle}, which changes nothing there; leave it out.")
    try:
        return dataclasses.replace(preset, **changes)
    except UserError as error:
        raise UserError(f"'{whole}': {error}") from error


def _value(text: str, kind: Any, whole: str) -> Any:
    if words := get_args(kind):
        if text not in words:
            raise UserError(f"'{text}' in '{whole}' is not possible; choose {' or '.join(words)}.")
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise UserError(f"'{text}' in '{whole}' should be true or false.")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError as error:
        raise UserError(f"'{text}' in '{whole}' is not a number of the right kind ({kind.__name__}).") from error
    except argparse.ArgumentTypeError as error:
        raise UserError(f"a number in '{whole}' {error}.") from error


# ----------------------------------------------------------------------------------------------- constants


# Constants that methods got later, with what they were before.
_LATER = {field.name: field.default for field in dataclasses.fields(Method) if field.name in ("box", "best_of")}


def constants_of(method: Method) -> dict[str, Any]:
    """All constants of a method, as JSON: its own and those of its preset."""
    constants: dict[str, Any] = {name: getattr(method, name) for name in ("swap", "guidance", "layout", *_LATER)}
    for key, value in dataclasses.asdict(method.preset).items() if method.preset else ():
        constants[key] = value if value is None or isinstance(value, int | float | str) else str(value)
    return constants


def changed_constants(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Names of the constants that differ. What a preset got later was its default before."""
    known = {**_LATER, **known}
    if "mode" in known:
        defaults = {field.name: field.default for field in dataclasses.fields(Preset)}
        known = {**{key: value for key, value in defaults.items() if key in wanted}, **known}
    return changed_keys(known, wanted)
