"""`torch.compile` of the blocks of a U-Net, as an option.

The blocks are compiled one by one, not the network as a whole: residual blocks, attention of pixels to themselves and
feed-forwards are each one graph without breaks, while the cross-attention, whose work depends on the discs of an image
and whose keys and values are cached, runs as it is. Blocks of one shape share their code. Numbers agree to rounding;
names, parameters and state dicts stay as they are. What compiled blocks keep for a backward pass is up to the compiler,
which keeps more than `ldm.modules.lean` does.
"""

from __future__ import annotations

import logging

import torch
from torch import nn

from ldm.modules.attention import BasicTransformerBlock
from ldm.modules.diffusionmodules.unet_blocks import AttentionBlock, ResBlock
from ldm.util import UserError

logger = logging.getLogger(__name__)
# A shape is compiled once with and once without gradients. Stable Diffusion v1 has 22, one more for every other size or
# batch; beyond the limit a block runs as it is.
MOST_SHAPES = 256


def compile_blocks(model: nn.Module, device: torch.device | str, backend: str = "inductor") -> int:
    """Let the blocks of `model` compile at their first call; returns how many they are.

    Args:
        backend: of `torch.compile`.

    Raises:
        UserError: nothing can be compiled for `device` here.
    """
    check_compiler(device, backend)
    found: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, ResBlock | AttentionBlock):
            found.append(module)
        elif isinstance(module, BasicTransformerBlock):
            found += [module.attn1, module.ff]
    # On a CPU the compiler would bring the weights of convolutions to channels last anew at every call, which is slow.
    options = {"layout_optimization": False} if torch.device(device).type == "cpu" and backend == "inductor" else None
    for block in found:
        # Fixed shapes: an image has one size, and code for any size is slower.
        block.compile(backend=backend, dynamic=False, recompile_limit=MOST_SHAPES, options=options)
    logger.info("%d blocks will be compiled at their first call, which takes minutes for a large model", len(found))
    return len(found)


def check_compiler(device: torch.device | str, backend: str = "inductor") -> None:
    """Compile one addition and run it. Raises UserError where that can't be done."""
    if torch.device(device).type == "cpu":  # it warns of a CUDA compiler without a GPU, of which nothing is wanted
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        total = torch.compile(_next, backend=backend, dynamic=False)(torch.ones(8, device=device))
    except Exception as error:  # of the compiler's many: none found, no headers, no room, no backend for the device
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"torch.compile does not work here for device '{device}' ({reason:.160}); on a CPU it needs g++ and the "
            "headers of Python (apt install g++ python3-dev), on CUDA the package triton; or leave --compile out"
        ) from None
    if not torch.equal(total.cpu(), torch.full((8,), 2.0)):
        raise UserError(f"torch.compile computes wrong numbers for device '{device}'; leave --compile out")


def _next(x: torch.Tensor) -> torch.Tensor:
    return x + 1
