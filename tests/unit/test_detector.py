"""The detector of the emoji world: targets, peaks, suppression, training on a few images."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from ldm.categories import LABELS, NAMES
from ldm.data.emoji.detection import EmojiDetection, center_targets, wobble
from ldm.models.detector import DEFAULT_CONFIG, Detection, EmojiDetector, load_detector, suppress
from ldm.util import UserError, instantiate_from_config, load_config, save_safetensors
from tests.training_parts import needs_font, train


class Told(EmojiDetector):
    """A detector whose maps are given instead of computed."""

    def __init__(self, heat: torch.Tensor, offset: torch.Tensor) -> None:
        super().__init__(width=16, dilations=(1,))
        self.told = (torch.logit(heat.clamp(1e-4, 1 - 1e-4)), offset)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.told


def test_targets_of_hand_made_centers() -> None:
    heat, offset, mask = center_targets([(3, 0.5, 0.25), (5, 0.99, 0.0), (1, 1.2, 0.5)], size=16)
    assert heat.shape == (len(NAMES), 16, 16) and offset.shape == (2, 16, 16)
    assert np.argwhere(heat == 1).tolist() == [[3, 4, 8], [5, 0, 15]]  # label, row, column
    assert mask.sum() == 2  # the third lies outside
    assert offset[:, 4, 8].tolist() == [0, 0]
    assert offset[:, 0, 15] == pytest.approx([0.84, 0])
    assert heat[3, 4, 9] == pytest.approx(np.exp(-1 / (2 * 0.8**2)))


def test_detections_are_read_from_the_maps() -> None:
    heat = torch.zeros(2, len(NAMES), 16, 16)
    offset = torch.full((2, 2, 16, 16), 0.5)
    heat[0, LABELS["cat"], 4, 8], heat[0, LABELS["cat"], 4, 9] = 0.9, 0.6  # the second is no peak
    heat[0, LABELS["dog"], 12, 2] = 0.95
    heat[0, LABELS["bus"], 1, 1] = 0.39  # below the threshold
    heat[0, LABELS["kite"], 5, 8] = 0.5  # in the cat's place
    offset[0, 0, 12, 2] = 1.7  # clamped into the cell
    first, second = Told(heat, offset).detect(torch.zeros(2, 3, 64, 64))
    assert second == []
    assert [item.name for item in first] == ["dog", "cat"]
    assert (first[0].x, first[0].y) == pytest.approx((3 / 16, 12.5 / 16))
    assert (first[1].x, first[1].y) == pytest.approx((8.5 / 16, 4.5 / 16))
    assert first[1].score == pytest.approx(0.9, abs=1e-4)


def test_suppression_keeps_the_surest_in_a_place() -> None:
    cat, dog = Detection("cat", 0.6, 0.5, 0.5), Detection("dog", 0.8, 0.55, 0.5)
    far = Detection("cat", 0.5, 0.66, 0.5)
    assert suppress([cat, dog, far]) == [dog, far]


def test_model_is_small_and_keeps_rectangles() -> None:
    model = instantiate_from_config(load_config(DEFAULT_CONFIG)["model"])
    assert sum(parameter.numel() for parameter in model.parameters()) < 300_000
    heat, offset = model(torch.zeros(1, 3, 128, 192))
    assert heat.shape == (1, len(NAMES), 16, 24) and offset.shape == (1, 2, 16, 24)


def test_loss_of_a_perfect_answer_is_near_zero() -> None:
    heat, offset, mask = (torch.from_numpy(part)[None] for part in center_targets([(3, 0.5, 0.25)]))
    batch = {"image": torch.zeros(1, 3, 64, 64), "heat": heat, "offset": offset, "mask": mask}
    perfect = Told((heat == 1).float(), offset).loss(batch)
    wrong = Told(torch.zeros_like(heat), offset).loss(batch)
    assert perfect < 0.01 < 1 < wrong


@needs_font
def test_training_on_a_few_images_lowers_the_loss() -> None:
    torch.manual_seed(0)
    data = EmojiDetection(size=8, seed=1, clean=True)
    batch = default_collate([data[index] for index in range(8)])
    model = EmojiDetector(width=16, dilations=(1, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = train(optimizer, lambda: model.training_step(batch, 0), 25)
    assert losses[-1] < 0.6 * losses[0]


@needs_font
def test_samples_are_seeded_and_of_the_agreed_form() -> None:
    data = EmojiDetection(size=20, seed=3)
    for index in range(20):
        sample = data[index]
        assert sample["image"].shape == (3, 128, 128) and sample["image"].dtype == np.float32
        assert sample["image"].min() >= 0 and sample["image"].max() <= 1
        assert (sample["heat"] == 1).sum() == sample["mask"].sum() >= 1
    assert np.array_equal(data[4]["image"], EmojiDetection(size=20, seed=3)[4]["image"])


def test_wobbling_moves_centers_with_the_image() -> None:
    image = np.full((128, 128, 3), 200, np.uint8)
    image[20:28, 80:88] = 0
    for seed in range(10):
        turned, [(label, x, y)] = wobble(image, [(2, 84 / 128, 24 / 128)], random.Random(seed))
        rows, columns = np.nonzero(turned[..., 0] < 120)
        assert label == 2
        assert (columns.mean() + 0.5, rows.mean() + 0.5) == pytest.approx((x * 128, y * 128), abs=0.6)


def test_weights_load_and_mistakes_are_told(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = instantiate_from_config(load_config(DEFAULT_CONFIG)["model"])
    save_safetensors(tmp_path / "detector.safetensors", model.state_dict())
    loaded = load_detector(tmp_path / "detector.safetensors")
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(loaded(images)[0], model(images)[0])
    with pytest.raises(UserError, match="does not exist"):
        load_detector(tmp_path / "none.safetensors")
