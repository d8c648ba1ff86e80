"""Memory that autograd keeps alive in a differentiated chain, counted tensor by tensor, weights excluded.

Nothing is computed: with fake tensors, which have shapes but no numbers, 50 steps of Stable Diffusion v1 at 512x512 are
counted in a minute on any machine (`bench.counting.LivePeak`).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.counting import CardPeak, LivePeak
from ldm.backends.compvis import factor_of
from ldm.generation.pipeline import make_sampler
from ldm.models.diffusion.sampler import Sampler
from ldm.paths import SD_CONFIG, project_file
from ldm.spacetime.control import SpatialControl
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.spacetime.objective import ClipObjective
from ldm.spacetime.optimize import block_checkpoints, frozen
from ldm.util import instantiate_from_config, load_config

PROMPT = "The motorcycle is parking to the right of a bus."
LAYOUT = Layout((LayoutObject("the motorcycle", 0.75, 0.5), LayoutObject("a bus", 0.25, 0.5)))
PER_STEP, FIXED = "per-step", "fixed"
CLIP_SIDE, CLIP_WIDTH = 224, 512  # of ViT-B/32


@dataclass(frozen=True)
class Case:
    """One way of differentiating an image.

    Attributes:
        preset: "whole chain", as the published ones, "per-step": the predicted image of one step, or "fixed": no
            gradient.
        size: pixels a side.
        blocks: whether the blocks of U-Net and decoder are checkpointed too.
        autocast: U-Net and decoder in bfloat16; latents, weights, CLIP and the loss stay float32.
        whole: chain, decoder and CLIP; else the chain alone.
        half: the loss looks at images of half the size.
    """

    preset: str = "whole chain"
    size: int = 512
    steps: int = 50
    blocks: bool = False
    autocast: bool = False
    whole: bool = False
    half: bool = False


CASES = (
    *(Case(steps=steps) for steps in (2, 50)),
    Case(steps=2, blocks=True),
    Case(steps=2, whole=True),
    Case(steps=2, whole=True, blocks=True),
    *(Case(steps=2, blocks=blocks, autocast=True) for blocks in (False, True)),
    Case(steps=2, whole=True, blocks=True, autocast=True),
    *(Case(PER_STEP, steps=1, whole=True, blocks=blocks) for blocks in (False, True)),
    Case(PER_STEP, steps=1, whole=True, blocks=True, autocast=True),
)


def measure(size: int = 512, config: Path = SD_CONFIG) -> list[dict[str, Any]]:
    """Every case of `CASES` with its "peak" in bytes."""
    cases = [replace(case, size=size) for case in CASES]
    return [{**asdict(case), "peak": count(case, config)} for case in cases]


def count(case: Case, config: Path = SD_CONFIG, sampler: str = "plms", fake: bool = True) -> int:
    """`counted` of the model of a config, whose U-Net and decoder get random weights."""
    return counted(case, lambda: Model(config), sampler, fake)


def measured(case: Case, device: torch.device, config: Path = SD_CONFIG) -> int:
    """The same as `count`, by the allocator of a card of CUDA, which computes it."""
    with torch.device(device):
        return counted(case, lambda: Model(config), fake=False, counter=CardPeak)


def counted(
    case: Case,
    build: Callable[[], Any],
    sampler: str = "plms",
    fake: bool = True,
    counter: Callable[[], Any] = LivePeak,
) -> int:
    """Peak in bytes of the gradient of a guided image's loss with respect to the weights of every step.

    Args:
        build: makes the model, see `Model`.
        fake: count shapes only; else compute, which takes hours at full size on a CPU.
        counter: what counts, `LivePeak` or `CardPeak`.
    """
    # One for all: the tensors of another would be taken for new ones.
    mode = FakeTensorMode(allow_non_fake_inputs=True) if fake else contextlib.nullcontext()
    with mode:
        model = build()
        clip = _clip() if case.whole else None
    latent = torch.randn(1, model.channels, case.size // model.factor, case.size // model.factor)
    width = model.context_dim
    control = SpatialControl.build([LAYOUT], lambda texts: torch.randn(len(texts), 77, width))
    for level in range(4):  # which pixels lie in a disc cannot be asked of a fake tensor
        control.local_attention(latent.shape[-2] >> level, latent.shape[-1] >> level, torch.ones(2, 1))
    objective = None if clip is None else ClipObjective(clip, [PROMPT], [LAYOUT])
    model.alphas_cumprod = torch.linspace(0.9991, 0.0047, model.timesteps)
    chain = make_sampler(sampler, model)
    schedule = chain.schedule(case.steps)  # it reads numbers, which fake tensors do not have
    chain.schedule = lambda *_: schedule  # type: ignore[method-assign]
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=case.autocast)
    # Keys and values are kept by their weights' addresses, which fake tensors have none of.
    warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
    with frozen(model), block_checkpoints(model, case.blocks), mode, autocast:
        weights = torch.ones(len(schedule), 2, 1, requires_grad=True)
        with counter() as found:
            guided = {
                "S": case.steps,
                "batch_size": 1,
                "shape": latent.shape[1:],
                "conditioning": model.condition(case.size),
                "unconditional_conditioning": model.condition(case.size),
                "unconditional_guidance_scale": 7.5,
                "x_T": latent,
                "control": control,
                "verbose": False,
            }
            if case.preset == FIXED:
                with torch.no_grad():
                    model.decode(chain.sample(**guided, weights=weights)[0])
                return int(found.peak)
            if case.preset == PER_STEP:
                latents = _predicted(chain, guided, weights)
            else:
                latents, _ = chain.sample(**guided, weights=weights, checkpoint_steps=True)
            if objective is None:
                loss = latents.square().sum()
            else:
                images = model.decode(F.avg_pool2d(latents, 2) if case.half else latents)
                loss = objective(images)["total"].sum()
            torch.autograd.grad(loss, weights)
    return int(found.peak)


class _Seen(Exception):
    """Ends the sampling once the first step's prediction is there."""


def _predicted(sampler: Sampler, arguments: dict[str, Any], weights: Tensor) -> Tensor:
    """The predicted image's latents of the first step, which the default preset's loss looks at."""
    first: list[Tensor] = []

    def look(index: int, _: Tensor | None, predict_x0: Any) -> Tensor:
        with torch.enable_grad():
            first.append(predict_x0(weights[index]))
        raise _Seen

    with torch.no_grad(), contextlib.suppress(_Seen):
        sampler.sample(**arguments, weight_update=look)
    return first[0]


class Model(nn.Module):
    """U-Net and decoder of a latent diffusion model, random weights, as the samplers and the objective take them."""

    def __init__(self, config: Path) -> None:
        super().__init__()
        params = load_config(project_file(config)).model.params
        self.unet = instantiate_from_config(params.unet_config)
        self.first_stage_model = instantiate_from_config(params.first_stage_config)
        self.channels, self.context_dim = params.channels, params.unet_config.params.context_dim
        self.factor = factor_of(params.first_stage_config.params)
        self.scale = params.scale_factor
        self.alphas_cumprod: Any = None  # made outside of the mode, since the samplers read its numbers
        self.timesteps = params.timesteps

    def apply_model(self, x: Tensor, t: Tensor, context: Tensor, control: Any = None, weights: Any = None) -> Tensor:
        """Noise (B, C, h, w) in latents of the same shape."""
        return self.unet(x, t, context, control=control, weights=weights)

    def condition(self, size: int) -> Tensor:
        """A context (1, 77, C) of a text."""
        return torch.randn(1, 77, self.context_dim)

    def decode(self, z: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] of latents (B, C, h, w)."""
        return ((self.first_stage_model.decode(z / self.scale) + 1.0) / 2.0).clamp(0.0, 1.0)


def _clip() -> Any:
    """A ViT-B/32 with random weights, as `ClipObjective` takes it."""
    from ldm.modules.encoders.tokenizer import clip_part

    model = clip_part("model").CLIP(CLIP_WIDTH, CLIP_SIDE, 12, 768, 32, 77, 49408, 512, 8, 12)
    return SimpleNamespace(
        model=model.eval().requires_grad_(False),
        tokenize=lambda texts: torch.zeros(len(texts), 77, dtype=torch.long),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        resolution=CLIP_SIDE,
    )
