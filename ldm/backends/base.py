"""The protocol between a diffusion model and everything that samples with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Backend(Protocol):
    """What samplers, optimization and scripts need of a text-to-image model."""

    @property
    def alphas_cumprod(self) -> Tensor: ...  # (T,), of the noise that it was trained with

    @property
    def parameterization(self) -> str: ...  # what it predicts; the samplers take "eps", the noise

    @property
    def device(self) -> torch.device: ...

    @property
    def channels(self) -> int: ...  # of the latents

    @property
    def in_channels(self) -> int: ...  # that the U-Net takes: more than `channels` where it sees a masked image

    @property
    def conditioning_key(self) -> str | None: ...  # how a condition reaches it: "crossattn", "concat", "hybrid", "adm"

    @property
    def factor(self) -> int: ...  # pixels per latent pixel

    @property
    def image_size(self) -> int: ...  # side, in pixels, of the images that it was trained on

    @property
    def guidance_scale(self) -> float: ...  # that suits it

    def apply_model(
        self, x: Tensor, t: Tensor, conditioning: Any, control: Any = None, weights: Tensor | None = None
    ) -> Tensor:
        """The prediction for noisy latents x (B, C, h, w) at timesteps t (B,); weights (N, B) go with a control."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Texts to their contexts (B, L, C)."""

    def condition(self, texts: Sequence[str], height: int, width: int) -> Any:
        """Texts to what `apply_model` is conditioned on for images of that size: contexts, or a dictionary of tensors
        whose rows are the texts'."""

    def beside(self, condition: Any, latents: Tensor) -> Any:
        """What `condition` gives, with latents (1 or B, ...) that the U-Net sees beside the noisy ones."""

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) to images (B, 3, H, W) in [0, 1]; differentiable."""

    def encode_image(self, image: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """The latent (1, C, h, w) of an image (1, 3, H, W) in [0, 1], or a random one per generator (B, C, h, w)."""
