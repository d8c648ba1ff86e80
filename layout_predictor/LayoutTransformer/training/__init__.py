"""Losses, schedules and the training loop of the layout predictor; here what is needed before the heavy imports."""

from __future__ import annotations

import os

LAST = "last.pth"  # the checkpoint in the output folder that a run goes on from


def is_main_process() -> bool:
    """Whether this process writes and reports; true before any other process is started."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "RANK"))
