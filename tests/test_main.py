"""`main.py`: the command line's mistakes, a run of a few steps, going on with it, and the export of its weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

import main
from ldm.util import UserError, load_config, load_state_dict
from tests.golden_data import ROOT
from tests.test_emoji import needs_font

FIRST_STAGE = ROOT / "configs/emoji/first_stage.yaml"


def export() -> ModuleType:
    spec = importlib.util.spec_from_file_location("export_emoji", ROOT / "scripts/export_emoji.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_nothing_to_do() -> None:
    with pytest.raises(SystemExit) as stop:
        main.main(["--base", str(FIRST_STAGE)])
    assert stop.value.code == 2


def test_scaled_learning_rate() -> None:
    class Trainer:
        num_devices, num_nodes, accumulate_grad_batches = 2, 3, 4

    config = load_config(FIRST_STAGE, ["model.base_learning_rate=0.5", "data.params.batch_size=8"])
    assert main.learning_rate(config, Trainer, scale=False) == 0.5
    assert main.learning_rate(config, Trainer, scale=True) == 0.5 * 8 * 2 * 3 * 4


def tiny(tmp_path: Path) -> list[str]:
    """Arguments of a first-stage run that takes seconds."""
    section = {"ddconfig": {"ch": 8, "ch_mult": [1, 1], "num_groups": 4}, "total_steps": 6}
    override = {
        "model": {"params": section},
        "data": {"params": {"batch_size": 2, "validation": {"params": {"size": 4}}}},
        "lightning": {
            "modelcheckpoint": {"params": {"every_n_train_steps": 2}},
            "trainer": {"max_steps": 4, "val_check_interval": 2},
            "log_every": 2,
        },
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(override))
    return ["-t", "--base", str(FIRST_STAGE), str(tmp_path / "tiny.yaml"), "--logdir", str(tmp_path), "--threads", "1"]


@needs_font
def test_train_go_on_and_export(tmp_path: Path) -> None:
    arguments = tiny(tmp_path)
    assert main.main(arguments) == 0
    run = tmp_path / "tiny"
    last = run / "checkpoints" / "last.ckpt"
    first = load_state_dict(last)
    with pytest.raises(UserError, match="holds another run"):
        main.locate_run(main.parser().parse_args(arguments))
    assert main.main(["-t", "--resume", str(run), "lightning.trainer.max_steps=6"]) == 0
    checkpoint = torch.load(last, weights_only=True)
    assert checkpoint["global_step"] == 6
    second = load_state_dict(last)
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
