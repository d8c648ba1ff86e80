"""Text to image by the model alone: what `scripts/txt2img.py` does, as a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ldm.cli.common import Progress, no_progress, set_threads
from ldm.generation.generate import Outcome, batches, make_batch, make_recorder
from ldm.generation.images import ImageArray, save_png
from ldm.generation.pipeline import ModelChoice, Pipeline, choose_model, load_pipeline
from ldm.generation.record import Recorder
from ldm.generation.settings import GenerateSettings, check_settings, check_writable, fit_to_model
from ldm.spacetime.layout import Layout

Guarding = Callable[[Sequence[ImageArray]], list[ImageArray]]  # see ldm.generation.safety


def open_pipeline(settings: GenerateSettings) -> tuple[Pipeline, ModelChoice]:
    """Check `settings` and the output folder, then load the model that they name. Raises UserError."""
    check_settings(settings)
    if settings.outdir is not None:
        check_writable(settings.outdir)
    set_threads(settings.threads)
    choice = choose_model(settings.config, settings.ckpt)
    return load_pipeline(choice, device=settings.device), choice


def draw(
    settings: GenerateSettings,
    guard: Guarding = list,
    progress: Progress = no_progress,
    notice: Callable[[str], None] = lambda text: None,
) -> list[Outcome]:
    """Make the images of `settings` without any spatial control; files where it names a folder.

    Args:
        settings: those of the method are not used.
        guard: safety checker and watermark, see :class:`ldm.generation.safety.Guard`.
        progress: called after every denoising step.
        notice: told which model is used where the user named none.

    Raises:
        UserError: a setting, a file or a folder that cannot be used.
    """
    pipeline, choice = open_pipeline(settings)
    if choice.notice:
        notice(choice.notice)
    settings = fit_to_model(settings, pipeline)
    recorder = make_recorder(settings, pipeline)
    outcomes: list[Outcome] = []
    for prompt, numbers, seeds in batches(settings):
        made = make_batch(pipeline, settings, prompt, Layout((), prompt), seeds, progress)
        outcomes += finish(made, numbers, guard, recorder)
    return write_grid(outcomes, recorder)


def finish(
    made: Sequence[Outcome], numbers: Sequence[int], guard: Guarding, recorder: Recorder | None
) -> list[Outcome]:
    """A batch numbered, guarded and written into ``samples``."""
    outcomes = []
    images = guard([outcome.image for outcome in made])
    for number, outcome, image in zip(numbers, made, images, strict=True):
        outcome = replace(outcome, index=number, image=image)
        if recorder is not None and not recorder.settings.skip_save:
            path = recorder.outdir / "samples" / f"{recorder.first + number:05d}.png"
            outcome.files["image"] = save_png(path, image, recorder.parameters(outcome, plain=True))
        outcomes.append(outcome)
    return outcomes


def write_grid(outcomes: list[Outcome], recorder: Recorder | None) -> list[Outcome]:
    """The outcomes, the last of which names the grid where one was written."""
    if recorder is not None and not recorder.settings.skip_grid and (sheet := recorder.write_grid(outcomes)):
        outcomes[-1].files["grid"] = sheet
    return outcomes


def told_files(outcomes: Sequence[Outcome]) -> list[str]:
    """A line for each file, for the script to print."""
    return [f"{kind}: {path}" for outcome in outcomes for kind, path in outcome.files.items()]


# Where the published download puts the text-to-image model trained on LAION-400M.
LAION_CONFIG = Path("configs/latent-diffusion/txt2img-1p4B-eval.yaml")
LAION_CKPT = Path("models/ldm/text2img-large/model.ckpt")
LAION_OUTDIR = Path("outputs/txt2img-samples-laion400m")
