"""Large inputs in patches: the cut and the blend, first stages, networks and conditions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldm.models.diffusion import patches
from ldm.models.diffusion.ddpm import LatentDiffusion, Layout2ImgDiffusion
from ldm.models.diffusion.patches import SplitOptions
from ldm.util import UserError
from tests.golden_data import relative_error
from tests.training_parts import IDENTITY, target, unet
from tests.training_parts import first_stage as section

SPLIT = {"ks": (8, 8), "stride": (4, 4), "vqf": 2}


def diffusion(in_channels: int = 4, first_stage: str = "AutoencoderKL", **options: Any) -> LatentDiffusion:
    """A tiny model whose network works pixel by pixel (no attention, no neighbors)."""
    torch.manual_seed(0)
    layout = options.get("cond_stage_key") == "coordinates_bbox"
    options = {"cond_stage_config": IDENTITY, "use_ema": False, "channels": 4, "image_size": 8, **options}
    model = (Layout2ImgDiffusion if layout else LatentDiffusion)(
        first_stage_config=section(first_stage), unet_config=unet(in_channels=in_channels), **options
    )
    return model.eval().requires_grad_(False)


class Pointwise(nn.Module):
    """A network without neighbors: patches must not change what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[tuple[int, ...], Any]] = []

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        self.seen.append((tuple(x.shape), context))
        return x[:, :4].sin() + x[:, 4:].sum(1, keepdim=True)


@pytest.mark.parametrize("size", [(16, 16), (13, 21), (8, 8), (5, 12)])
@pytest.mark.parametrize("ties", [False, True])
def test_blended_patches_of_a_pointwise_function_are_the_function(size: tuple[int, int], ties: bool) -> None:
    options = SplitOptions.read({**SPLIT, "tie_braker": ties})
    x = torch.randn(2, 3, *size)
    out = patches.on_patches(lambda patch, _: patch.sin(), x, options)
    torch.testing.assert_close(out, x.sin())
    doubled = patches.on_patches(lambda p, _: p.repeat_interleave(2, 2).repeat_interleave(2, 3), x, options, uf=2)
    torch.testing.assert_close(doubled, x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    boxes = patches.patch_boxes(size, options)
    count: list[int] = []
    patches.on_patches(lambda p, i: count.append(i) or p, x, options)  # type: ignore[func-returns-value]
    assert count == list(range(len(boxes)))


def test_weights_fall_towards_the_border() -> None:
    options = SplitOptions.read({"ks": (5, 5), "stride": (5, 5)})
    weights = patches.patch_weights((5, 5), (2, 2), options).reshape(5, 5, 4)
    assert weights[2, 2, 0] == 0.5
    assert weights[0, 2, 0] == pytest.approx(0.01)
    assert weights[2, 1, 3] == 0.25
    fold, unfold, total, blend = diffusion().get_fold_unfold(torch.zeros(1, 3, 8, 8), (8, 8), (4, 4), uf=2)
    assert total.shape == (1, 1, 16, 16)
    assert blend.shape == (1, 1, 16, 16, 1)
    assert unfold(torch.zeros(1, 3, 8, 8)).shape == (1, 192, 1)
    assert fold(torch.zeros(1, 4 * 256, 1)).shape == (1, 4, 16, 16)


@pytest.mark.parametrize("first_stage", ["AutoencoderKL", "VQModelInterface"])
def test_first_stage_in_patches(first_stage: str) -> None:
    model = diffusion(first_stage=first_stage)
    images, latents = torch.rand(1, 3, 24, 16), torch.randn(1, 4, 12, 8)
    whole = model.get_first_stage_encoding(model.encode_first_stage(images), torch.Generator().manual_seed(0))
    if first_stage == "VQModelInterface":
        latents = model.first_stage_model.quantize(latents)[0]
    decoded = model.decode_first_stage(latents)
    model.split_input_params = {**SPLIT, "ks": (16, 16), "stride": (8, 8)}
    part = model.get_first_stage_encoding(model.encode_first_stage(images), torch.Generator().manual_seed(0))
    assert part.shape == whole.shape == (1, 4, 12, 8)
    model.split_input_params = SPLIT
    patched = model.decode_first_stage(latents)
    assert patched.shape == decoded.shape == (1, 3, 24, 16)
    assert relative_error(patched, decoded) < 0.8  # random weights, and group norms that see a patch instead of all
    model.split_input_params = {**SPLIT, "patch_distributed_vq": False}
    assert torch.equal(model.decode_first_stage(latents), decoded)


def test_network_in_patches_with_maps_and_contexts() -> None:
    model = diffusion(5, conditioning_key="hybrid")
    network = Pointwise()
    model.model.diffusion_model = network
    x, t = torch.randn(2, 4, 12, 8), torch.tensor([3, 5])
    cond = {"c_concat": [torch.randn(2, 1, 12, 8)], "c_crossattn": [torch.randn(2, 3, 6)]}
    whole = model.apply_model(x, t, cond)
    model.split_input_params = SPLIT
    torch.testing.assert_close(model.apply_model(x, t, cond), whole)
    assert [shape for shape, _ in network.seen] == [(2, 5, 12, 8), (2, 5, 8, 8), (2, 5, 8, 8)]
    assert torch.equal(network.seen[-1][1], cond["c_crossattn"][0])
    with pytest.raises(UserError, match="does not go with patches"):
        model.apply_model(x, t, cond, control=object())


def test_layout_tokens_say_the_patch() -> None:
    sizes = {"n_embed": 8, "n_layer": 1, "vocab_size": 20, "max_seq_len": 6, "use_tokenizer": False}
    embedder = target("modules.encoders.modules.BERTEmbedder", **sizes)
    model: Any = diffusion(cond_stage_key="coordinates_bbox", conditioning_key="crossattn", cond_stage_config=embedder)
    model.model.diffusion_model = network = Pointwise()
    x, t, tokens = torch.randn(1, 4, 8, 12), torch.tensor([3]), torch.tensor([[1, 2, 3, 4, 0, 19]])
    model.split_input_params = SPLIT
    with pytest.raises(UserError, match="bbox_tokenizer"):
        model.apply_model(x, t, tokens)
    crops = []

    def tokens_of(box: tuple[float, ...]) -> tuple[int, int]:
        crops.append(box)
        return 5 + len(crops), 9

    model.bbox_tokenizer = tokens_of
    model.apply_model(x, t, tokens)
    assert crops == [pytest.approx((0, 0, 2 / 3, 1)), pytest.approx((1 / 3, 0, 2 / 3, 1))]
    expected = model.get_learned_conditioning(torch.tensor([[1, 2, 3, 4, 7, 9]]))
    torch.testing.assert_close(network.seen[-1][1], expected)
    context = torch.randn(1, 6, 8)  # encoded before: the same for every patch
    model.apply_model(x, t, context)
    assert torch.equal(network.seen[-1][1], context)


def test_wrong_splits_are_named() -> None:
    model = diffusion()
    with pytest.raises(UserError, match="did you mean 'stride'"):
        model.split_input_params = {"strid": (4, 4)}
    with pytest.raises(UserError, match="positive"):
        model.split_input_params = {"ks": (0, 8)}
    model.split_input_params = {"ks": (7, 8), "stride": (4, 4), "vqf": 2}
    with pytest.raises(UserError, match="do not divide by 2"):
        model.encode_first_stage(torch.zeros(1, 3, 16, 16))
    with pytest.raises(UserError, match="takes cond_stage_key coordinates_bbox"):
        Layout2ImgDiffusion("caption")
