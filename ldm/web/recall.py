"""Settings read back from a file that somebody dropped: an image of ours or of a web UI, a layout, a settings.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldm.boundary import one_line
from ldm.errors import UserError
from ldm.files import parse_json, read_json
from ldm.generation.images import read_parameters
from ldm.generation.settings import PRESET_NAMES, SAMPLERS
from ldm.pixels import read_texts
from ldm.spacetime.layout import Layout
from ldm.web.asked import PLAIN

LONGEST = 1 << 20  # bytes of JSON, and characters of parameters
# "a cat (0.250 0.500)", or the name of a shape and the box around it
PLACE = re.compile(r"(?P<phrase>.{1,400}) \((?P<kind>box |ellipse |)(?P<numbers>-?\d\.\d+(?: -?\d\.\d+){1,3})\)")


@dataclass
class Recalled:
    """What a file says; fields of settings that it does not name are left out."""

    settings: dict[str, Any] = field(default_factory=dict)  # of `GenerateSettings`, and "prompt"
    layout: Layout | None = None
    notes: list[str] = field(default_factory=list)  # what could not be taken over


def recall(path: Path, name: str, most: Mapping[str, int]) -> Recalled:
    """Read the settings in a file.

    Args:
        name: that the visitor knows it by.
        most: what a number may be at most, by the setting's name.

    Raises:
        UserError: it is neither an image with parameters nor a layout.
    """
    with path.open("rb") as file:
        start = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    try:
        found = _from_json(path) if start[:1] in (b"{", b"[") else _from_image(path)
    except UserError as error:
        raise UserError(one_line(str(error).replace(str(path), name))) from error
    if found.layout is not None:
        texts = {"prompt": found.layout.prompt, "negative_prompt": found.layout.negative_prompt}
        found.settings |= {key: text for key, text in texts.items() if text is not None}
    for key, value in list(found.settings.items()):
        if key in most and not 0 < value <= most[key]:
            found.notes.append(f"{key} {value:g} is more than is allowed here and was left as it is.")
            del found.settings[key]
    return found


def _from_json(path: Path) -> Recalled:
    if path.stat().st_size > LONGEST:
        raise UserError(f"{path} is larger than any layout; drop a layout file or an image")
    try:
        content = read_json(path)
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    record = content if isinstance(content, dict) and "layout" in content else {"layout": content}
    found = Recalled(layout=Layout.from_json(record["layout"]))
    if isinstance(given := record.get("settings"), dict):  # the settings.json of an image
        found.settings = _fitting(given)
        if (preset := given.get("preset", "")) in (*PRESET_NAMES, None):
            found.settings["preset"] = preset or PLAIN
    return found


def _from_image(path: Path) -> Recalled:
    text = read_texts(path).get("parameters")
    if text is None:
        raise UserError(f"{path} holds no parameters; drop an image that this program or a web UI has written")
    if len(text) > LONGEST:
        raise UserError(f"the parameters of {path} are longer than any that a program writes")
    prompt, negative, fields = read_parameters(text)
    width, _, height = fields.get("Size", "").partition("x")
    numbers = {"steps": fields.get("Steps"), "seed": fields.get("Seed"), "width": width, "height": height}
    given: dict[str, Any] = {
        key: int(value) for key, value in numbers.items() if value and value.isascii() and value.isdigit()
    }
    if re.fullmatch(r"-?\d{1,6}(\.\d{1,10})?", scale := fields.get("CFG scale", "")):
        given["scale"] = float(scale)
    sampler = fields.get("Sampler", "")
    found = Recalled({"prompt": prompt, "negative_prompt": negative})
    given["sampler"] = next((key for key, name in SAMPLERS.items() if name == sampler), None)
    if given["sampler"] is None:
        found.notes.append(f"The sampler {one_line(sampler, 40)!r} is not known here; yours was left.")
    found.settings |= _fitting(given)
    if (preset := fields.get("Spacetime schedule")) in PRESET_NAMES:
        found.settings["preset"] = preset
    found.layout = _places(fields.get("Spacetime regions") or fields.get("Spacetime layout", ""), prompt, found.notes)
    return found


def _fitting(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are of their type."""
    whole = {key: given.get(key) for key in ("steps", "seed", "width", "height")}
    taken: dict[str, Any] = {k: v for k, v in whole.items() if type(v) is int and 0 <= v < 2**63}
    scale = given.get("scale")
    if isinstance(scale, int | float) and not isinstance(scale, bool):
        taken["scale"] = float(scale)
    if given.get("sampler") in SAMPLERS:
        taken["sampler"] = given["sampler"]
    return taken


def _places(text: str, prompt: str, notes: list[str]) -> Layout | None:
    """The layout in an image's parameters: "phrase (x y); ...", or what a layout file has under "objects"."""
    if not text:
        return None
    try:
        if text.startswith("["):
            return Layout.from_json({"objects": parse_json(text), "prompt": prompt})
        places = [PLACE.fullmatch(part) for part in text.split("; ")]
        objects = [{"phrase": p["phrase"], **_place(p["kind"], *map(float, p["numbers"].split()))} for p in places if p]
        if len(objects) < len(places):
            notes.append("Not all objects of its layout could be read.")
        return Layout.from_json({"objects": objects, "prompt": prompt})
    except (ValueError, UserError):
        notes.append("Its layout could not be read.")
        return None


def _place(kind: str, x: float, y: float, right: float | None = None, bottom: float | None = None) -> dict[str, Any]:
    """The keys of an object's place in a layout file; of a shape (x, y) is the upper left corner."""
    if right is None or bottom is None:
        return {"x": x, "y": y}
    if kind.startswith("ellipse"):
        return {"ellipse": [(x + right) / 2, (y + bottom) / 2, (right - x) / 2, (bottom - y) / 2]}
    return {"box": [x, y, right, bottom]}
