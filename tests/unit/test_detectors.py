"""Detectors behind one protocol, on tiny random models that are saved to a folder and opened from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldm.evaluation.score.detectors import EmojiBoxes, canonical, open_detector
from ldm.evaluation.score.metrics import Box
from ldm.models.detector import Detection
from ldm.util import UserError, save_safetensors
from tests.unit.test_metrics import tiny_clip

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
NAMES = ["cat", "dog"]


def check(boxes: list[Box], names: list[str]) -> None:
    """Boxes are there, in order, called by what was asked for."""
    assert boxes and {box.name for box in boxes} <= set(names)
    for box in boxes:
        assert 0 <= box.score <= 1 and box.left <= box.right and box.top <= box.bottom
        assert -1 < box.left < 2 and -1 < box.bottom < 2


def test_the_emoji_detector() -> None:
    detector = open_detector("emoji")
    assert isinstance(detector, EmojiBoxes) and "emoji" in detector.name
    image = np.zeros((64, 64, 3), np.uint8)

    def detect(images: torch.Tensor, threshold: float) -> list[list[Detection]]:
        assert images.shape == (1, 3, 64, 64) and images.max() == 0
        return [[Detection("cat", 0.9, 0.5, 0.25), Detection("pizza", 0.8, 0.1, 0.1)]]

    detector.model.detect = detect  # type: ignore[method-assign, assignment]
    [cat] = detector.detect(image, ["cat", "bus"])
    assert (cat.name, cat.score, cat.center) == ("cat", 0.9, (0.5, 0.25)) and cat.right - cat.left == pytest.approx(0.4)


def test_synonyms_meet() -> None:
    assert canonical("Man") == canonical("person") and canonical("sofa") == canonical("couch")
    assert canonical("cathedral") == "cathedral"


def tiny_detr(folder: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], layer_type="basic", out_features=["stage4"]
    )
    config = transformers.DetrConfig(
        backbone_config=backbone,
        num_queries=5,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        id2label={0: "cat", 1: "man"},
    )
    torch.manual_seed(0)
    transformers.DetrForObjectDetection(config).save_pretrained(folder)
    transformers.DetrImageProcessor(size={"shortest_edge": 32, "longest_edge": 64}).save_pretrained(folder)
    return folder


def test_detr_from_a_folder(tmp_path: Path) -> None:
    detector = open_detector(f"transformers:{tiny_detr(tmp_path)}", threshold=0.0)
    assert "detr" in detector.name
    names = ["cat", "person"]
    check(detector.detect(IMAGE, names), names)
    assert len(detector.detect(IMAGE, names)) == 5  # a query each; "man" is told as the person that was asked for
    assert detector.detect(IMAGE, ["zebra"]) == []


@pytest.mark.parametrize("kind", ["OwlViT", "Owlv2"])
def test_owl_vit_from_a_folder(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tiny_clip(tmp_path, transformers)  # its tokenizer
    sides = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sides, "vocab_size": 11, "bos_token_id": 9, "eos_token_id": 10, "pad_token_id": 10}
    config = getattr(transformers, f"{kind}Config")(
        text_config=text, vision_config={**sides, "image_size": 32, "patch_size": 16}, projection_dim=16
    )
    torch.manual_seed(0)
    getattr(transformers, f"{kind}ForObjectDetection")(config).save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").unlink(missing_ok=True)
    getattr(transformers, f"{kind}ImageProcessor")(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    detector = open_detector(f"transformers:{tmp_path}", threshold=0.0)
    boxes = detector.detect(IMAGE, ["cat", "coat", "cat"])
    check(boxes, ["cat", "coat"])
    assert len(boxes) == 2 * 4  # 2 x 2 patches for each of two names
    assert detector.detect(IMAGE, []) == [] and detector.categories is None
    best = open_detector(f"transformers:{tmp_path}", threshold=0.0, together=True).detect(IMAGE, ["cat", "coat"])
    check(best, ["cat", "coat"])
    assert len(best) == 4  # each patch has one name
    by_name = {box.name: [round(b.score, 4) for b in boxes if b.name == box.name] for box in best}
    assert all(round(box.score, 4) in by_name[box.name] for box in best)


def test_grounding_dino_from_a_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    words = [f"[unused{i}]" for i in range(1100)]
    for index, word in {
        0: "[PAD]",
        100: "[UNK]",
        101: "[CLS]",
        102: "[SEP]",
        103: "[MASK]",
        1012: ".",
        1029: "?",
        1050: "cat",
        1051: "dog",
    }.items():
        words[index] = word
    tokenizer = transformers.BertTokenizer(vocab={word: index for index, word in enumerate(words)})
    backbone = transformers.SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=2,
        out_features=["stage2", "stage3", "stage4"],
    )
    text = transformers.BertConfig(
        vocab_size=1100, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    config = transformers.GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        num_queries=4,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_n_points=2,
        decoder_n_points=2,
        max_text_len=16,
    )
    torch.manual_seed(0)
    transformers.GroundingDinoForObjectDetection(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    size = {"shortest_edge": 64, "longest_edge": 96}
    transformers.GroundingDinoImageProcessor(size=size).save_pretrained(tmp_path)
    detector = open_detector(f"transformers:{tmp_path}", threshold=0.0)
    check(detector.detect(IMAGE, NAMES), NAMES)


def test_mask2former_from_a_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("scipy", reason="transformers' Mask2Former needs scipy")
    backbone = transformers.SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=4,
        id2label={0: "cat", 1: "man"},
    )
    torch.manual_seed(0)
    transformers.Mask2FormerForUniversalSegmentation(config).save_pretrained(tmp_path)
    transformers.Mask2FormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(tmp_path)
    detector = open_detector(f"transformers:{tmp_path}", threshold=0.0)
    assert detector.categories == ("cat", "man")
    boxes = detector.detect(IMAGE, ["cat", "person"])
    check(boxes, ["cat", "person"])
    for box in boxes:  # a box is the frame of its mask
        assert box.mask is not None and box.mask.shape == IMAGE.shape[:2]
        columns = np.flatnonzero(box.mask.any(0))
        assert (box.left * 64, box.right * 64) == (columns[0], columns[-1] + 1)
    assert detector.detect(IMAGE, ["zebra"]) == []


def test_torchvision_from_a_file(tmp_path: Path) -> None:
    detection = pytest.importorskip("torchvision.models.detection")
    name = "ssdlite320_mobilenet_v3_large"
    torch.manual_seed(0)
    model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=91)
    state: dict[str, Any] = dict(model.state_dict())
    save_safetensors(tmp_path / "ssd.safetensors", state)
    detector = open_detector(f"torchvision:{name}={tmp_path / 'ssd.safetensors'}", threshold=0.0)
    everything = [c for c in detector.categories if c not in ("__background__", "N/A")]  # type: ignore[attr-defined]
    check(detector.detect(IMAGE, everything), everything)
    with pytest.raises(UserError, match="does not fit"):
        save_safetensors(tmp_path / "other.safetensors", {"a": torch.zeros(1)})
        open_detector(f"torchvision:{name}={tmp_path / 'other.safetensors'}")


def test_detectors_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    empty = tmp_path / "empty"
    empty.mkdir()
    for spec, complaint in (
        ("yolo", "there is no detector 'yolo'"),
        ("transformers:", "there is no detector"),
        ("torchvision:resnet18", "no detection model 'resnet18'"),
        ("torchvision:ssd300_vgg16=nowhere.pth", "does not exist"),
        ("emoji:nowhere.safetensors", "does not exist"),
        (f"transformers:{empty}", "can't be loaded"),
        (f"transformers:{tmp_path}", "bert model, which detects no objects"),
    ):
        with pytest.raises(UserError, match=complaint) as raised:
            open_detector(spec)
        assert "\n" not in str(raised.value)
