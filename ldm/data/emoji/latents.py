"""Scenes as latents: the first stage sees each scene once, and later epochs read its result from a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ldm.data.emoji.scenes import EmojiScenes
from ldm.errors import DAMAGED
from ldm.util import UserError, atomic_write, instantiate_from_config


class EmojiLatents(Dataset[dict[str, Any]]):
    """:class:`EmojiScenes` as latents: the mode of the first stage's posterior, (4, 16, 16) float32, and the caption.

    A fixed number of scenes is encoded when first asked for and kept in `cache` (float16, not-a-number where not
    yet encoded), so that a diffusion model of many epochs does not pay for the encoder at every step.

    Args:
        first_stage_config: target and params of the trained first stage.
        cache: the file, made where it is not there; another first stage needs another file.
        latent_shape: of one latent.
        scenes: arguments of :class:`EmojiScenes`; its ``size`` is the number of latents.
    """

    def __init__(
        self,
        first_stage_config: Mapping[str, Any],
        cache: str,
        latent_shape: tuple[int, int, int] = (4, 16, 16),
        **scenes: Any,
    ) -> None:
        self.scenes = EmojiScenes(**scenes)
        self.first_stage = instantiate_from_config(first_stage_config).eval().requires_grad_(False)
        path, shape = Path(cache), (len(self.scenes), *latent_shape)
        if path.suffix != ".npy":
            raise UserError(f"the cache {path} must end in .npy")
        if not path.exists():
            with atomic_write(path) as temporary, temporary.open("wb") as handle:
                np.save(handle, np.full(shape, np.nan, dtype=np.float16))
        try:
            self.latents = np.load(path, mmap_mode="r+")
        except DAMAGED as error:
            raise UserError(f"{path} is no file of latents ({error}); delete it, and it is made anew") from error
        if self.latents.shape != shape:
            raise UserError(f"{path} holds latents {self.latents.shape}, the config wants {shape}; delete it")

    def __len__(self) -> int:
        return len(self.scenes)

    @torch.no_grad()
    def __getitem__(self, index: int) -> dict[str, Any]:
        """{"latent": float32 (4, 16, 16), "caption": str}."""
        scene = self.scenes.scene(index)
        if np.isnan(self.latents[index]).any():  # also where a run was killed while it wrote them
            image = torch.from_numpy(scene.image).permute(2, 0, 1)[None] / 127.5 - 1
            self.latents[index] = self.first_stage.encode(image).mode()[0].numpy()
        latent = self.latents[index].astype(np.float32)
        return {"latent": latent, self.scenes.caption_key: self.scenes.text(index, scene)}
