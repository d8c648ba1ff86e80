"""The layout model against the published implementation's outputs, its names, and its mixture."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import RobertaConfig, RobertaModel

from layout_predictor.LayoutTransformer.model import LayoutConfig, LayoutModel, build_model, pick_centers, split_mixture
from layout_predictor.LayoutTransformer.model.names import (
    infer_config,
    load_pretrained_encoder,
    load_published,
    published_names,
    to_published,
    with_unused,
)
from layout_predictor.LayoutTransformer.model.roberta import RobertaEncoder
from ldm.util import UserError
from tests.golden_data import SEED, golden, listing, parameter, relative_error

ENCODER = "encoder.model.encoder.sentence_encoder."
LISTING = "statedicts/layout_predictor__coco_seq2seq_v9_ablation_4.tsv"
TINY = LayoutConfig(vocab_size=40, hidden_size=16, num_layers=2, num_heads=2, feed_forward_size=32, max_positions=20)


@pytest.fixture(scope="module")
def published() -> LayoutModel:
    """The published model, filled as the reference was."""
    model = build_model(LayoutConfig(), seed=0)
    shapes = {name: value.shape for name, value in to_published(model).items()}
    load_published(model, {name: parameter(SEED, name, shape) for name, shape in shapes.items()})
    return model.eval()


@torch.no_grad()
def test_published_model_reproduces_the_reference(published: LayoutModel) -> None:
    _, arrays = golden("layout/rel2bbox")
    tokens, is_object = torch.from_numpy(arrays["tokens"]), torch.from_numpy(arrays["object_pos"])
    features = published.encode(tokens, is_object)
    raw = published.head(features)
    mixture = split_mixture(raw)
    for row in range(len(tokens)):
        valid = int(tokens[row].ne(1).sum())  # padding is not part of the result
        found = {"features": features, "gmm": raw, **mixture._asdict()}
        for name, value in found.items():
            assert relative_error(value[row, :valid], arrays[name][row, :valid]) < 1e-4, name
        means = torch.stack([mixture.u_x, mixture.u_y], -1)[row, :valid]  # (L, 5, 2)
        drawn = torch.from_numpy(arrays["xy_one_draw"])[row, :valid, None]
        assert (means - drawn).abs().sum(-1).amin(-1).max() < 1e-4  # the draw is one component's mean


def test_names_of_the_published_checkpoint() -> None:
    published_shapes = listing(LISTING)
    table = published_names(12)
    assert set(table) <= set(published_shapes)
    with torch.device("meta"):
        model = LayoutModel(LayoutConfig())
    state = model.state_dict()
    for theirs, ours in table.items():
        assert tuple(state[ours].shape) == published_shapes[theirs][0]
    unnamed = set(state) - set(table.values())
    assert unnamed == {"encoder.embeddings.token_type_embeddings.weight"}


def test_unused_entries_are_dropped_and_listed(caplog: pytest.LogCaptureFixture) -> None:
    source, target = build_model(TINY, seed=1).eval(), build_model(TINY, seed=2).eval()
    unused = "bbox_head.Decoder.box_predictor.wh_bivariate.weight"
    with caplog.at_level(logging.DEBUG):
        dropped = load_published(target, {**to_published(source), unused: torch.zeros(2)})
    assert dropped == [unused]
    assert unused in caplog.text
    tokens, is_object = torch.tensor([[0, 7, 9, 2]]), torch.tensor([[False, True, False, False]])
    assert torch.equal(source(tokens, is_object), target(tokens, is_object))
    wide = replace(TINY, hidden_size=64, num_heads=1)
    assert infer_config(to_published(build_model(wide, seed=1))) == wide


def test_a_model_of_the_published_size_saves_all_published_names() -> None:
    shapes = {name: shape for name, (shape, _) in listing(LISTING).items()}
    with torch.device("meta"):
        used = to_published(LayoutModel(LayoutConfig()))
    whole = with_unused(used, LayoutConfig(), {})
    assert {name: tuple(value.shape) for name, value in whole.items()} == shapes
    assert whole["encoder.model.encoder.lm_head.weight"] is used[f"{ENCODER}embed_tokens.weight"]
    kept = {"bbox_head.refine_box_head.dense.bias": torch.ones(3)}
    assert set(with_unused(used, LayoutConfig(), kept)) == set(used) | set(kept)
    small = to_published(build_model(TINY, seed=1))
    assert set(with_unused(small, TINY, {})) == set(small)


def test_objects_may_stay_unmarked() -> None:
    model = build_model(replace(TINY, mark_objects=False), seed=1)
    assert not model.object_embedding.requires_grad and not model.object_embedding.any()


def test_tokens_of_interest_only() -> None:
    model = build_model(TINY, seed=1).eval()
    tokens, is_object = torch.tensor([[0, 7, 9, 2]]), torch.tensor([[False, True, True, False]])
    where = torch.tensor([[0, 1], [0, 2]])
    assert torch.allclose(model(tokens, is_object, where), model(tokens, is_object)[0, 1:3])


def roberta(config: LayoutConfig) -> Any:
    """The encoder of transformers with these sizes."""
    sizes = {"hidden_size": config.hidden_size, "intermediate_size": config.feed_forward_size}
    counts = {"num_hidden_layers": config.num_layers, "num_attention_heads": config.num_heads, "type_vocab_size": 1}
    others = {"vocab_size": config.vocab_size, "max_position_embeddings": config.max_positions, "layer_norm_eps": 1e-5}
    return RobertaModel(RobertaConfig(**sizes, **counts, **others), add_pooling_layer=False)


@pytest.mark.parametrize("training", [False, True])
def test_the_encoder_is_that_of_transformers_bit_for_bit(training: bool) -> None:
    torch.manual_seed(3)
    ours = RobertaEncoder(TINY)
    torch.manual_seed(3)
    theirs = roberta(TINY)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    tokens = torch.tensor([[0, 7, 9, 2], [0, 8, 2, TINY.pad_id]])
    mask = torch.zeros(2, 1, 1, 4).masked_fill(tokens.eq(TINY.pad_id)[:, None, None], torch.finfo(torch.float32).min)
    ours.train(training), theirs.train(training)
    torch.manual_seed(5)
    found = ours(ours.embeddings(tokens), mask)
    torch.manual_seed(5)
    expected = theirs.encoder(theirs.embeddings(input_ids=tokens), attention_mask=mask).last_hidden_state
    assert torch.equal(found, expected)
    found.square().sum().backward(), expected.square().sum().backward()
    layers = zip(ours.encoder.named_parameters(), theirs.encoder.parameters(), strict=True)
    assert [name for (name, mine), other in layers if not torch.equal(mine.grad, other.grad)] == []


def test_a_pretrained_encoder_to_start_from(tmp_path: Path) -> None:
    donor = roberta(TINY).eval()
    with torch.no_grad():
        donor.embeddings.token_type_embeddings.weight.fill_(0.3)  # ours has no such table: it must not be lost
    donor.save_pretrained(tmp_path / "donor")
    model = build_model(TINY, seed=2).eval()
    load_pretrained_encoder(model, str(tmp_path / "donor"))
    tokens = torch.tensor([[0, 7, 9, 2]])
    with torch.no_grad():
        expected = donor(tokens).last_hidden_state
        found = model.encode(tokens, torch.zeros(1, 4, dtype=torch.bool))
    assert torch.allclose(found, expected, atol=1e-5)
    with pytest.raises(UserError, match="is of another size"):
        load_pretrained_encoder(build_model(replace(TINY, hidden_size=8), seed=1), str(tmp_path / "donor"))
    with pytest.raises(UserError, match="there is no folder"):
        load_pretrained_encoder(model, str(tmp_path / "nobody"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot be loaded"):
        load_pretrained_encoder(model, str(tmp_path / "empty"))


def test_wrong_checkpoints_are_refused() -> None:
    model = build_model(TINY, seed=1)
    state = to_published(model)
    name = next(iter(state))
    with pytest.raises(UserError, match="1 names missing"):
        load_published(model, {k: v for k, v in state.items() if k != name})
    with pytest.raises(UserError, match="unexpected"):
        load_published(model, {**state, "something": torch.zeros(1)})
    with pytest.raises(UserError, match="another size"):
        load_published(model, {**state, name: torch.zeros(3, 3)})
    with pytest.raises(UserError, match="unknown keys"):
        LayoutConfig.from_mapping({"hidden": 3})
    with pytest.raises(UserError, match="num_heads is 0"):
        LayoutConfig.from_mapping({"num_heads": 0})
    with pytest.raises(UserError, match="no room"):
        LayoutConfig.from_mapping({"max_positions": 3})


def test_padding_and_objects() -> None:
    model = build_model(TINY, seed=1).eval()
    with torch.no_grad():
        model.object_embedding.fill_(1.0)
    tokens = torch.tensor([[0, 5, 6, 2, 1, 1]])
    is_object = torch.zeros_like(tokens, dtype=torch.bool)
    is_object[0, 2] = True
    out = model(tokens, is_object)[0, :4]
    assert torch.allclose(out, model(tokens[:, :4], is_object[:, :4])[0], atol=1e-6)
    assert not torch.allclose(out, model(tokens[:, :4], torch.zeros(1, 4, dtype=torch.bool))[0], atol=1e-3)


def test_centers_are_those_of_one_component() -> None:
    raw = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    mixture = split_mixture(raw)
    greedy = pick_centers(mixture)
    best = mixture.pi.argmax(-1)
    assert torch.equal(greedy[:, 0], mixture.u_x[torch.arange(4), best])
    draws = [pick_centers(mixture, sample=True, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4, 5)]
    assert torch.equal(draws[0], draws[1])
    assert any(not torch.equal(draws[0], other) for other in draws[2:])
    assert np.isclose(float(mixture.rho.abs().max()), min(0.95, float(raw[:, 25:].tanh().abs().max())))
