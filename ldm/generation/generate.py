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

import torch

from ldm.extensions.packed import pack
from ldm.generation.draw import GeneratedImage, draw
from ldm.generation.images import ImageArray, file_hash
from ldm.generation.pipeline import Pipeline, choose_model, load_pipeline
from ldm.generation.record import Recorder
from ldm.generation.settings import GenerateSettings, check_settings, check_writable, fit_to_model
from ldm.spacetime.layout import Layout
from ldm.spacetime.presets import PRESETS, Preset

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int, Mapping[str, float]], None]  # (what, done, total, losses by name)


@dataclass
class Outcome(GeneratedImage):
    """One finished image of a run."""

    index: int = 0  # of the run
    baseline: ImageArray | None = None  # the plain model's image from the same noise
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
        for outcome in make_batch(pipeline, settings, prompt, objects, seeds, progress, numbers):
            if recorder is not None and not settings.skip_save:
                recorder.write(outcome)
            outcomes.append(outcome)
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


def make_batch(
    pipeline: Pipeline,
    settings: GenerateSettings,
    prompt: str,
    layout: Layout,
    seeds: Sequence[int],
    progress: Progress | None = None,
    numbers: Sequence[int] | None = None,
) -> list[Outcome]:
    """Images of one prompt under one layout, one a seed."""

    def make(preset: Preset | None, what: str) -> list[GeneratedImage]:
        def told(state: Mapping[str, Any]) -> None:
            losses = {name: float(values.mean()) for name, values in (state.get("loss") or {}).items()}
            if progress is not None:
                progress(what, state["done"], state["total"], losses)

        count = len(seeds)
        return draw(pipeline, [prompt] * count, [layout] * count, seeds, preset, settings, told)

    if not layout.objects:
        made, baselines = make(None, "plain sampling"), None
    else:
        pipeline.clip  # noqa: B018  a CLIP that is missing is told now, not after the baseline
        baselines = make(None, "plain sampling") if settings.baseline else None
        made = make(make_preset(settings), f"{settings.schedule} schedule")
    return [
        Outcome(**vars(image), index=number, baseline=baselines[i].image if baselines else None)
        for i, (number, image) in enumerate(zip(numbers or range(len(made)), made, strict=True))
    ]
