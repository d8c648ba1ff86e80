"""`main.py --resume`: what goes on is what would have been, and what cannot go on is told before anything changes."""

from __future__ import annotations

import copy
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import main
from ldm import util
from tests import tiny_world
from tests import training_parts as parts
from tests.golden_data import ROOT

DISCRIMINATOR = {"disc_start": 2, "perceptual_weight": 0.0, "disc_ndf": 8, "disc_num_layers": 2, "disc_weight": 0.1}
SMALL = {**parts.DDCONFIG, "ch": 8, "num_groups": 4}
STEPS = 9


@pytest.fixture(autouse=True)
def own_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    util.allow_targets("tests.")


def model_of(kind: str) -> dict[str, Any]:
    """A plain first stage, one with two optimizers and averaged weights, or a latent diffusion model."""
    if kind == "plain":
        loss = parts.target("modules.losses.ReconstructionLoss", l1_weight=1.0, l2_weight=1.0, kl_weight=1e-4)
        return parts.first_stage(ddconfig={**SMALL, "dropout": 0.1}, lossconfig=loss, total_steps=100)
    if kind == "discriminator":
        loss = parts.target("modules.losses.VQLPIPSWithDiscriminator", **DISCRIMINATOR, codebook_weight=1.0)
        own = {"ddconfig": {**SMALL, "double_z": False}, "lossconfig": loss, "use_ema": True}
        return parts.first_stage("VQModel", **own)
    model: Any = copy.deepcopy(tiny_world.CONFIG["model"])
    model["params"] |= {"use_ema": True, "scale_by_std": True, "cond_stage_trainable": True, "image_size": 16}
    return model


def write_images(folder: Path, count: int = 10, side: int = 16) -> dict[str, Any]:
    """Images with a list of them, as a data set that mirrors some."""
    rng = np.random.default_rng(0)
    for n in range(count):
        Image.fromarray(rng.integers(0, 255, (side, side, 3), np.uint8)).save(folder / f"{n}.png")
    (folder / "list.txt").write_text("".join(f"{n}.png\n" for n in range(count)))
    return parts.target("data.lsun.LSUNBase", txt_file=str(folder / "list.txt"), data_root=str(folder))


def write_run(folder: Path, kind: str = "plain", workers: int = 0, **changes: Any) -> list[str]:
    """Arguments of a run of a few steps over some epochs of 3 batches, with validation in their midst."""
    images = write_images(folder)
    scenes = parts.target("data.emoji.scenes.EmojiScenes", size=10, seed=5, ucg_rate=0.3)
    data = scenes if kind == "latent" else images
    trainer = {"max_steps": STEPS, "max_epochs": None, "val_check_interval": 2, "accelerator": "cpu"}
    trainer |= {"accumulate_grad_batches": 2} if kind == "discriminator" else {}
    trainer |= {"enable_model_summary": False, "log_every_n_steps": 1, "check_val_every_n_epoch": None}
    config = {
        "model": {"base_learning_rate": 1e-3, "scale_lr": False, **model_of(kind)},
        "data": parts.target("data.base.DataModuleFromConfig", batch_size=3, num_workers=workers, train=data),
        "lightning": {"trainer": trainer, "modelcheckpoint": {"params": {"every_n_train_steps": 2}}},
    }
    config["data"]["params"]["validation"] = data
    for section, values in changes.items():
        config[section] |= values
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    return ["-t", "--base", str(folder / "run.yaml"), "--logdir", str(folder), "--threads", "1", "--seed", "7"]


def last(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """The same tensors and numbers, bit for bit, at every depth."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for n, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}.{n}")
    else:
        assert one == other, where


KINDS = ["plain", "discriminator", pytest.param("latent", marks=parts.needs_font)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_going_on_is_bit_for_bit_as_if_never_stopped(kind: str, workers: int, tmp_path: Path) -> None:
    begin = write_run(tmp_path, kind, workers)
    assert main.main([*begin, "--name", "whole"]) == 0
    whole = last(tmp_path / "whole")
    for name, stop in (("ended", "lightning.trainer.max_steps=4"), ("epoch", "lightning.trainer.max_steps=3")):
        assert main.main([*begin, "--name", name, stop]) == 0
        go_on = ["-t", "--resume", str(tmp_path / name), f"lightning.trainer.max_steps={STEPS}", "--threads", "1"]
        assert main.main(go_on) == 0
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "random_states", "global_step"):
            assert_same(whole[part], last(tmp_path / name)[part], f"{name}.{part}")


@pytest.mark.parametrize("stop", [2, 5, 8])
def test_going_on_after_an_interrupt(stop: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin = write_run(tmp_path, workers=2)
    assert main.main([*begin, "--name", "whole"]) == 0
    interrupt = f"lightning.callbacks.stop={{target: tests.training_parts.Stop, params: {{step: {stop}}}}}"
    assert main.main([*begin, "--name", "part", interrupt]) == 130
    assert f"interrupted; go on with --resume {tmp_path / 'part'}" in capsys.readouterr().err
    assert last(tmp_path / "part")["global_step"] == stop - stop % 2
    go_on = ["-t", "--resume", str(tmp_path / "part"), "lightning.callbacks.stop.params.step=-1", "--threads", "1"]
    assert main.main(go_on) == 0
    assert_same(last(tmp_path / "whole")["state_dict"], last(tmp_path / "part")["state_dict"])


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run of three steps."""
    assert main.main([*write_run(tmp_path), "lightning.trainer.max_steps=3"]) == 0
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.params.ddconfig.ch=16"], "is of another architecture than the config"),
        (["model.params.ddconfig.ch_mult=[1,1,1]"], "does not fit the config"),
        (["model.params.ddconfig.ch=three"], "ch must be a whole number"),
        (["lightning.trainer.max_step=9"], "did you mean 'max_steps'"),
        (["data.params.batch_size=64"], "holds 10 samples, fewer than a batch of 64"),
        (["model.base_learning_rate=.nan"], "'model.base_learning_rate' is nan"),
    ],
)
def test_what_cannot_go_on_changes_nothing(
    finished: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in (finished / "config.yaml", finished / "checkpoints" / "last.ckpt")}
    assert main.main(["-t", "--resume", str(finished), *words, "lightning.trainer.max_steps=5"]) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err
    assert {path: path.read_bytes() for path in before} == before
    assert main.main(["-t", "--resume", str(finished), "lightning.trainer.max_steps=5"]) == 0
    assert last(finished)["global_step"] == 5


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "is empty"),
        (lambda data: data[: len(data) // 2], "is damaged, or no checkpoint"),
        (lambda data: b"PK\3\4 half", "is damaged, or no checkpoint"),
        (lambda data: b"<html>", "is damaged, or no checkpoint"),
        (None, "no checkpoint to resume from"),
    ],
)
def test_a_damaged_checkpoint_is_told_with_the_one_before_it(
    finished: Path, damage: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, kept = (finished / "checkpoints" / name for name in ("last.ckpt", "previous.ckpt"))
    data = path.read_bytes()
    path.unlink()
    if damage is not None:
        path.write_bytes(damage(data))
    assert main.main(["-t", "--resume", str(finished), "lightning.trainer.max_steps=5"]) == 2
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in err and f"go on from the one before it with --resume {kept}" in err
    assert main.main(["-t", "--resume", str(kept), "lightning.trainer.max_steps=5"]) == 0
    assert last(finished)["global_step"] == 5
    torch.save({"state_dict": {}}, path)
    kept.write_bytes(b"")
    assert main.main(["-t", "--resume", str(finished)]) == 2
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert "it has no optimizer_states, loops; begin anew under another --name" in err


def test_a_run_has_one_writer_and_a_killed_start_can_be_started_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = [*write_run(tmp_path), "lightning.trainer.max_steps=1"]
    holder = "import sys, time; from ldm.locks import hold\nwith hold(sys.argv[1]): print(flush=True); time.sleep(60)"
    command = [sys.executable, "-c", holder, str(tmp_path / "run")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        assert main.main(begin) == 2
        assert "another process is writing into" in capsys.readouterr().err
        other.kill()
    half = tmp_path / "run" / "checkpoints" / ".tmp-abc.ckpt"
    half.parent.mkdir()
    half.touch()
    assert main.main(begin) == 0 and not half.exists()


DRIVER = """
import sys
import ldm.util
ldm.util.allow_targets("tests.")
import main
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_at_random_moments_ends_as_if_never_killed(seed: int, tmp_path: Path) -> None:
    """SIGKILL anywhere, again and again: what is there can be gone on from, and the weights are those of no kill."""
    rng = random.Random(seed)
    begin = write_run(tmp_path, workers=2)
    steps = ["lightning.trainer.max_steps=60", "lightning.modelcheckpoint.params.every_n_train_steps=1"]
    command = [sys.executable, "-m", "main"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    assert main.main([*begin, *steps, "--name", "whole"]) == 0
    run, killed = tmp_path / "part", 0
    while True:
        there = (run / "checkpoints" / "last.ckpt").exists()
        arguments = ["-t", "--resume", str(run), "--threads", "1"] if there else [*begin, *steps, "--name", "part"]
        process = subprocess.Popen([*command, *arguments], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        # The start takes some seconds; from the first written file on, at any moment.
        end = time.monotonic() + 120
        seen = last_written(run)
        while process.poll() is None and last_written(run) == seen and time.monotonic() < end:
            time.sleep(0.01)
        if killed < 6:
            time.sleep(rng.uniform(0, 0.4))
            process.send_signal(signal.SIGKILL)
            killed += 1
        _, err = process.communicate(timeout=300)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, err
    assert not list(run.rglob(".tmp-*"))
    assert_same(last(tmp_path / "whole")["state_dict"], last(run)["state_dict"])


def last_written(run: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_mtime_ns) for path in run.glob("checkpoints/*") if path.exists())
