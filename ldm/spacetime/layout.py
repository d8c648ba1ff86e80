"""Layouts: the regions of an image, what each shows, and how hard it is steered.

As JSON, with coordinates as fractions of width and height, x to the right and y down:

    {"prompt": "A cat to the left of a dog in a garden.", "negative_prompt": "blurry",
     "objects": [{"phrase": "A cat", "x": 0.25, "y": 0.5},
                 {"phrase": "a dog", "box": [0.6, 0.3, 0.9, 0.9], "weight": 1.5, "negative_prompt": "a cat"}]}

An object is a disc at "x", "y" (of "radius", or the preset's) or one of "box", "ellipse", "polygon" and "mask"; see
`ldm.spacetime.shapes`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from ldm.errors import UserError
from ldm.spacetime.shapes import Bounds, Box, Ellipse, Mask, Polygon, Shape, center_of, cut
from ldm.suggest import did_you_mean

RADIUS = 0.2  # of an object's disc, and half the side of its crop, as a fraction of the image's sides
MOST_POINTS = 1000  # of a polygon
SHAPES = ("box", "ellipse", "polygon", "mask")  # keys of shapes other than discs
# What the numbers of an object may be.
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("x", "y", "start", "end"), (0, 1)),
    "weight": (-1000, 1000),
    "radius": (1e-3, 10),
}
ReadMask = Callable[[str], Mask]


@dataclass(frozen=True)
class LayoutObject:
    """An object of a prompt and the region that it shall fill.

    From `start` to `end`, fractions of the chain of denoising steps, the region acts; with both 0 it never does.

    Raises:
        UserError: `end` before `start`, or a radius beside a shape.
    """

    phrase: str  # as it stands in the prompt, e.g. "a bus"
    x: float  # center as a fraction of the image's width, to the right
    y: float  # and of its height, down
    weight: float | None = None  # initial attention weight; None for the preset's own
    name: str | None = None  # category where it is known, e.g. "bus"
    shape: Shape | None = None  # None: the disc around the center; see `shaped`
    radius: float | None = None  # of the disc; None for the preset's own
    prompt: str | None = None  # local description; None for "a photo of <phrase>"
    negative_prompt: str | None = None  # what the region shall not show
    start: float = 0.0
    end: float = 1.0
    optimize: bool = True  # False: the weight stays what it is

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise UserError(f"has its end, {self.end:g}, before its start, {self.start:g}")
        if self.shape is not None and self.radius is not None:
            raise UserError('has a "radius", which goes with "x" and "y" only')

    @classmethod
    def shaped(cls, phrase: str, shape: Shape, **more: Any) -> LayoutObject:
        """The object in the region of a shape; more: further fields."""
        x, y = center_of(shape.bounds)
        return cls(phrase, x, y, shape=shape, **more)

    def bounds(self, half_side: float = RADIUS) -> Bounds:
        """The smallest box around the region; around a disc without its own radius a square of that half side."""
        if self.shape is not None:
            return self.shape.bounds
        r = half_side if self.radius is None else self.radius
        return cut(self.x - r, self.y - r, self.x + r, self.y + r)

    def acts(self, index: int, total: int) -> bool:
        """Whether the region acts in step `index` of `total`."""
        return round(self.start * total, 9) <= index < round(self.end * total, 9)  # 0.07 * 100 is above 7

    @property
    def local_prompt(self) -> str:
        """The local description L_i whose attention is blended in (section 3.2)."""
        return self.prompt or f"a photo of {self.phrase}"

    @property
    def clip_text(self) -> str:
        """What the object's crop is compared with in the CLIP loss."""
        return self.prompt or "A photo of " + re.sub(r"\bthe ", "", self.phrase.lower())

    @classmethod
    def from_json(cls, entry: Any, where: str = "object", read_mask: ReadMask | None = None) -> LayoutObject:
        """Check and build an entry of "objects"; `where` names it in the UserError. See `Layout.from_json`."""
        known = {field.name for field in fields(cls)} - {"shape"} | set(SHAPES)
        _check_keys(entry, {"phrase"}, known, where)
        given = [key for key in SHAPES if key in entry]
        if len(given) > 1 or (given and {"x", "y"} & set(entry)):
            keys = _listed([*given, *({"x", "y"} & set(entry))])
            raise UserError(f"layout: {where} has more than one shape ({keys}); keep one")
        if not given and (missing := {"x", "y"} - set(entry)):
            raise UserError(f"layout: {where} lacks {_listed(missing)} (or one of {_listed(SHAPES)})")
        values: dict[str, Any] = {}
        for key in ("phrase", "name", "prompt", "negative_prompt"):
            if entry.get(key) is not None or key == "phrase":
                values[key] = _text(entry[key], f'"{key}" of {where}', empty=key in ("name", "negative_prompt"))
        for key, (least, most) in RANGES.items():
            if entry.get(key) is not None or (key in "xy" and key in entry):
                values[key] = _number(entry[key], f'"{key}" of {where}', least, most)
        if entry.get("optimize") is not None:
            if not isinstance(entry["optimize"], bool):
                raise UserError(f'layout: "optimize" of {where} must be true or false, got {entry["optimize"]!r}')
            values["optimize"] = entry["optimize"]
        phrase = values.pop("phrase").strip()
        shape = _shape(given[0], entry[given[0]], f'"{given[0]}" of {where}', read_mask) if given else None
        try:
            if shape is None:
                return cls(phrase, values.pop("x"), values.pop("y"), **values)
            return cls.shaped(phrase, shape, **values)
        except UserError as error:
            raise UserError(f"layout: {where} {error}") from None

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads; what is as it is by default is left out."""
        values = {
            field.name: value
            for field in fields(self)
            if (value := getattr(self, field.name)) is not None and value != field.default
        }
        shape = values.pop("shape", None)
        if shape is not None:
            del values["x"], values["y"]
            values |= shape.to_json()
        return values


@dataclass(frozen=True)
class Layout:
    """The objects of one image, in the order of the prompt; equal phrases stay separate objects."""

    objects: tuple[LayoutObject, ...]
    prompt: str | None = None
    negative_prompt: str | None = None  # what the whole image shall not show

    @classmethod
    def from_json(cls, content: Any, read_mask: ReadMask | None = None) -> Layout:
        """A layout from its parsed JSON.

        Args:
            read_mask: gives the mask at a path as it stands in the layout; without it masks are refused.

        Raises:
            UserError: content of another form, naming object and key.
        """
        _check_keys(content, {"objects"}, {"prompt", "negative_prompt"}, "the file")
        texts = {
            key: _text(content[key], f'"{key}"', empty=True)
            for key in ("prompt", "negative_prompt")
            if content.get(key) is not None
        }
        objects = content["objects"]
        if not isinstance(objects, list | tuple):
            raise UserError('layout: "objects" must be a list of objects with "phrase", "x" and "y", or a shape')
        numbered = enumerate(objects, start=1)
        return cls(tuple(LayoutObject.from_json(entry, f"object {i}", read_mask) for i, entry in numbered), **texts)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        texts = {"prompt": self.prompt, "negative_prompt": self.negative_prompt}
        known = {key: value for key, value in texts.items() if value is not None}
        return {**known, "objects": [entry.to_json() for entry in self.objects]}


def _shape(key: str, value: Any, where: str, read_mask: ReadMask | None) -> Shape:
    """The shape that stands under `key`; `where` names it in the UserError."""
    if key == "mask":
        path = _text(value, where)
        if read_mask is None:
            raise UserError(f"layout: {where} is an image file, which can't be read here; use another shape")
        return _named(f"{where}:", lambda: read_mask(path))
    if key == "polygon":
        if not isinstance(value, list | tuple) or not 3 <= len(value) <= MOST_POINTS:
            raise UserError(f"layout: {where} must be a list of 3 to {MOST_POINTS} points [x, y], got {_short(value)}")
        points = tuple((x, y) for x, y in (_numbers(point, 2, where, "points [x, y]") for point in value))
        return _named(where, lambda: Polygon(points))
    kind, names = (Box, "[left, top, right, bottom]") if key == "box" else (Ellipse, "[x, y, rx, ry]")
    numbers = _numbers(value, 4, where, names)
    return _named(where, lambda: kind(*numbers))


def _named(where: str, build: Callable[[], Shape]) -> Shape:
    try:
        return build()
    except UserError as error:
        raise UserError(f"layout: {where} {error}") from None


def _check_keys(entry: Any, needed: set[str], optional: set[str], where: str) -> None:
    if not isinstance(entry, Mapping):
        raise UserError(f"layout: {where} must be a JSON object with {_listed(needed)}")
    if missing := needed - set(entry):
        raise UserError(f"layout: {where} lacks {_listed(missing)}")
    known = needed | optional
    if unknown := set(entry) - known:
        means = "".join(did_you_mean(name, known) for name in sorted(map(str, unknown)))
        raise UserError(f"layout: {where} has unknown keys {_listed(unknown)}{means}; known are {_listed(known)}")


def _listed(keys: Any) -> str:
    return ", ".join(f'"{key}"' for key in sorted(keys, key=str))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _text(value: Any, where: str, empty: bool = False) -> str:
    if not isinstance(value, str) or not (empty or value.strip()):
        raise UserError(f"layout: {where} must be a text{'' if empty else ' that is not empty'}, got {_short(value)}")
    return value


def _numbers(value: Any, count: int, where: str, names: str) -> list[float]:
    if not isinstance(value, list | tuple) or len(value) != count:
        raise UserError(f"layout: {where} must be {names}, got {_short(value)}")
    return [_number(one, where) for one in value]


def _number(value: Any, where: str, least: float = -math.inf, most: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"layout: {where} must be a finite number, got {_short(value)}")
    if not least <= value <= most:
        raise UserError(f"layout: {where} must lie between {least:g} and {most:g}, got {value:g}")
    return float(value)
