"""What the benchmarks count, the page that they write, and their command line."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import presets
from bench.__main__ import PARTS, main
from bench.counting import Work, count_work, fit, in_turn
from bench.memory import PER_STEP, Case, count
from bench.page import PAGE, TABLES, blocks
from ldm.evaluation.report.markdown import replace_blocks

ROOT = Path(__file__).resolve().parents[2]
EMOJI = ROOT / "configs/emoji/inference.yaml"


@pytest.mark.parametrize(
    "case", [Case(size=128, steps=2), Case(size=128, steps=2, blocks=True), Case(PER_STEP, size=128)]
)
def test_fake_tensors_count_what_real_ones_do(case: Case) -> None:
    fake, real = count(case, EMOJI), count(case, EMOJI, fake=False)
    assert fake == pytest.approx(real, rel=0.01)
    assert fake > 2**20


def test_a_step_more_keeps_three_latents() -> None:
    few, many = (count(Case(size=128, steps=steps), EMOJI) for steps in (5, 10))
    assert 0 <= many - few <= 5 * 3 * 4 * 16 * 16 * 4 + 5 * 4096  # and its masks, timesteps and the like


def test_mixed_precision_halves_the_count() -> None:
    full, mixed = (count(Case(size=128, steps=2, autocast=autocast), EMOJI) for autocast in (False, True))
    assert mixed < 0.6 * full


def test_work_of_a_product() -> None:
    a, b = torch.randn(3, 5), torch.randn(5, 7)
    work = count_work(lambda: (a @ b).view(-1))
    assert work == Work(2 * 3 * 5 * 7, 4 * (15 + 35 + 21), 1)


def test_work_of_a_frozen_layers_gradient() -> None:
    from ldm.modules.lean import Conv2d

    layer = Conv2d(4, 8, 3, padding=1).requires_grad_(False)
    x = torch.randn(1, 4, 6, 6, requires_grad=True)
    once = count_work(lambda: layer(x.detach())).flops
    assert once == 2 * 8 * 36 * 4 * 9
    assert count_work(lambda: torch.autograd.grad(layer(x + 0).sum(), x)).flops == 2 * once  # + 0: no leaf


@pytest.mark.parametrize("costs", [(2e-11, 1e-10, 3e-6), (2e-11, 0.0, 3e-6), (0.0, 1e-10, 0.0)])
def test_the_fit_finds_costs_that_made_the_times(costs: tuple[float, float, float]) -> None:
    works = [Work(1e9, 1e8, 100), Work(5e9, 2e8, 120), Work(1e10, 9e8, 500), Work(2e10, 1e9, 4000)]
    seconds = [
        sum(c * n for c, n in zip(costs, (work.flops, work.bytes, work.operations), strict=True)) for work in works
    ]
    found, explained = fit(works, seconds)
    assert explained == pytest.approx(seconds, rel=1e-6)
    assert found == pytest.approx(costs, rel=1e-5, abs=1e-16)


def test_the_default_preset_costs_less_than_four_plain_images_of_calls() -> None:
    rows = presets.measure(rounds=1, steps=10, names=("per-step",))
    plain, own = rows["plain"], rows["per-step"]
    assert (plain["calls"], plain["backward"]) == (11, 0)  # PLMS calls twice in its first step
    assert (own["calls"], own["backward"]) == (14, 3)  # three of ten steps are optimized
    assert own["calls"] + own["backward"] <= 4 * plain["calls"] and own["flops"] <= 4 * plain["flops"]


def test_the_page_is_made_of_the_results() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    assert replace_blocks(text, blocks(ROOT / "docs/results")) == text


def test_rows_are_timed_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    costs = {"base": 2.0, "fast": 1.0, "slow": 20.0}

    def clock(call: Any) -> float:
        call()
        return costs[made[-1]]

    monkeypatch.setattr("bench.counting.seconds", clock)
    calls = {name: partial(made.append, name) for name in costs}
    rows = in_turn(calls, "base", 2, once={"slow"})
    assert made == ["base", "fast", "base", "fast", "slow", "base", "fast"]
    assert rows["fast"] == {"seconds": [1.0, 1.0], "median": 1.0, "ratio": 0.5}
    assert rows["slow"] == {"seconds": [20.0], "median": 20.0, "ratio": 10.0}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["calls", "--size", "100"], "multiple of 64"),
        (["memory", "--rounds", "0"], "from 1 to"),
        (["nothing"], "choice"),
    ],
)
def test_flags_that_cannot_be(arguments: list[str], told: str, capsys: Any) -> None:
    assert main(arguments) == 2 and told in capsys.readouterr().err


def test_a_page_without_results_says_how_to_make_them(tmp_path: Path, capsys: Any) -> None:
    assert main(["page", "--out", str(tmp_path)]) == 2
    assert "python -m bench calls" in capsys.readouterr().err


def test_every_part_has_a_table() -> None:
    assert set(PARTS) == set(TABLES)


@pytest.mark.slow
def test_a_call_beside_the_library() -> None:
    from bench.unet import LIBRARY, measure

    rows = measure(size=64, rounds=1)
    assert rows[LIBRARY]["ratio"] == 1 and all(row["median"] > 0 for row in rows.values())


@pytest.mark.slow
def test_the_check_of_a_card_on_a_cpu(tmp_path: Path, capsys: Any) -> None:
    from bench.card import main as check

    assert check(["--device", "cpu", "--small", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "gpu-check.json").read_text())["found"]
    assert {one["check"] for one in found} == {"golden vectors", "noise", "images", "seconds", "memory"}
    assert not [one for one in found if one["good"] is False] and (tmp_path / "images.png").exists()


def test_a_check_that_breaks_is_told_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from bench import card

    def breaks(_: Any) -> Any:
        raise RuntimeError("no kernel image")
        yield

    def works(_: Any) -> Any:
        yield card.Found("noise", "published noise", "0", "0", True)

    monkeypatch.setattr(card, "CHECKS", (breaks, works))
    assert card.main(["--device", "cpu", "--out", str(tmp_path)]) == 2
    found = json.loads((tmp_path / "gpu-check.json").read_text())["found"]
    assert [one["good"] for one in found] == [False, True]
    assert "no kernel image" in (tmp_path / "gpu-check.md").read_text()
    assert "not as it should be: breaks, stopped" in capsys.readouterr().err
