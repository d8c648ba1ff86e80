"""`main.py`: the command line's mistakes, a run of a few steps, going on with it, and the export of its weights."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import main
from ldm import util
from ldm.util import UserError, load_config, load_state_dict
from tests.golden_data import ROOT
from tests.training_parts import export, needs_font

FIRST_STAGE = ROOT / "configs/emoji/first_stage.yaml"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-t"], "no config given"),
        (["-t", "--base", "none.yaml"], "does not exist"),
        (["-t", "--resume", "none"], "no checkpoint to resume from"),
        (["--base", str(FIRST_STAGE), "-t", "max_steps"], "write key=value"),
    ],
)
def test_mistakes_end_in_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["--logdir", str(tmp_path), *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_signal_before_training_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    monkeypatch.setattr(main, "train", lambda args: os.kill(os.getpid(), signal.SIGUSR1))
    try:
        assert main.main(["-t", "--base", str(FIRST_STAGE)]) == 0
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_nothing_to_do() -> None:
    assert main.main(["--base", str(FIRST_STAGE)]) == 2


def test_scaled_learning_rate() -> None:
    trainer = SimpleNamespace(num_devices=2, num_nodes=3, accumulate_grad_batches=4)
    config = load_config(FIRST_STAGE, ["model.base_learning_rate=0.5", "data.params.batch_size=8"])
    assert main.learning_rate(config, trainer, scale=False) == 0.5
    assert main.learning_rate(config, trainer, scale=True) == 0.5 * 8 * 2 * 3 * 4
    assert main.learning_rate(config, trainer, scale=True, gathered=2) == 0.5 * 8 * 2 * 3 * 4 * 2
    del config.data.params.batch_size
    with pytest.raises(UserError, match="add --scale_lr false"):
        main.learning_rate(config, None, scale=True)


def test_a_model_with_two_optimizers_gathers_gradients_itself(tmp_path: Path) -> None:
    model = SimpleNamespace(automatic_optimization=False)
    settings = {"accumulate_grad_batches": 3, "accelerator": "cpu", "gradient_clip_val": 0}
    options = [f"lightning.trainer.{name}={value}" for name, value in settings.items()]
    trainer = main.build_trainer(load_config(FIRST_STAGE, options), tmp_path, 0, None, model)
    assert (model.accumulate_grad_batches, trainer.accumulate_grad_batches) == (3, 1)
    for option, message in (("accumulate_grad_batches=0", "at least 1"), ("gradient_clip_val=1.0", "does not go with")):
        config = load_config(FIRST_STAGE, [*options, f"lightning.trainer.{option}"])
        with pytest.raises(UserError, match=message):
            main.build_trainer(config, tmp_path, 0, None, model)


TINY = """
model: {params: {ddconfig: {ch: 8, ch_mult: [1, 1], num_groups: 4}, total_steps: 6}}
data: {params: {batch_size: 2, validation: {params: {size: 4}}}}
lightning:
  modelcheckpoint: {params: {every_n_train_steps: 2}}
  trainer: {max_steps: 4, val_check_interval: 2}
  log_every: 2
"""


def tiny(tmp_path: Path) -> list[str]:
    """Arguments of a first-stage run that takes seconds."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    return ["-t", "--base", str(FIRST_STAGE), str(tmp_path / "tiny.yaml"), "--logdir", str(tmp_path), "--threads", "1"]


@needs_font
def test_train_go_on_and_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = tiny(tmp_path)
    assert main.main(arguments) == 0
    run = tmp_path / "tiny"
    weights = run / "checkpoints" / "last.ckpt"
    first = load_state_dict(weights)
    assert main.main(arguments) == 2
    assert "holds another run" in capsys.readouterr().err
    assert main.main(["-t", "--resume", str(run), "lightning.trainer.max_steps=6"]) == 0
    assert last(run)["global_step"] == 6
    second = load_state_dict(weights)
    assert any(not torch.equal(first[k], second[k]) for k in first)
    module = export()
    module.SCENES = 4
    assert module.main(["first-stage", str(run), "--out", str(tmp_path / "fs.safetensors")]) == 0
    exported = load_state_dict(tmp_path / "fs.safetensors")
    assert exported.keys() == second.keys()
    assert all(v.dtype == torch.float16 for v in exported.values())


@needs_font
def test_the_same_seed_trains_the_same_weights(tmp_path: Path) -> None:
    results = []
    for name in ("a", "b"):
        assert main.main([*tiny(tmp_path), "--name", name, "lightning.trainer.max_steps=2"]) == 0
        results.append(load_state_dict(tmp_path / name / "checkpoints" / "last.ckpt"))
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])


LINE = """
model:
  base_learning_rate: 0.1
  scale_lr: false
  target: tests.training_parts.Line
  params: {monitor: val/loss}
data:
  target: main.DataModuleFromConfig  # as published configs name it
  params:
    batch_size: 4
    num_workers: 0
    shuffle_train: false
    train: {target: tests.training_parts.Ramp}
    validation: {target: tests.training_parts.Ramp, params: {size: 8}}
lightning:
  trainer: {max_steps: 6, val_check_interval: 2, accelerator: cpu, log_every_n_steps: 1, enable_model_summary: false}
  modelcheckpoint: {params: {every_n_train_steps: 100}}
  callbacks: {image_logger: {target: main.ImageLogger, params: {batch_frequency: 2}}}
"""


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments of a run of the model without noise."""
    util.allow_targets("tests.")
    (tmp_path / "line.yaml").write_text(LINE)
    return ["-t", "--base", str(tmp_path / "line.yaml"), "--logdir", str(tmp_path), "--threads", "1"]


def last(run: Path) -> dict[str, Any]:
    """The last checkpoint of a run."""
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def losses(run: Path) -> list[float]:
    """train/loss of every step of a run's last start."""
    newest = max((run / "metrics").iterdir(), key=lambda path: int(path.name.removeprefix("version_")))
    with (newest / "metrics.csv").open() as handle:
        return [float(row["train/loss"]) for row in csv.DictReader(handle) if row["train/loss"]]


def test_going_on_is_as_if_never_stopped(line: list[str], tmp_path: Path) -> None:
    assert main.main([*line, "--name", "whole"]) == 0
    assert main.main([*line, "--name", "part", "lightning.trainer.max_steps=3"]) == 0
    assert main.main(["-t", "--resume", str(tmp_path / "part"), "lightning.trainer.max_steps=6"]) == 0
    whole, part = (last(tmp_path / name) for name in ("whole", "part"))
    assert whole["global_step"] == part["global_step"] == 6
    rates = [c["optimizer_states"][0]["param_groups"][0]["lr"] for c in (whole, part)]
    assert rates[0] == pytest.approx(0.1 * 0.9**6) and rates == pytest.approx([rates[0]] * 2)
    assert part["lr_schedulers"][0]["last_epoch"] == 6
    assert part["optimizer_states"][0]["state"][0]["step"] == 6


def test_best_and_last_checkpoint(line: list[str], tmp_path: Path) -> None:
    assert main.main([*line, "--postfix", "_a"]) == 0
    folder = tmp_path / "line_a" / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
    found = losses(tmp_path / "line_a")
    assert len(found) == 6 and found[-1] < found[0]


def test_scaled_rate_reaches_the_optimizer(line: list[str], tmp_path: Path) -> None:
    flags = ["--scale_lr", "true", "lightning.trainer.max_steps=1", "model.base_learning_rate=0.01"]
    assert main.main([*line, *flags, "lightning.trainer.accumulate_grad_batches=2"]) == 0
    group = last(tmp_path / "line")["optimizer_states"][0]["param_groups"][0]
    assert group["initial_lr"] == pytest.approx(0.01 * 4 * 2)


@pytest.mark.parametrize(
    ("words", "rate"),
    [
        ([], 0.01),  # the config says false
        (["--scale_lr"], 0.04),
        (["model.scale_lr=null"], None),
        (["model.scale_lr=true", "--scale_lr", "false"], 0.01),
        (["~model.scale_lr"], 0.04),  # here: a config that is silent, as published ones are
    ],
)
def test_which_rate_is_scaled(
    words: list[str], rate: float | None, line: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if words == ["~model.scale_lr"]:
        (tmp_path / "line.yaml").write_text(LINE.replace("  scale_lr: false\n", ""))
        words = []
    begin = [*line, "lightning.trainer.max_steps=1", "model.base_learning_rate=0.01"]
    if rate is None:
        assert main.main([*begin, *words]) == 2
        assert "model.scale_lr is true or false" in capsys.readouterr().err
        return
    assert main.main([*begin, *words]) == 0
    for go_on in ([], ["-t", "--resume", str(tmp_path / "line"), "lightning.trainer.max_steps=2"]):
        assert not go_on or main.main(go_on) == 0  # without the flag
        group = last(tmp_path / "line")["optimizer_states"][0]["param_groups"][0]
        assert group["initial_lr"] == pytest.approx(rate)


def test_config_entries_stand_between_flags_too(line: list[str], tmp_path: Path) -> None:
    words = ["lightning.trainer.max_steps=1", "--name", "mixed", "model.base_learning_rate=0.5", "--seed", "1"]
    assert main.main([*line, *words, "data.params.batch_size=2"]) == 0
    config = load_config(tmp_path / "mixed" / "config.yaml")
    assert (config.lightning.trainer.max_steps, config.model.base_learning_rate) == (1, 0.5)
    assert config.data.params.batch_size == 2


@pytest.mark.parametrize("train", [["-t"], ["-t", "True"], ["--train=true"]])
def test_the_published_command_line(train: list[str], line: list[str], tmp_path: Path) -> None:
    words = ["--max_epochs", "1", "--limit-train-batches=3", "-p", "project", "-d", "False", "--no-test", "True"]
    assert main.main([*line[1:], *train, "model.base_learning_rate=0.5", *words, "--scale_lr", "False"]) == 0
    config = load_config(tmp_path / "line" / "config.yaml")
    assert (config.lightning.trainer.max_epochs, config.lightning.trainer.limit_train_batches) == (1, 3)
    assert last(tmp_path / "line")["global_step"] == 3


def test_flags_that_are_not_meant(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([*line, "--max_epoch", "1"]) == 2
    assert "did you mean 'max_epochs'" in capsys.readouterr().err
    assert main.main([*line, "-t", "no"]) == 2
    assert main.main([*line, "--scale_lr=maybe"]) == 2


def test_a_debugger_where_training_fails(line: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    monkeypatch.setattr("pdb.post_mortem", opened.append)
    monkeypatch.setattr("tests.training_parts.Line.training_step", lambda *_: 1 / 0)
    assert main.main([*line, "-d"]) == 2 and len(opened) == 1


def test_what_published_programs_import() -> None:
    from main import DataModuleFromConfig, ImageLogger, WrappedDataset, worker_init_fn

    assert DataModuleFromConfig(batch_size=1).num_workers == 2 and callable(worker_init_fn)
    assert len(WrappedDataset("abc")) == 3 and ImageLogger(8, 4).wants(2)
    with pytest.raises(ImportError):
        from main import Nothing  # type: ignore[attr-defined]  # noqa: F401


def test_emoji_configs_say_the_rate_itself() -> None:
    for path in (ROOT / "configs/emoji").glob("*.yaml"):
        model = load_config(path).get("model", {})
        if "base_learning_rate" in model and "target" in model:
            assert model.scale_lr is False, path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lightning.trainer.max_step=3"], "knows no option 'max_step'; did you mean 'max_steps'?"),
        (["ligthning.trainer.max_steps=3"], "unknown section 'ligthning'; did you mean 'lightning'?"),
        (["--gpus", "all"], "write such as 0,1"),
        (["--gpus", "0,"], "cannot be set up"),
        (["lightning.trainer.strategy=none"], "cannot be set up"),
    ],
)
def test_what_the_trainer_refuses(
    line: list[str], words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if words[0] == "--gpus" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main.main([*line, *words]) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err


def test_first_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert main.first_process()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not main.first_process()
    monkeypatch.setenv("RANK", "0")
    assert main.first_process()


DRIVER = """
import sys
import ldm.util
ldm.util.allow_targets("tests.")
import main
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_batch(line: list[str], tmp_path: Path) -> None:
    """Over gloo on CPUs; each process starts main.py anew, as Lightning's "ddp" strategy does."""
    assert main.main([*line, "--name", "one"]) == 0
    (tmp_path / "driver.py").write_text(DRIVER)
    options = ["data.params.batch_size=2", "lightning.trainer.devices=2", "lightning.trainer.strategy=ddp"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(tmp_path / "driver.py"), *line, "--name", "two", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 6 and one == pytest.approx(two, rel=1e-4)
    first, second = (load_state_dict(tmp_path / n / "checkpoints" / "last.ckpt") for n in ("one", "two"))
    assert all(torch.allclose(first[k], second[k], atol=1e-5) for k in first)
