"""The lines of the published README, as they stand there, from the folders that it names."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from layout_predictor.inference import checkpoints, inference_coco
from layout_predictor.inference.checkpoints import EMBEDDED, PUBLISHED_FOLDER
from layout_predictor.LayoutTransformer.model.names import to_published
from layout_predictor.LayoutTransformer.training.checkpoint import load_exported
from tests.golden_data import ROOT

SENTENCE = "The silver bed was situated to the right of the white couch."
INFER = f"python inference/inference_coco.py --sentence '{SENTENCE}'"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project's code, so that no run reads or writes the user's data and models."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("ldm", "layout_predictor", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "saved"))
    for name in ("configs/emoji", "models/emoji"):
        (folder / name).parent.mkdir()
        (folder / name).symlink_to(ROOT / name)
    return folder


def line(folder: Path, command: str, code: int = 0) -> tuple[str, str]:
    """What a line of the README prints, run in `folder`."""
    words = [sys.executable, *shlex.split(command)[1:]]
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def test_training_says_what_data_it_lacks(project: Path) -> None:
    folder = project / "layout_predictor" / "LayoutTransformer"
    _, said = line(folder, "python train.py --cfg_path ./configs/coco/coco_seq2seq_v9_ablation_4.yaml", 2)
    [error] = [text for text in said.splitlines() if text.startswith("error: ")]
    assert "data/coco/gpt-3.pkl" in error and "data/coco/annotations/instances_train2017.json" in error
    assert not (folder / PUBLISHED_FOLDER).exists() and "Traceback" not in said


def test_a_sentence_by_a_saved_model(project: Path) -> None:
    (project / PUBLISHED_FOLDER).mkdir(parents=True)
    shutil.copy(EMBEDDED, project / PUBLISHED_FOLDER / "layout.safetensors")
    answer, said = line(project / "layout_predictor" / "LayoutTransformer", f"{INFER} --mscoco")
    assert answer.splitlines()[0] == SENTENCE and "The silver bed position: (0." in answer
    assert f"Using the layout predictor {project / PUBLISHED_FOLDER / 'layout.safetensors'}" in said


def test_which_model_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "PLACES", (tmp_path / "here", tmp_path / "project"))
    assert checkpoints.default_weights() == EMBEDDED
    for path in ("project/#/checkpoint_100_0.1.pth", "here/#/last.pth", "here/#/checkpoint_9_0.1.pth",
                 "here/#/checkpoint_10_0.1.pth", "here/#/layout.safetensors"):  # fmt: skip
        file = tmp_path / path.replace("#", str(PUBLISHED_FOLDER))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        assert checkpoints.default_weights() == file


def test_a_published_checkpoint_needs_its_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the published one, it is weights alone, under the published names."""
    model, tokenizer = load_exported(EMBEDDED)
    state = {name: value.clone() for name, value in to_published(model).items()}
    word = next(name for name, value in state.items() if len(value) == len(tokenizer) and value.ndim == 2)
    state[word] = torch.zeros(len(tokenizer) + 1, state[word].shape[1])  # of no tokenizer that is here
    folder = tmp_path / PUBLISHED_FOLDER
    folder.mkdir(parents=True)
    torch.save({"state_dict": state, "n_steps": 1}, folder / "checkpoint_99_0.0.pth")
    monkeypatch.setattr(checkpoints, "PLACES", (tmp_path,))
    monkeypatch.setattr(checkpoints, "LayoutModel", lambda _: pytest.fail("too early"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert inference_coco.main(["--sentence", SENTENCE]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and f"as {folder / 'tokenizer.json'}" in said and "\n" not in said


def test_environment() -> None:
    assert yaml.safe_load((ROOT / "environment.yaml").read_text())["name"] == "ldm"


@pytest.mark.slow
def test_an_image(project: Path) -> None:
    command = 'python scripts/txt2img-refine.py --plms --prompt "The cat is to the left of a dog." --seed 1'
    said, _ = line(project, command)
    assert "image: outputs/txt2img-refine/samples/00000.png" in said
    assert (project / "outputs/txt2img-refine/samples/00000.png").is_file()
