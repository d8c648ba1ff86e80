"""What every way of sampling shares: the noise of the seeds, the sampler with its arguments, and the progress."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ldm.backends.base import Backend
from ldm.generation.pipeline import make_sampler
from ldm.generation.progress import OnWork
from ldm.generation.settings import Sampling
from ldm.models.diffusion.sampler import Sampler
from ldm.models.diffusion.sampling import Generators, noise_like, seeded_generators
from ldm.spacetime.presets import Preset

Callback = Callable[[Mapping[str, Any]], None]


class Steps:
    """A sampler's callback: counts the steps, and keeps the predicted latents of the last `keep` of them.

    `on_work` is told at once that nothing is done yet, and then after every step.
    """

    def __init__(self, callback: Callback | None, total: int, keep: int = 0, on_work: OnWork | None = None) -> None:
        self.callback, self.total, self.on_work = callback, total, on_work
        self.done = 0
        if on_work is not None:
            on_work(0, total, {})
        self.predicted = deque[torch.Tensor](maxlen=keep)  # pred_x0, each (B, C, h, w)

    def __call__(self, state: Mapping[str, Any]) -> None:
        self.done += 1
        if self.predicted.maxlen:
            self.predicted.append(state["pred_x0"])
        if self.callback is not None:
            self.callback({**state, "done": self.done, "total": self.total})
        if self.on_work is not None:
            self.on_work(self.done, self.total, {})


def start_chain(
    backend: Backend,
    sampling: Sampling,
    seeds: Sequence[int],
    shape: Sequence[int],
    callback: Callback | None = None,
    preset: Preset | None = None,
    generator: Generators = None,
    x_T: torch.Tensor | None = None,
    on_work: OnWork | None = None,
    last: int | None = None,
) -> tuple[Sampler, dict[str, Any]]:
    """The sampler, and its arguments but for the conditioning; the same seeds give the same noise.

    Args:
        shape: (C, h, w) of a latent.
        callback: called after every step with the sampler's dict, and how many are "done" of the "total".
        preset: how the weights will come about, which decides how many passes there are; None is the plain model.
        generator: of the whole batch, instead of one for each seed.
        x_T: starting noise of at least as many images, instead of the generator's.
        on_work: told of the steps of the plain model, see `Steps`; with a preset `optimize` tells of its work.
        last: how many of the steps are taken, the least noisy ones; None takes all.
    """
    sampler = make_sampler(sampling.sampler, backend)
    generators = seeded_generators(seeds) if generator is None else generator
    noise = noise_like((len(seeds), *shape), generators) if x_T is None else x_T[: len(seeds)]  # (B, C, h, w)
    length = len(sampler.schedule(sampling.steps, sampling.eta))  # for some counts not the number asked for
    length = length if last is None else min(last, length)
    total, told = (length, on_work) if preset is None else (length * preset.passes, None)
    return sampler, {
        "S": sampling.steps,
        "batch_size": len(seeds),
        "shape": tuple(shape),
        "x_T": noise.to(backend.device),
        "unconditional_guidance_scale": 1.0 if sampling.scale is None else sampling.scale,
        "eta": sampling.eta,
        "generator": generators,
        "on_step": Steps(callback, total, length if sampling.save_steps else 0, told),
        "verbose": False,
        "last": last,
    }
