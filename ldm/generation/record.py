"""The output folder of a run: which file holds what.

samples/00000.png            the image, with its parameters in the text chunk
details/00000/baseline.png   the plain model's image from the same noise
details/00000/layout.png     the layout drawn over the image
details/00000/comparison.png baseline, image and layout side by side, enlarged
details/00000/weights.png    each object's weight over the steps
details/00000/losses.png     the losses over the course of the optimization
details/00000/settings.json  everything needed to make the image again
details/00000/mask-1.png     the mask of a layout's first object, where it has one
details/00000/steps/001.png  the predicted image of a step
details/00000/rounds/final0.png  the image of a pass through the whole chain
grid-0000.png                all images of the run

A run of the plain model writes samples and grid only.
"""

from __future__ import annotations

import datetime
import platform
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from ldm import locks
from ldm.files import write_json
from ldm.generation import images
from ldm.generation.draw import GeneratedImage, negative_prompts
from ldm.generation.images import ImageArray
from ldm.generation.pipeline import ModelChoice, Pipeline
from ldm.generation.progress import Progress, stage
from ldm.generation.settings import SAMPLERS, GenerateSettings
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.spacetime.presets import Preset
from ldm.spacetime.shapes import Mask

RECORDED_PACKAGES = ("spacetime-diffusion", "torch", "torchvision", "transformers", "clip-anytorch", "numpy", "pillow")


@dataclass
class Outcome(GeneratedImage):
    """One finished image of a run."""

    index: int = 0  # of the run
    baseline: ImageArray | None = None  # the plain model's image from the same noise
    files: dict[str, Path] = field(default_factory=dict)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that an image depends on."""
    found = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # a checkout that is run without being installed
            continue
    return found


def describe_model(pipeline: Pipeline) -> dict[str, Any]:
    """What was loaded: paths, device; "ckpt_sha256" is a future, since large files take long."""
    return {
        "config": str(pipeline.choice.config),
        "ckpt": str(pipeline.choice.ckpt),
        "ckpt_sha256": in_background(model_hash, pipeline.choice.ckpt),
        "clip": str(pipeline.clip_source),
        "embedded": pipeline.choice.embedded,
        **describe_adapted(pipeline.choice),
        "device": str(pipeline.device),
    }


def describe_adapted(choice: ModelChoice) -> dict[str, Any]:
    """Of a model of diffusers: its precision, and its adapters with their hashes."""
    if choice.diffusers is None:
        return {}
    from ldm.backends.adapters import parse_adapter

    adapters = [(path, scale) for path, scale in map(parse_adapter, choice.lora)]
    lora = [{"file": str(path), "sha256": images.file_hash(path), "scale": scale} for path, scale in adapters]
    return {"dtype": choice.dtype, "lora": lora}


def model_hash(ckpt: Path) -> str | None:
    """Of a checkpoint, or of the U-Net in a folder of diffusers; None for what the hub keeps."""
    if not ckpt.is_dir():
        return images.file_hash(ckpt) if ckpt.is_file() else None
    unet = sorted((ckpt / "unet").glob("*.safetensors"))
    return images.file_hash(unet[0]) if unet else None


def in_background(function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """The result of a function that runs beside what follows, and ends with it."""
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


class Recorder:
    """Writes the files of a run; numbers go on after those in the folder, and runs at the same time share them out."""

    def __init__(
        self,
        outdir: Path,
        settings: GenerateSettings,
        preset: Preset | None,
        model: Mapping[str, Any],
        progress: Progress | None = None,
    ) -> None:
        """settings: fitted to the model. model: see `describe_model`."""
        self.outdir, self.settings, self.preset = outdir, settings, preset
        self.description, self.progress = model, progress

    @cached_property
    def model(self) -> dict[str, Any]:
        """What was loaded, with the hash."""
        late = [value for value in self.description.values() if isinstance(value, Future)]
        with stage(None if all(map(Future.done, late)) else self.progress, f"hashing {self.description['ckpt']}"):
            return {name: v.result() if isinstance(v, Future) else v for name, v in self.description.items()}

    def parameters(self, outcome: Outcome, *, plain: bool) -> str:
        """The text chunk of an image; `plain` for one that was made without spatial control."""
        s = self.settings
        places = "; ".join(f"{thing.phrase} ({_place(thing)})" for thing in outcome.layout.objects)
        fields = {
            "Steps": s.steps,
            "Sampler": SAMPLERS[s.sampler],
            "CFG scale": s.scale,
            "Seed": outcome.seed,
            "Size": f"{s.width}x{s.height}",
            "Model hash": (self.model["ckpt_sha256"] or "")[:10] or None,
            "Model": Path(self.model["ckpt"]).stem if not self.model["embedded"] else "emoji",
            "Eta": s.eta or None,
            "Noise": None if s.noise == "per-image" else f"{s.noise} (image {outcome.index + 1})",
            "Spacetime schedule": None if plain else s.preset,  # its name since the first images
            "Spacetime layout": None if plain else places,
            **s.more_parameters(),
        }
        return images.parameters_text(outcome.prompt, fields, *negative_prompts([outcome.layout], s))

    def write(self, outcome: Outcome) -> None:
        """Write all files of one image and note their paths on it. Raises UserError where that fails.

        The image comes last: one that is there is complete, and where writing stops nothing is.
        """
        plain = outcome.weights is None or not outcome.layout.objects
        numbered = self.outdir / "details"
        with locks.reserve(self.outdir / "samples", "{:05d}.png", beside=numbered) as path:
            outcome.files["image"] = path
            details = numbered / path.stem
            try:
                if self.preset is not None:
                    with locks.whole_folder(details) as folder:
                        self._write_details(outcome, folder, details, self.preset.radius)
                images.save_png(path, outcome.image, self.parameters(outcome, plain=plain))
            except BaseException:
                shutil.rmtree(details, ignore_errors=True)
                raise

    def _write_details(self, outcome: Outcome, folder: Path, details: Path, radius: float) -> None:
        """Write them into `folder`, which will be `details`."""
        files: dict[str, Path] = {}
        if outcome.baseline is not None:
            text = self.parameters(outcome, plain=True)
            files["baseline"] = images.save_png(folder / "baseline.png", outcome.baseline, text)
        if outcome.layout.objects:
            files |= self._write_explanation(outcome, folder, radius)
        for i, image in enumerate(outcome.steps, start=1):
            files["steps"] = images.save_png(folder / "steps" / f"{i:03d}.png", image).parent
        for i, image in enumerate(outcome.rounds):
            files["rounds"] = images.save_png(folder / "rounds" / f"final{i}.png", image).parent
        outcome.files |= {kind: details / path.relative_to(folder) for kind, path in files.items()}
        layout = _with_masks(outcome.layout, folder)
        write_json(folder / "settings.json", self.record(outcome, layout), indent=2)
        outcome.files["settings"] = details / "settings.json"

    def _write_explanation(self, outcome: Outcome, details: Path, radius: float) -> dict[str, Path]:
        overlay = images.draw_layout(outcome.image, outcome.layout, radius)
        panels: dict[str, Any] = {} if outcome.baseline is None else {"plain model": outcome.baseline}
        panels |= {"with the method": outcome.image, "layout": overlay}
        files = {
            "layout": images.save_png(details / "layout.png", overlay),
            "comparison": images.save_png(details / "comparison.png", images.comparison_sheet(panels, outcome.prompt)),
        }
        if outcome.weights is not None:
            names = [thing.phrase for thing in outcome.layout.objects]
            files["weights"] = images.plot_weights(details / "weights.png", outcome.weights, names)
        if outcome.losses:
            named = {_curve_name(name, outcome.layout): curve for name, curve in outcome.losses.items()}
            files["losses"] = images.plot_losses(details / "losses.png", named)
        return files

    def record(self, outcome: Outcome, layout: Layout) -> dict[str, Any]:
        """Everything needed to make the image again, as JSON values; `layout` is its own with masks in files."""
        settings, [negative] = asdict(self.settings), negative_prompts([layout], self.settings)
        if self.settings.noise == "per-image":  # else its noise depends on all that was drawn before
            settings |= {"prompts": [outcome.prompt], "seed": outcome.seed, "samples": 1, "iterations": 1, "best_of": 1}
        return {
            "prompt": outcome.prompt,
            "seed": outcome.seed,
            "command": settings.pop("command"),
            "settings": _plain(settings),
            "index": outcome.index,
            "schedule": None if self.preset is None else _plain(asdict(self.preset)),  # its name since the first images
            "layout": replace(layout, negative_prompt=negative or None).to_json(),
            "weights": None if outcome.weights is None else outcome.weights.tolist(),  # (steps, objects)
            "losses": outcome.losses,
            "candidates": outcome.candidates,
            "model": dict(self.model),
            "versions": versions(),
            "files": {kind: str(path) for kind, path in outcome.files.items()},
            "written": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        }

    def write_grid(self, outcomes: Sequence[Outcome]) -> None:
        """Write all images on one sheet, where there is more than one, and note its path on the last."""
        if len(outcomes) < 2:
            return
        columns = self.settings.columns or self.settings.samples
        sheet = images.grid([outcome.image for outcome in outcomes], columns)
        with locks.reserve(self.outdir, "grid-{:04d}.png") as path:
            outcomes[-1].files["grid"] = images.save_png(path, sheet)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Paths and dtypes as text."""
    known = (str, int, float, bool, list, tuple, type(None))
    return {name: value if isinstance(value, known) else str(value) for name, value in values.items()}


def _place(thing: LayoutObject) -> str:
    """Where an object is, in short: its center, or its shape and the box around that."""
    if thing.shape is None:
        return f"{thing.x:.3f} {thing.y:.3f}"
    return " ".join([*thing.shape.to_json(), *(f"{value:.3f}" for value in thing.shape.bounds)])


def _with_masks(layout: Layout, folder: Path) -> Layout:
    """The layout with each mask in a file of `folder`, so that the record needs no other file."""
    things = list(layout.objects)
    for i, thing in enumerate(things):
        if isinstance(thing.shape, Mask):
            path = images.save_png(folder / f"mask-{i + 1}.png", (thing.shape.weights * 255).round().astype("uint8"))
            things[i] = replace(thing, shape=replace(thing.shape, path=path.name))
    return replace(layout, objects=tuple(things))


def _curve_name(name: str, layout: Layout) -> str:
    """For the legend: "local_1" is the loss of the second object."""
    kind, _, number = name.partition("_")
    return f"{layout.objects[int(number)].phrase} ({int(number) + 1})" if number.isdigit() else kind
