"""`scripts/txt2img.py` end to end, and what all scripts share: quick help, one sentence for a mistake."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.paths import EMOJI_CKPT, EMOJI_CONFIG
from tests import tiny_world
from tests.golden_data import ROOT
from tests.scripts_under_test import QUIET, refusal, run, text_flags

EMBEDDED = [ROOT / p for p in (EMOJI_CONFIG, EMOJI_CKPT)]


@pytest.mark.parametrize("sampler", [[], ["--plms"], ["--dpm_solver"]])
def test_every_sampler(
    world: tiny_world.TinyWorld, tmp_path: Path, sampler: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--prompt", "a cat", "--ddim_steps", "2", "--n_iter", "1", "--n_samples", "2", "--scale", "3", *QUIET]
    run("txt2img", *text_flags(world), *flags, *sampler, "--outdir", tmp_path)
    said = capsys.readouterr().out
    for name in ("samples/00000.png", "samples/00001.png", "grid-0000.png"):
        assert str(tmp_path / name) in said
    with Image.open(tmp_path / "samples" / "00001.png") as image:
        assert image.size == (32, 32)
        assert "Seed: 43" in image.text["parameters"] and "Spacetime" not in image.text["parameters"]


def test_numbering_goes_on_and_an_image_depends_on_its_seed_alone(world: tiny_world.TinyWorld, tmp_path: Path) -> None:
    common = [*text_flags(world), "--prompt", "a dog", "--ddim_steps", "2", "--n_iter", "1", *QUIET]
    run("txt2img", *common, "--n_samples", "2", "--skip_grid", "--outdir", tmp_path)
    run("txt2img", *common, "--n_samples", "1", "--seed", "43", "--outdir", tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*.png")) == ["00000.png", "00001.png", "00002.png"]
    second, third = (np.asarray(Image.open(tmp_path / "samples" / f"0000{i}.png"), int) for i in (1, 2))
    assert abs(second - third).max() <= 1


def test_skip_save_and_a_file_of_prompts(world: tiny_world.TinyWorld, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\n\na dog\n")
    flags = ["--from-file", tmp_path / "prompts.txt", "--ddim_steps", "1", "--n_samples", "1", *QUIET]
    run("txt2img", *text_flags(world), *flags, "--n_iter", "1", "--skip_save", "--outdir", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").rglob("*.png")] == ["grid-0000.png"]


@pytest.mark.skipif(not all(p.exists() for p in EMBEDDED), reason="the embedded model is not in place")
def test_embedded_model(tmp_path: Path) -> None:
    flags = ["--config", EMBEDDED[0], "--plms", "--prompt", "a cat", "--ddim_steps", "2", "--n_samples", "1"]
    run("txt2img", *flags, "--n_iter", "1", "--device", "cpu", *QUIET, "--outdir", tmp_path)
    with Image.open(tmp_path / "samples" / "00000.png") as image:
        assert image.size == (128, 128)


def test_mistakes_end_in_one_sentence(
    world: tiny_world.TinyWorld, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = [*text_flags(world), *QUIET, "--outdir", tmp_path]
    assert "no prompt" in refusal(capfd, "txt2img", *flags)
    laion = ["--laion400m", "--ckpt", tmp_path / "none.ckpt", "--prompt", "a", *QUIET, "--outdir", tmp_path]
    assert "does not exist" in refusal(capfd, "txt2img", *laion)
    assert not list(tmp_path.rglob("*.png"))
