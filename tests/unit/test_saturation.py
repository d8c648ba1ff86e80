"""The ends of the scale, on the embedded model: no control, all control, and the discs swapped.

Before the table of the README means anything, a full mask with weight 1 must give the image of the local prompt,
weight 0 the plain image, and a change of the centers must move what is drawn.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from ldm.generation.draw import draw
from ldm.generation.pipeline import ModelChoice, Pipeline, load_pipeline
from ldm.generation.settings import Sampling
from ldm.paths import EMOJI_CKPT, EMOJI_CONFIG, project_file
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.spacetime.presets import PRESETS
from tests.golden_data import relative_error

PROMPT = "a banana to the left of a clock"
CLOCK = LayoutObject("a clock", 0.7, 0.5, name="clock")
BANANA = LayoutObject("a banana", 0.3, 0.5, name="banana")

pytestmark = pytest.mark.skipif(not project_file(EMOJI_CKPT).exists(), reason="the embedded model is not in place")


@cache
def embedded() -> Pipeline:
    """The shipped model."""
    choice = ModelChoice(project_file(EMOJI_CONFIG), project_file(EMOJI_CKPT), embedded=True)
    return load_pipeline(choice, device="cpu")


def sample(prompt: str, layout: Layout | None = None, weight: float = 0.0, radius: float = 0.2) -> Tensor:
    """An image (64, 64, 3) in [0, 1] from the noise of seed 3; one weight for every object and step."""
    preset = None if layout is None else replace(PRESETS["fixed"], initial=weight, radius=radius)
    sampling = Sampling(sampler="plms", steps=10, scale=5.0)
    [made] = draw(embedded(), [prompt], [layout or Layout(())], [3], preset, sampling)
    return torch.from_numpy(made.image) / 255


def test_weight_zero_is_the_plain_image() -> None:
    assert relative_error(sample(PROMPT, Layout((BANANA, CLOCK)), 0.0), sample(PROMPT)) < 1e-6


def test_full_mask_with_weight_one_is_the_image_of_the_local_prompt() -> None:
    everywhere = sample(PROMPT, Layout((CLOCK,)), 1.0, radius=5.0)
    assert relative_error(everywhere, sample(CLOCK.local_prompt)) < 0.01
    assert relative_error(everywhere, sample(PROMPT)) > 0.05


def test_swapped_centers_move_what_is_drawn() -> None:
    straight = sample(PROMPT, Layout((BANANA, CLOCK)), 1.0)
    swapped = Layout(
        tuple(LayoutObject(a.phrase, b.x, b.y, name=a.name) for a, b in ((BANANA, CLOCK), (CLOCK, BANANA)))
    )
    assert relative_error(sample(PROMPT, swapped, 1.0), straight) > 0.05
