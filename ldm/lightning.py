"""Lightning's classes, from which the models, their data and their callbacks are made.

They are Lightning's own, unless a process that will only sample has said so by :func:`leave_out` before: importing
Lightning takes longer than torch, and sampling needs none of it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

_left_out = False


def leave_out() -> None:
    """Let this process do without Lightning: models can sample and not train. Nothing where Lightning is loaded.

    It is for a script that owns its process, which calls it first; not for a library, whose user may train.
    """
    global _left_out
    _left_out = "pytorch_lightning" not in sys.modules


def left_out() -> bool:
    """Whether this process does without Lightning."""
    return _left_out


if TYPE_CHECKING:
    from pytorch_lightning import Callback as Callback
    from pytorch_lightning import LightningDataModule as LightningDataModule
    from pytorch_lightning import LightningModule as LightningModule
    from pytorch_lightning.callbacks import Checkpoint as Checkpoint
else:

    def __getattr__(name: str) -> Any:
        """One of the classes, once it is asked for."""
        if name not in ("Callback", "Checkpoint", "LightningDataModule", "LightningModule"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if _left_out:
            from ldm import without_lightning as source
        elif name == "Checkpoint":
            import pytorch_lightning.callbacks as source
        else:
            import pytorch_lightning as source
        return getattr(source, name)
