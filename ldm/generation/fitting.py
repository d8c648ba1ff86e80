"""Whether what an image keeps for its gradient fits the card, and what is done where it does not."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ldm.generation.settings import Sampling
from ldm.spacetime.presets import Mode, Preset

if TYPE_CHECKING:
    import torch

    from ldm.backends.base import Backend

logger = logging.getLogger(__name__)

GIB = 2**30
# Counted peaks of one image of 512x512, Stable Diffusion v1, with decoder and CLIP (python -m bench memory), by mode and
# precision: GiB without and with checkpoints of the blocks.
PEAKS: dict[tuple[Mode, str], tuple[float, float]] = {
    ("per-step", "full"): (3.94, 1.97),
    ("per-step", "autocast"): (2.58, 1.73),
    ("whole-chain", "full"): (2.21, 1.78),
    ("whole-chain", "autocast"): (1.71, 1.57),
}
SCRATCH = 1.0  # GiB of kernels and gaps of the allocator
CHANNELS = 320  # of the U-Net that was counted


def need(preset: Preset, precision: str, pixels: int, channels: int = CHANNELS) -> tuple[float, float]:
    """GiB that the gradient of images takes beside the weights, without and with checkpoints of the blocks.

    Args:
        pixels: of all images of a batch together.
        channels: of the U-Net's first level.
    """
    share = pixels / 512**2 * channels / CHANNELS
    plain, lean = PEAKS[preset.mode, precision]
    return plain * share + SCRATCH, lean * share + SCRATCH


def free_memory(device: torch.device) -> float:
    """GiB of a CUDA card that are free, or held by PyTorch without being used; infinite for other devices."""
    import torch

    if device.type != "cuda":
        return float("inf")
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return float(torch.cuda.mem_get_info(device)[0] + unused) / GIB


def checkpoints_blocks(backend: Backend, preset: Preset, sampling: Sampling, images: int) -> bool:
    """Whether the blocks are recomputed in the backward pass: as the settings say, or where the card has no room.

    That is told in one line. A model of diffusers has no such checkpoints.
    """
    unet = getattr(backend, "params", {}).get("unet_config")
    if sampling.block_checkpointing is not None or preset.mode == "fixed" or unet is None:
        return bool(sampling.block_checkpointing)
    assert sampling.height and sampling.width
    channels = unet["params"].get("model_channels", CHANNELS)
    pixels = images * sampling.height * sampling.width
    plain, lean = need(preset, sampling.precision or "full", pixels, channels)
    free = free_memory(backend.device)
    if free >= plain:
        return False
    logger.warning(
        "The gradient takes some %.1f GiB and the card has %.1f free: the blocks are computed twice, which takes "
        "%.1f GiB and more time (--no-block-checkpointing does not).",
        plain,
        free,
        lean,
    )
    return True
