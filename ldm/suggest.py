"""The nearest right name, for messages about a wrong one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], form: str = "{}") -> str:
    """``"; did you mean '<nearest>'?"``, the nearest known name put into `form`, or nothing where none is near."""
    near = difflib.get_close_matches(name, sorted(known), 1)
    return f"; did you mean '{form.format(near[0])}'?" if near else ""
