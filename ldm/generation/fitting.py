"""Whether what the gradient of images keeps alive fits the card, and what is done where it does not."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch

from ldm.backends.base import Backend
from ldm.spacetime.presets import Mode, Preset

logger = logging.getLogger(__name__)

GIB = 2**30
WIDTH, PIXELS = 320, 512**2  # first channels of the U-Net that was counted, and pixels of its image
# GiB that one image's gradient keeps alive, weights excluded, of Stable Diffusion v1 with decoder and CLIP: without and
# with checkpoints of the blocks, by mode and whether the model runs in half precision. From python -m bench memory.
PEAKS: dict[tuple[Mode, bool], tuple[float, float]] = {
    ("per-step", False): (3.94, 1.97),
    ("per-step", True): (2.58, 1.61),
    ("whole-chain", False): (2.21, 1.66),
    ("whole-chain", True): (1.71, 1.46),
}
# The same of models of diffusers, whose layers keep more; from python -m bench cards.
OTHERS: dict[tuple[Mode, bool], tuple[float, float]] = {
    ("per-step", False): (8.47, 3.61),
    ("per-step", True): (4.25, 1.81),
    ("whole-chain", False): (5.70, 3.07),
    ("whole-chain", True): (2.87, 1.53),
}
SCRATCH = 1.0  # GiB: of kernels, and gaps of the allocator


def need(
    mode: Mode,
    half: bool,
    pixels: int,
    width: int = WIDTH,
    peaks: Mapping[tuple[Mode, bool], tuple[float, float]] = PEAKS,
) -> tuple[float, float]:
    """GiB that the gradient of images takes beside the weights, without and with checkpoints of the blocks.

    Args:
        pixels: of all images of a batch together.
        width: channels of the U-Net's first level.
        peaks: `PEAKS` or `OTHERS`.
    """
    share = pixels / PIXELS * width / WIDTH
    plain, lean = peaks[mode, half]
    return plain * share + SCRATCH, lean * share + SCRATCH


def free_memory(device: torch.device) -> float:
    """GiB of a CUDA card that are free, or that PyTorch holds without use; infinite for other devices."""
    if device.type != "cuda":
        return float("inf")
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (torch.cuda.mem_get_info(device)[0] + unused) / GIB


def recomputes_blocks(backend: Backend, preset: Preset, latents: Sequence[int]) -> bool:
    """Whether the blocks are computed again in the backward pass: where the card has no room for what they keep.

    That is told in one line.

    Args:
        latents: shape of the batch's, (B, C, h, w).
    """
    if preset.mode == "fixed":
        return False
    params = getattr(backend, "params", None)  # none of a model of diffusers
    images, _, height, width = latents
    pixels = images * height * width * backend.factor**2
    if params is None:  # the float32 decoder of XL is most of what its gradient keeps
        unet: Any = backend.unet  # type: ignore[attr-defined]
        half = unet.dtype != torch.float32 and not backend.large  # type: ignore[attr-defined]
        plain, lean = need(preset.mode, half, pixels, unet.config.block_out_channels[0], OTHERS)
    else:
        half = torch.is_autocast_enabled(backend.device.type)
        width = params.get("unet_config", {}).get("params", {}).get("model_channels", WIDTH)
        plain, lean = need(preset.mode, half, pixels, width)
    if short := free_memory(backend.device) < plain:
        _tell(f"{plain:.1f}", f"{lean:.1f}")
    return short


@cache
def _tell(plain: str, lean: str) -> None:
    """Say it once of every need."""
    logger.warning(
        "The gradient takes some %s GiB, more than the card has free: the blocks are computed twice, which takes %s "
        "and more time (--no-block-checkpointing switches it off).",
        plain,
        lean,
    )
