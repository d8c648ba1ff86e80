"""What may be given to what a config builds: names, types and ranges, by the annotations of constructors."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from ldm.suggest import did_you_mean

LARGEST = 2**48  # "no bound" for whole numbers, which fits into any tensor


class Range(NamedTuple):
    """Of a number, as ``Annotated[int, Range(1, 3)]``."""

    least: float
    most: float


Whole = Annotated[int, Range(0, LARGEST)]
Count = Annotated[int, Range(1, LARGEST)]
Depth = Annotated[int, Range(0, 1000)]  # of a network, which takes seconds to build already
Fraction = Annotated[float, Range(0, 1)]
Weight = Annotated[float, Range(0, 1e12)]


def arguments(target: Callable[..., Any]) -> dict[str, Any]:
    """Arguments of a class or function with their types, through the bases that ``*args, **kwargs`` hand on to."""
    owners = target.__mro__ if inspect.isclass(target) else (target,)
    found: dict[str, Any] = {}
    for owner in owners:
        function = owner.__dict__.get("__init__") if inspect.isclass(target) else owner
        if function is None or owner is object:
            continue
        try:
            hints = typing.get_type_hints(function, include_extras=True)
        except (NameError, TypeError, AttributeError):  # names that only type checkers import
            hints = {}
        parameters = inspect.signature(function).parameters.values()
        named = [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name != "self"]
        found = {**{name: hints.get(name, Any) for name in named}, **found}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break  # nothing is handed on from here
    return found


def wrong_argument(target: Callable[..., Any], given: Iterable[str]) -> str | None:
    """The first of the `given` argument names that `target` does not know, with the nearest one that it does."""
    known = arguments(target)
    for name in given:
        if name not in known:
            return f"it knows no '{name}'{did_you_mean(name, known)}"
    return None


def wrong_value(target: Callable[..., Any], given: Mapping[str, Any]) -> str | None:
    """The first of the `given` arguments whose value is not of its type, by the annotations of `target`."""
    known = arguments(target)
    for name, value in given.items():
        if not _fits(value, hint := known.get(name, Any)):
            return f"{name} must be {_said(hint)}, not {value!r:.60}"
    return None


_SAID = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    Path: "a text",
    type(None): "null",
}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a config's text, number, truth value, list or mapping is of a type; of one not known here it is."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in inner)
    if origin is typing.Literal:
        return value in inner
    if origin is Annotated:
        return _fits(value, inner[0]) and all(part.least <= value <= part.most for part in inner[1:])
    if hint in (int, float, bool):
        number = isinstance(value, (int, float)) and (not isinstance(value, bool) or hint is bool)
        return number and (hint is float or value == int(value)) and (hint is not bool or value in (0, 1))
    if hint in (str, Path, type(None)):
        return isinstance(value, (str, Path) if hint is Path else hint)
    kind = origin or hint
    if kind in (list, tuple, Sequence, Iterable):
        inside = inner[0] if inner else Any
        return isinstance(value, Sequence) and not isinstance(value, str) and all(_fits(v, inside) for v in value)
    if kind in (dict, Mapping):
        return isinstance(value, Mapping)
    return True


def _said(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_said(part) for part in inner))
    if origin is Annotated:
        most = f" to {inner[1].most:g}" if inner[1].most < LARGEST else " on"
        return f"{_said(inner[0])} from {inner[1].least:g}{most}"
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, inner))}"
    if hint in _SAID:
        return _SAID[hint]
    listed = (origin or hint) in (list, tuple, Sequence, Iterable)
    return "a list" if listed else "a section of entries" if (origin or hint) in (dict, Mapping) else "something else"


def suspects(value: Any, name: str = "") -> Iterator[str]:
    """The entries of a config that are 0, negative, huge or empty, as "a.b=0": where to look first."""
    if isinstance(value, Mapping) and value:
        for key in value:
            yield from suspects(value[key], f"{name}.{key}".lstrip("."))
    elif isinstance(value, Sequence) and value and not isinstance(value, str):
        yield from dict.fromkeys(f"{name}={list(value)}" for part in value for _ in suspects(part))
    elif not value and not isinstance(value, bool | float | None) or type(value) is int and not 0 < value < 10**6:
        yield f"{name}={value!r:.40}"
