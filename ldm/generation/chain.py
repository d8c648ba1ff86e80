"""What every way of sampling shares: the noise of the seeds, the sampler with its arguments, and the progress."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ldm.backends.base import Backend
from ldm.generation.pipeline import make_sampler
from ldm.generation.settings import Sampling
from ldm.models.diffusion.sampler import Sampler
from ldm.models.diffusion.sampling import Generators, noise_like, seeded_generators

Callback = Callable[[Mapping[str, Any]], None]
Progress = Callable[[str, int, int, Mapping[str, float]], None]  # (what, done, total, losses by name)


class Steps:
    """A sampler's callback: counts the steps, and keeps the predicted latents of the last `keep` of them."""

    def __init__(self, callback: Callback | None, total: int, keep: int = 0) -> None:
        self.callback, self.total = callback, total
        self.done = 0
        self.predicted = deque[torch.Tensor](maxlen=keep)  # pred_x0, each (B, C, h, w)

    def __call__(self, state: Mapping[str, Any]) -> None:
        self.done += 1
        self.predicted.append(state["pred_x0"])
        if self.callback is not None:
            self.callback({**state, "done": self.done, "total": self.total})


def reporter(progress: Progress | None, what: str) -> Callback | None:
    """A callback that tells the progress of `what`, with the mean losses where there are some.

    It waits for the device when there is a new loss, between two steps.
    """
    seen: Mapping[str, torch.Tensor] = {}
    losses: dict[str, float] = {}

    def report(state: Mapping[str, Any]) -> None:
        nonlocal seen, losses
        assert progress is not None
        if (loss := state.get("loss") or {}) is not seen and loss:
            means = torch.stack([*loss.values()]).mean(1).tolist()
            seen, losses = loss, dict(zip(loss, means, strict=True))
        progress(what, state["done"], state["total"], losses)

    return None if progress is None else report


def start_chain(
    backend: Backend,
    sampling: Sampling,
    seeds: Sequence[int],
    shape: Sequence[int],
    callback: Callback | None = None,
    passes: int = 1,
    generator: Generators = None,
    x_T: torch.Tensor | None = None,
) -> tuple[Sampler, dict[str, Any]]:
    """The sampler, and its arguments but for the conditioning; the same seeds give the same noise.

    Args:
        shape: (C, h, w) of a latent.
        callback: called after every step with the sampler's dict, and how many are "done" of the "total".
        passes: through the chain.
        generator: of the whole batch, instead of one for each seed.
        x_T: starting noise of at least as many images, instead of the generator's.
    """
    sampler = make_sampler(sampling.sampler, backend)
    generators = seeded_generators(seeds) if generator is None else generator
    noise = noise_like((len(seeds), *shape), generators) if x_T is None else x_T[: len(seeds)]  # (B, C, h, w)
    length = len(sampler.schedule(sampling.steps, sampling.eta))  # for some counts not the number asked for
    return sampler, {
        "S": sampling.steps,
        "batch_size": len(seeds),
        "shape": tuple(shape),
        "x_T": noise.to(backend.device),
        "unconditional_guidance_scale": 1.0 if sampling.scale is None else sampling.scale,
        "eta": sampling.eta,
        "generator": generators,
        "on_step": Steps(callback, length * passes, length if sampling.save_steps else 0),
        "verbose": False,
    }
