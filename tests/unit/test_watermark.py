"""What is done to a finished image: invisible watermark and safety checker, present and absent."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.generation.safety import Guard, SafetyChecker, read_watermark
from tests.scripts_under_test import load_script, refusal, write_image

SCRIPT = "tests/test_watermark"
needs_watermark = pytest.mark.skipif(
    importlib.util.find_spec("imwatermark") is None, reason="invisible-watermark is not installed"
)
needs_diffusers = pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="diffusers is not installed")


def image(tmp_path: Path, size: int) -> np.ndarray:
    return np.asarray(Image.open(write_image(tmp_path / f"plain{size}.png", size, size)))


@needs_watermark
def test_watermark_is_invisible_and_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Neither flat nor saturated, as photographs are: the method changes colors by a few levels.
    small = np.random.default_rng(0).integers(60, 200, (64, 64, 3), dtype=np.uint8)
    plain = np.asarray(Image.fromarray(small).resize((512, 512), Image.Resampling.BICUBIC))
    Image.fromarray(plain).save(tmp_path / "plain512.png")
    [marked] = Guard(safety=False)([plain])
    assert not np.array_equal(plain, marked) and abs(plain.astype(int) - marked).mean() < 4
    Image.fromarray(marked).save(tmp_path / "marked.png")
    assert load_script(SCRIPT).main([str(tmp_path / "marked.png")]) == 0
    assert capsys.readouterr().out == "watermark: StableDiffusionV1\n"
    assert read_watermark(tmp_path / "plain512.png") is None


@needs_watermark
def test_small_images_get_none_and_say_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = image(tmp_path, 64)
    made = Guard(safety=False)([plain, plain])
    assert all(np.array_equal(plain, p) for p in made)
    assert sum("below 256x256" in r.message for r in caplog.records) == 1
    assert read_watermark(tmp_path / "plain64.png") is None


@needs_watermark
def test_what_is_no_image(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_text("text")
    assert "not an image" in refusal(capfd, SCRIPT, tmp_path / "a.png")
    assert "does not exist" in refusal(capfd, SCRIPT, tmp_path / "b.png")


def test_missing_packages_are_told_once_each(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "imwatermark", None)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    for name in [name for name in sys.modules if name.startswith("diffusers.")]:
        monkeypatch.delitem(sys.modules, name)
    plain = image(tmp_path, 64)
    guard = Guard()
    with caplog.at_level(logging.WARNING):
        assert all(np.array_equal(guard([plain])[0], plain) for _ in range(2))
    said = [r.message.split(":")[0] for r in caplog.records]
    assert said == ["The safety checker is off", "Images get no watermark"]
    caplog.clear()
    Guard(safety=False, watermark=False)([plain])
    assert not caplog.records
    assert "pip install invisible-watermark" in refusal(capfd, SCRIPT, tmp_path / "plain64.png")


def test_what_is_asked_for_and_missing_ends_the_script(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "imwatermark", None)
    inpaint = ["--indir", tmp_path, "--outdir", tmp_path / "out"]
    for words in (["inpaint", *inpaint], ["sample_diffusion", "-r", tmp_path]):
        said = refusal(capfd, *words, "--watermark")
        assert "pip install invisible-watermark" in said and "or leave out --watermark" in said
    if importlib.util.find_spec("diffusers") is not None:
        said = refusal(capfd, "inpaint", *inpaint, "--safety-checker", tmp_path / "none")
        assert f"no weights of {tmp_path / 'none'}" in said and "or leave out --safety-checker" in said


@needs_diffusers
def test_missing_weights_are_told(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    assert Guard(watermark=False, safety_source=tmp_path / "none").checker is None
    assert "no weights" in caplog.text


@needs_diffusers
def test_safety_checker_blackens_what_it_objects_to(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = CLIPConfig(text_config=tower, vision_config={**tower, "image_size": 8, "patch_size": 4}, projection_dim=4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = StableDiffusionSafetyChecker(config)
    with torch.no_grad():  # no cosine is above 2, every cosine is above -2
        model.special_care_embeds_weights.fill_(2.0)
        model.concept_embeds_weights.fill_(2.0)
    processor = CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    plain = image(tmp_path, 64)
    for name, threshold in (("lenient", 2.0), ("strict", -2.0)):
        with torch.no_grad():
            model.concept_embeds_weights.fill_(threshold)
        model.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
    assert SafetyChecker(tmp_path / "lenient")([plain])[1] == [False]
    [kept] = Guard(watermark=False, safety_source=tmp_path / "lenient")([plain])
    [black] = Guard(watermark=False, safety_source=tmp_path / "strict")([plain])
    assert np.array_equal(kept, plain) and not black.any()
    assert "the safety checker objects" in caplog.text
