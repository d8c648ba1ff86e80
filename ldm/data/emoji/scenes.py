"""Data sets of emoji scenes for training the first stage, the U-Net, the detector and the small CLIP.

Scenes are made on the fly and depend only on (seed, index): nothing is stored, and any worker makes the same
scene.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ldm.arguments import Count, Fraction, Whole
from ldm.data.emoji.scene import Scene, make_scene, scene_rng
from ldm.errors import UserError

_UCG_OFFSET = 1 << 39  # a series beside the scenes' own: dropping captions changes no image
_SPLIT_SEEDS = {"train": 0, "validation": 1_000_003, "test": 2_000_003}


class SceneDataset(Dataset[dict[str, Any]]):
    """A series of random scenes; subclasses make samples of them.

    Args:
        size: samples an epoch; index i is always the same sample.
        seed: the series of scenes.
        split: "train", "validation" or "test": series that never meet.
        close_ups: share of the scenes of one object that show it large; the other scenes are the same at any share.
    """

    def __init__(
        self, size: Count = 1_000_000, seed: Whole = 0, split: str = "train", close_ups: Fraction = 0.0
    ) -> None:
        if split not in _SPLIT_SEEDS:
            raise UserError(f"split '{split}' is none of {', '.join(_SPLIT_SEEDS)}")
        self.size, self.seed, self.close_ups = size, seed + _SPLIT_SEEDS[split], close_ups

    def __len__(self) -> int:
        return self.size

    def check(self, index: int) -> None:
        """Raise IndexError outside the epoch, which ends a loop over the samples."""
        if not 0 <= index < self.size:
            raise IndexError(index)

    def make(self, rng: random.Random) -> Scene:
        """The scene that `rng` draws."""
        return make_scene(rng, close_ups=self.close_ups)


class EmojiScenes(SceneDataset):
    """Whole scenes with weakly informative captions.

    Args:
        size, seed, split, close_ups: see :class:`SceneDataset`.
        ucg_rate: share of captions replaced by the empty one, for classifier-free guidance.
        image_key, caption_key: names of the entries of a sample.
    """

    def __init__(
        self,
        size: Count = 1_000_000,
        seed: Whole = 0,
        split: str = "train",
        ucg_rate: Fraction = 0.0,
        close_ups: Fraction = 0.0,
        image_key: str = "image",
        caption_key: str = "caption",
    ) -> None:
        super().__init__(size, seed, split, close_ups)
        self.ucg_rate, self.image_key, self.caption_key = ucg_rate, image_key, caption_key

    def scene(self, index: int) -> Scene:
        """The scene behind a sample, with its objects. Raises IndexError outside the epoch."""
        self.check(index)
        return self.make(scene_rng(self.seed, index))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """{"image": float32 (128, 128, 3) in [-1, 1], "caption": str}."""
        scene = self.scene(index)
        return {self.image_key: scene.image.astype(np.float32) / 127.5 - 1, self.caption_key: self.text(index, scene)}

    def text(self, index: int, scene: Scene) -> str:
        """What is said of the scene of a sample: its caption, or nothing."""
        dropped = self.ucg_rate > 0 and scene_rng(self.seed, index + _UCG_OFFSET).random() < self.ucg_rate
        return "" if dropped else scene.caption


def channels_first(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W, 3) in 0..255 to (3, H, W) in [0, 1]."""
    return np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)
