"""The training loop on a tiny model: it resumes exactly, evaluates, shares batches, and refuses wrong files."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from layout_predictor.LayoutTransformer.data.grammar import generate
from layout_predictor.LayoutTransformer.data.sample import collate
from layout_predictor.LayoutTransformer.data.tokenizer import SentenceTokenizer, train_tokenizer
from layout_predictor.LayoutTransformer.model import build_model
from layout_predictor.LayoutTransformer.model.names import to_published
from layout_predictor.LayoutTransformer.training.checkpoint import export, load_exported, load_training, save_training
from layout_predictor.LayoutTransformer.training.config import read_config
from layout_predictor.LayoutTransformer.training.evaluate import Score
from layout_predictor.LayoutTransformer.training.losses import layout_loss
from layout_predictor.LayoutTransformer.training.trainer import Trainer, batch_losses
from layout_predictor.train import main
from ldm.util import UserError
from tests.tiny_layout_data import DATA, RELATIONS, write_captions, write_coco

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ROOT / "layout_predictor" / "configs" / "default.yaml"
UNUSED = "bbox_head.refine_box_head.dense.bias"


def write_config(folder: Path, name: str = "tiny", **changes: dict[str, Any]) -> Path:
    """A tiny configuration; `changes` are keys of its sections."""
    sections = copy.deepcopy(DATA["training"])
    sections["OUTPUT"]["OUTPUT_DIR"] = str(folder / name)
    for section, values in changes.items():
        sections[section].update(values)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(sections))
    return path


def make_trainer(config: Path) -> Trainer:
    settings = read_config(config, DEFAULT)
    tokenizer = SentenceTokenizer.load(settings.data.tokenizer)
    model = build_model(settings.model.layout_config(len(tokenizer)), seed=1)
    return Trainer(settings, model, tokenizer)


def assert_same_weights(one: Trainer, other: Trainer) -> None:
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name


def test_a_killed_run_goes_on_as_if_never_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_trainer(write_config(tmp_path, "whole"))
    whole.train()
    part = make_trainer(write_config(tmp_path, "part"))
    update = Trainer.update

    def killed(self: Trainer) -> None:
        if self.step == 5:
            raise KeyboardInterrupt
        update(self)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "update", killed)
        part.train()
    torch.rand(5)  # another program's draws
    resumed = make_trainer(tmp_path / "part.yaml")
    resumed.resume(tmp_path / "part" / "last.pth")
    assert resumed.step == 4  # the end of the first epoch
    resumed.train()
    assert_same_weights(whole, resumed)
    assert resumed.log == whole.log and resumed.step == whole.step == 8
    for name, optimizer in whole.optimizers.items():
        states = (optimizer.state_dict()["state"], resumed.optimizers[name].state_dict()["state"])
        assert all(torch.equal(states[0][i]["exp_avg_sq"], states[1][i]["exp_avg_sq"]) for i in states[0])


def test_resuming_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    whole = make_trainer(config)
    for _ in range(5):
        whole.update()
    part = make_trainer(config)
    for _ in range(3):
        part.update()
    part.save(tmp_path / "stop.pth")
    resumed = make_trainer(config)
    resumed.resume(tmp_path / "stop.pth")
    assert resumed.step == 3
    for _ in range(2):
        resumed.update()
    assert_same_weights(whole, resumed)


def test_training_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, "out", OUTPUT={"TENSORBOARD": True, "KEEP": 1})
    assert main(["--cfg_path", str(config)]) == 0
    assert "relation accuracy" in capsys.readouterr().out
    out = tmp_path / "out"
    assert {"train.log", "last.pth", "layout.safetensors"} <= {path.name for path in out.iterdir()}
    assert "validation: relation_accuracy" in (out / "train.log").read_text()
    assert len(list(out.glob("checkpoint_2_*.pth"))) == 1
    assert len(list(out.glob("events.out.tfevents.*"))) == 1
    state = load_training(out / "last.pth")
    assert state["n_steps"] == 8
    assert {"state_dict", "encoder_optimizer", "bbox_head_optimizer", "n_steps", "log"} <= set(state)
    model, _ = load_exported(out / "layout.safetensors")
    assert model.config.hidden_size == 16
    for checkpoint in ("last.pth", "layout.safetensors"):
        assert main(["--cfg_path", str(config), "--eval_only", "--checkpoint", str(out / checkpoint)]) == 0
    sentences = tmp_path / "one.jsonl"
    sentences.write_text('{"words": ["cat ", "under ", "bus"], "objects": [0, 2], "relations": [[0, 2, "below"]]}\n')
    capsys.readouterr()
    last = ["--checkpoint", str(out / "last.pth"), "--sentences", str(sentences)]
    assert main(["--cfg_path", str(config), "--eval_only", *last]) == 0
    assert "all: " in capsys.readouterr().out
    for untrained in ([], ["--sentences", str(sentences)]):
        assert main(["--cfg_path", str(config), "--eval_only", *untrained]) == 2
        assert "name it with --checkpoint" in capsys.readouterr().err
    assert main(["--cfg_path", str(config), *last]) == 2
    assert "it is not trained on" in capsys.readouterr().err


def test_the_newest_and_the_best_checkpoints_stay(tmp_path: Path) -> None:
    trainer = make_trainer(write_config(tmp_path, OUTPUT={"KEEP": 2}))
    trainer.output.mkdir()
    names = [f"checkpoint_{epoch}_{metric}.pth" for epoch, metric in enumerate(("0.5", "0.9", "0.6", "0.7"), start=1)]
    others = ["checkpoint_mine.pth", "checkpoint_9_0.1.pth", "last.pth"]  # of a longer run, or not of a run at all
    for name in names + others:
        (trainer.output / name).write_text("")
    trainer.step = 4 * trainer.epoch_steps
    trainer.prune(Score(stated=Counter(all=1)))
    assert {path.name for path in trainer.output.iterdir()} == {*names[1:], *others}
    trainer.prune(Score())  # the metric is a distance: smaller is better
    assert {path.name for path in trainer.output.iterdir()} == {*names[2:], *others}


def coco_config(folder: Path, name: str, **data: Any) -> Path:
    write_coco(folder)
    paths = {"ANNOTATIONS": str(folder), "CAPTIONS": str(write_captions(folder / "captions.pkl"))}
    values = {"NAME": "coco", "MIN_OBJECTS": 1, "VALID_PART": 0.5, "TRAIN_SENTENCES": 6}
    return write_config(folder, name, DATA={**values, **paths, **data}, TRAINING={"BATCH_SIZE": 2})


def test_training_on_coco(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    relations = tmp_path / "gpt-3.pkl"
    relations.write_bytes(pickle.dumps(RELATIONS))
    config = coco_config(tmp_path, "coco", RELATIONS=str(relations))
    assert main(["--cfg_path", str(config)]) == 0
    assert (tmp_path / "coco" / "sta_dict.json").is_file()
    missing = coco_config(tmp_path, "generated", RELATIONS=str(tmp_path / "none.pkl"))
    assert main(["--cfg_path", str(missing)]) == 2
    assert "--relations generated" in capsys.readouterr().err
    assert main(["--cfg_path", str(missing), "--relations", "generated"]) == 0
    pretrain = coco_config(tmp_path, "pretrain")
    assert main(["--cfg_path", str(pretrain), "--init_from", str(tmp_path / "coco" / "last.pth")]) == 0
    [path] = (tmp_path / "pretrain").glob("checkpoint_2_*.pth")
    log = load_training(path)["log"]  # without relations, the metric is the distance
    assert path.name == f"checkpoint_2_{log[-1]['center_distance']:.4f}.pth"


def test_parts_of_a_batch_average_to_the_whole(tmp_path: Path) -> None:
    trainer = make_trainer(write_config(tmp_path, MODEL={"dropout": 0.0, "attention_dropout": 0.0}))
    samples = [generate(1, i) for i in range(6)]
    model = trainer.model.eval()

    def gradient(part: list[Any], processes: int) -> torch.Tensor:
        model.zero_grad()
        hinge, nll = batch_losses(model, collate(part, trainer.tokenizer, 190))
        layout_loss(hinge, nll, batch_size=len(samples) / processes).backward()
        assert model.head.mixture.weight.grad is not None
        return model.head.mixture.weight.grad.clone()

    parts = (gradient(samples[0::2], 2) + gradient(samples[1::2], 2)) / 2
    assert torch.allclose(parts, gradient(samples, 1), atol=1e-6)


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_batch(tmp_path: Path) -> None:
    still = {"dropout": 0.0, "attention_dropout": 0.0}
    single = write_config(tmp_path, "single", MODEL=still)
    double = write_config(tmp_path, "double", MODEL=still, TRAINING={"BATCH_SIZE": 4})
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for config, devices in ((single, "1"), (double, "2")):
        command = [sys.executable, str(ROOT / "layout_predictor" / "train.py"), "--cfg_path", str(config)]
        done = subprocess.run(
            [*command, "--devices", devices], env=environment, capture_output=True, text=True, timeout=1800
        )
        assert done.returncode == 0, done.stderr
    states = [load_training(tmp_path / name / "last.pth") for name in ("single", "double")]
    for name, value in states[0]["state_dict"].items():
        assert torch.allclose(value, states[1]["state_dict"][name], atol=1e-5), name
    lines = [
        [line.split("loss ")[1].split(", lr")[0] for line in log.read_text().splitlines() if "loss " in line]
        for log in (tmp_path / "single" / "train.log", tmp_path / "double" / "train.log")
    ]
    losses = [[float(line.split(",")[0]) for line in run] for run in lines]
    assert len(losses[0]) == 4
    assert torch.allclose(torch.tensor(losses[0]), torch.tensor(losses[1]), atol=2e-4)
    assert len(states[1]["rng"]) == 2
    assert [path.name for path in sorted((tmp_path / "single").glob("checkpoint_*"))] == [
        path.name for path in sorted((tmp_path / "double").glob("checkpoint_*"))
    ]


def test_a_published_checkpoint_gives_weights_and_is_saved_whole(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    trainer = make_trainer(config)
    weights = {name: value + 1 for name, value in to_published(trainer.model).items()}
    published = {"state_dict": {**weights, UNUSED: torch.arange(3.0)}, "n_steps": 7, "log": []}
    save_training(tmp_path / "published.pth", published)
    trainer.resume(tmp_path / "published.pth")
    assert trainer.step == 0
    trainer.save(tmp_path / "again.pth")
    again = load_training(tmp_path / "again.pth")["state_dict"]
    assert set(again) == set(published["state_dict"])
    assert all(torch.equal(again[name], value) for name, value in published["state_dict"].items())


def test_training_goes_on_from_an_exported_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(write_config(tmp_path))
    exported = tmp_path / "layout.safetensors"
    export(exported, trainer.model.half().float(), trainer.tokenizer)
    other = make_trainer(write_config(tmp_path, "other", TRAINING={"SEED": 2}))
    other.load_weights(exported)
    assert_same_weights(trainer, other)
    for one, two in zip(trainer.model.parameters(), other.model.parameters(), strict=True):
        assert one.requires_grad == two.requires_grad  # an exported model is loaded frozen; this one trains
    export(exported, trainer.model, train_tokenizer(["a cat"] * 9, len(trainer.tokenizer)))
    assert main(["--cfg_path", str(tmp_path / "other.yaml"), "--init_from", str(exported)]) == 2
    assert "another tokenizer" in capsys.readouterr().err


class Foreign:
    """An object that a checkpoint must not build."""


def test_wrong_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path)
    trainer = make_trainer(config)
    trainer.save(tmp_path / "good.pth")
    broken = tmp_path / "broken.pth"
    broken.write_bytes((tmp_path / "good.pth").read_bytes()[:5000])
    empty = tmp_path / "empty.pth"
    torch.save({"state_dict": {"a": 3}}, empty)
    foreign = tmp_path / "foreign.pth"
    torch.save({"state_dict": {}, "log": Foreign()}, foreign)
    wide = write_config(tmp_path, "wide", MODEL={"hidden_size": 32})
    cases = [
        (config, broken, "cannot be read"),
        (config, tmp_path / "missing.pth", "no layout checkpoint at"),
        (config, empty, "holds more than tensors"),
        (config, foreign, "could run code"),
        (wide, tmp_path / "good.pth", "is of another size"),
        (config, tmp_path / "x.safetensors", "has no optimizer state"),
    ]
    for path, checkpoint, message in cases:
        assert main(["--cfg_path", str(path), "--checkpoint", str(checkpoint)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error, error
    with pytest.raises(UserError, match="cannot be read"):
        load_exported(broken)
    state = load_training(tmp_path / "good.pth")
    save_training(tmp_path / "far.pth", {**state, "n_steps": 99})
    with pytest.raises(UserError, match="at step 99, beyond the 8"):
        trainer.resume(tmp_path / "far.pth")
    save_training(tmp_path / "bare.pth", {key: value for key, value in state.items() if key != "bbox_head_optimizer"})
    with pytest.raises(UserError, match="does not fit the optimizers"):
        trainer.resume(tmp_path / "bare.pth")


def test_wrong_surroundings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for changes, message in (
        ({"OUTPUT": {"OUTPUT_DIR": str(tmp_path / "file" / "x")}}, "cannot be written"),
        ({"TRAINING": {"ACCELERATOR": "abacus"}}, "cannot train with TRAINING.ACCELERATOR abacus"),
        ({"TRAINING": {"PRECISION": "7-bit"}}, "PRECISION"),
        ({"DATA": {"TOKENIZER": "nowhere/tokenizer.json"}}, "no tokenizer file at"),
        ({"MODEL": {"vocab_size": 5}}, "below the"),
        ({"MODEL": {"pretrained": "./nowhere"}}, "there is no folder ./nowhere"),
    ):
        assert main(["--cfg_path", str(write_config(tmp_path, "wrong", **changes))]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1, error


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed\nand more")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="x.pth cannot be written: PytorchStreamWriter .*; free some space"):
        save_training(tmp_path / "x.pth", {})
    assert not list(tmp_path.iterdir())
