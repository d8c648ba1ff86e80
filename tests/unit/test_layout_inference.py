"""The embedded predictor: keeping centers apart, published checkpoints, the heat map of the mixtures."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from layout_predictor.inference import Predictor, load_predictor, predict_layout
from layout_predictor.inference.checkpoints import EMBEDDED
from layout_predictor.inference.heatmap import blank, density_maps, read_image, shade
from layout_predictor.inference.objects import find_objects
from layout_predictor.inference.separate import separate
from layout_predictor.LayoutTransformer.data.sample import Sample
from layout_predictor.LayoutTransformer.data.tokenizer import train_tokenizer
from layout_predictor.LayoutTransformer.model import LayoutConfig, build_model
from layout_predictor.LayoutTransformer.model.mixture import Mixture
from layout_predictor.LayoutTransformer.model.names import to_published
from ldm.util import UserError


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load_predictor()


def test_centers_are_kept_apart() -> None:
    assert separate([(0.3, 0.5), (0.7, 0.5)]) == [(0.3, 0.5), (0.7, 0.5)]
    for centers in (
        [(0.5, 0.5), (0.5, 0.5)],
        [(0.5, 0.5), (0.52, 0.6)],
        [(0.98, 0.5), (0.97, 0.5), (0.9, 0.9)],
        [(0.5, 0.5), (0.5, 0.55), (0.55, 0.5), (0.5, 0.45)],
    ):
        moved = separate(centers)
        assert moved == separate(centers)
        for a, b in itertools.combinations(moved, 2):
            assert math.dist(a, b) > 0.2 - 1e-6
        assert all(0 <= value <= 1 for center in moved for value in center)
    a, b = separate([(0.5, 0.62), (0.52, 0.5)])  # the lower one stays the lower one
    assert a[1] > b[1]


def test_embedded_predictor(predictor: Predictor) -> None:
    assert EMBEDDED.stat().st_size < 2.5e6
    layout = predict_layout("The motorcycle is parking to the right of a bus.")
    motorcycle, bus = layout.objects
    assert (motorcycle.phrase, motorcycle.name, bus.name) == ("The motorcycle", "motorcycle", "bus")
    assert motorcycle.x > bus.x + 0.2
    assert layout.prompt == "The motorcycle is parking to the right of a bus."
    above, below = predictor.layout("A clock hangs above a chair.").objects
    assert above.y < below.y - 0.2
    one, two = predictor.layout("A dog to the left of another dog.").objects
    assert one.x < two.x


def test_sampling_and_empty_layouts(predictor: Predictor) -> None:
    sentence = "A cat is under a table."
    assert predictor.layout(sentence, sample=True, seed=3) == predictor.layout(sentence, sample=True, seed=3)
    assert predictor.layout("Nothing is here.").objects == ()
    with pytest.raises(UserError, match="empty"):
        predictor.layout("  ")
    with pytest.raises(UserError, match="shorten"):
        predictor.layout("a cat " * 200, raw=True)


def test_several_sentences_at_once_give_the_same_centers(predictor: Predictor) -> None:
    samples = [
        Sample(text, tuple(item.marked for item in find_objects(text)), ())
        for text in ("A cat is under a table.", "A clock hangs above a chair, with a dog to its left.")
    ]
    for sample, centers in zip(samples, predictor.centers_of(samples), strict=True):
        for one, other in zip(predictor.centers_of([sample])[0], centers, strict=True):
            assert math.dist(one, other) < 1e-4


def write_published(folder: Path, predictor: Predictor) -> Path:
    """A tiny checkpoint in the published form, with the parts that the forward pass never uses."""
    config = LayoutConfig(len(predictor.tokenizer), 64, 1, 1, feed_forward_size=64, max_positions=130)
    state = to_published(build_model(config, seed=2))
    state["encoder.model.encoder.lm_head.bias"] = torch.zeros(4)
    path = folder / "published.pth"
    torch.save({"state_dict": state, "n_steps": 1, "log": []}, path)
    return path


def test_published_checkpoint(tmp_path: Path, predictor: Predictor) -> None:
    path = write_published(tmp_path, predictor)
    published = load_predictor(path)  # of the embedded tokenizer's size, so that one is taken
    assert published.model.config.num_heads == 1
    assert len(published.layout("A cat is under a table.").objects) == 2
    (tmp_path / "tokenizer.json").write_text(train_tokenizer(["a cat"], 270).to_json())
    with pytest.raises(UserError, match="the tokenizer has"):
        load_predictor(path)
    state = torch.load(path, weights_only=True)
    torch.save(state["state_dict"], path)
    with pytest.raises(UserError, match="no 'state_dict'"):
        load_predictor(path)


def mixture_at(*centers: tuple[float, float]) -> Mixture:
    """One narrow Gaussian an object; the other four components have no weight."""
    n = len(centers)
    pi, same = torch.zeros(n, 5), torch.full((n, 5), 0.08)
    pi[:, 0] = 1
    x, y = (torch.tensor(values)[:, None].expand(n, 5) for values in zip(*centers, strict=True))
    return Mixture(pi, x, y, same, same, torch.zeros(n, 5))


def test_density_is_highest_at_the_mean_and_sums_to_one() -> None:
    maps = density_maps(mixture_at((0.25, 0.5), (0.7, 0.3)), 40, 20)
    assert maps.shape == (2, 20, 40)
    for values, (x, y) in zip(maps, ((0.25, 0.5), (0.7, 0.3)), strict=True):
        row, column = np.unravel_index(values.argmax(), values.shape)
        assert abs((column + 0.5) / 40 - x) <= 0.0251
        assert abs((row + 0.5) / 20 - y) <= 0.0501
        assert abs(values.mean() - 1) < 0.02  # the integral over the unit square


def test_a_heat_map_colors_where_the_object_is() -> None:
    pixels = shade(blank(400, 400), mixture_at((0.25, 0.5)), ["#D55E00"]).astype(int)
    assert pixels.shape == (400, 400, 3)
    assert pixels[150, 100, 0] - pixels[150, 100, 2] > 30  # reddish above the center
    assert np.abs(pixels[200, 390] - 245).max() <= 1


def test_images_and_sizes(tmp_path: Path) -> None:
    Image.new("L", (30, 20), 128).save(tmp_path / "gray.png")
    assert read_image(tmp_path / "gray.png").shape == (20, 30, 3)
    assert read_image(tmp_path / "gray.png", (10, 40)).shape == (40, 10, 3)
    (tmp_path / "text.png").write_text("no image")
    for name in ("text.png", "missing.png"):
        with pytest.raises(UserError, match="can be read|does not exist"):
            read_image(tmp_path / name)
    for size in ((0, 10), (10, 100_000)):
        with pytest.raises(UserError, match="cannot be drawn"):
            blank(*size)
