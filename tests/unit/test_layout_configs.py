"""Configurations of the layout predictor: all published ones are there and valid; mistakes are named."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import yaml

from layout_predictor.LayoutTransformer.training.config import MEANINGLESS, check_config, read_config
from layout_predictor.train import main
from ldm.util import UserError
from tests.tiny_layout_data import FAULTS, damaged

CONFIGS = Path(__file__).resolve().parents[2] / "layout_predictor" / "configs"
DEFAULT = CONFIGS / "default.yaml"
ABLATIONS = ("v9_ablation_base", *(f"v9_ablation_{i}" for i in range(1, 5)), "v13_ablation_1", "v14_ablation")
PUBLISHED = {"coco_pretrain", *(f"coco_seq2seq_{name}" for name in ABLATIONS)}


def sections() -> dict:
    return {
        "MODEL": {"hidden_size": 16},
        "DATA": {"TOKENIZER": "tokenizer.json"},
        "TRAINING": {"EPOCHS": 1, "BATCH_SIZE": 2},
        "ENCODER": {"MAX_LR": 1e-3},
        "BBOX_HEAD": {"MAX_LR": 1e-3},
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


@pytest.mark.parametrize(("place", "value", "message"), FAULTS["config"])
def test_wrong_keys_and_values(place: str, value: object, message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_config(damaged(sections(), place, value))
    assert message in str(caught.value)


def test_whole_numbers_and_names_may_be_written_otherwise() -> None:
    config = damaged(damaged(sections(), "TRAINING/EPOCHS", 1e3), "DATA/IMAGE_SETS", "val2017")
    settings = check_config(damaged(config, "ENCODER/MAX_LR", 0))
    assert (settings.training.epochs, settings.data.image_sets, settings.encoder.max_lr) == (1000, ["val2017"], 0.0)


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


PUBLISHED_FORM = """
DATASETS: {NAME: COCO, DATA_DIR_PATH: elsewhere, MAX_SEQ_LEN: 128}
DATALOADER: {BATCH_SIZE: 16, NUM_WORKERS: 4}
MODEL:
  ENCODER: {ARCHITECTURE: RelEncoder, HIDDEN_SIZE: 768, NUM_LAYERS: 12, ATTN_HEADS: 12, DROPOUT: 0.2}
  DECODER: {HEAD_TYPE: GMM}
  PRETRAIN: true
SOLVER:
  EPOCHS: 7
  ENCODER: {OPTIMIZER: Adam, SCHEDULER: ChrisScheduler, MAX_LR: 2.0e-6, MIN_LR: 0, WARMUP_STEPS: 0.1}
  BBOX_HEAD: {SCHEDULER: BertScheduler, MAX_LR: 3.0e-5, HOLD: 0.2}
OUTPUT: {OUTPUT_DIR: saved/mine}
TEST: {BATCH_SIZE: 1}
"""


def test_a_configuration_with_the_published_sections(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "theirs.yaml").write_text(PUBLISHED_FORM)
    with caplog.at_level(logging.INFO):
        settings = read_config(tmp_path / "theirs.yaml", DEFAULT)
    data, training, usual = settings.data, settings.training, read_config(DEFAULT, DEFAULT)
    assert (data.name, data.annotations, data.relations) == (
        "coco",
        "elsewhere/coco/annotations",
        "elsewhere/coco/gpt-3.pkl",
    )
    assert (training.batch_size, training.epochs, training.position_weight) == (16, 7, 0.1)
    assert (settings.encoder.scheduler, settings.encoder.max_lr, settings.encoder.warmup) == (
        "ChrisScheduler",
        2e-6,
        0.1,
    )
    assert (settings.bbox_head.max_lr, settings.bbox_head.hold) == (3e-5, 0.2)
    assert settings.bbox_head.decay == usual.bbox_head.decay  # what it does not say is the default's
    assert (settings.model.dropout, settings.model.pretrained) == (0.2, "roberta-base")
    assert settings.output.output_dir == "saved/mine"
    assert [record.message.partition("of ")[2] for record in caplog.records] == [
        "DATASETS: MAX_SEQ_LEN",
        "DATALOADER: NUM_WORKERS",
        "MODEL: ENCODER.ARCHITECTURE, DECODER.HEAD_TYPE, PRETRAIN",
        "SOLVER: ENCODER.OPTIMIZER",
        "TEST: BATCH_SIZE",
    ]
    (tmp_path / "vg.yaml").write_text("DATASETS: {NAME: vg_msdn}\nSOLVER: {EPOCHS: many}\n")
    with pytest.raises(UserError, match="TRAINING.EPOCHS is 'many'"):
        read_config(tmp_path / "vg.yaml", DEFAULT)
    (tmp_path / "vg.yaml").write_text("DATASETS: {NAME: vg_msdn}\n")
    data = read_config(tmp_path / "vg.yaml", DEFAULT).data
    assert (data.annotations, data.image_sets, data.captions) == ("data/vg_msdn", ["train"], "regions")


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
