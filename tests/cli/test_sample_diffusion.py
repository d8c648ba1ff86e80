"""`scripts/sample_diffusion.py`: samples of an unconditional model as files, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ldm.errors import UserError
from ldm.generation.unconditional import SampleSettings, find_model, open_unconditional, sample_batch, sample_folder
from tests import tiny_world
from tests.scripts_under_test import refusal, run, tiny_config, without_text, write_model


def unconditional(params: dict[str, Any]) -> None:
    without_text(params)
    params.update(cond_stage_config="__is_unconditional__", timesteps=10)
    del params["conditioning_key"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unconditional")
    write_model(folder, tiny_config(unconditional))
    return folder


@pytest.mark.parametrize("how", [["-c", "2"], ["-v"]])
def test_files(model: Path, tmp_path: Path, how: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["-r", model, "-n", "3", "--batch_size", "2", "-l", tmp_path, "--device", "cpu", *how]
    run("sample_diffusion", *flags)
    [folder] = (tmp_path / "samples").iterdir()
    assert str(folder) in capsys.readouterr().out
    with np.load(folder / "numpy" / "3x32x32x3-samples.npz") as arrays:
        array = arrays["arr_0"]
    assert array.shape == (3, 32, 32, 3) and array.dtype == np.uint8
    for i in range(3):
        assert np.array_equal(np.asarray(Image.open(folder / "img" / f"sample_{i:06d}.png")), array[i])
    assert not np.array_equal(array[0], array[1])


def test_a_guard_sees_every_image_before_it_is_written(model: Path, tmp_path: Path) -> None:
    def paint_black(images: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.zeros_like(image) for image in images]

    settings = SampleSettings(resume=model, n_samples=3, batch_size=2, steps=1, logdir=tmp_path, device="cpu")
    folder = sample_folder(settings, paint_black)
    assert len(list((folder / "img").iterdir())) == 3
    assert all(not np.asarray(Image.open(path)).any() for path in (folder / "img").iterdir())
    with np.load(folder / "numpy" / "3x32x32x3-samples.npz") as arrays:
        assert not arrays["arr_0"].any()


def test_a_sample_depends_on_its_number_alone(model: Path) -> None:
    loaded = open_unconditional(SampleSettings(resume=model, device="cpu"))
    for settings in (SampleSettings(resume=model, steps=2), SampleSettings(resume=model, vanilla_sample=True)):
        together, alone = sample_batch(loaded, settings, [0, 1]), sample_batch(loaded, settings, [1])
        assert (together[1:] - alone).abs().max() < 1e-4


def test_a_run_of_main_is_found(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    ckpt = tmp_path / "checkpoints" / "last.ckpt"
    ckpt.touch()
    with pytest.raises(UserError, match="config.yaml"):
        find_model(tmp_path)
    (tmp_path / "config.yaml").touch()
    assert find_model(tmp_path) == find_model(ckpt) == (tmp_path / "config.yaml", ckpt)


def test_mistakes_end_in_one_sentence(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def said(*words: str | Path) -> str:
        return refusal(capfd, "sample_diffusion", "-l", tmp_path / "out", "--device", "cpu", *words)

    empty, text = tmp_path / "empty", tmp_path / "text"
    empty.mkdir()
    assert "holds no checkpoint" in said("-r", empty)
    assert "does not exist" in said("-r", tmp_path / "none")
    assert "--n_samples: must be a whole number from 1" in said("-r", model, "-n", "0")
    assert "write key=value" in said("-r", model, "timesteps")
    assert "--eta: must be a number from 0 to 1" in said("-r", model, "-e", "7")
    assert "between 1 and 10" in said("-r", model, "-c", "11")
    assert "no section 'modell' to replace; did you mean 'model'?" in said("-r", model, "modell.params.image_size=4")
    assert "did you mean 'image_size'?" in said("-r", model, "model.params.image_sise=4")
    write_model(text, tiny_world.CONFIG)
    assert "conditional model" in said("-r", text)
    assert not (tmp_path / "out").exists()
