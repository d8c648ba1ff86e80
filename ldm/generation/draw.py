"""The one way to draw: prompts, layouts, seeds and a preset in, images with their record out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ldm.backends.base import Backend
from ldm.generation.chain import Callback, start_chain
from ldm.generation.fitting import recomputes_blocks
from ldm.generation.images import ImageArray, to_images
from ldm.generation.pipeline import Pipeline, precision
from ldm.generation.progress import OnWork
from ldm.generation.settings import Sampling, fit_to_model
from ldm.models.diffusion.sampler import Sampler
from ldm.models.diffusion.sampling import Generators
from ldm.spacetime.control import SpatialControl
from ldm.spacetime.layout import Layout
from ldm.spacetime.optimize import Result, optimize
from ldm.spacetime.presets import PRESETS, Preset


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
    rounds: list[ImageArray] = field(default_factory=list)  # image of every pass through the chain, with `save_rounds`
    candidates: list[dict[str, float]] = field(default_factory=list)  # with `best_of`: "seed" and "loss" of each


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
    on_work: OnWork | None = None,
) -> list[GeneratedImage]:
    """Make one batch of images, an entry of `prompts`, `layouts` and `seeds` each.

    Args:
        preset: how the weights come about; None, as well as layouts without any object, is the plain model.
        sampling: what is None in it is taken as suits the model.
        callback: called after every denoising step with the sampler's dict and the steps "done" of the "total"; with a
            preset also with "round" and the latest "loss" by name, (B,).
        generator, x_T: of the whole batch, instead of noise for each seed; see `start_chain`. Not with `best_of`.
        on_work: told what is done of how much, with the mean losses: steps, or where weights are optimized the calls
            of the U-Net that the time of all parts amounts to.

    Raises:
        UserError: a size, step count or eta that model and sampler cannot do.
    """
    backend, sampling = pipeline.backend, fit_to_model(sampling, pipeline.backend)
    if (count := sampling.best_of) > 1:
        prompts = [prompt for prompt in prompts for _ in range(count)]
        layouts = [layout for layout in layouts for _ in range(count)]
        tried = [seed + k for seed in seeds for k in range(count)]
        all_ = draw(pipeline, prompts, layouts, tried, preset, replace(sampling, best_of=1), callback, on_work=on_work)
        return [best_of(pipeline, all_[start : start + count], preset) for start in range(0, len(all_), count)]
    if not any(layout.objects for layout in layouts):
        preset = None
    with precision(pipeline.device, sampling.precision):
        shape = latent_shape(backend, sampling)
        sampler, chain = start_chain(backend, sampling, seeds, shape, callback, preset, generator, x_T, on_work)
        assert sampling.height and sampling.width
        size = sampling.height, sampling.width
        chain |= contexts(backend, prompts, negative_prompts(layouts, sampling), size)
        images, result = run_chain(pipeline, sampler, chain, prompts, layouts, preset, sampling, on_work)
        with torch.no_grad():  # of several rounds, the one that made the images
            predicted = [backend.decode(x) for x in chain["on_step"].predicted]
        steps = [to_images(batch) for batch in predicted]
    history = result.history if result is not None and sampling.save_rounds else []
    rounds = [to_images(entry["images"]) for entry in history if "round" in entry]
    made = zip(prompts, seeds, layouts, to_images(images), strict=True)
    return [
        GeneratedImage(
            *entry,
            *weights_and_losses(result, b, len(layouts[b].objects)),
            steps=[batch[b] for batch in steps],
            rounds=[batch[b] for batch in rounds],
        )
        for b, entry in enumerate(made)
    ]


def run_chain(
    pipeline: Pipeline,
    sampler: Sampler,
    chain: Mapping[str, Any],
    prompts: Sequence[str],
    layouts: Sequence[Layout],
    preset: Preset | None,
    sampling: Sampling,
    on_work: OnWork | None = None,
) -> tuple[torch.Tensor, Result | None]:
    """The images (B, 3, H, W) in [0, 1] of a chain (arguments of `Sampler.sample`), and how their weights came about.

    Without a preset that is the plain model, which has no weights.
    """
    backend = pipeline.backend
    if preset is None:
        with torch.no_grad():
            return backend.decode(sampler.sample(**chain)[0]), None
    with torch.no_grad():
        control = SpatialControl.build(layouts, backend.encode)
    lean = sampling.block_checkpointing
    result = optimize(
        backend,
        sampler,
        control,
        preset.objective(pipeline.clip, prompts, layouts) if preset.optimizes(layouts) else None,
        preset,
        checkpoint_steps=not sampling.keep_activations,
        checkpoint_blocks=recomputes_blocks(backend, preset, chain["x_T"].shape) if lean is None else lean,
        half_decode=sampling.half_decode,
        on_work=on_work,
        **chain,
    )
    return result.images, result


@torch.no_grad()
def best_of(pipeline: Pipeline, images: Sequence[GeneratedImage], preset: Preset | None) -> GeneratedImage:
    """The image with the least total loss, by the preset's constants; it notes all as its `candidates`."""
    prompts, layouts = [one.prompt for one in images], [one.layout for one in images]
    objective = (preset or PRESETS["per-step"]).objective(pipeline.clip, prompts, layouts)
    pixels = torch.stack([torch.from_numpy(one.image).permute(2, 0, 1) for one in images])  # (B, 3, H, W)
    losses = objective(pixels.to(pipeline.device, torch.float32) / 255)["total"].tolist()
    best = images[losses.index(min(losses))]
    best.candidates = [{"seed": one.seed, "loss": loss} for one, loss in zip(images, losses, strict=True)]
    return best


def latent_shape(backend: Backend, sampling: Sampling) -> tuple[int, int, int]:
    """(C, h, w) of a latent, for settings that were fitted to the model."""
    assert sampling.height and sampling.width
    return backend.channels, sampling.height // backend.factor, sampling.width // backend.factor


def negative_prompts(layouts: Sequence[Layout], sampling: Sampling) -> list[str]:
    """What each image shall not show, as the settings say, or its layout; empty for nothing."""
    given = sampling.negative_prompt
    return [layout.negative_prompt or "" if given is None else given for layout in layouts]


@torch.no_grad()
def contexts(
    backend: Backend, prompts: Sequence[str], negatives: Sequence[str], size: tuple[int, int]
) -> dict[str, Any]:
    """The sampler's conditions, of prompts and of negative prompts, for images of a (height, width).

    Equal texts are encoded once.
    """
    texts = list(dict.fromkeys([*negatives, *prompts]))
    encoded = backend.condition(texts, *size)

    def rows(of: Sequence[str]) -> Any:
        numbers = [texts.index(text) for text in of]
        if isinstance(encoded, Mapping):
            return {name: value[numbers] for name, value in encoded.items()}
        return encoded[numbers]

    return {"conditioning": rows(prompts), "unconditional_conditioning": rows(negatives)}


def weights_and_losses(
    result: Result | None, b: int, objects: int
) -> tuple[NDArray[Any] | None, dict[str, list[float]]]:
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
