"""CelebA-HQ and FFHQ as the published configs name them: lists and folders under data/, never mirrored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from ldm.data.lsun import LSUNBase


class _Faces(LSUNBase):
    """A split: its list and folder unless others are given. `keys`, of annotations, is accepted and adds nothing."""

    split: ClassVar[tuple[str, str]]  # name of the folder and of the split

    def __init__(self, size: int | None = None, keys: Sequence[str] | None = None, **kwargs: Any) -> None:
        folder, split = self.split
        own = {"txt_file": f"data/{folder}{split}.txt", "data_root": f"data/{folder}", "flip_p": 0.0}
        super().__init__(**{**own, "size": size, **kwargs})


class CelebAHQTrain(_Faces):
    split = "celebahq", "train"


class CelebAHQValidation(_Faces):
    split = "celebahq", "validation"


class FFHQTrain(_Faces):
    split = "ffhq", "train"


class FFHQValidation(_Faces):
    split = "ffhq", "validation"
