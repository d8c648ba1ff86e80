"""Stable Diffusion 2: names of its checkpoints, its text encoder, and its prediction of v."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm.models.diffusion.ddim import DDIMSampler
from ldm.modules.encoders.modules import FrozenOpenCLIPEmbedder
from ldm.util import UserError, instantiate_from_config, load_config, load_model_from_config, save_torch
from tests.golden_data import ROOT, fill_, relative_error

Shapes = dict[str, tuple[int, ...]]
TINY = {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16}}
TINY["text_cfg"] |= {"heads": 2, "layers": 3}  # type: ignore[operator]


def meta(name: str) -> Any:
    config = load_config(ROOT / f"configs/stable-diffusion/{name}.yaml")
    with torch.device("meta"):
        return instantiate_from_config(config.model)


def shapes(model: Any, prefix: str = "") -> Shapes:
    return {k: tuple(v.shape) for k, v in model.state_dict().items() if k.startswith(prefix)}


def published_text_names() -> Shapes:
    """Name and shape of the entries of the text encoder, OpenCLIP ViT-H/14, in a Stable Diffusion 2 checkpoint."""
    width, length = 1024, 77
    names: Shapes = {
        "positional_embedding": (length, width),
        "text_projection": (width, width),
        "logit_scale": (),
        "token_embedding.weight": (49408, width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
    }
    for layer in range(24):
        block = f"transformer.resblocks.{layer}."
        for norm in ("ln_1", "ln_2"):
            names |= {f"{block}{norm}.weight": (width,), f"{block}{norm}.bias": (width,)}
        names |= {f"{block}attn.in_proj_weight": (3 * width, width), f"{block}attn.in_proj_bias": (3 * width,)}
        for linear, rows, columns in (("attn.out_proj", 1, 1), ("mlp.c_fc", 4, 1), ("mlp.c_proj", 1, 4)):
            names |= {f"{block}{linear}.weight": (rows * width, columns * width)}
            names |= {f"{block}{linear}.bias": (rows * width,)}
    return {f"cond_stage_model.model.{name}": shape for name, shape in names.items()}


@pytest.mark.parametrize("name", ["v2-inference", "v2-inference-v"])
def test_names_and_shapes_of_the_checkpoints(name: str) -> None:
    """Those of v1 with a wider context and linear projections, and another text encoder."""
    model, first = meta(name), meta("v1-inference")
    assert model.parameterization == ("v" if name.endswith("-v") else "eps")
    expected = {k: v for k, v in shapes(first).items() if not k.startswith("cond_stage_model.")}
    for entry, shape in expected.items():
        if entry.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            expected[entry] = (shape[0], 1024)
        elif entry.endswith(("proj_in.weight", "proj_out.weight")) and entry.startswith("model."):
            expected[entry] = shape[:2]
    assert shapes(model) == {**expected, **published_text_names()}
    heads = model.model.diffusion_model.input_blocks[1][1].transformer_blocks[0].attn1.heads
    assert heads == 5  # of 320 channels, 64 each


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    open_clip = pytest.importorskip("open_clip")
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: TINY if name == "tiny" else None)
    return "tiny"


def test_the_context_is_open_clips(tiny: str) -> None:
    import open_clip

    vision = {"layers": 1, "width": 64, "head_width": 64, "image_size": 14, "patch_size": 14}
    whole: Any = fill_(open_clip.CLIP(8, vision, TINY["text_cfg"])).eval()  # type: ignore[arg-type]
    texts = ["a photo of a cat", "", "word " * 100]
    seen: list[torch.Tensor] = []
    whole.ln_final.register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad():
        whole.encode_text(open_clip.tokenize(texts))
        last = FrozenOpenCLIPEmbedder(tiny)
        state = {k: v for k, v in whole.state_dict().items() if not k.startswith("visual.")}
        last.model.load_state_dict(state, strict=True)
        context = last.encode(texts)
        assert context.shape == (3, 77, 16)
        torch.testing.assert_close(last(texts[0]), context[:1])
        torch.testing.assert_close(context, seen[0])
        before = FrozenOpenCLIPEmbedder(tiny, layer="penultimate")
        before.load_state_dict(last.state_dict(), strict=True)
        whole.transformer.resblocks = whole.transformer.resblocks[:-1]
        whole.encode_text(open_clip.tokenize(texts))
        torch.testing.assert_close(before.encode(texts), seen[1])
    assert not any(p.requires_grad for p in last.parameters()) and not last.training
    assert all(p.requires_grad for p in FrozenOpenCLIPEmbedder(tiny, freeze=False).parameters())
    assert FrozenOpenCLIPEmbedder(tiny, max_length=9)(texts).shape == (3, 9, 16)
    assert before.unread("word " * 76).split() == ["word"]


def test_what_the_text_encoder_refuses(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for options, message in (
        ({"layer": "middle"}, "neither last nor penultimate"),
        ({"arch": "huge"}, "ViT-H-14"),
        ({"max_length": 78}, "between 2 and 77"),
    ):
        with pytest.raises(UserError, match=message):
            FrozenOpenCLIPEmbedder(**{"arch": tiny, **options})
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UserError, match="pip install open_clip_torch"):
        FrozenOpenCLIPEmbedder(tiny)


def test_a_small_one_loads_and_samples(tiny: str, tmp_path: Path) -> None:
    config: Any = load_config(
        ROOT / "configs/stable-diffusion/v2-inference-v.yaml",
        [
            "model.params.unet_config.params.model_channels=32",
            "model.params.unet_config.params.num_head_channels=16",
            "model.params.unet_config.params.channel_mult=[1,2]",
            "model.params.unet_config.params.context_dim=16",
            "model.params.unet_config.params.use_fp16=true",
            "model.params.first_stage_config.params.ddconfig.ch=32",
            "model.params.cond_stage_config.params.arch=tiny",
        ],
    )
    source = fill_(instantiate_from_config(config.model))
    state = {**source.state_dict(), "logvar": torch.zeros(1000)}  # as checkpoints of later programs have it
    state["cond_stage_model.model.attn_mask"] = source.cond_stage_model.model.attn_mask
    save_torch(tmp_path / "m.ckpt", {"state_dict": state})
    model = load_model_from_config(config, tmp_path / "m.ckpt")
    with torch.no_grad():
        context = model.get_learned_conditioning(["a cat", "a dog"])
        torch.testing.assert_close(context, source.get_learned_conditioning(["a cat", "a dog"]))
        samples, _ = DDIMSampler(model).sample(3, 2, (4, 8, 8), context, verbose=False)
        x, t = torch.randn(2, 4, 8, 8), torch.tensor([801, 801])
        v = model.apply_model(x, t, context)
        eps = model.predict_eps_from_z_and_v(x, t, v)
        x0 = model.predict_start_from_z_and_v(x, t, v)
        torch.testing.assert_close(model.predict_start_from_noise(x, t, eps), x0, rtol=1e-3, atol=1e-3)
        sampler = DDIMSampler(model)
        sampler.make_schedule(5, verbose=False)
        assert relative_error(sampler.p_sample_ddim(x, context, t, 4)[1], x0) < 1e-4
    assert samples.isfinite().all() and model.decode_first_stage(samples).shape == (2, 3, 64, 64)
