"""From prompts to images and files: what `scripts/txt2img-refine.py` does, as a function.

outcomes = generate(GenerateSettings(prompts=("a cat to the left of a dog",), outdir=Path("out")))
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ldm.extensions.packed import pack
from ldm.generation.images import ImageArray, file_hash, to_images
from ldm.generation.pipeline import Pipeline, choose_model, load_pipeline, make_sampler
from ldm.generation.record import Recorder
from ldm.generation.settings import GenerateSettings, check_settings, check_writable, fit_to_model
from ldm.models.diffusion.sampling import noise_like, seeded_generators
from ldm.spacetime.control import SpatialControl
from ldm.spacetime.layout import Layout
from ldm.spacetime.optimize import optimize
from ldm.spacetime.presets import PRESETS, Preset

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int, Mapping[str, float]], None]  # (what, done, total, losses by name)


@dataclass
class Outcome:
    """One finished image with what led to it. Images are uint8 arrays (H, W, 3)."""

    index: int  # of the run
    seed: int
    prompt: str
    layout: Layout
    image: ImageArray
    baseline: ImageArray | None = None  # the plain model's image from the same noise
    weights: NDArray[np.floating[Any]] | None = None  # (S, N); None where sampling was plain
    losses: dict[str, list[float]] = field(default_factory=dict)  # by name, an entry per evaluation
    steps: list[ImageArray] = field(default_factory=list)  # predicted image of every step
    files: dict[str, Path] = field(default_factory=dict)


def generate(settings: GenerateSettings, progress: Progress | None = None) -> list[Outcome]:
    """Make the images of `settings` and, where it names a folder, write them with all that belongs to them.

    Args:
        settings: see :class:`GenerateSettings`.
        progress: called after every denoising step.

    Raises:
        UserError: a setting, a file or a folder that cannot be used.
    """
    layout = None if settings.layout is None else read_layout(settings.layout)
    if layout is not None and layout.prompt and not settings.prompts:
        settings = replace(settings, prompts=(layout.prompt,))
    check_settings(settings)
    if settings.outdir is not None:
        check_writable(settings.outdir)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    choice = choose_model(settings.config, settings.ckpt)
    if choice.notice:
        logger.warning(choice.notice)
    pipeline = load_pipeline(choice, device=settings.device, clip=settings.clip, predictor=settings.predictor)
    if settings.pack_weights and not pack(pipeline.model):
        logger.warning("--pack-weights does nothing here: it is for float32 weights on a CPU with oneDNN")
    settings = fit_to_model(settings, pipeline)
    recorder = make_recorder(settings, pipeline)
    outcomes: list[Outcome] = []
    for prompt, numbers, seeds in batches(settings):
        objects = layout or pipeline.predict_layout(prompt, settings.all_nouns)
        _tell_about(objects, prompt, pipeline)
        made = make_batch(pipeline, settings, prompt, objects, seeds, progress)
        for number, outcome in zip(numbers, made, strict=True):
            outcome.index = number
            if recorder is not None and not settings.skip_save:
                recorder.write(outcome)
        outcomes += made
    if recorder is not None and not settings.skip_grid and (sheet := recorder.write_grid(outcomes)):
        outcomes[-1].files["grid"] = sheet
    return outcomes


def read_layout(path: Path) -> Layout:
    """The layout in `path`: a layout file, or the settings.json of an earlier image. Raises UserError."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = None  # Layout.from_json says what is wrong with the file
    if isinstance(record, dict) and "layout" in record and "objects" not in record:
        return Layout.from_json(record["layout"])
    return Layout.from_json(path)


def make_preset(settings: GenerateSettings) -> Preset:
    """The constants of the schedule, with those that the settings override."""
    overrides: dict[str, Any] = {
        "inner_steps": settings.inner_steps,
        "learning_rate": settings.learning_rate,
        "rounds": settings.rounds,
        "gradient_steps": settings.gradient_steps,
        "blend": settings.blend,
    }
    return replace(PRESETS[settings.schedule], **{k: v for k, v in overrides.items() if v is not None})


def make_recorder(settings: GenerateSettings, pipeline: Pipeline) -> Recorder | None:
    """The writer of the run's files; None where the settings name no folder."""
    if settings.outdir is None:
        return None
    model = {
        "config": str(pipeline.choice.config),
        "ckpt": str(pipeline.choice.ckpt),
        "ckpt_sha256": file_hash(pipeline.choice.ckpt),
        "clip": str(pipeline.clip_source),
        "embedded": pipeline.choice.embedded,
        "device": str(pipeline.device),
    }
    constants = asdict(make_preset(settings)).items()
    preset = {name: str(v) if isinstance(v, torch.dtype) else v for name, v in constants}
    return Recorder(settings.outdir, settings, preset, model)


def batches(settings: GenerateSettings) -> Iterator[tuple[str, list[int], list[int]]]:
    """(prompt, image numbers, seeds) of each batch, in the order of making."""
    number = 0
    for _ in range(settings.iterations):
        for prompt in settings.prompts:
            numbers = list(range(number, number + settings.samples))
            first = settings.seed if settings.fixed_code else settings.seed + number
            yield prompt, numbers, list(range(first, first + settings.samples))
            number += settings.samples


def _tell_about(layout: Layout, prompt: str, pipeline: Pipeline) -> None:
    if not layout.objects:
        logger.warning("No object found in '%s': plain sampling, without spatial control.", prompt)
    if unknown := pipeline.unknown_objects(layout):
        known = ", ".join(pipeline.categories)
        logger.warning("The embedded model never saw: %s. It knows: %s.", ", ".join(unknown), known)


# --------------------------------------------------------------------------------------------- images


def make_batch(
    pipeline: Pipeline,
    settings: GenerateSettings,
    prompt: str,
    layout: Layout,
    seeds: Sequence[int],
    progress: Progress | None = None,
) -> list[Outcome]:
    """Images of one prompt under one layout, one a seed; `settings` come from :func:`fit_to_model`."""
    batch = _Batch(pipeline, settings, prompt, layout, seeds, progress or _no_progress)
    with pipeline.precision(settings.precision):
        if not layout.objects:
            return batch.plain()
        pipeline.clip  # noqa: B018  a CLIP that is missing is told now, not after the baseline
        baselines = batch.plain() if settings.baseline else None
        outcomes = batch.refined()
    for i, outcome in enumerate(outcomes if baselines else ()):
        outcome.baseline = baselines[i].image if baselines else None
    return outcomes


def _no_progress(what: str, done: int, total: int, losses: Mapping[str, float]) -> None:
    """For callers that do not want to know."""


class _Batch:
    """One batch of images in the making: the same prompt and layout, each image with its own noise."""

    def __init__(
        self,
        pipeline: Pipeline,
        settings: GenerateSettings,
        prompt: str,
        layout: Layout,
        seeds: Sequence[int],
        progress: Progress,
    ) -> None:
        self.pipeline, self.settings, self.prompt, self.layout = pipeline, settings, prompt, layout
        self.seeds, self.progress = seeds, progress
        self.sampler = make_sampler(settings.sampler, pipeline.model)
        assert settings.height and settings.width and settings.scale is not None  # see fit_to_model
        height, width = (side // pipeline.factor for side in (settings.height, settings.width))
        self.shape = (pipeline.channels, height, width)
        self.scale = settings.scale

    def chain(self) -> dict[str, Any]:
        """What plain and refined sampling share; every call starts from the same noise."""
        count, device = len(self.seeds), self.pipeline.device
        generators = seeded_generators(self.seeds)
        with torch.no_grad():
            context = self.pipeline.encode(["", self.prompt])  # (2, L, C)
        return {
            "x_T": noise_like((count, *self.shape), generators).to(device),  # (B, C, h, w)
            "unconditional_conditioning": context[:1].repeat(count, 1, 1),  # (B, L, C)
            "conditioning": context[1:].repeat(count, 1, 1),  # (B, L, C)
            "eta": self.settings.eta,
            "generator": generators,
        }

    @torch.no_grad()
    def plain(self) -> list[Outcome]:
        """Images of the model alone."""
        steps = _Steps("plain sampling", self.total(), self.progress, keep=self.settings.save_steps)
        latents, _ = self.sampler.sample(
            S=self.settings.steps,
            batch_size=len(self.seeds),
            shape=self.shape,
            unconditional_guidance_scale=self.scale,
            callback=steps,
            verbose=False,
            **self.chain(),
        )
        return self.outcomes(self.pipeline.decode(latents), steps)

    def refined(self) -> list[Outcome]:
        """Images under spatial control, with optimized weights."""
        preset, settings, count = make_preset(self.settings), self.settings, len(self.seeds)
        layouts = [self.layout] * count
        rounds = preset.rounds if preset.mode == "rounds" else 1
        total = rounds * self.total()
        steps = _Steps(f"{settings.schedule} schedule", total, self.progress, settings.save_steps)
        with torch.no_grad():
            control = SpatialControl.build(layouts, self.pipeline.encode)
        objective = preset.objective(self.pipeline.clip, [self.prompt] * count, layouts)
        result = optimize(
            self.pipeline.model,
            self.sampler,
            control,
            objective,
            preset,
            guidance_scale=self.scale,
            steps=settings.steps,
            callback=steps,
            checkpoint_blocks=settings.block_checkpointing,
            **self.chain(),
        )
        outcomes = self.outcomes(result.images, steps)
        for i, outcome in enumerate(outcomes):
            outcome.weights = result.weights[..., i].detach().cpu().numpy()  # (S, N)
            for entry in result.history:
                for name, values in entry["loss"].items():
                    outcome.losses.setdefault(name, []).append(float(values[i]))
        return outcomes

    def total(self) -> int:
        """Denoising steps of one pass, which for some counts is not the number asked for."""
        return len(self.sampler.schedule(self.settings.steps, self.settings.eta))

    def outcomes(self, images: torch.Tensor, steps: _Steps) -> list[Outcome]:
        """An outcome for each of the images (B, 3, H, W) in [0, 1]."""
        with torch.no_grad():
            last = steps.latents[-self.total() :]  # of several rounds, the one that made the images
            shown = [to_images(self.pipeline.decode(x.to(self.pipeline.device))) for x in last]
        return [
            Outcome(i, seed, self.prompt, self.layout, image, steps=[batch[i] for batch in shown])
            for i, (seed, image) in enumerate(zip(self.seeds, to_images(images), strict=True))
        ]


class _Steps:
    """Listens to the sampler: tells the progress, and keeps the predicted latents where they are wanted."""

    def __init__(self, what: str, total: int, progress: Progress, keep: bool) -> None:
        self.what, self.total, self.progress, self.keep = what, total, progress, keep
        self.done = 0
        self.latents: list[torch.Tensor] = []  # pred_x0 of every step, each (B, C, h, w), on the CPU

    def __call__(self, state: Mapping[str, Any]) -> None:
        self.done += 1
        if self.keep:
            self.latents.append(state["pred_x0"].cpu())
        losses = {name: float(values.mean()) for name, values in (state.get("loss") or {}).items()}
        self.progress(self.what, self.done, self.total, losses)
