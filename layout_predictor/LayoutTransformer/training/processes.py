"""One process or several, through Lightning Fabric: who does what share of a batch, and what they exchange."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from layout_predictor.LayoutTransformer.training.config import TrainingSection
from ldm.util import UserError

Item = TypeVar("Item")


class Processes:
    """The processes of a training run; with more than one, the others are started here.

    UserError when the accelerator is not there or the precision is unknown.
    """

    def __init__(self, section: TrainingSection) -> None:
        from lightning_fabric import Fabric  # slow to import, and inference has no use for it
        from lightning_fabric.utilities.exceptions import MisconfigurationException

        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        try:
            self.fabric = Fabric(
                accelerator=section.accelerator,
                devices=section.devices,
                strategy="ddp" if section.devices > 1 else "auto",
                precision=section.precision,  # type: ignore[arg-type]  # one of its literals, or ValueError
            )
            self.fabric.launch()
        except (MisconfigurationException, ValueError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"cannot train with TRAINING.ACCELERATOR {section.accelerator}, DEVICES {section.devices}, "
                f"PRECISION {section.precision}: {reason}"
            ) from None

    @property
    def count(self) -> int:
        """How many processes there are."""
        return self.fabric.world_size

    @property
    def rank(self) -> int:
        """The number of this one, from 0."""
        return self.fabric.global_rank

    @property
    def is_main(self) -> bool:
        """Whether this process writes and reports."""
        return self.fabric.is_global_zero

    def setup(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> tuple[nn.Module, list[Any]]:
        """Model and optimizers on this process's device, gradients averaged over the processes."""
        wrapped, *rest = self.fabric.setup(model, *optimizers)
        return wrapped, rest

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's part of a batch; the parts of all processes are the batch."""
        return items[self.rank :: self.count]

    def gather(self, value: Item) -> list[Item]:
        """The values of all processes, in their order."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return values

    # ------------------------------------------------------------------ random numbers (dropout's)

    def seed(self, seed: int) -> None:
        """Start the random numbers of this process; each has its own."""
        torch.manual_seed(seed + self.rank)

    def random_state(self) -> dict[str, list[Tensor]]:
        """States of the generators of all processes, for a checkpoint."""
        on_gpu = self.fabric.device.type == "cuda"
        states = {"rng": self.gather(torch.get_rng_state())}
        if on_gpu:
            states["cuda_rng"] = self.gather(torch.cuda.get_rng_state(self.fabric.device))
        return states

    def restore_random_state(self, cpu: Sequence[Tensor], cuda: Sequence[Tensor] = ()) -> bool:
        """Go on with the generators of a checkpoint; False when it is of another number of processes or device."""
        on_gpu = self.fabric.device.type == "cuda"
        if len(cpu) != self.count or (on_gpu and len(cuda) != self.count):
            return False
        torch.set_rng_state(cpu[self.rank])
        if on_gpu:
            torch.cuda.set_rng_state(cuda[self.rank], self.fabric.device)
        return True
