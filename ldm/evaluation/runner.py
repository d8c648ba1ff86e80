"""Making the images that are scored: every method from the same prompts, layouts and starting noise.

Images are kept as PNG files, so that a run which was stopped goes on where it was, and so that they can be
looked at. A folder holds the images of one model and one set of settings; others are refused.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ldm.evaluation.methods import Method
from ldm.evaluation.prompts import RelationPrompt, rule_layout
from ldm.spacetime.layout import Layout
from ldm.util import UserError, atomic_write

if TYPE_CHECKING:
    from ldm.generation.pipeline import Pipeline
    from ldm.spacetime.optimize import Result

logger = logging.getLogger(__name__)
ImageArray = NDArray[np.uint8]  # (H, W, 3)
LATER = ("gradient_steps", "shared")  # constants of a preset that scores made before there was one were made without
BATCHES = {"base": 16, "fixed": 16, "per-step": 8, "whole-chain": 4}  # images made together


@dataclass(frozen=True)
class Sampling:
    """How images are sampled: PLMS ``steps``, guidance ``scale``.

    ``keep_activations`` trades memory for time where a whole chain is differentiated, and changes no image.
    """

    steps: int = 25
    scale: float = 5.0
    keep_activations: bool = False


@dataclass(frozen=True)
class Job:
    """One image to make: its number, prompt, layout and the seed of its starting noise."""

    index: int
    prompt: str
    layout: Layout
    seed: int


def generate_images(
    pipeline: Pipeline,
    method: Method,
    prompts: Sequence[str],
    layouts: Sequence[Layout],
    seeds: Sequence[int],
    sampling: Sampling,
) -> list[ImageArray]:
    """One image a prompt, made together.

    Args:
        pipeline: the loaded model.
        method: how; ``base`` ignores the layouts.
        prompts, layouts, seeds: an entry an image; a seed gives the same noise whatever the method and
        batch. sampling: steps and guidance, the same for every method.
    """
    from ldm.generation.images import to_images
    from ldm.models.diffusion.plms import PLMSSampler

    if method.preset is not None:
        return to_images(optimized(pipeline, method, prompts, layouts, seeds, sampling).images)
    chain = _chain(pipeline, prompts, seeds)
    sampler = PLMSSampler(pipeline.model)
    with torch.no_grad():
        latents, _ = sampler.sample(
            S=sampling.steps,
            batch_size=len(prompts),
            shape=tuple(chain["x_T"].shape[1:]),
            unconditional_guidance_scale=_guidance(method, sampling),
            verbose=False,
            **chain,
            **_fixed_control(pipeline, sampler, method, layouts, sampling),
        )
        return to_images(pipeline.decode(latents))


@torch.no_grad()
def _chain(pipeline: Pipeline, prompts: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """What every method's chain starts from: the seeds' noise and the contexts of prompts and empty prompt."""
    from ldm.models.diffusion.sampling import noise_like, seeded_generators

    count, side = len(prompts), pipeline.image_size // pipeline.factor
    shape = (count, pipeline.channels, side, side)
    return {
        "x_T": noise_like(shape, seeded_generators(seeds), pipeline.device),  # (B, C, h, w)
        "conditioning": pipeline.encode(list(prompts)),  # (B, L, C)
        "unconditional_conditioning": pipeline.encode([""] * count),
    }


def _guidance(method: Method, sampling: Sampling) -> float:
    """The method's own scale, or the run's."""
    return sampling.scale if method.guidance is None else method.guidance


def _fixed_control(
    pipeline: Pipeline, sampler: Any, method: Method, layouts: Sequence[Layout], sampling: Sampling
) -> dict[str, Any]:
    """The sampler's arguments for one weight in the first part of the steps; none for the plain model."""
    from ldm.spacetime.control import RADIUS, SpatialControl

    if method.weight is None or not any(layout.objects for layout in layouts):
        return {}
    control = SpatialControl.build(
        layouts, pipeline.encode, blend=method.blend, radius=RADIUS if method.radius is None else method.radius
    )
    steps = len(sampler.schedule(sampling.steps))
    present = control.present.to(pipeline.device, torch.float32)  # (N, B)
    held = torch.arange(steps, device=present.device)[:, None, None] < method.until * steps  # (S, 1, 1)
    return {"control": control, "weights": method.weight * present * held}  # (S, N, B)


def optimized(
    pipeline: Pipeline,
    method: Method,
    prompts: Sequence[str],
    layouts: Sequence[Layout],
    seeds: Sequence[int],
    sampling: Sampling,
) -> Result:
    """Images with the weights optimized as the method's preset says, and how they came about.

    Arguments as of :func:`generate_images`; the method has a preset.
    """
    from ldm.models.diffusion.plms import PLMSSampler
    from ldm.spacetime.control import SpatialControl
    from ldm.spacetime.optimize import optimize

    preset = method.preset
    assert preset is not None
    with torch.no_grad():
        control = SpatialControl.build(layouts, pipeline.encode)
    objective = preset.objective(pipeline.clip, prompts, layouts)
    return optimize(
        pipeline.model,
        PLMSSampler(pipeline.model),
        control,
        objective,
        preset,
        guidance_scale=_guidance(method, sampling),
        steps=sampling.steps,
        checkpoint_steps=not sampling.keep_activations,
        **_chain(pipeline, prompts, seeds),
    )


def make_jobs(prompts: Sequence[RelationPrompt], predictor: Callable[[str], Layout] | None = None) -> list[Job]:
    """A job a prompt, with the layout of the rule or of a predictor."""
    return [
        Job(index, prompt.text, predictor(prompt.text) if predictor else rule_layout(prompt), prompt.seed)
        for index, prompt in enumerate(prompts)
    ]


class ImageStore:
    """The folder of a run: one sub-folder a method, one PNG an image.

    Args:
        folder: made if it is not there.
        settings: what all methods share (model, sampling, prompts).

    Raises:
        UserError: if the folder holds images of other settings, or can't be written.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        _claim(folder / "settings.json", settings)

    def path(self, method: Method, index: int) -> Path:
        """Where image ``index`` of a method is, or will be."""
        return self.folder / method.folder / f"{index:04d}.png"

    def claim(self, method: Method) -> None:
        """Notes the method's constants beside its images; UserError if its images had others."""
        _claim(self.folder / method.folder / "method.json", constants_of(method))

    def load(self, method: Method, index: int) -> ImageArray:
        """Image ``index`` of a method."""
        with Image.open(self.path(method, index)) as image:
            return np.asarray(image.convert("RGB"))

    def save(self, method: Method, index: int, image: ImageArray) -> None:
        """Writes an image; a reader sees all of it or nothing."""
        with atomic_write(self.path(method, index)) as temporary:
            Image.fromarray(image).save(temporary, format="PNG")

    def missing(self, method: Method, jobs: Iterable[Job]) -> list[Job]:
        """The jobs whose image is not there yet."""
        return [job for job in jobs if not self.path(method, job.index).exists()]


def constants_of(method: Method) -> dict[str, Any]:
    """All constants of a method, as JSON; those that are as usual are left out."""
    constants: dict[str, Any] = {"label": method.label, "weight": method.weight, "swap": method.swap}
    if method.until != 1:
        constants["until"] = method.until
    if method.blend != "conditional":
        constants["blend"] = method.blend
    own = {"radius": method.radius, "guidance": method.guidance, "layout": method.layout}
    constants |= {key: value for key, value in own.items() if value is not None}
    if method.preset is not None:
        usual = {field.name: field.default for field in dataclasses.fields(method.preset)}
        constants["preset"] = {
            key: value if isinstance(value, int | float | str) else str(value)
            for key, value in dataclasses.asdict(method.preset).items()
            if not (key in LATER and value == usual[key])
        }
    return constants


def changed_keys(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The names, sorted, under which two settings differ; a setting that is not there is None."""
    return sorted(key for key in {*known, *wanted} if known.get(key) != wanted.get(key))


def _claim(path: Path, content: dict[str, Any]) -> None:
    """Writes ``content`` to the file, or checks that it is what the file says."""
    text = json.dumps(content, indent=1, sort_keys=True)
    if not path.exists():
        with atomic_write(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
        return
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read; remove {path.parent} or choose another output folder.") from error
    if changed := changed_keys(known, json.loads(text)):
        raise UserError(
            f"{path.parent} holds images made with other settings ({', '.join(changed)}); "
            "choose another output folder or remove it."
        )


def make_images(
    store: ImageStore,
    methods: Sequence[Method],
    jobs: Sequence[Job],
    load: Callable[[], Pipeline],
    sampling: Sampling,
    batch_size: int | None = None,
    known: Mapping[str, int] | None = None,
) -> None:
    """Makes every image that is not there yet.

    Args:
        store: where they go.
        methods, jobs: every method makes an image of every job.
        load: gives the pipeline, the same at every call; called only if something is missing.
        sampling: the same for every method.
        batch_size: images made together; by default what suits the method.
        known: by method label, how many of the first jobs need no image.
    """
    for method in methods:
        store.claim(method)
        todo = store.missing(method, jobs[(known or {}).get(method.label, 0) :])
        size = batch_size or _batch_size(method)
        started = time.perf_counter()
        for first in range(0, len(todo), size):
            batch = todo[first : first + size]
            layouts = [method.arrange(job.layout) for job in batch]
            made = generate_images(
                load(), method, [job.prompt for job in batch], layouts, [job.seed for job in batch], sampling
            )
            for job, image in zip(batch, made, strict=True):
                store.save(method, job.index, image)
            done = first + len(batch)
            pace = (time.perf_counter() - started) / done
            logger.info("%s: %d of %d, %.1f s an image", method.label, done, len(todo), pace)


def _batch_size(method: Method) -> int:
    if method.preset is not None:
        return BATCHES[method.preset.mode]
    return BATCHES["base" if method.weight is None else "fixed"]
