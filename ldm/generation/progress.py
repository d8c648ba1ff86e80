"""How long work tells its user what it does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial

Progress = Callable[[str, float, float, Mapping[str, float]], None]  # (what, done, total, losses by name)
OnWork = Callable[[float, float, Mapping[str, float]], None]  # the same without what


def work_of(progress: Progress | None, what: str) -> OnWork | None:
    """What tells the progress of `what`."""
    return None if progress is None else partial(progress, what)


@contextlib.contextmanager
def stage(progress: Progress | None, what: str) -> Iterator[None]:
    """Name what has no steps while it lasts: `progress` is told 0 and then 1 of 0."""
    if progress is not None:
        progress(what, 0, 0, {})
    yield
    if progress is not None:
        progress(what, 1, 0, {})
