"""What runs on a graphics card, on a fake one: no two devices meet, and no step of a chain waits for the device."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.generation.pipeline import make_sampler
from ldm.models.diffusion.sampling import seeded_generators
from ldm.spacetime.control import SpatialControl
from ldm.spacetime.optimize import optimize
from ldm.spacetime.presets import PRESETS, Preset
from ldm.util import instantiate_from_config
from tests import tiny_world
from tests.cli.test_inpaint import write_pair
from tests.cli.test_knn import needs_search, retrieval, write_database
from tests.cli.test_sample_diffusion import unconditional
from tests.fake_device import FakeDevice, fake_device
from tests.scripts_under_test import QUIET, concat, hybrid, run, tiny_config, write_image, write_model
from tests.tiny_model import NONE, TWO, TinyBundle, TinyDiffusion, chain_inputs, encode
from tests.training_parts import first_stage, target, transformer_unet

PLAIN = Preset("plain", "fixed", "conditional", 0.0)
SHORT: dict[str, Preset] = {
    "plain": PLAIN,
    "fixed": replace(PRESETS["fixed"], release=0.7),  # the last of three steps is plain
    "per-step": replace(PRESETS["per-step"], last=1.0, release=0.7),
    "whole chain": replace(PRESETS["iccv-2023"], rounds=1),
}


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        yield


def waits(device: str, preset: str, sampler: str, **more: Any) -> list[int]:
    """How often the host waited in each step but the first; two images, one without any object."""
    known: list[int] = []
    with fake_device(device) as fake:
        model, clip = TinyDiffusion().to(device), TinyBundle()
        clip.model.to(device)
        inputs = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in chain_inputs(2).items()}
        control = SpatialControl.build([TWO, NONE], lambda texts: encode(texts).to(device))
        objective = SHORT[preset].objective(clip, ["a", "b"], [TWO, NONE])  # type: ignore[arg-type]
        inputs |= {"S": 3, "generator": seeded_generators([1, 2]), **more}
        with torch.autocast(torch.device(device).type, more.pop("dtype", None), "dtype" in inputs):
            inputs.pop("dtype", None)
            made = optimize(
                model,
                make_sampler(sampler, model),
                control,
                objective,
                SHORT[preset],
                on_step=lambda state: known.append(len(fake.waits)),
                **inputs,
            )
        assert made.images.device == torch.device(device) and made.latents.dtype == made.weights.dtype == torch.float32
    return [after - before for before, after in zip(known, known[1:], strict=False)]


@pytest.mark.parametrize(
    ("preset", "sampler", "options"),
    [
        ("plain", "ddim", {"eta": 1.0}),
        ("plain", "plms", {}),
        ("plain", "dpm_solver", {}),
        ("fixed", "plms", {}),
        ("fixed", "ddim", {"mask": torch.ones(1, 1, 4, 4), "x0": torch.ones(2, 4, 4, 4)}),
        ("per-step", "plms", {}),
        ("per-step", "dpm_solver", {"dtype": torch.float16}),
        ("whole chain", "ddim", {"eta": 1.0, "dtype": torch.bfloat16}),
    ],
)
def test_no_step_waits_for_the_device(preset: str, sampler: str, options: dict[str, Any]) -> None:
    assert not any(waits("cuda:0", preset, sampler, **options))
