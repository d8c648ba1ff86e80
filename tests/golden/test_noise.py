"""The noise of CUDA's generator: recorded values, and where it stands after the chains of the samplers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldm.generation.generate import generate
from ldm.generation.img2img import redraw
from ldm.generation.settings import GenerateSettings
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.models.diffusion.dpm_solver import DPMSolverSampler
from ldm.models.diffusion.plms import PLMSSampler
from ldm.models.diffusion.sampling import noise_like
from ldm.philox import BLOCK, RESIDENT_BLOCKS, PhiloxGenerator, philox
from tests import tiny_world
from tests.golden_data import ROOT
from tests.scripts_under_test import write_image
from tests.tiny_model import SIZE, TinyDiffusion, chain_inputs

CASES = json.loads((ROOT / "tests/golden/noise.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['seed']}-{case['draw']}-{case['shape'][0]}")
def test_recorded_values(case: dict[str, Any]) -> None:
    generator = PhiloxGenerator(case["seed"])
    for _ in range(case["draw"]):
        generator.skip(case["shape"])
    noise = noise_like(case["shape"], generator)
    assert noise.dtype == torch.float32 and list(noise.shape) == case["shape"]
    values = noise.flatten().double()
    assert [*values[:6], *values[-2:]] == pytest.approx([*case["first"], *case["last"]], abs=3e-6)
    assert [values.sum(), values.abs().sum()] == pytest.approx([case["sum"], case["abs_sum"]], abs=2e-3)


def test_known_answers_of_the_cipher() -> None:
    """The known-answer tests that Philox's authors publish."""
    ones = [2**32 - 1] * 4
    assert [f"{int(w):08x}" for w in philox(0, [0] * 4)] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]
    assert [f"{int(w):08x}" for w in philox(2**64 - 1, ones)] == ["408f276d", "41c83b0e", "a20bc7c6", "6d5451fd"]


def test_a_thread_has_four_values_where_a_card_has_fewer_threads_than_values() -> None:
    threads = BLOCK * RESIDENT_BLOCKS
    first, many = PhiloxGenerator(3).randn((threads,)), PhiloxGenerator(3)
    values = many.randn((4 * threads + 1,))
    assert torch.equal(values[:threads], first) and many.calls == 2
    following = PhiloxGenerator(3)
    following.skip((1,))
    assert values[-1] == following.randn((1,))  # thread 0's fifth value is the first of its second call
    assert abs(float(values.mean())) < 3e-3 and float(values.std()) == pytest.approx(1, abs=3e-3)


@pytest.mark.parametrize(
    ("sampler", "options", "draws"),
    [
        (DDIMSampler, {}, 4),
        (DDIMSampler, {"eta": 0.5}, 4),
        (PLMSSampler, {}, 5),  # its first step makes two
        (DPMSolverSampler, {}, 0),
        (DDIMSampler, {"mask": torch.ones(1, 1, SIZE, SIZE), "x0": torch.zeros(1, 4, SIZE, SIZE)}, 8),
    ],
)
def test_chains_go_on_as_the_published_samplers(sampler: Any, options: dict[str, Any], draws: int) -> None:
    generator = PhiloxGenerator(0)
    with torch.no_grad():
        sampler(TinyDiffusion()).sample(S=4, generator=generator, **options, **chain_inputs(1))
    assert generator.calls == draws


@pytest.fixture
def settings(world: tiny_world.TinyWorld) -> GenerateSettings:
    plain = GenerateSettings(("a cat",), config=world.config, ckpt=world.ckpt, device="cpu", preset=None)
    return replace(plain, clip=str(world.clip), steps=4, scale=3.0, seed=1, noise="published", sampler="plms")


def started(settings: GenerateSettings, monkeypatch: pytest.MonkeyPatch, **more: Any) -> list[tuple[float, int]]:
    """The first value of each chain's starting noise, and its number of images."""
    found = []
    sample = PLMSSampler.sample

    def note(self: Any, *args: Any, **chain: Any) -> Any:
        found.append((round(float(chain["x_T"].flatten()[0]), 3), len(chain["x_T"])))
        return sample(self, *args, **chain)

    with monkeypatch.context() as patch:
        patch.setattr(PLMSSampler, "sample", note)
        generate(replace(settings, **more))
    return found


def value(draw: int, seed: int = 1) -> float:
    """The first value of a draw of up to 221,184 elements, whatever their number."""
    generator = PhiloxGenerator(seed)
    generator.calls = draw
    return round(float(generator.randn((1,))), 3)


def test_batches_rounds_and_baselines(
    settings: GenerateSettings, world: tiny_world.TinyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = 1 + 5  # x_T, and a draw of each of PLMS's calls
    assert started(settings, monkeypatch, iterations=2, samples=2) == [(value(0), 2), (value(after), 2)]
    fixed = started(settings, monkeypatch, iterations=2, samples=2, fixed_code=True)
    assert fixed == [(value(0), 2)] * 2
    method = {"preset": "april-2023", "rounds": 2, "layout": world.layout, "iterations": 2, "baseline": True}
    found = started(settings, monkeypatch, **method)
    second = value(1 + 2 * 5)  # the plain image draws from the same place and moves nothing
    assert found == [(value(0), 1)] * 3 + [(second, 1)] * 3


def test_prompts_of_a_file_share_batches(settings: GenerateSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"prompts": ("a cat", "a dog", "a bus"), "grouped": True, "samples": 2}
    assert started(settings, monkeypatch, **more) == [(value(0), 2), (value(6), 1)]
    made = generate(replace(settings, **more, noise="per-image"))
    assert [(image.prompt, image.seed) for image in made] == [("a cat", 1), ("a dog", 2), ("a bus", 3)]
    alone = generate(replace(settings, prompts=("a dog",), seed=2, noise="per-image"))
    assert np.abs(made[1].image.astype(int) - alone[0].image).max() <= 1


def test_the_record_says_it(settings: GenerateSettings, world: tiny_world.TinyWorld, tmp_path: Path) -> None:
    made = generate(replace(settings, layout=world.layout, preset="fixed", samples=2, outdir=tmp_path))
    record = json.loads(made[1].files["settings"].read_text())
    assert (record["seed"], record["index"]) == (1, 1)
    assert [record["settings"][name] for name in ("noise", "seed", "samples")] == ["published", 1, 2]


def test_image_to_image(settings: GenerateSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    randn = PhiloxGenerator.randn
    monkeypatch.setattr(PhiloxGenerator, "randn", lambda self, shape: drawn.append(self.calls) or randn(self, shape))
    start = write_image(tmp_path / "start.png", 32, 32)
    list(redraw(replace(settings, sampler="ddim", steps=4, iterations=2), start, strength=0.5))
    assert drawn == [0, 3]  # each chain: the image's noise, and that of two steps
