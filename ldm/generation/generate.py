"""From prompts to images and files.

outcomes = generate(GenerateSettings(prompts=("a cat to the left of a dog",), outdir=Path("out")))
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ldm.boundary import one_line
from ldm.errors import UserError
from ldm.extensions.packed import pack
from ldm.generation import draw as drawing
from ldm.generation.chain import Progress, reporter
from ldm.generation.draw import GeneratedImage
from ldm.generation.images import ImageArray
from ldm.generation.naming import named_objects, unnamed_objects
from ldm.generation.pipeline import Pipeline, open_pipeline
from ldm.generation.record import Outcome, Recorder, describe_model
from ldm.generation.settings import GenerateSettings as GenerateSettings
from ldm.generation.settings import check_settings, fit_to_model
from ldm.locks import share
from ldm.philox import PhiloxGenerator
from ldm.pixels import read_gray_mask
from ldm.spacetime.layout import Layout
from ldm.spacetime.presets import PRESETS, Preset
from ldm.spacetime.shapes import Mask

logger = logging.getLogger(__name__)

Guard = Callable[[Sequence[ImageArray]], list[ImageArray]]  # see ldm.generation.safety
Draw = Callable[..., list[GeneratedImage]]


def generate(settings: GenerateSettings, progress: Progress | None = None, **more: Any) -> list[Outcome]:
    """Make the images of `settings` and, where it names a folder, write them with all that belongs to them.

    Args:
        progress: called after every denoising step.
        more: arguments of `outcomes`.

    Raises:
        UserError: a setting, a file or a folder that cannot be used.
    """
    return list(outcomes(settings, progress, **more))


def outcomes(
    settings: GenerateSettings,
    progress: Progress | None = None,
    *,
    guard: Guard = list,
    pipeline: Pipeline | None = None,
    draw: Draw = drawing.draw,
) -> Iterator[Outcome]:
    """As `generate`, but yields each image as soon as it is written; the path of the grid comes with the last one.

    Args:
        guard: safety checker and watermark, see `ldm.generation.safety.Guard`.
        pipeline: the opened model; by default the one that the settings name.
        draw: makes a batch, with the arguments of `ldm.generation.draw.draw`.
    """
    given = None if settings.layout is None else read_layout(settings.layout)
    if given is not None and given.prompt and not settings.prompts:
        settings = replace(settings, prompts=(given.prompt,))
    check_settings(settings)
    preset, made, layouts = make_preset(settings), list[Outcome](), dict[str, Layout]()
    with nullcontext() if settings.outdir is None else share(settings.outdir):
        if pipeline is None:
            pipeline = open_pipeline(settings, settings.clip, settings.predictor)
        if settings.pack_weights and not pack(pipeline.model):
            logger.warning("--pack-weights does nothing here: it is for float32 weights on a CPU with oneDNN")
        settings = fit_to_model(settings, pipeline.backend)
        recorder = None
        if settings.outdir is not None:
            recorder = Recorder(settings.outdir, settings, preset, describe_model(pipeline))

        def make(batch: Sequence[Any], preset: Preset | None, noise: dict[str, Any]) -> list[GeneratedImage]:
            told = reporter(progress, "plain sampling" if preset is None else f"{preset.name} preset")
            return draw(pipeline, *batch, preset, settings, told, **noise)

        noise = noise_of_run(settings, pipeline)
        for prompts, seeds in batches(settings):
            for prompt in prompts:
                if prompt not in layouts:
                    layouts[prompt] = _layout(prompt, given, settings, pipeline)
            batch = prompts, [layouts[prompt] for prompt in prompts], seeds
            method = preset if any(layout.objects for layout in batch[1]) else None
            if method is not None and method.mode != "fixed":
                pipeline.clip  # noqa: B018  a CLIP that is missing is told now, not after the baseline
            plain = make(batch, None, copy.deepcopy(noise)) if method is not None and settings.baseline else []
            drawn = make(batch, method, noise)
            for i, pixels in enumerate(guard([image.image for image in drawn])):
                drawn[i].image = pixels
                baseline = plain[i].image if plain and drawn[i].layout.objects else None
                made.append(Outcome(**vars(drawn[i]), index=len(made), baseline=baseline))
                if recorder is not None and not settings.skip_save:
                    recorder.write(made[-1])
                yield made[-1]
        if recorder is not None and not settings.skip_grid:
            recorder.write_grid(made)


def read_layout(path: Path) -> Layout:
    """The layout in a layout file, or in the settings.json of an earlier image; its masks are files beside it.

    Raises:
        UserError: a file that cannot be read or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        json.dumps(content, ensure_ascii=False).encode()  # the files of an image hold its texts as UTF-8
    except OSError as error:
        raise UserError(f"layout file {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # not JSON, or texts that are not UTF-8
        raise UserError(f"layout file {path} is not valid JSON: {error}") from error
    record = isinstance(content, dict) and "layout" in content and "objects" not in content
    return Layout.from_json(content["layout"] if record else content, partial(_read_region, path.parent))


def _read_region(folder: Path, name: str) -> Mask:
    """The mask in an image file, white where the region is and gray where it fades; `name` is relative to `folder`."""
    weights = np.asarray(read_gray_mask(folder / name), dtype=np.float64) / 255
    mask = Mask(weights, name)
    if weights.min() == weights.max():
        logger.warning("The mask %s is of one gray: its object acts everywhere, by %.3g.", folder / name, weights.max())
    return mask


def make_preset(settings: GenerateSettings) -> Preset | None:
    """The preset with the constants that the settings override; None for the plain model."""
    if settings.preset is None:
        return None
    names = ("inner_steps", "learning_rate", "rounds", "gradient_steps", "blend")
    given = {name: value for name in names if (value := getattr(settings, name)) is not None}
    preset = replace(PRESETS[settings.preset], **given)
    for name in given:
        if preset.ignores(name):
            flag = "lr" if name == "learning_rate" else name.replace("_", "-")
            logger.warning("--%s does nothing with the preset %s.", flag, preset.name)
    return preset


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


def _layout(prompt: str, given: Layout | None, settings: GenerateSettings, pipeline: Pipeline) -> Layout:
    """The layout of a prompt, by hand or predicted; tells what of it is not as the user may think."""
    text = one_line(prompt, 100)
    if given is not None:
        for flag, value in (("--all-nouns", settings.all_nouns), ("--predictor", settings.predictor)):
            if value:
                logger.warning("%s does nothing with --layout.", flag)
        if strange := [] if given.prompt == prompt else unnamed_objects(given, prompt):
            listed = one_line(", ".join(strange), 100)
            logger.warning("The prompt '%s' does not name what is in the layout: %s.", text, listed)
        named = layout = given
    elif settings.preset is not None:
        named = layout = pipeline.predict_layout(prompt, settings.all_nouns)
    else:
        layout = Layout((), prompt)
        named = named_objects(prompt) if pipeline.categories else layout
    if settings.preset is not None and not layout.objects:
        logger.warning("No object found in '%s': plain sampling, without spatial control.", text)
    if unknown := pipeline.unknown_objects(named):
        known = ", ".join(pipeline.categories)
        logger.warning("The embedded model never saw: %s. It knows: %s.", one_line(", ".join(unknown), 100), known)
    return layout
