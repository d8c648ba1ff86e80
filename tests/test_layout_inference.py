"""Objects of a sentence, keeping centres apart, and the embedded predictor."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch

from layout_predictor.inference import Predictor, load_predictor, predict_layout
from layout_predictor.inference.objects import find_objects
from layout_predictor.inference.predictor import DEFAULT_WEIGHTS
from layout_predictor.inference.separate import separate
from layout_predictor.LayoutTransformer.data.sample import Sample
from layout_predictor.LayoutTransformer.data.tokenizer import train_tokenizer
from layout_predictor.LayoutTransformer.model import LayoutConfig, build_model
from layout_predictor.LayoutTransformer.model.names import to_published
from ldm.util import UserError


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load_predictor()


def test_centres_are_kept_apart() -> None:
    assert separate([(0.3, 0.5), (0.7, 0.5)]) == [(0.3, 0.5), (0.7, 0.5)]
    for centres in (
        [(0.5, 0.5), (0.5, 0.5)],
        [(0.5, 0.5), (0.52, 0.6)],
        [(0.98, 0.5), (0.97, 0.5), (0.9, 0.9)],
        [(0.5, 0.5), (0.5, 0.55), (0.55, 0.5), (0.5, 0.45)],
    ):
        moved = separate(centres)
        assert moved == separate(centres)
        for a, b in itertools.combinations(moved, 2):
            assert math.dist(a, b) > 0.2 - 1e-6
        assert all(0 <= value <= 1 for centre in moved for value in centre)
    a, b = separate([(0.5, 0.62), (0.52, 0.5)])  # the lower one stays the lower one
    assert a[1] > b[1]


def test_embedded_predictor(predictor: Predictor) -> None:
    assert DEFAULT_WEIGHTS.stat().st_size < 2.5e6
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
        predictor.layout("a cat " * 200)


def test_several_sentences_at_once_give_the_same_centres(predictor: Predictor) -> None:
    samples = [
        Sample(text, tuple(item.marked for item in find_objects(text)), ())
        for text in ("A cat is under a table.", "A clock hangs above a chair, with a dog to its left.")
    ]
    for sample, centres in zip(samples, predictor.centres_of(samples), strict=True):
        for one, other in zip(predictor.centres(sample.text, sample.spans), centres, strict=True):
            assert math.dist(one, other) < 1e-4


def write_published(folder: Path, predictor: Predictor) -> Path:
    """A tiny checkpoint in the published form, with the parts that the forward pass never uses."""
    config = LayoutConfig(vocab_size=len(predictor.tokenizer), hidden_size=64, num_layers=1, num_heads=1,
                          feed_forward_size=64, max_positions=130)  # fmt: skip
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
