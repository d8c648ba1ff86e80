"""Frozen CLIP towers as conditioners: one vector of a text or of an image (retrieval-augmented diffusion)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.modules.encoders.base import AbstractEncoder
from ldm.util import UserError


def _open(source: str, device: str | torch.device | None) -> Any:
    """The frozen CLIP of a published name or a path, with its tokenizer and image statistics."""
    from ldm.modules.encoders.openai_clip import load_clip  # late: it opens files, and imports this package

    return load_clip(source, device)


class FrozenCLIPTextEmbedder(AbstractEncoder):
    """One CLIP vector a text, repeated `n_repeat` times: a context (B, n_repeat, C).

    Args:
        version: published name, or path of a CLIP (see :func:`ldm.modules.encoders.openai_clip.load_clip`).
        device: where it goes; the CPU if None.
        max_length: accepted for published configs; the model says how long a text may be.
        normalize: scale each vector to length 1.
    """

    def __init__(
        self,
        version: str = "ViT-L/14",
        device: str | torch.device | None = None,
        max_length: int = 77,
        n_repeat: int = 1,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        if n_repeat < 1:
            raise UserError(f"n_repeat must be at least 1, not {n_repeat}")
        bundle = _open(version, device)
        self.model, self.tokenize = bundle.model, bundle.tokenize
        self.max_length, self.n_repeat, self.normalize = max_length, n_repeat, normalize

    def freeze(self) -> None:
        """Evaluation mode, and no gradients for the weights (as it is built)."""
        self.model.eval().requires_grad_(False)

    def forward(self, text: Sequence[str] | str) -> Tensor:
        """Texts (B of them, or one) to vectors (B, C)."""
        texts = [text] if isinstance(text, str) else list(text)
        tokens = self.tokenize(texts).to(self.model.logit_scale.device)  # (B, L)
        z = self.model.encode_text(tokens)
        return F.normalize(z, dim=1) if self.normalize else z

    def encode(self, text: Sequence[str] | str) -> Tensor:
        """Texts to a context (B, n_repeat, C)."""
        return self(text)[:, None].expand(-1, self.n_repeat, -1)


class FrozenClipImageEmbedder(nn.Module):
    """One CLIP vector (B, C) an image.

    Args:
        model: published name, or path of a CLIP.
        jit: accepted for published configs; the weights are always run as plain modules.
        antialias: smooth images before they are made smaller.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, model: str, jit: bool = False, device: str | torch.device | None = None, antialias: bool = False
    ) -> None:
        super().__init__()
        bundle = _open(model, device)
        self.model, self.resolution, self.antialias = bundle.model, bundle.resolution, antialias
        self.register_buffer("mean", torch.tensor(bundle.mean, device=device), persistent=False)
        self.register_buffer("std", torch.tensor(bundle.std, device=device), persistent=False)

    def preprocess(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] as CLIP takes them: (B, 3, R, R), normalized."""
        from kornia.enhance import normalize
        from kornia.geometry.transform import resize

        size = (self.resolution, self.resolution)
        x = resize(x, size, interpolation="bicubic", align_corners=True, antialias=self.antialias)
        return normalize((x + 1.0) / 2.0, self.mean, self.std)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to vectors (B, C)."""
        return self.model.encode_image(self.preprocess(x))

    def encode(self, x: Tensor) -> Tensor:
        """The same as calling the module."""
        return self(x)
