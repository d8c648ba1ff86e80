"""`scripts/img2img.py`: an image noised and denoised, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.generation.images import fit_size, image_tensor, to_images
from ldm.generation.img2img import vary
from ldm.generation.pipeline import choose_model, load_pipeline
from ldm.generation.settings import Sampling
from ldm.models.diffusion.sampling import seeded_generators
from ldm.pixels import read_image
from ldm.spacetime.layout import Layout
from tests import tiny_world
from tests.scripts_under_test import refusal, run, text_flags, write_image


def test_script_makes_variations_at_the_image_s_size(
    world: tiny_world.TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = write_image(tmp_path / "start.png", 70, 40)
    flags = ["--init-img", start, "--prompt", "a cat", "--ddim_steps", "4", "--strength", "0.5"]
    run("img2img", *text_flags(world), *flags, "--outdir", tmp_path / "out")
    assert "grid-0000.png" in capsys.readouterr().out
    first, second = (np.asarray(Image.open(tmp_path / "out" / "samples" / f"0000{i}.png")) for i in (0, 1))
    assert first.shape == (32, 64, 3) and not np.array_equal(first, second)
    text = Image.open(tmp_path / "out" / "samples" / "00000.png").info["parameters"]
    assert "Denoising strength: 0.5" in text and "Init image: start.png" in text


def test_an_image_says_what_it_was_made_of(
    world: tiny_world.TinyWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = write_image(tmp_path / "start, mine.png", 32, 32)
    flags = ["--init-img", start, "--prompt", "a cat", "--ddim_steps", "2", "--strength", "0.3"]
    run("img2img", *text_flags(world), *flags, "--n_samples", "1", "--outdir", tmp_path / "out")
    with Image.open(tmp_path / "out" / "samples" / "00000.png") as image:
        assert image.info["parameters"].endswith('Denoising strength: 0.3, Init image: "start, mine.png"')
    assert "--strength 0.3 of 2 steps is less than one step" in caplog.text


def test_strength_and_batches(world: tiny_world.TinyWorld, tmp_path: Path) -> None:
    pipeline = load_pipeline(choose_model(world.config, world.ckpt), device="cpu")
    image = image_tensor(read_image(write_image(tmp_path / "start.png", 32, 32)))

    def varied(strength: float, *seeds: int) -> np.ndarray:
        batch = ["a cat"] * len(seeds), [Layout(())] * len(seeds), seeds
        made = vary(pipeline, *batch, None, Sampling(steps=4, scale=3.0), image=image, strength=strength)
        return made[-1].image.astype(int)

    with torch.no_grad():
        latents = pipeline.backend.encode_image(image, seeded_generators([1]))
        [encoded] = to_images(pipeline.backend.decode(latents))
    assert np.array_equal(varied(0.0, 1), encoded)
    assert all(np.abs(varied(strength, 1) - encoded).max() > 10 for strength in (0.5, 1.0))
    assert np.abs(varied(0.5, 0, 1) - varied(0.5, 1)).max() <= 1


def test_less_than_a_step_is_told(
    world: tiny_world.TinyWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = write_image(tmp_path / "start.png", 32, 32)
    flags = ["--init-img", start, "--prompt", "a cat", "--ddim_steps", "2", "--strength", "0.3"]
    run("img2img", *text_flags(world), *flags, "--outdir", tmp_path / "out")
    assert "less than one step" in caplog.text


def test_an_image_that_lies_on_its_side_is_turned(world: tiny_world.TinyWorld, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    Image.new("RGB", (96, 64), "red").save(tmp_path / "a.jpg", exif=exif)
    flags = ["--init-img", tmp_path / "a.jpg", "--prompt", "a cat", "--ddim_steps", "2", "--strength", "0"]
    run("img2img", *text_flags(world), *flags, "--outdir", tmp_path / "out")
    assert Image.open(tmp_path / "out" / "samples" / "00000.png").size == (64, 96)


def test_sizes_are_cut_to_a_multiple() -> None:
    assert fit_size(Image.new("RGB", (70, 33)), 32).size == (64, 32)
    assert fit_size(Image.new("RGB", (10, 64)), 32).size == (32, 64)


def test_mistakes_end_in_one_sentence(
    world: tiny_world.TinyWorld, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    start = write_image(tmp_path / "start.png", 32, 32)
    (tmp_path / "text.png").write_text("no image")
    flags = [*text_flags(world), "--prompt", "a cat", "--outdir", tmp_path / "out"]
    assert "DDIM sampler only" in refusal(capfd, "img2img", *flags, "--init-img", start, "--plms")
    assert "from 0 to 1" in refusal(capfd, "img2img", *flags, "--init-img", start, "--strength", "1.5")
    assert "not an image" in refusal(capfd, "img2img", *flags, "--init-img", tmp_path / "text.png")
    assert "does not exist" in refusal(capfd, "img2img", *flags, "--init-img", tmp_path / "none.png")
    assert "--init-img" in refusal(capfd, "img2img", *flags)
    assert not (tmp_path / "out").exists()
