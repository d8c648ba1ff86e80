"""The token transformer: masks, causality, positions, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from ldm.modules.x_transformer import AttentionLayers, Encoder, TransformerWrapper
from ldm.util import UserError


def wrapper(layers: AttentionLayers) -> TransformerWrapper:
    torch.manual_seed(0)
    return TransformerWrapper(num_tokens=20, max_seq_len=6, attn_layers=layers).eval()


def test_logits_and_embeddings() -> None:
    model = wrapper(Encoder(dim=16, depth=2, heads=2, dim_head=8))
    tokens = torch.tensor([[1, 2, 3, 4]])
    embeddings = model(tokens, return_embeddings=True)
    assert embeddings.shape == (1, 4, 16)
    assert torch.equal(model(tokens), model.to_logits(embeddings))
    assert not torch.allclose(embeddings, model(tokens.flip(1), return_embeddings=True).flip(1))  # positions count


@pytest.mark.parametrize("causal", [False, True])
def test_a_masked_token_changes_nothing(causal: bool) -> None:
    model = wrapper(AttentionLayers(dim=16, depth=1, heads=2, dim_head=8, causal=causal))
    mask = torch.tensor([[True, False, True, True]])
    one, two = (model(torch.tensor([[1, word, 3, 4]]), True, mask) for word in (2, 7))
    torch.testing.assert_close(one[:, [0, 2, 3]], two[:, [0, 2, 3]])
    assert not torch.allclose(one[:, 1], two[:, 1])


def test_causal_layers_do_not_look_ahead() -> None:
    model = wrapper(AttentionLayers(dim=16, depth=2, heads=2, dim_head=8, causal=True))
    one, two = (model(torch.tensor([[1, 2, word]]), True) for word in (3, 9))
    torch.testing.assert_close(one[:, :2], two[:, :2])
    both = wrapper(Encoder(dim=16, depth=1))
    assert not torch.allclose(both(torch.tensor([[1, 2, 3]]), True)[:, 0], both(torch.tensor([[1, 2, 9]]), True)[:, 0])


def test_too_many_tokens_and_a_causal_encoder_are_refused() -> None:
    with pytest.raises(UserError, match="7 tokens do not fit the 6 positions"):
        wrapper(Encoder(dim=16, depth=1))(torch.zeros(1, 7, dtype=torch.long))
    with pytest.raises(UserError, match="whole sequence"):
        Encoder(dim=16, depth=1, causal=True)
