"""One process or several, through Lightning Fabric: how they start, and what they exchange."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from layout_predictor.LayoutTransformer.training.config import TrainingSection
from ldm import boundary
from ldm.util import UserError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Item = TypeVar("Item")


def start_processes(section: TrainingSection) -> Fabric:
    """The processes of a training run; with more than one, the others are started here.

    Raises:
        UserError: the accelerator is not there, or the precision is unknown.
    """
    from lightning_fabric import Fabric  # slow to import, and inference has no use for it
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    try:
        fabric = Fabric(
            accelerator=section.accelerator,
            devices=section.devices,
            strategy="ddp" if section.devices > 1 else "auto",
            precision=section.precision,  # type: ignore[arg-type]  # one of its literals, or ValueError
        )
        fabric.launch()
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(
            f"cannot train with TRAINING.ACCELERATOR {section.accelerator}, DEVICES {section.devices}, "
            f"PRECISION {section.precision}: {boundary.reason(error)}"
        ) from None
    return fabric


def share(fabric: Fabric, items: Sequence[Item]) -> Sequence[Item]:
    """This process's part of a batch; the parts of all processes are the batch."""
    return items[fabric.global_rank :: fabric.world_size]


def gather(fabric: Fabric, value: Item) -> list[Item]:
    """The values of all processes, in their order."""
    if fabric.world_size == 1:
        return [value]
    values: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def random_state(fabric: Fabric) -> dict[str, list[Tensor]]:
    """States of the random generators of all processes, for a checkpoint."""
    states = {"rng": gather(fabric, torch.get_rng_state())}
    if fabric.device.type == "cuda":
        states["cuda_rng"] = gather(fabric, torch.cuda.get_rng_state(fabric.device))
    return states


def restore_random_state(fabric: Fabric, cpu: Sequence[Tensor], cuda: Sequence[Tensor] = ()) -> bool:
    """Go on with the generators of a checkpoint; False when it is of another number of processes or device."""
    on_gpu = fabric.device.type == "cuda"
    if len(cpu) != fabric.world_size or (on_gpu and len(cuda) != fabric.world_size):
        return False
    torch.set_rng_state(cpu[fabric.global_rank])
    if on_gpu:
        torch.cuda.set_rng_state(cuda[fabric.global_rank], fabric.device)
    return True
