"""The training loop on a tiny model: it resumes exactly, evaluates, and refuses wrong files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from layout_predictor.LayoutTransformer.data.tokenizer import SentenceTokenizer
from layout_predictor.LayoutTransformer.model import LayoutConfig, build_model
from layout_predictor.LayoutTransformer.training.checkpoint import load_exported, load_training
from layout_predictor.LayoutTransformer.training.trainer import Trainer
from layout_predictor.train import main, read_config
from ldm.util import UserError

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = ROOT / "layout_predictor" / "configs" / "default.yaml"
SCHEDULE = {"SCHEDULER": "BertScheduler", "MAX_LR": 3e-3, "WARMUP": 0.1, "WEIGHT_DECAY": 0.0}


def write_config(folder: Path) -> Path:
    sections = {
        "MODEL": {
            "hidden_size": 16, "num_layers": 1, "num_heads": 2, "feed_forward_size": 32, "max_positions": 194,
        },
        "DATA": {
            "TOKENIZER": "configs/emoji/layout_tokenizer.json", "SEED": 3, "TRAIN_SENTENCES": 32,
            "VALID_SENTENCES": 8,
        },
        "TRAINING": {"SEED": 1, "EPOCHS": 2, "BATCH_SIZE": 8, "GRAD_CLIP": 1.0, "POSITION_WEIGHT": 0.1},
        "ENCODER": SCHEDULE,
        "BBOX_HEAD": SCHEDULE,
        "OUTPUT": {"OUTPUT_DIR": str(folder / "out"), "LOG_EVERY": 2, "SAVE_EVERY": 3},
    }  # fmt: skip
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(sections))
    return path


def make_trainer(folder: Path) -> Trainer:
    config = read_config(write_config(folder), DEFAULT)
    tokenizer = SentenceTokenizer.from_file(ROOT / config["DATA"]["TOKENIZER"])
    model = build_model(LayoutConfig.from_mapping({"vocab_size": len(tokenizer), **config["MODEL"]}), seed=1)
    return Trainer(config, model, tokenizer)


def test_resuming_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    whole = make_trainer(tmp_path)
    for _ in range(5):
        whole._update(1.0, 0.1)
    part = make_trainer(tmp_path)
    for _ in range(3):
        part._update(1.0, 0.1)
    part._save(tmp_path / "stop.pth")
    torch.rand(5)  # another program's draws
    resumed = make_trainer(tmp_path)
    resumed.resume(tmp_path / "stop.pth")
    assert resumed.step == 3
    for _ in range(2):
        resumed._update(1.0, 0.1)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_training_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path)
    assert main(["--cfg_path", str(config)]) == 0
    assert "relation accuracy" in capsys.readouterr().out
    out = tmp_path / "out"
    assert {"train.log", "last.pth", "layout.safetensors"} <= {path.name for path in out.iterdir()}
    assert len(list(out.glob("checkpoint_2_*.pth"))) == 1
    state = load_training(out / "last.pth")
    assert state["n_steps"] == 8
    assert {"state_dict", "encoder_optimizer", "bbox_head_optimizer", "n_steps", "log"} <= set(state)
    model, _ = load_exported(out / "layout.safetensors")
    assert model.config.hidden_size == 16
    for checkpoint in ("last.pth", "layout.safetensors"):
        assert main(["--cfg_path", str(config), "--eval_only", "--checkpoint", str(out / checkpoint)]) == 0
    sentences = tmp_path / "one.jsonl"
    sentences.write_text(
        '{"words": ["cat ", "under ", "bus"], "objects": [0, 2], "relations": [[0, 2, "below"]]}\n'
    )
    assert main(["--cfg_path", str(config), "--eval_only", "--sentences", str(sentences)]) == 0


def test_wrong_configurations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path)
    empty = tmp_path / "empty.yaml"
    empty.write_text("{}\n")
    with pytest.raises(UserError, match="no section MODEL"):
        read_config(empty, empty)
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"PK\x03\x04 not a checkpoint")
    for arguments in (["--checkpoint", str(broken)], ["--checkpoint", str(tmp_path / "missing.pth")]):
        assert main(["--cfg_path", str(config), *arguments]) == 2
        assert capsys.readouterr().err.startswith("error: ")
    with pytest.raises(UserError, match="cannot be read"):
        load_exported(broken)
