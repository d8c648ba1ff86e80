"""Wrong values of configs and overrides: one sentence that names the entry, nothing written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import main
from ldm.util import UserError, instantiate_from_config
from tests import training_parts as parts

KL = "model.params.ddconfig"
LOSS = "model.params.lossconfig.params"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images, the list of them, and a config that trains a small first stage on them."""
    root = tmp_path_factory.mktemp("wrong")
    (root / "run.yaml").write_text("\ufeff" + yaml.safe_dump(parts.image_run(root, 1)), encoding="utf-8")
    return root


def train(folder: Path, logs: Path, *words: str) -> int:
    return main.main(["-t", "--base", str(folder / "run.yaml"), "--logdir", str(logs), "--threads", "1", *words])


def test_the_config_itself_trains(folder: Path, tmp_path: Path) -> None:
    assert train(folder, tmp_path) == 0
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("model=x", "'model' is 'x', not a section"),
        ("model.parms.embed_dim=4", "unknown entry 'model.parms'; did you mean 'params'?"),
        ("model.target=5", "must be a dotted name"),
        ("model.params=4", "'model.params' is 4, not a section"),
        ("model.params.embed_dim=x", "embed_dim must be a whole number from 1 on, not 'x'"),
        ("model.params.embed_dim=0", "embed_dim must be a whole number from 1 on, not 0"),
        ("model.params.embed_dim=-4", "embed_dim must be"),
        ("model.params.embed_dim=1.5", "embed_dim must be"),
        ("model.params.embed_dim=null", "embed_dim must be"),
        ("model.params.embed_dim=[]", "embed_dim must be"),
        ("model.params.embed_dims=4", "did you mean 'embed_dim'?"),
        ("model.params.total_steps=many", "total_steps must be a whole number from 0 on or null"),
        ("model.params.ckpt_path=3", "ckpt_path"),
        ("model.params.ckpt_path=none.ckpt", "none.ckpt"),
        ("model.params.image_key=picture", "no 'picture' but image"),
        (f"{KL}=x", "ddconfig must be a section of entries, not 'x'"),
        (f"{KL}.ch=-1", "ddconfig: ch must be a whole number from 1 on, not -1"),
        (f"{KL}.ch=.nan", "'model.params.ddconfig.ch' is nan"),
        (f"{KL}.ch=33", "look at"),
        (f"{KL}.ch_mult=[]", "ddconfig.ch_mult=[]"),
        (f"{KL}.ch_mult=[0]", "ch_mult must be a list"),
        (f"{KL}.ch_mult=2", "ch_mult must be a list, not 2"),
        (f"{KL}.num_res_blocks=1000000000", "num_res_blocks must be a whole number from 0 to 1000"),
        (f"{KL}.num_groups=0", "num_groups must be"),
        (f"{KL}.dropout=2", "dropout must be a number from 0 to 1, not 2"),
        (f"{KL}.double_z=maybe", "double_z must be true or false"),
        (f"{KL}.in_channels=4", "training stopped at step 0"),
        ("model.params.lossconfig=null", "lossconfig must be a section of entries, not None"),
        ("model.params.lossconfig.parms=3", "did you mean 'params'?"),
        (f"{LOSS}.l1_weight=much", "l1_weight must be a number from 0 to"),
        (f"{LOSS}.l1_weight=-1", "l1_weight must be"),
        ("model.base_learning_rate=-1", "base_learning_rate is -1"),
        ("model.base_learning_rate=x", "base_learning_rate is 'x'"),
        ("model.scale_lr=3", "model.scale_lr is true or false"),
        ("data.params.batch_size=0", "batch_size must be a whole number from 1"),
        ("data.params.batch_size=x", "batch_size must be a whole number"),
        ("data.params.batch_size=true", "batch_size must be a whole number"),
        ("data.params.batch_size=64", "holds 6 samples, fewer than a batch of 64"),
        ("data.params.num_workers=1000000000", "num_workers must be a whole number from 0 to 512"),
        ("data.params.train=5", "train must be a section of entries"),
        ("data.params.train.params=5", "its params are 5, not entries"),
        ("data.params.train.params.size=x", "size must be a whole number"),
        ("data.params.train.params.size=15", "15"),
        ("data.params.train.params.flip_p=2", "flip_p must be a number from 0 to 1"),
        ("data.params.train.params.txt_file=none.txt", "none.txt"),
        ("lightning.trainer=x", "'lightning.trainer' is 'x'"),
        ("lightning.trainer.max_steps=x", "lightning.trainer.max_steps must be a whole number, not 'x'"),
        ("lightning.trainer.max_steps=0", "nothing was trained"),
        ("lightning.trainer.benchmark=7", "lightning.trainer.benchmark must be true or false or null"),
        ("lightning.trainer.val_check_interval=x", "`val_check_interval`: 'x'"),
        ("lightning.trainer.accelerator=abacus", "lightning.trainer cannot be set up"),
        ("lightning.trainer.precision=3", "lightning.trainer"),
        ("lightning.trainer.default_root_dir=/tmp/x", "knows no option 'default_root_dir'"),
        ("lightning.trainer.logger=true", "knows no option 'logger'"),
        ("lightning.callback.x=1", "did you mean 'callbacks'?"),
        ("lightning.callbacks.a=5", "config section has no 'target'"),
        ("lightning.callbacks.a.target=torch.nn.Identity", "lightning.callbacks.a is no callback but a Identity"),
        ("lightning.callbacks.a.target=pytorch_lightning.loggers.CSVLogger", "not one that a config may build"),
        ("lightning.log_every=0", "'lightning.log_every' is 0"),
        ("lightning.modelcheckpoint.params.every_n_train_steps=-1", "every_n_train_steps' is -1"),
    ],
)
def test_one_sentence_names_the_entry(
    words: str, told: str, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(folder, tmp_path / "logs", words) == 2
    said = capfd.readouterr().err
    [line] = [line for line in said.splitlines() if line.startswith("error: ")]
    assert told in line and "Traceback" not in said and len(line) < 500
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize("change", [{"dirpath": "OUT"}, {"filename": "../../x"}, {"dirpath": "OUT", "filename": "x"}])
def test_callbacks_write_in_the_runs_folder_alone(
    change: dict[str, str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "outside"
    params = {key: str(out) if value == "OUT" else value for key, value in change.items()}
    callback = {"target": "pytorch_lightning.callbacks.ModelCheckpoint", "params": params}
    extra = tmp_path / "extra.yaml"
    extra.write_text(yaml.safe_dump({"lightning": {"callbacks": {"mine": callback}}}))
    assert train(folder, tmp_path / "logs", "--base", str(folder / "run.yaml"), str(extra)) == 2
    assert "outside the run's folder" in capsys.readouterr().err
    assert not out.exists() and not list(tmp_path.rglob("*.ckpt"))


def test_a_missing_image_is_told_before_training(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.txt").write_text("0.png\n1.png\ngone.png\n")
    assert train(folder, tmp_path / "logs", f"data.params.train.params.txt_file={tmp_path / 'list.txt'}") == 2
    assert "the list names gone.png" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.csv"))


def test_a_workers_error_is_one_sentence(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "list.txt").write_text("bad.png\n" * 4)
    where = [f"data.params.train.params.{key}={path}" for key, path in
             (("txt_file", tmp_path / "list.txt"), ("data_root", tmp_path))]  # fmt: skip
    assert train(folder, tmp_path / "logs", *where, "data.params.num_workers=2") == 2
    [line] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "bad.png" in line and "worker process" not in line and "Traceback" not in line


def test_values_that_are_right_stay_right() -> None:
    """What is no number of the type, but means one; and what annotations say nothing about."""
    target = "ldm.lr_scheduler.LambdaLinearScheduler"
    params: dict[str, Any] = {
        "warm_up_steps": [1e4],
        "cycle_lengths": [10**13],
        "f_start": [0],
        "f_max": [1],
        "f_min": [1],
    }
    assert instantiate_from_config({"target": target, "params": params})
    assert instantiate_from_config({"target": "torch.nn.Identity", "params": {"anything": json}})
    with pytest.raises(UserError, match="warm_up_steps must be a list, not 4"):
        instantiate_from_config({"target": target, "params": {**params, "warm_up_steps": 4}})
