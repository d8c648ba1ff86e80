"""The small models of the golden vectors: built from the configs in their index, filled as the reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldm.util import instantiate_from_config
from tests.golden_data import DEVICE, fill_


def golden_diffusion(config: Mapping[str, Any]) -> Any:
    """The LatentDiffusion of a case, frozen and in eval mode."""
    model = instantiate_from_config({"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": config})
    fill_(model.model, 1, "model.")
    fill_(model.first_stage_model, 1, "first_stage_model.")
    return model.to(DEVICE).eval().requires_grad_(False)
