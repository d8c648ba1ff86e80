"""The CompVis models: a LatentDiffusion with its config."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ldm.boundary import one_line

logger = logging.getLogger(__name__)


def factor_of(first_stage: Mapping[str, Any]) -> int:
    """Pixels per latent pixel of a first stage with these parameters; 1 for one without networks."""
    if "ddconfig" not in first_stage:
        return 1
    return int(first_stage.get("fold", 1)) * 2 ** (len(first_stage["ddconfig"]["ch_mult"]) - 1)


class CompVis(nn.Module):
    """A `Backend` around a LatentDiffusion; pixel-space models, which have no first stage, decode to themselves."""

    def __init__(self, model: Any, config: Mapping[str, Any], guidance_scale: float) -> None:
        """config: of the whole model, with its section "model"."""
        super().__init__()
        self.model, self.config, self.guidance_scale = model, config, guidance_scale
        self._looked_at: set[str] = set()  # for ends that are not read

    @property
    def params(self) -> Mapping[str, Any]:
        """Parameters of the LatentDiffusion."""
        return self.config["model"]["params"]

    @property
    def alphas_cumprod(self) -> Tensor:
        """(T,), cumulative alphas of the training noise."""
        return self.model.alphas_cumprod

    @property
    def parameterization(self) -> str:
        """What the model predicts."""
        return getattr(self.model, "parameterization", "eps")

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.alphas_cumprod.device

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return int(self.params.get("channels", 4))

    @property
    def factor(self) -> int:
        """Pixels per latent pixel: 2 to the number of the first stage's downsamplings, times what it folds first."""
        return factor_of((self.params.get("first_stage_config") or {}).get("params") or {})

    @property
    def image_size(self) -> int:
        """Side, in pixels, of the images that the model was trained on."""
        size = self.params.get("image_size", 64)
        return int(size if isinstance(size, int) else size[0]) * self.factor

    @property
    def conditioning_key(self) -> str | None:
        """How a condition reaches the U-Net: "crossattn", "concat", "hybrid", "adm"; None without one."""
        return self.model.model.conditioning_key

    @property
    def in_channels(self) -> int:
        """Channels that the U-Net takes."""
        return int(self.params["unet_config"]["params"]["in_channels"])

    def beside(self, condition: Tensor, latents: Tensor) -> dict[str, list[Tensor]]:
        """See `Backend`."""
        return {"c_concat": [latents], "c_crossattn": [condition]}

    def apply_model(
        self, x: Tensor, t: Tensor, conditioning: Any, control: Any = None, weights: Tensor | None = None
    ) -> Tensor:
        """See `Backend`."""
        if control is None:
            return self.model.apply_model(x, t, conditioning)
        return self.model.apply_model(x, t, conditioning, control=control, weights=weights)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Texts to their contexts (B, L, C). The end of a text that has no room in them is told of, once."""
        self.tell_unread(texts, getattr(self.model.cond_stage_model, "unread", None))
        return self.model.get_learned_conditioning(list(texts))

    def condition(self, texts: Sequence[str], height: int, width: int) -> Tensor:
        """See `Backend`: their contexts, whatever the size."""
        return self.encode(texts)

    def tell_unread(self, texts: Sequence[str], unread: Callable[[str], str] | None) -> None:
        """Warn of the ends of texts that a text encoder does not read, of each text once."""
        if unread is None:
            return
        for text in dict.fromkeys(texts):
            if text not in self._looked_at and (rest := unread(text)):
                logger.warning(
                    "The text encoder has no room for the end of '%s': '%s'.", one_line(text, 80), one_line(rest, 120)
                )
        self._looked_at.update(texts)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) to images (B, 3, H, W) in [0, 1]; differentiable."""
        decode = getattr(self.model, "decode_first_stage", None)
        images = latents if decode is None else decode(latents)
        return ((images + 1) / 2).clamp(0, 1)

    def encode_image(self, image: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """See `Backend`; a code of a VQ model has nothing random."""
        posterior, latents = self.model.encode_first_stage(2 * image - 1), self.model.get_first_stage_encoding
        if isinstance(posterior, Tensor):
            return latents(posterior).repeat(len(generators or [0]), 1, 1, 1).float()
        if generators is None:
            return latents(posterior.mode()).float()
        return torch.cat([latents(posterior, generator=g) for g in generators]).float()
