"""The question whether gradient steps help: its look-ahead, its loss on the attention, and its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import steps
from bench.page import STEPS_PAGE, steps_blocks
from bench.steps import look_ahead, run, scenes, variants
from bench.variants import SETTINGS, VARIANTS, variant_of
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.paths import ROOT
from ldm.spacetime.presets import PRESETS
from tests.tiny_model import TinyDiffusion


@pytest.mark.parametrize("jumps", [0, 1, 4])
def test_looking_ahead_with_a_perfect_model_finds_the_image(jumps: int) -> None:
    sampler = DDIMSampler(TinyDiffusion())
    x0, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    step = sampler.schedule(5)[1]
    told: list[Tensor] = []

    def eps(x: Tensor, t: Tensor, weights: Tensor | None) -> Tensor:
        assert weights is not None
        told.append(t)
        alpha = sampler.model.alphas_cumprod[t].view(-1, 1, 1, 1)
        return (x - alpha.sqrt() * x0) / (1 - alpha).sqrt()

    x = step.alpha**0.5 * x0 + (1 - step.alpha) ** 0.5 * noise
    assert torch.allclose(look_ahead(jumps, sampler, eps, x, step, torch.ones(1, 2)), x0, atol=1e-4)
    assert len(told) == jumps + 1 and all((b < a).all() for a, b in zip(told, told[1:], strict=False))


def test_variants_move_weights_and_are_scored(monkeypatch: Any) -> None:
    monkeypatch.setattr(steps, "STEPS", 4)
    pipeline = steps.pipeline_on("cpu")
    batch = scenes("choose-many", 2)
    for name in ("released, CLIP, up", "released, attention", "released, 4 steps ahead"):
        result = run(pipeline, batch, VARIANTS[name])[1]
        assert result is not None
        assert (result.weights[0] != PRESETS["per-step"].initial).all() and not result.weights[-1].any()
    rows = variants(pipeline, ["held, best of 2", "fixed:weight=2"], 1)
    assert [row["set"] for row in rows] == [*steps.SETS] * 2
    assert all(row["object_recall"][1] >= 2 and row["loss"] > 0 for row in rows)


def test_all_settings_are_methods() -> None:
    assert len(set(SETTINGS)) == len(SETTINGS)
    assert all(variant_of(name).preset is not None for name in SETTINGS)


def test_tables_on_the_page_are_those_of_the_result() -> None:
    page = (ROOT / STEPS_PAGE).read_text(encoding="utf-8")
    for name, block in steps_blocks(Path(ROOT / "docs/results")).items():
        assert f"<!-- {name} -->\n{block}\n<!-- end {name} -->" in page, "run python -m bench page"
