"""The one way to draw: prompts, layouts, seeds and a preset in, images with their record out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ldm.backends.base import Backend
from ldm.generation.chain import Callback, start_chain
from ldm.generation.images import ImageArray, to_images
from ldm.generation.pipeline import Pipeline
from ldm.generation.settings import Sampling, fit_to_model
from ldm.models.diffusion.sampling import Generators
from ldm.spacetime.control import SpatialControl
from ldm.spacetime.layout import Layout
from ldm.spacetime.optimize import Result, optimize
from ldm.spacetime.presets import Preset


@dataclass
class GeneratedImage:
    """An image with what led to it."""

    prompt: str
    seed: int
    layout: Layout
    image: ImageArray  # (H, W, 3) uint8
    weights: NDArray[np.floating[Any]] | None = None  # (S, N); None where sampling was plain
    losses: dict[str, list[float]] = field(default_factory=dict)  # by name, an entry per evaluation of the loss
    steps: list[ImageArray] = field(default_factory=list)  # predicted image of every step, with `save_steps`


def draw(
    pipeline: Pipeline,
    prompts: Sequence[str],
    layouts: Sequence[Layout],
    seeds: Sequence[int],
    preset: Preset | None,
    sampling: Sampling,
    callback: Callback | None = None,
    *,
    generator: Generators = None,
    x_T: torch.Tensor | None = None,
) -> list[GeneratedImage]:
    """Make one batch of images, an entry of `prompts`, `layouts` and `seeds` each.

    Args:
        preset: how the weights come about; None, as well as layouts without any object, is the plain model.
        sampling: what is None in it is taken as suits the model.
        callback: called after every denoising step with the sampler's dict and the steps "done" of the "total"; with a
            preset also with "round" and the latest "loss" by name, (B,).
        generator, x_T: of the whole batch, instead of noise for each seed; see `start_chain`.

    Raises:
        UserError: a size, step count or eta that model and sampler cannot do.
    """
    backend, sampling = pipeline.backend, fit_to_model(sampling, pipeline.backend)
    if not any(layout.objects for layout in layouts):
        preset = None
    with pipeline.precision(sampling.precision):
        passes = preset.rounds if preset is not None and preset.mode == "whole-chain" else 1
        shape = latent_shape(backend, sampling)
        sampler, chain = start_chain(backend, sampling, seeds, shape, callback, passes, generator, x_T)
        chain |= contexts(backend, prompts)
        if preset is None:
            with torch.no_grad():
                images = backend.decode(sampler.sample(**chain)[0])
            result = None
        else:
            with torch.no_grad():
                control = SpatialControl.build(layouts, backend.encode)
            result = optimize(
                backend,
                sampler,
                control,
                None if preset.mode == "fixed" else preset.objective(pipeline.clip, prompts, layouts),
                preset,
                layouts=layouts,
                checkpoint_steps=not sampling.keep_activations,
                checkpoint_blocks=sampling.block_checkpointing,
                **chain,
            )
            images = result.images
        with torch.no_grad():  # of several rounds, the one that made the images
            predicted = [backend.decode(x) for x in chain["on_step"].predicted]
        steps = [to_images(batch) for batch in predicted]
    made = zip(prompts, seeds, layouts, to_images(images), strict=True)
    return [
        GeneratedImage(*entry, *_record(result, b, len(layouts[b].objects)), [batch[b] for batch in steps])
        for b, entry in enumerate(made)
    ]


def latent_shape(backend: Backend, sampling: Sampling) -> tuple[int, int, int]:
    """(C, h, w) of a latent, for settings that were fitted to the model."""
    assert sampling.height and sampling.width
    return backend.channels, sampling.height // backend.factor, sampling.width // backend.factor


@torch.no_grad()
def contexts(backend: Backend, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
    """The sampler's contexts, each (B, L, C): of the prompts and of the empty prompt. Equal texts are encoded once."""
    texts = list(dict.fromkeys(["", *prompts]))
    encoded = backend.encode(texts)
    return {
        "conditioning": encoded[[texts.index(prompt) for prompt in prompts]],
        "unconditional_conditioning": encoded[[0] * len(prompts)],
    }


def _record(result: Result | None, b: int, objects: int) -> tuple[NDArray[Any] | None, dict[str, list[float]]]:
    """Weights (S, N) and losses of image `b` of a batch, without those of objects that only other images have."""
    if result is None:
        return None, {}
    losses: dict[str, list[float]] = {}
    for entry in result.history:
        for name, values in entry["loss"].items():
            number = name.removeprefix("local_")
            if not number.isdigit() or int(number) < objects:
                losses.setdefault(name, []).append(float(values[b]))
    return result.weights[:, :objects, b].cpu().numpy(), losses
