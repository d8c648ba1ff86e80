"""A latent diffusion model and a CLIP small enough for gradient checks, in any dtype, with the real U-Net."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.diffusionmodules.util import make_beta_schedule
from ldm.spacetime.control import SpatialControl
from ldm.spacetime.layout import Layout, LayoutObject
from tests.golden_data import fill_, tensor

CONTEXT = (3, 8)  # length and width of a context
SIZE = 4  # side of a latent
TWO = Layout((LayoutObject("a cat", 0.3, 0.4), LayoutObject("The dog", 0.75, 0.5)), "a cat and a dog")
ONE = Layout((LayoutObject("a bus", 0.5, 0.6),), "a bus")
NONE = Layout((), "nothing")


class TinyDiffusion(nn.Module):
    """What the samplers and the optimizer use of a LatentDiffusion: latents (4, 4, 4), images (3, 8, 8)."""

    alphas_cumprod: Tensor

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.unet = UNetModel(
            image_size=SIZE,
            in_channels=4,
            model_channels=32,
            out_channels=4,
            num_res_blocks=1,
            attention_resolutions=(1,),
            channel_mult=(1,),
            num_heads=2,
            use_spatial_transformer=True,
            transformer_depth=1,
            context_dim=CONTEXT[1],
            legacy=False,
        )
        self.decoder = nn.Conv2d(4, 3, 3, padding=1)
        fill_(self, 1, "tiny.")
        betas = torch.from_numpy(make_beta_schedule("linear", 1000, 0.00085, 0.012))
        self.register_buffer("alphas_cumprod", torch.cumprod(1 - betas, 0))
        self.to(dtype).eval().requires_grad_(False)

    def apply_model(
        self, x: Tensor, t: Tensor, context: Tensor, control: Any = None, weights: Tensor | None = None
    ) -> Tensor:
        return self.unet(x, t, context=context, control=control, weights=weights)

    def decode(self, latents: Tensor) -> Tensor:
        return ((self.decode_first_stage(latents) + 1) / 2).clamp(0, 1)

    def decode_first_stage(self, z: Tensor) -> Tensor:
        return torch.tanh(0.3 * self.decoder(F.interpolate(z, scale_factor=2.0)))  # within (-1, 1)


class TinyClip(nn.Module):
    """Random features of 4 x 4 images and of 5 tokens."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(3 * 4 * 4, 6), nn.Embedding(100, 6)
        fill_(self, 1, "tinyclip.")
        self.to(dtype).requires_grad_(False)

    def encode_image(self, pixels: Tensor) -> Tensor:
        return torch.sin(3 * self.image(pixels.flatten(1)))

    def encode_text(self, tokens: Tensor) -> Tensor:
        return self.text(tokens).sum(1)


def tokenize(texts: list[str]) -> Tensor:
    """Five numbers from the letters of each text."""
    return torch.tensor([[sum(map(ord, text[i::5])) % 100 for i in range(5)] for text in texts])


@dataclass
class TinyBundle:
    """A ClipBundle around TinyClip."""

    dtype: torch.dtype = torch.float32
    resolution: int = 4
    mean: tuple[float, float, float] = (0.5, 0.4, 0.3)
    std: tuple[float, float, float] = (0.2, 0.3, 0.4)
    model: TinyClip = field(init=False)
    tokenize = staticmethod(tokenize)

    def __post_init__(self) -> None:
        self.model = TinyClip(self.dtype)


def encode(texts: list[str], dtype: torch.dtype = torch.float32) -> Tensor:
    """A context for each text, (len(texts), 3, 8)."""
    return torch.stack([tensor(1, text, CONTEXT) for text in texts]).to(dtype)


def make_control(*layouts: Layout, dtype: torch.dtype = torch.float32, **options: Any) -> SpatialControl:
    """The control of a batch with one layout per image."""
    return SpatialControl.build(layouts, lambda texts: encode(texts, dtype), **options)


def chain_inputs(batch: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Starting noise and contexts of the first `batch` images, as Sampler.sample takes them."""
    return {
        "batch_size": batch,
        "shape": (4, SIZE, SIZE),
        "x_T": torch.stack([tensor(1, f"x_T{i}", (4, SIZE, SIZE)) for i in range(batch)]).to(dtype),
        "conditioning": encode([f"c{i}" for i in range(batch)], dtype),
        "unconditional_conditioning": encode(["uc"], dtype),
        "unconditional_guidance_scale": 3.0,
        "verbose": False,
    }
