"""The ends of the scale, on the embedded model: no control, all control, and the discs swapped.

Before the table of the README means anything, a full mask with weight 1 must give the image of the local prompt,
weight 0 the plain image, and a change of the centers must move what is drawn.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.generation.pipeline import ModelChoice, Pipeline, load_pipeline
from ldm.models.diffusion.plms import PLMSSampler
from ldm.models.diffusion.sampling import noise_like, seeded_generators
from ldm.paths import EMOJI_CKPT, EMOJI_CONFIG, project_file
from ldm.spacetime.control import SpatialControl
from ldm.spacetime.layout import Layout, LayoutObject
from tests.golden_data import relative_error

STEPS, SCALE = 10, 5.0
PROMPT = "a banana to the left of a clock"
CLOCK = LayoutObject("a clock", 0.7, 0.5, name="clock")
BANANA = LayoutObject("a banana", 0.3, 0.5, name="banana")

pytestmark = pytest.mark.skipif(not project_file(EMOJI_CKPT).exists(), reason="the embedded model is not in place")


@cache
def embedded() -> Pipeline:
    """The shipped model."""
    choice = ModelChoice(project_file(EMOJI_CONFIG), project_file(EMOJI_CKPT), embedded=True)
    return load_pipeline(choice, device="cpu")


@torch.no_grad()
def sample(prompt: str, layout: Layout | None = None, weight: float = 0.0, radius: float = 0.2) -> Tensor:
    """Latents (1, 4, 16, 16) from the noise of seed 3; one weight for every object and step."""
    pipeline = embedded()
    chain: dict[str, Any] = {}
    if layout is not None:
        control = SpatialControl.build([layout], pipeline.encode, radius=radius)
        chain = {"control": control, "weights": torch.full((STEPS, len(layout.objects), 1), weight)}
    latents, _ = PLMSSampler(pipeline.model).sample(
        S=STEPS,
        batch_size=1,
        shape=(4, 16, 16),
        conditioning=pipeline.encode([prompt]),
        unconditional_conditioning=pipeline.encode([""]),
        unconditional_guidance_scale=SCALE,
        x_T=noise_like((1, 4, 16, 16), seeded_generators([3])),
        verbose=False,
        **chain,
    )
    return latents


def test_weight_zero_is_the_plain_image() -> None:
    assert relative_error(sample(PROMPT, Layout((BANANA, CLOCK)), 0.0), sample(PROMPT)) < 1e-6


def test_full_mask_with_weight_one_is_the_image_of_the_local_prompt() -> None:
    everywhere = sample(PROMPT, Layout((CLOCK,)), 1.0, radius=5.0)
    assert relative_error(everywhere, sample(CLOCK.local_prompt)) < 1e-4
    assert relative_error(everywhere, sample(PROMPT)) > 0.05


def test_swapped_centers_move_what_is_drawn() -> None:
    straight = sample(PROMPT, Layout((BANANA, CLOCK)), 1.0)
    swapped = Layout(
        tuple(LayoutObject(a.phrase, b.x, b.y, name=a.name) for a, b in ((BANANA, CLOCK), (CLOCK, BANANA)))
    )
    assert relative_error(sample(PROMPT, swapped, 1.0), straight) > 0.05
