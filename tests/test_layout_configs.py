"""Configurations of the layout predictor: all published ones are there and valid; mistakes are named."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import yaml

from layout_predictor.LayoutTransformer.training.config import MEANINGLESS, MOVED, check_config, read_config
from layout_predictor.train import main
from ldm.util import UserError

CONFIGS = Path(__file__).resolve().parents[1] / "layout_predictor" / "configs"
DEFAULT = CONFIGS / "default.yaml"
PUBLISHED = {
    "coco_pretrain", "coco_seq2seq_v9_ablation_base", *(f"coco_seq2seq_v9_ablation_{i}" for i in range(1, 5)),
    "coco_seq2seq_v13_ablation_1", "coco_seq2seq_v14_ablation",
}  # fmt: skip


def sections() -> dict:
    optimizer = {"MAX_LR": 1e-3}
    return {
        "MODEL": {"hidden_size": 16},
        "DATA": {"TOKENIZER": "tokenizer.json"},
        "TRAINING": {"EPOCHS": 1, "BATCH_SIZE": 2},
        "ENCODER": dict(optimizer),
        "BBOX_HEAD": dict(optimizer),
        "OUTPUT": {"OUTPUT_DIR": "out"},
    }


def test_every_published_configuration_is_valid() -> None:
    assert {path.stem for path in (CONFIGS / "coco").glob("*.yaml")} == PUBLISHED
    paths = [*(CONFIGS / "coco").glob("*.yaml"), *(CONFIGS / "vg_msdn").glob("vg_msdn_*.yaml")]
    read = {path.stem: read_config(path, DEFAULT) for path in paths}
    assert len({settings.output.output_dir for settings in read.values()}) == len(paths)
    assert {settings.data.name for settings in read.values()} == {"coco", "vg_msdn"}
    for path in paths:
        assert "Published" in path.read_text() and "Ours" in path.read_text(), path


def test_the_published_constants() -> None:
    settings = read_config(CONFIGS / "coco" / "coco_seq2seq_v9_ablation_4.yaml", DEFAULT)
    encoder, head = settings.encoder, settings.bbox_head
    assert (encoder.max_lr, encoder.warmup, encoder.decay, encoder.weight_decay) == (1e-6, 0.0, 1.0, 0.01)
    assert (head.max_lr, head.warmup, head.hold, head.decay, head.min_lr) == (4e-5, 0.005, 0.001, 0.9, 1e-8)
    assert (settings.training.epochs, settings.training.batch_size) == (100, 64)
    assert settings.training.position_weight == 0.1
    assert settings.output.output_dir == "saved/coco_F_seq2seq_v9_ablation_4"
    assert (settings.data.min_area, settings.data.min_objects, settings.data.max_objects) == (0.02, 3, 8)
    pretrain = read_config(CONFIGS / "coco" / "coco_pretrain.yaml", DEFAULT)
    assert pretrain.data.relations is None and pretrain.training.relation_weight == 0


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("TRAINING", "BATCHSIZE", 3, "unknown key TRAINING.BATCHSIZE; the nearest known one is TRAINING.BATCH_SIZE"),
        ("MODEL", "hiden_size", 3, "nearest known one is MODEL.hidden_size"),
        ("DATA", "NAME", "imagenet", "known data sets: grammar, coco, vg_msdn"),
        ("TRAINING", "EPOCHS", "many", "TRAINING.EPOCHS is 'many'; it must be a whole number"),
        ("TRAINING", "EPOCHS", 0, "TRAINING.EPOCHS is 0; it must be at least 1"),
        ("ENCODER", "MAX_LR", -1.0, "ENCODER.MAX_LR is -1.0; it must be a number, not below 0"),
        ("OUTPUT", "TENSORBOARD", "yes", "OUTPUT.TENSORBOARD is 'yes'; it must be true or false"),
        ("DATA", "IMAGE_SETS", 3, "DATA.IMAGE_SETS is 3; it must be a list of names"),
        ("DATA", "VALID_PART", 1.5, "DATA.VALID_PART is 1.5"),
        ("DATA", "CAPTIONS", "captions.pkl", "DATA.NAME grammar has neither RELATIONS nor CAPTIONS"),
        ("TRAINING", "PRECISION", "16", "TRAINING.PRECISION is '16'; known: 32-true, bf16-mixed"),
        ("MODEL", "ENCODER", {}, "MODEL.ENCODER is now the keys of MODEL itself"),
    ],
)
def test_wrong_keys_and_values(section: str, key: str, value: object, message: str) -> None:
    config = sections()
    config[section][key] = value
    with pytest.raises(UserError) as caught:
        check_config(config)
    assert message in str(caught.value)


def test_missing_and_unknown_sections() -> None:
    config = sections()
    del config["TRAINING"]["EPOCHS"]
    with pytest.raises(UserError, match="section TRAINING has no key EPOCHS"):
        check_config(config)
    del config["TRAINING"]
    with pytest.raises(UserError, match="no section TRAINING"):
        check_config(config)
    with pytest.raises(UserError, match="unknown section TRAINNG; the nearest known one is TRAINING"):
        check_config({**sections(), "TRAINNG": {}})
    for name in ("SOLVER", "DATASETS", "DATALOADER"):
        with pytest.raises(UserError, match=f"{name} is now section"):
            check_config({**sections(), name: {}})


def test_options_of_the_command_line() -> None:
    settings = check_config({**sections(), "DATA": {"TOKENIZER": "x", "NAME": "coco"}})
    changed = settings.with_options(relations="generated", devices=2, accelerator="cpu")
    assert (changed.data.relations, changed.training.devices, changed.training.accelerator) == ("generated", 2, "cpu")
    assert settings.with_options() == settings
    with pytest.raises(UserError, match="DEVICES is 0"):
        settings.with_options(devices=0)
    with pytest.raises(UserError, match="neither RELATIONS nor CAPTIONS"):
        check_config(sections()).with_options(relations="generated")


def test_keys_without_a_meaning_are_named_once_each(caplog: pytest.LogCaptureFixture) -> None:
    config = sections()
    for path in MEANINGLESS:
        section, _, key = path.partition(".")
        if key:
            config[section][key] = 1
        else:
            config[section] = {"ANYTHING": 1}
    with caplog.at_level(logging.INFO):
        assert check_config(config) == check_config(sections())
    for path, reason in MEANINGLESS.items():
        assert [record.message for record in caplog.records].count(f"{path} is ignored: {reason}") == 1
    assert not set(MEANINGLESS) & set(MOVED)


def test_mistakes_end_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({"TRAINING": {"EPOCHS": 1, "BATCH": 2}}))
    assert main(["--cfg_path", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: unknown key TRAINING.BATCH") and error.count("\n") == 1
    path.write_text("TRAINING: [unclosed\n")
    assert main(["--cfg_path", str(path)]) == 2
    path.write_text("MODEL: {hidden_size: '${nowhere}'}\n")
    assert main(["--cfg_path", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 2
