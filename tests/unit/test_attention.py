"""Attention against the formulas it implements."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.modules import attention
from ldm.modules.attention import BasicTransformerBlock, CrossAttention, FeedForward, SpatialTransformer
from tests.golden_data import fill_

HEADS, DIM, PIXELS, LENGTH, CONTEXT = 2, 12, 20, 5, 7


@pytest.fixture
def layer() -> CrossAttention:
    torch.manual_seed(0)
    return CrossAttention(DIM, CONTEXT, heads=HEADS, dim_head=4).double().requires_grad_(False)


Inputs = tuple[Tensor, Tensor, list[Tensor], list[Tensor], list[Tensor]]


def inputs(batch: int, rows: int, objects: int = 2) -> Inputs:
    torch.manual_seed(1)
    x = torch.randn(rows, PIXELS, DIM, dtype=torch.float64)
    context = torch.randn(rows, LENGTH, CONTEXT, dtype=torch.float64)
    local = [torch.randn(batch, LENGTH, CONTEXT, dtype=torch.float64) for _ in range(objects)]
    masks = [(torch.rand(batch, PIXELS) < 0.4).double() for _ in range(objects)]
    weights = [torch.randn(batch, dtype=torch.float64) for _ in range(objects)]
    return x, context, local, masks, weights


def softmax_attention(layer: CrossAttention, x: Tensor, context: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, head by head and row by row."""
    q, k, v = layer.to_q(x), layer.to_k(context), layer.to_v(context)
    d = q.shape[-1] // layer.heads
    heads = []
    for h in range(layer.heads):
        part = slice(h * d, (h + 1) * d)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / d**0.5
        heads.append(torch.softmax(scores, dim=-1) @ v[..., part])
    return layer.to_out(torch.cat(heads, dim=-1))


def test_plain_attention_is_softmax_attention(layer: CrossAttention) -> None:
    x, context, *_ = inputs(2, 2)
    torch.testing.assert_close(layer(x, context), softmax_attention(layer, x, context))


def test_without_context_pixels_attend_to_each_other() -> None:
    layer = CrossAttention(DIM, heads=HEADS, dim_head=4).double()
    x = inputs(2, 2)[0]
    torch.testing.assert_close(layer(x), softmax_attention(layer, x, x))


@pytest.mark.parametrize(("rows", "blend"), [(2, "conditional"), (4, "conditional"), (4, "unconditional")])
@pytest.mark.parametrize("binary", [True, False])
def test_controlled_attention_is_the_equation(layer: CrossAttention, rows: int, blend: str, binary: bool) -> None:
    x, context, local, masks, weights = inputs(2, rows, objects=3)
    if not binary:
        masks = [torch.rand_like(mask) for mask in masks]
    plain = layer(x, context)
    expected = plain.clone()
    reference = plain[:2] if blend == "unconditional" else plain[-2:]
    for c, m, w in zip(local, masks, weights, strict=True):
        expected[-2:] += w[:, None, None] * m[:, :, None] * (layer(x[-2:], c) - reference)
    torch.testing.assert_close(layer(x, context, None, local, masks, weights, blend), expected)


def test_no_local_context_and_zero_weights_are_plain_bit_for_bit(layer: CrossAttention) -> None:
    x, context, local, masks, weights = inputs(2, 4)
    plain = layer(x, context)
    assert torch.equal(layer(x, context, None, [], [], []), plain)
    assert torch.equal(layer(x, context, None, local, masks, [torch.zeros_like(w) for w in weights]), plain)


def test_unconditional_rows_and_pixels_outside_every_mask_do_not_change(layer: CrossAttention) -> None:
    x, context, local, masks, weights = inputs(2, 4)
    plain, out = layer(x, context), layer(x, context, None, local, masks, weights)
    outside = torch.stack(masks).sum(0) == 0
    assert outside.any()
    torch.testing.assert_close(out[:2], plain[:2], rtol=0, atol=1e-14)
    torch.testing.assert_close(out[2:][outside], plain[2:][outside], rtol=0, atol=1e-14)
    assert (out[2:] - plain[2:])[~outside].abs().max() > 1e-3


def test_full_mask_with_weight_one_is_the_local_prompt(layer: CrossAttention) -> None:
    x, context, local, masks, _ = inputs(2, 4, objects=1)
    out = layer(x, context, None, local, [torch.ones_like(masks[0])], [torch.ones(2, dtype=torch.float64)])
    torch.testing.assert_close(out[2:], layer(x[2:], local[0]))


def test_only_pixels_inside_a_mask_are_computed(layer: CrossAttention, monkeypatch: pytest.MonkeyPatch) -> None:
    x, context, local, masks, weights = inputs(2, 4)
    masks = [torch.zeros_like(masks[0]), masks[1]]
    seen: list[int] = []
    attend = attention.attend

    def counting(q: Tensor, *rest: Any) -> Tensor:
        seen.append(q.shape[0] * q.shape[1])
        return attend(q, *rest)

    monkeypatch.setattr(attention, "attend", counting)
    layer(x, context, None, local, masks, weights)
    assert seen == [4 * PIXELS, 2 * int((masks[1].sum(0) > 0).sum())]


@pytest.mark.parametrize(("rows", "blend"), [(3, "conditional"), (2, "unconditional"), (1, "conditional")])
def test_rows_that_do_not_fit_are_refused(layer: CrossAttention, rows: int, blend: str) -> None:
    x, context, local, masks, weights = inputs(2, rows)
    with pytest.raises(ValueError, match="do not fit"):
        layer(x, context, None, local, masks, weights, blend)


def test_local_contexts_come_with_masks_and_weights(layer: CrossAttention) -> None:
    x, context, local, masks, weights = inputs(2, 4)
    with pytest.raises(ValueError, match="a mask and a weight"):
        layer(x, context, None, local, masks)
    stacked = layer(x, context, None, torch.stack(local), torch.stack(masks), torch.stack(weights))
    assert torch.equal(stacked, layer(x, context, None, local, masks, weights))


def test_texts_are_projected_once(layer: CrossAttention) -> None:
    x, context, local, masks, weights = inputs(2, 4)
    fresh = layer(x, context, None, local, masks, weights)
    cache: attention.Projections = {}
    calls: list[int] = []
    layer.to_k.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(3):
        assert torch.equal(layer(x, context, None, local, masks, weights, projections=cache), fresh)
    assert len(calls) == 1 + len(local)
    other = layer(x, context + 1, None, local, masks, weights, projections=cache)
    assert torch.equal(other, layer(x, context + 1, None, local, masks, weights))
    calls.clear()
    with torch.no_grad():
        layer.to_k.weight.mul_(2)
    changed = layer(x, context, None, local, masks, weights, projections=cache)
    assert torch.equal(changed, layer(x, context, None, local, masks, weights))


def test_projections_that_may_change_are_not_kept(layer: CrossAttention) -> None:
    x, context, local, masks, weights = inputs(2, 4)
    cache: attention.Projections = {}
    with torch.inference_mode():
        layer(x, context, None, local, masks, weights, projections=cache)
    layer.requires_grad_(True)
    layer(x, context, None, local, masks, weights, projections=cache).sum().backward()
    assert not cache and layer.to_k.weight.grad is not None


@pytest.mark.parametrize("blend", ["conditional", "unconditional"])
def test_gradients_of_controlled_attention(layer: CrossAttention, blend: str) -> None:
    x, context, local, masks, weights = inputs(1, 2)
    x = x[:, :6].requires_grad_()
    masks = [mask[:, :6] for mask in masks]
    weights = [w.requires_grad_() for w in weights]

    def function(x: Tensor, *weights: Tensor) -> Tensor:
        return layer(x, context, None, local, masks, weights, blend)

    assert torch.autograd.gradcheck(function, (x, *weights))


def test_feed_forward_gates_with_gelu() -> None:
    torch.manual_seed(0)
    ff, x = FeedForward(6, mult=2, glu=True), torch.randn(3, 6)
    hidden, gate = ff.get_submodule("net.0.proj")(x).chunk(2, -1)
    torch.testing.assert_close(ff(x), ff.net[2](hidden * torch.nn.functional.gelu(gate)))
    assert FeedForward(6, dim_out=4)(x).shape == (3, 4)


def test_transformer_block_is_a_chain_of_residuals() -> None:
    torch.manual_seed(0)
    block = BasicTransformerBlock(8, 2, 4, context_dim=5)
    x, context = torch.randn(2, 6, 8), torch.randn(2, 3, 5)
    h = x + block.attn1(block.norm1(x))
    h = h + block.attn2(block.norm2(h), context)
    torch.testing.assert_close(block(x, context), h + block.ff(block.norm3(h)))


def test_spatial_transformer_on_a_rectangle() -> None:
    torch.manual_seed(0)
    layer = SpatialTransformer(32, 2, 8, depth=2, context_dim=5)
    x, context = torch.randn(2, 32, 4, 6), torch.randn(2, 3, 5)
    assert torch.equal(layer(x, context), x)  # the zero convolution: a fresh transformer is the identity
    torch.nn.init.normal_(layer.get_parameter("proj_out.weight"))
    # Attention knows no positions: exchanging rows and columns of the input exchanges those of the output.
    torch.testing.assert_close(layer(x, context).mT, layer(x.mT, context), rtol=1e-4, atol=1e-4)


def test_a_mask_says_what_of_the_context_counts(layer: CrossAttention) -> None:
    x, context, local, masks, weights = inputs(2, 2)
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[0, 3:] = mask[1] = False  # of the second image nothing counts, so all counts alike
    out = layer(x, context, mask=mask)
    torch.testing.assert_close(out[:1], layer(x[:1], context[:1, :3]))
    torch.testing.assert_close(out[1], layer.to_out(layer.to_v(context[1]).mean(0)).expand(x.shape[1], -1))
    torch.testing.assert_close(layer(x, context, torch.ones(2, 1, 5)), layer(x, context))
    controlled = layer(x, context, mask, local, masks, weights)
    assert not torch.equal(controlled, out) and torch.equal(layer(x, context, mask, [], [], []), out)


def test_attention_to_the_context_alone() -> None:
    block = BasicTransformerBlock(8, 2, 4, context_dim=6, disable_self_attn=True, checkpoint=False)
    x, context = torch.randn(2, 9, 8), torch.randn(2, 5, 6)
    assert block.attn1.to_k.in_features == 6
    moved = block(x.clone().index_fill(1, torch.tensor([0]), 0.0), context)
    assert torch.equal(block(x, context)[:, 1:], moved[:, 1:])  # no pixel sees another


@pytest.mark.parametrize("use_linear", [False, True])
def test_linear_projections_are_the_convolutions(use_linear: bool) -> None:
    options: dict[str, Any] = {"context_dim": [6, 7], "depth": 2, "use_checkpoint": False}
    plain = SpatialTransformer(32, 2, 16, **options)
    fill_(plain)
    model = SpatialTransformer(32, 2, 16, use_linear=use_linear, **options)
    model.load_state_dict({k: v.reshape(model.state_dict()[k].shape) for k, v in plain.state_dict().items()})
    x, contexts = torch.randn(2, 32, 3, 4), [torch.randn(2, 5, 6), torch.randn(2, 5, 7)]
    torch.testing.assert_close(model(x, contexts), plain(x, contexts))
    assert (model.proj_in.weight.dim() == 2) == use_linear
