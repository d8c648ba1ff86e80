"""From prompts to images and files.

outcomes = generate(GenerateSettings(prompts=("a cat to the left of a dog",), outdir=Path("out")))
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from ldm.boundary import one_line
from ldm.generation import draw as drawing
from ldm.generation.draw import GeneratedImage
from ldm.generation.images import ImageArray
from ldm.generation.layouts import layouts_by_hand
from ldm.generation.naming import named_objects, unnamed_objects
from ldm.generation.pipeline import Pipeline, open_pipeline
from ldm.generation.progress import Progress, stage, work_of
from ldm.generation.record import Outcome, Recorder, describe_model
from ldm.generation.settings import GenerateSettings as GenerateSettings
from ldm.generation.settings import check_settings, fit_to_model
from ldm.locks import share
from ldm.philox import PhiloxGenerator
from ldm.spacetime.layout import Layout
from ldm.spacetime.presets import PRESETS, Preset

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
    given, settings = given_layouts(settings)
    check_settings(settings)
    preset, made, layouts = make_preset(settings), list[Outcome](), dict[str, Layout]()
    needs = {"predictor"} if preset is not None and not given else set()
    moves = preset is not None and (preset.optimizes(list(given.values())) if given else preset.mode != "fixed")
    if moves or settings.best_of > 1:
        needs.add("clip")
    with nullcontext() if settings.outdir is None else share(settings.outdir):
        if pipeline is None:
            pipeline = open_pipeline(settings, settings.clip, settings.predictor, needs, progress)
        settings = fit_to_model(settings, pipeline.backend)
        recorder = None
        if settings.outdir is not None:
            recorder = Recorder(settings.outdir, settings, preset, describe_model(pipeline), progress)

        def make(batch: Sequence[Any], preset: Preset | None, noise: dict[str, Any]) -> list[GeneratedImage]:
            told = work_of(progress, "plain sampling" if preset is None else f"{preset.name} preset")
            return draw(pipeline, *batch, preset, settings, on_work=told, **noise)

        noise = noise_of_run(settings, pipeline)
        for prompts, seeds in batches(settings):
            for prompt in prompts:
                if prompt not in layouts:
                    with stage(
                        progress if preset is not None and prompt not in given else None, "predicting the layout"
                    ):
                        layouts[prompt] = _layout(prompt, given.get(prompt), settings, pipeline)
            batch = prompts, [layouts[prompt] for prompt in prompts], seeds
            method = preset if any(layout.objects for layout in batch[1]) else None
            _tell_unguided(settings, method, batch[1])
            if settings.best_of > 1 or (method is not None and method.optimizes(batch[1])):
                with stage(None if "clip" in vars(pipeline) else progress, "loading CLIP"):
                    pipeline.clip  # noqa: B018  one that cannot be read is told now, not after the baseline
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


def _tell_unguided(settings: GenerateSettings, preset: Preset | None, layouts: Sequence[Layout]) -> None:
    """Warn of negative prompts that change nothing: without guidance the unconditional rows do not count."""
    regions = [thing.negative_prompt for layout in layouts for thing in layout.objects]
    given = [*drawing.negative_prompts(layouts, settings), *(() if preset is None else regions)]
    if settings.scale == 1 and any(given) and (preset is None or preset.blend == "conditional"):
        logger.warning("A negative prompt does nothing with --scale 1, which is no guidance.")


def given_layouts(settings: GenerateSettings) -> tuple[dict[str, Layout], GenerateSettings]:
    """The layouts by hand of the prompts, and the settings with the prompt of the layout where they have none.

    Raises:
        UserError: a layout file that cannot be used, or that has no layout for a prompt.
    """
    file = layouts_by_hand(settings.layout, settings.objects)
    if file is None:
        return {}, settings
    if not settings.prompts and (prompt := file.choose(None, settings.layout_id).prompt):
        settings = replace(settings, prompts=(prompt,))
    return {prompt: file.choose(prompt, settings.layout_id) for prompt in settings.prompts}, settings


def make_preset(settings: GenerateSettings) -> Preset | None:
    """The preset with the constants that the settings override; None for the plain model."""
    if settings.preset is None:
        return None
    names = ("inner_steps", "learning_rate", "rounds", "gradient_steps", "blend", "share_overlaps")
    given = {name: value for name in names if (value := getattr(settings, name)) is not None}
    preset = replace(PRESETS[settings.preset], **given)
    for name in given:
        if preset.ignores(name):
            flag = "lr" if name == "learning_rate" else name.replace("_", "-")
            logger.warning("--%s does nothing with the preset %s.", flag, preset.name)
    if settings.save_rounds and preset.ignores("rounds"):
        logger.warning("--save-rounds does nothing with the preset %s, which has one round.", preset.name)
    return preset


def batches(settings: GenerateSettings) -> Iterator[tuple[list[str], list[int]]]:
    """(prompts, seeds) of each batch, in the order of making; with published noise every seed is that of the run."""
    each = 1 if settings.grouped else settings.samples
    rows = [prompt for prompt in settings.prompts for _ in range(each)]
    first, step = settings.seed, 0 if settings.noise == "published" else settings.best_of
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
                logger.warning("%s does nothing with a layout by hand.", flag)
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
