"""How a condition enters the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ldm.util import UserError, instantiate_from_config


class DiffusionWrapper(nn.Module):
    """The network, and how a condition enters it.

    A condition enters by `conditioning_key`: "concat", joined to the channels; "crossattn", as context; "hybrid", both;
    "adm", as class vector ``y``; None, not at all.
    """

    def __init__(self, diff_model_config: Mapping[str, Any], conditioning_key: str | None) -> None:
        super().__init__()
        if conditioning_key not in (None, "concat", "crossattn", "hybrid", "adm"):
            raise UserError(f"conditioning_key '{conditioning_key}' is none of concat, crossattn, hybrid, adm, null")
        self.diffusion_model = instantiate_from_config(diff_model_config)
        self.conditioning_key = conditioning_key

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: Sequence[Tensor] | None = None,
        c_crossattn: Sequence[Tensor] | None = None,
        control: Any = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """x (B, C, H, W), t (B,); lists of (B, C', H, W) and of (B, L, D); `control` goes to the attention."""
        key = self.conditioning_key
        if key in ("concat", "hybrid"):
            x = torch.cat([x, *(c_concat or ())], dim=1)
        kwargs: dict[str, Any] = {}
        if key in ("crossattn", "hybrid"):
            contexts = list(c_crossattn or ())
            # The same tensor at every step, so that what is computed from it can be kept.
            kwargs["context"] = contexts[0] if len(contexts) == 1 else torch.cat(contexts, dim=1)
        elif key == "adm":
            kwargs["y"] = (c_crossattn or (None,))[0]
        if control is not None:
            if key not in ("crossattn", "hybrid"):
                raise UserError("spatial control needs a model that is conditioned by cross-attention")
            kwargs.update(control=control, weights=weights)
        return self.diffusion_model(x, t, **kwargs)
