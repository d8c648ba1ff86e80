"""The one way to draw: prompts, layouts, seeds and a preset in, images with their record out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ldm.generation.images import ImageArray, to_images
from ldm.generation.pipeline import Pipeline, make_sampler
from ldm.generation.settings import Sampling, fit_to_model
from ldm.models.diffusion.sampling import noise_like, seeded_generators
from ldm.spacetime.control import SpatialControl
from ldm.spacetime.layout import Layout
from ldm.spacetime.optimize import optimize
from ldm.spacetime.presets import Preset

Callback = Callable[[Mapping[str, Any]], None]


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
) -> list[GeneratedImage]:
    """Make one batch of images, an entry of `prompts`, `layouts` and `seeds` each.

    Args:
        preset: how the weights come about; None, as well as layouts without any object, is the plain model.
        sampling: what is None in it is taken as suits the model.
        callback: called after every denoising step with the sampler's dict, "done" and "total" steps of the whole
            batch, and for a preset with "round" and the latest "loss" by name, (B,).

    Raises:
        UserError: a size, step count or eta that model and sampler cannot do.
    """
    sampling = fit_to_model(sampling, pipeline)
    assert sampling.height and sampling.width and sampling.scale is not None
    sampler = make_sampler(sampling.sampler, pipeline.model)
    length = len(sampler.schedule(sampling.steps, sampling.eta))  # for some counts not the number asked for
    if preset is not None and not any(layout.objects for layout in layouts):
        preset = None
    shown = _Shown(callback, length * (preset.rounds if preset else 1), sampling.save_steps)
    shape = (pipeline.channels, sampling.height // pipeline.factor, sampling.width // pipeline.factor)
    weights, history = None, []
    with pipeline.precision(sampling.precision):
        generators = seeded_generators(seeds)
        noise = noise_like((len(seeds), *shape), generators, pipeline.device)  # (B, C, h, w)
        unconditional, context = _contexts(pipeline, prompts)
        if preset is None:
            with torch.no_grad():
                latents, _ = sampler.sample(
                    S=sampling.steps,
                    batch_size=len(seeds),
                    shape=shape,
                    conditioning=context,
                    unconditional_conditioning=unconditional,
                    unconditional_guidance_scale=sampling.scale,
                    x_T=noise,
                    eta=sampling.eta,
                    generator=generators,
                    callback=shown,
                    verbose=False,
                )
                images = pipeline.decode(latents)
        else:
            with torch.no_grad():
                control = SpatialControl.build(layouts, pipeline.encode)
            result = optimize(
                pipeline.model,
                sampler,
                control,
                None if preset.mode == "fixed" else preset.objective(pipeline.clip, prompts, layouts),
                preset,
                layouts=layouts,
                x_T=noise,
                conditioning=context,
                unconditional_conditioning=unconditional,
                guidance_scale=sampling.scale,
                steps=sampling.steps,
                eta=sampling.eta,
                generator=generators,
                callback=shown,
                checkpoint_steps=not sampling.keep_activations,
                checkpoint_blocks=sampling.block_checkpointing,
            )
            images, weights, history = result.images, result.weights, result.history
        with torch.no_grad():
            steps = [to_images(pipeline.decode(x.to(pipeline.device))) for x in shown.predicted[-length:]]
    made = []
    for b, (prompt, layout, seed, image) in enumerate(zip(prompts, layouts, seeds, to_images(images), strict=True)):
        count = len(layout.objects)
        own = None if weights is None else weights[:, :count, b].cpu().numpy()
        losses = _losses(history, b, count)
        made.append(GeneratedImage(prompt, seed, layout, image, own, losses, [batch[b] for batch in steps]))
    return made


@torch.no_grad()
def _contexts(pipeline: Pipeline, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Contexts of the empty prompt and of the prompts, each (B, L, C); equal texts are encoded once."""
    texts = list(dict.fromkeys(["", *prompts]))
    encoded = pipeline.encode(texts)
    rows = [texts.index(prompt) for prompt in prompts]
    return encoded[[0] * len(prompts)], encoded[rows]


class _Shown:
    """Listens to the sampler: counts the steps, and keeps the predicted latents where they are wanted."""

    def __init__(self, callback: Callback | None, total: int, keep: bool) -> None:
        self.callback, self.total, self.keep = callback, total, keep
        self.done = 0
        self.predicted: list[torch.Tensor] = []  # pred_x0 of every step, each (B, C, h, w), on the CPU

    def __call__(self, state: Mapping[str, Any]) -> None:
        self.done += 1
        if self.keep:
            self.predicted.append(state["pred_x0"].cpu())
        if self.callback is not None:
            self.callback({**state, "done": self.done, "total": self.total})


def _losses(history: Sequence[Mapping[str, Any]], b: int, objects: int) -> dict[str, list[float]]:
    """The losses of image `b` of a batch by name, without those of objects that only other images have."""
    curves: dict[str, list[float]] = {}
    for entry in history:
        for name, values in entry["loss"].items():
            number = name.removeprefix("local_")
            if not number.isdigit() or int(number) < objects:
                curves.setdefault(name, []).append(float(values[b]))
    return curves
