"""What models of diffusers need on a card under the presets, counted with fake tensors: weights, and `bench.memory`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from bench.memory import FIXED, PER_STEP, Case, counted
from ldm.backends.diffusers import Diffusers
from ldm.errors import UserError

GIB = 2**30
CARDS = (6, 8, 10, 12, 16, 24, 32, 40, 48, 80)  # GiB that cards have
SPARE = 1.0  # GiB for the driver and the scratch memory of kernels
# Parameters in millions, as published: text encoders, and the CLIP of the loss (ViT-B/32, float32).
TEXT = {"SD 1.5": 123, "SD 2.1": 340, "SDXL": 123 + 695}
LOSS_CLIP = 151
SIZES = {"SD 1.5": 512, "SD 2.1": 768, "SDXL": 1024}
CASES = (
    Case(FIXED, steps=1, whole=True),
    Case(PER_STEP, steps=1, whole=True),
    Case(PER_STEP, steps=1, whole=True, blocks=True),
    Case(PER_STEP, steps=1, whole=True, blocks=True, half=True),
    Case(steps=2, whole=True),
    Case(steps=2, whole=True, blocks=True),
    Case(steps=2, whole=True, blocks=True, half=True),
)


def measure() -> list[dict[str, Any]]:
    """A row for every model, precision and case: GiB of "weights" and "peak", and the least "card" in GiB or None."""
    rows = []
    for name, dtype, case in product(SIZES, ("float32", "float16"), CASES):
        sized, held = replace(case, size=SIZES[name]), list[int]()

        def build(name: str = name, dtype: str = dtype, held: list[int] = held) -> Model:
            model = Model(name, getattr(torch, dtype))
            held.append(sum(p.numel() * p.element_size() for p in model.parameters()))
            return model

        peak = counted(sized, build) / GIB
        text = TEXT[name] * 1e6 * (4 if dtype == "float32" else 2)
        weights = (held[0] + text + (0 if case.preset == FIXED else LOSS_CLIP * 1e6 * 4)) / GIB
        need = weights + peak + SPARE
        card = next((card for card in CARDS if card >= need), None)
        told = {"model": name, "size": sized.size, "dtype": dtype, "preset": case.preset}
        rows.append({**told, "blocks": case.blocks, "half": case.half, "weights": weights, "peak": peak, "card": card})
    return rows


class Model(Diffusers):
    """U-Net and first stage of the published shape with random weights, as `bench.memory.counted` takes them.

    Args:
        name: a key of `SIZES`.
        dtype: of the U-Net, and of the first stage but for XL's.
    """

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        try:
            import diffusers
        except ImportError as error:
            raise UserError("this table needs the package diffusers: pip install -e '.[diffusers]'") from error
        large = name == "SDXL"
        shapes: dict[str, dict[str, Any]] = {
            "SD 1.5": {"sample_size": 64, "cross_attention_dim": 768},
            "SD 2.1": {
                "sample_size": 96,
                "cross_attention_dim": 1024,
                "attention_head_dim": (5, 10, 20, 20),
                "use_linear_projection": True,
            },
            "SDXL": {
                "sample_size": 128,
                "cross_attention_dim": 2048,
                "attention_head_dim": (5, 10, 20),
                "use_linear_projection": True,
                "block_out_channels": (320, 640, 1280),
                "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                "transformer_layers_per_block": (1, 2, 10),
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": 2816,
            },
        }
        first_stage = {
            "block_out_channels": (128, 256, 512, 512),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "layers_per_block": 2,
        }
        with _default(dtype):
            unet = diffusers.UNet2DConditionModel(**shapes[name])
        with _default(torch.float32 if large else dtype):
            vae = diffusers.AutoencoderKL(**first_stage)
        kind = diffusers.StableDiffusionXLPipeline if large else diffusers.StableDiffusionPipeline
        parts: dict[str, Any] = dict.fromkeys(("text_encoder", "tokenizer", "scheduler"))
        more = (
            dict.fromkeys(("text_encoder_2", "tokenizer_2"))
            if large
            else {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        )
        super().__init__(kind(unet=unet, vae=vae, **parts, **more))
        self.context_dim, self.timesteps, self.large = shapes[name]["cross_attention_dim"], 1000, large
        self.levels: Tensor = torch.ones(1)

    @property
    def alphas_cumprod(self) -> Tensor:
        """(T,), set by who counts."""
        return self.levels

    @alphas_cumprod.setter
    def alphas_cumprod(self, levels: Tensor) -> None:
        self.levels = levels

    parameterization = "eps"

    def condition(self, size: int) -> Any:  # type: ignore[override]  # of no text in particular
        """What the U-Net is given for a text and an image of `size` pixels a side."""
        context = torch.randn(1, 77, self.context_dim)
        return (
            {"context": context, "pooled": torch.randn(1, 1280), "sizes": torch.ones(1, 6)} if self.large else context
        )


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    """New parameters are of `dtype` inside."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
