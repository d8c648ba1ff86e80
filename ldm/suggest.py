"""The nearest right name, for messages about a wrong one."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any


def did_you_mean(name: str, known: Iterable[str], form: str = "{}") -> str:
    """``"; did you mean '<nearest>'?"``, the nearest known name put into `form`, or nothing where none is near."""
    near = difflib.get_close_matches(name, sorted(known), 1)
    return f"; did you mean '{form.format(near[0])}'?" if near else ""


def arguments(target: Callable[..., Any]) -> set[str]:
    """Names of the arguments of a class or function, through the bases that ``*args, **kwargs`` hand on to."""
    owners = target.__mro__ if inspect.isclass(target) else (target,)
    names: set[str] = set()
    for owner in owners:
        function = owner.__dict__.get("__init__") if inspect.isclass(target) else owner
        if function is None or owner is object:
            continue
        parameters = inspect.signature(function).parameters.values()
        names |= {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break  # nothing is handed on from here
    return names - {"self"}


def wrong_argument(target: Callable[..., Any], given: Iterable[str]) -> str | None:
    """The first of the `given` argument names that `target` does not know, with the nearest one that it does."""
    known = arguments(target)
    for name in given:
        if name not in known:
            return f"it knows no '{name}'{did_you_mean(name, known)}"
    return None
