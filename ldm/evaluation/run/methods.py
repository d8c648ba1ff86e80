"""The ways of making an image that the evaluation compares, and how they are named on the command line.

``base``, ``fixed:weight=1``, ``fixed:weight=8,until=0.12``, ``per-step``, ``april-2023``, ``iccv-2023``; constants of
a schedule may follow, as in ``per-step:inner_steps=2,learning_rate=0.2``. ``blend=unconditional`` or ``conditional``
says what the local attention is measured against, ``swap=true`` exchanges the centers of the first two objects,
``radius`` is that of the discs. ``guidance`` and ``layout`` (predictor or rule) are those of the run unless a method
names its own: ``base:guidance=7.5``, ``per-step:layout=rule``.
``iccv-2023:shared=true`` moves one weight an object for all steps together.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ldm.evaluation.prompts import swapped
from ldm.spacetime.control import Blend
from ldm.spacetime.layout import Layout
from ldm.spacetime.presets import PRESETS, Preset
from ldm.util import UserError

Placing = Literal["predictor", "rule"]  # who gives the centers
DEFAULT_METHODS = ("base", "fixed:weight=1", "per-step", "april-2023", "iccv-2023")


@dataclass(frozen=True)
class Method:
    """One row of the table.

    ``label`` is what the user wrote. Without ``weight`` and ``preset`` it is the plain model; with
    ``weight`` every object has that weight, against the attention that ``blend`` names, at every step of the
    first part of the chain that ``until`` gives, and 0 afterwards; with ``preset`` the weights are optimized.
    ``swap`` exchanges the centers. ``radius`` is that of the discs of a fixed weight (a preset has its own);
    ``guidance`` and ``layout`` are None where they are the run's.
    """

    label: str
    weight: float | None = None
    preset: Preset | None = None
    swap: bool = False
    until: float = 1.0
    blend: Blend = "conditional"
    radius: float | None = None
    guidance: float | None = None
    layout: Placing | None = None

    @property
    def folder(self) -> str:
        """The label as a folder name."""
        return re.sub(r"[^a-z0-9.=-]+", "_", self.label.lower())

    @property
    def controlled(self) -> bool:
        """Whether the layout plays a part."""
        return self.weight is not None or self.preset is not None

    def arrange(self, layout: Layout) -> Layout:
        """The layout that the method draws: with ``swap``, and two objects or more, the first two change places."""
        return swapped(layout) if self.swap and len(layout.objects) >= 2 else layout


def parse_method(text: str) -> Method:
    """The method of a command-line word. Raises UserError naming what is possible."""
    name, _, rest = text.partition(":")
    options = _options(rest, text)
    guidance = _value(options.pop("guidance"), float, text) if "guidance" in options else None
    if name == "base":
        _refuse(options, text, ("guidance",))
        return Method(text, guidance=guidance)
    shared: dict[str, Any] = {"guidance": guidance, "layout": _choice(options.pop("layout", None), Placing, text)}
    shared["swap"] = _value(options.pop("swap", "false"), bool, text)
    if name == "fixed":
        weight = _value(options.pop("weight", "1"), float, text)
        until = _value(options.pop("until", "1"), float, text)
        blend = _choice(options.pop("blend", "conditional"), Blend, text)
        radius = _value(options.pop("radius"), float, text) if "radius" in options else None
        _refuse(options, text, ("weight", "until", "blend", "radius", *shared))
        return Method(text, weight=weight, until=until, blend=blend, radius=radius, **shared)
    if name not in PRESETS:
        raise UserError(f"There is no method '{name}'; choose one of base, fixed, {', '.join(PRESETS)}.")
    return Method(text, preset=_changed(PRESETS[name], options, text), **shared)


def _options(text: str, whole: str) -> dict[str, str]:
    parts = [part for part in text.split(",") if part]
    if any("=" not in part for part in parts):
        raise UserError(f"'{whole}' is not understood; write constants as name:key=value,key=value.")
    return {key.strip(): value.strip() for key, _, value in (part.partition("=") for part in parts)}


def _refuse(options: dict[str, str], whole: str, known: tuple[str, ...]) -> None:
    if options:
        raise UserError(
            f"'{whole}' has the unknown constant '{next(iter(options))}'; this method takes {', '.join(known)}."
        )


def _changed(preset: Preset, options: dict[str, str], whole: str) -> Preset:
    """The preset with the given constants, converted to the type of what they replace."""
    current: dict[str, Any] = {field.name: getattr(preset, field.name) for field in dataclasses.fields(preset)}
    changeable = [key for key, value in current.items() if type(value) in (bool, int, float)]
    for key in options:
        if key not in (*changeable, "blend"):
            raise UserError(
                f"'{whole}' has the unknown constant '{key}'; there are {', '.join(changeable)}, "
                "blend, swap, layout, guidance."
            )
    changes: dict[str, Any] = {}
    if "blend" in options:
        changes["blend"] = _choice(options.pop("blend"), Blend, whole)
    changes |= {key: _value(value, type(current[key]), whole) for key, value in options.items()}
    return dataclasses.replace(preset, **changes)


def _choice(text: str | None, kind: Any, whole: str) -> Any:
    """`text` if it is one of the words of a Literal type; None stays None."""
    if text is not None and text not in get_args(kind):
        raise UserError(f"'{text}' in '{whole}' is not possible; choose {' or '.join(get_args(kind))}.")
    return text


def _value(text: str, kind: type, whole: str) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise UserError(f"'{text}' in '{whole}' should be true or false.")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError as error:
        raise UserError(f"'{text}' in '{whole}' is not a number of the right kind ({kind.__name__}).") from error
