"""Data sets of emoji scenes for training the first stage, the text-conditional U-Net and the small CLIP.

Scenes are made on the fly and depend only on (seed, index): nothing is stored, and any worker makes the same
scene.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import Dataset

from ldm.data.emoji.scene import Scene, make_scene, scene_rng

_UCG_OFFSET = 1 << 39  # a series beside the scenes' own: dropping captions changes no image
_SPLIT_SEEDS = {"train": 0, "validation": 1_000_003, "test": 2_000_003}


def split_seed(seed: int, split: str) -> int:
    """The seed of a split's own series of scenes, so that no split repeats another's."""
    return seed + _SPLIT_SEEDS[split]


class EmojiScenes(Dataset[dict[str, Any]]):
    """Whole scenes with weakly informative captions.

    Args:
        size: scenes an epoch; index i is always the same scene.
        seed: the series of scenes.
        split: "train", "validation" or "test": series that never meet.
        ucg_rate: share of captions replaced by the empty one, for classifier-free guidance.
        close_ups: share of the scenes of one object that show it large; the other scenes are the same at any share.
        image_key, caption_key: names of the entries of a sample.
    """

    def __init__(
        self,
        size: int = 1_000_000,
        seed: int = 0,
        split: str = "train",
        ucg_rate: float = 0.0,
        close_ups: float = 0.0,
        image_key: str = "image",
        caption_key: str = "caption",
    ) -> None:
        self.size = size
        self.seed = split_seed(seed, split)
        self.ucg_rate = ucg_rate
        self.close_ups = close_ups
        self.image_key = image_key
        self.caption_key = caption_key

    def __len__(self) -> int:
        return self.size

    def scene(self, index: int) -> Scene:
        """The scene behind sample ``index``, with its objects. Raises IndexError outside the epoch."""
        if not 0 <= index < self.size:
            raise IndexError(index)
        return make_scene(scene_rng(self.seed, index), close_ups=self.close_ups)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """{"image": float32 (64, 64, 3) in [-1, 1], "caption": str}."""
        scene = self.scene(index)
        text = scene.caption
        if self.ucg_rate > 0 and scene_rng(self.seed, index + _UCG_OFFSET).random() < self.ucg_rate:
            text = ""
        return {self.image_key: scene.image.astype(np.float32) / 127.5 - 1, self.caption_key: text}
