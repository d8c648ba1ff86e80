"""From prompts to images and files.

outcomes = generate(GenerateSettings(prompts=("a cat to the left of a dog",), outdir=Path("out")))
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ldm.boundary import one_line
from ldm.errors import UserError
from ldm.extensions.packed import pack
from ldm.generation import draw as drawing
from ldm.generation.chain import Progress, reporter
from ldm.generation.draw import GeneratedImage
from ldm.generation.images import ImageArray
from ldm.generation.pipeline import Pipeline, open_pipeline
from ldm.generation.record import Outcome, Recorder, describe_model
from ldm.generation.settings import GenerateSettings as GenerateSettings
from ldm.generation.settings import check_settings, fit_to_model
from ldm.locks import share
from ldm.philox import PhiloxGenerator
from ldm.spacetime.layout import Layout
from ldm.spacetime.presets import PRESETS, Preset

logger = logging.getLogger(__name__)

Guard = Callable[[Sequence[ImageArray]], list[ImageArray]]  # see ldm.generation.safety
ARTICLES = {"a", "an", "the"}
# The constants that each mode of a preset looks at.
TAKES = {
    "fixed": {"blend"},
    "per-step": {"inner_steps", "learning_rate", "blend"},
    "whole-chain": {"learning_rate", "rounds", "gradient_steps", "blend"},
}
Draw = Callable[..., list[GeneratedImage]]


def generate(
    settings: GenerateSettings,
    progress: Progress | None = None,
    *,
    guard: Guard = list,
    pipeline: Pipeline | None = None,
    draw: Draw = drawing.draw,
) -> list[Outcome]:
    """Make the images of `settings` and, where it names a folder, write them with all that belongs to them.

    Args:
        progress: called after every denoising step.
        guard: safety checker and watermark, see `ldm.generation.safety.Guard`.
        pipeline: the opened model; by default the one that the settings name.
        draw: makes a batch, with the arguments of `ldm.generation.draw.draw`.

    Raises:
        UserError: a setting, a file or a folder that cannot be used.
    """
    given = None if settings.layout is None else read_layout(settings.layout)
    if given is not None and given.prompt and not settings.prompts:
        settings = replace(settings, prompts=(given.prompt,))
    check_settings(settings)
    if pipeline is None:
        pipeline = open_pipeline(settings, settings.clip, settings.predictor)
    if settings.pack_weights and not pack(pipeline.model):
        logger.warning("--pack-weights does nothing here: it is for float32 weights on a CPU with oneDNN")
    settings, preset = fit_to_model(settings, pipeline.backend), make_preset(settings)
    recorder = None
    if settings.outdir is not None:
        recorder = Recorder(settings.outdir, settings, preset, describe_model(pipeline))

    def make(batch: Sequence[Any], preset: Preset | None, noise: dict[str, Any]) -> list[GeneratedImage]:
        told = reporter(progress, "plain sampling" if preset is None else f"{preset.name} preset")
        return draw(pipeline, *batch, preset, settings, told, **noise)

    outcomes: list[Outcome] = []
    noise = noise_of_run(settings, pipeline)
    with contextlib.nullcontext() if settings.outdir is None else share(settings.outdir):
        for prompts, seeds in batches(settings):
            found = {prompt: given or Layout((), prompt) for prompt in prompts}
            for prompt in found:
                if preset is not None:
                    found[prompt] = given or pipeline.predict_layout(prompt, settings.all_nouns)
                _tell_about(found[prompt], prompt, pipeline, preset is not None)
            layouts = [found[prompt] for prompt in prompts]
            method = preset if any(layout.objects for layout in layouts) else None
            if method is not None and method.mode != "fixed":
                pipeline.clip  # noqa: B018  a CLIP that is missing is told now, not after the baseline
            batch = prompts, layouts, seeds
            plain = make(batch, None, copy.deepcopy(noise)) if method is not None and settings.baseline else []
            made = make(batch, method, noise)
            for i, pixels in enumerate(guard([image.image for image in made])):
                made[i].image = pixels
                baseline = plain[i].image if plain and layouts[i].objects else None
                outcomes.append(Outcome(**vars(made[i]), index=len(outcomes), baseline=baseline))
                if recorder is not None and not settings.skip_save:
                    recorder.write(outcomes[-1])
        if recorder is not None and not settings.skip_grid:
            recorder.write_grid(outcomes)
    return outcomes


def read_layout(path: Path) -> Layout:
    """The layout in a layout file, or in the settings.json of an earlier image. Raises UserError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        json.dumps(content, ensure_ascii=False).encode()  # the files of an image hold its texts as UTF-8
    except OSError as error:
        raise UserError(f"layout file {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # not JSON, or texts that are not UTF-8
        raise UserError(f"layout file {path} is not valid JSON: {error}") from error
    record = isinstance(content, dict) and "layout" in content and "objects" not in content
    return Layout.from_json(content["layout"] if record else content)


def make_preset(settings: GenerateSettings) -> Preset | None:
    """The preset with the constants that the settings override; None for the plain model."""
    if settings.preset is None:
        return None
    names = ("inner_steps", "learning_rate", "rounds", "gradient_steps", "blend")
    given = {name: getattr(settings, name) for name in names}
    preset = PRESETS[settings.preset]
    for name in names:
        if given[name] is not None and name not in TAKES[preset.mode]:
            logger.warning("%s does nothing with the preset %s.", name.replace("_", " "), settings.preset)
    return replace(preset, **{name: value for name, value in given.items() if value is not None})


def batches(settings: GenerateSettings) -> Iterator[tuple[list[str], list[int]]]:
    """(prompts, seeds) of each batch, in the order of making; with published noise every seed is that of the run."""
    each = 1 if settings.grouped else settings.samples
    rows = [prompt for prompt in settings.prompts for _ in range(each)]
    first, step = settings.seed, 0 if settings.noise == "published" else 1
    for _ in range(settings.iterations):
        for start in range(0, len(rows), settings.samples):
            prompts = rows[start : start + settings.samples]
            yield prompts, [first + step * i for i in range(len(prompts))]
            first += 0 if settings.fixed_code else step * len(prompts)


def noise_of_run(settings: GenerateSettings, pipeline: Pipeline) -> dict[str, Any]:
    """What `draw` is told of the noise: the published generator, and the start that all batches share, or nothing."""
    if settings.noise != "published":
        return {}
    generator = PhiloxGenerator(settings.seed)
    shape = (settings.samples, *drawing.latent_shape(pipeline.backend, settings))
    return {"generator": generator, "x_T": generator.randn(shape) if settings.fixed_code else None}


def _tell_about(layout: Layout, prompt: str, pipeline: Pipeline, controlled: bool) -> None:
    text = one_line(prompt, 100)
    if controlled and not layout.objects:
        logger.warning("No object found in '%s': plain sampling, without spatial control.", text)
    words = set(re.findall(r"\w+", prompt.lower()))
    for thing in layout.objects:
        if not words & (set(re.findall(r"\w+", f"{thing.phrase} {thing.name or ''}".lower())) - ARTICLES):
            logger.warning("'%s' of the layout is not in the prompt '%s'.", one_line(thing.phrase, 60), text)
    if unknown := pipeline.unknown_objects(layout if layout.objects else prompt):
        known = ", ".join(pipeline.categories)
        logger.warning("The embedded model never saw: %s. It knows: %s.", one_line(", ".join(unknown), 100), known)
