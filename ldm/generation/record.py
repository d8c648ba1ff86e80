"""The output folder of a run: which file holds what.

samples/00000.png            the image, with its parameters in the text chunk
details/00000/baseline.png   the plain model's image from the same noise
details/00000/layout.png     the layout drawn over the image
details/00000/comparison.png baseline, image and layout side by side, enlarged
details/00000/weights.png    each object's weight over the steps
details/00000/losses.png     the losses over the course of the optimization
details/00000/settings.json  everything needed to make the image again
details/00000/steps/001.png  the predicted image of a step
grid-0000.png                all images of the run
"""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm.generation import images as outputs
from ldm.generation.settings import SAMPLERS, GenerateSettings

if TYPE_CHECKING:
    from ldm.generation.generate import Outcome
    from ldm.spacetime.layout import Layout

RECORDED_PACKAGES = ("spacetime-diffusion", "torch", "torchvision", "transformers", "clip-anytorch", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that an image depends on."""
    found = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # a checkout that is run without being installed
            continue
    return found


@dataclass
class Recorder:
    """Writes the files of a run; numbering goes on where an earlier run in the same folder stopped."""

    outdir: Path
    settings: GenerateSettings  # with the model's sizes filled in
    preset: Mapping[str, Any]  # constants of the schedule, as plain values
    model: Mapping[str, Any]  # what was loaded: paths, hashes, device
    first: int = field(init=False)

    def __post_init__(self) -> None:
        taken = [int(p.stem) for p in (self.outdir / "samples").glob("*.png") if p.stem.isdigit()]
        self.first = max(taken, default=-1) + 1

    def parameters(self, outcome: Outcome, *, plain: bool) -> str:
        """The text chunk of an image; `plain` for one that was made without spatial control."""
        s = self.settings
        fields = {
            "Steps": s.steps,
            "Sampler": SAMPLERS[s.sampler],
            "CFG scale": s.scale,
            "Seed": outcome.seed,
            "Size": f"{s.width}x{s.height}",
            "Model hash": self.model["ckpt_sha256"][:10],
            "Model": Path(self.model["ckpt"]).stem if not self.model["embedded"] else "emoji",
            "Eta": s.eta or None,
            "Spacetime schedule": None if plain else s.schedule,
            "Spacetime layout": None if plain else _layout_text(outcome),
        }
        return outputs.parameters_text(outcome.prompt, fields)

    def write(self, outcome: Outcome) -> None:
        """Write all files of one image and note their paths on it. Raises UserError where that fails."""
        name = f"{self.first + outcome.index:05d}"
        details = self.outdir / "details" / name
        plain = outcome.weights is None
        text = self.parameters(outcome, plain=plain)
        files = {"image": outputs.save_png(self.outdir / "samples" / f"{name}.png", outcome.image, text)}
        if outcome.baseline is not None:
            text = self.parameters(outcome, plain=True)
            files["baseline"] = outputs.save_png(details / "baseline.png", outcome.baseline, text)
        if outcome.layout.objects:
            files |= self._write_explanation(outcome, details)
        for i, image in enumerate(outcome.steps, start=1):
            files["steps"] = outputs.save_png(details / "steps" / f"{i:03d}.png", image).parent
        files["settings"] = outputs.save_json(details / "settings.json", self.record(outcome, files))
        outcome.files.update(files)

    def _write_explanation(self, outcome: Outcome, details: Path) -> dict[str, Path]:
        overlay = outputs.draw_layout(outcome.image, outcome.layout, self.preset["radius"])
        panels = {} if outcome.baseline is None else {"plain model": outcome.baseline}
        sheet = outputs.comparison_sheet(
            {**panels, "with the method": outcome.image, "layout": overlay}, outcome.prompt
        )
        files = {
            "layout": outputs.save_png(details / "layout.png", overlay),
            "comparison": outputs.save_png(details / "comparison.png", sheet),
        }
        if outcome.weights is not None:
            path = details / "weights.png"
            files["weights"] = outputs.plot_weights(path, outcome.weights, outcome.layout)
        if outcome.losses:
            named = {_curve_name(name, outcome.layout): curve for name, curve in outcome.losses.items()}
            files["losses"] = outputs.plot_losses(details / "losses.png", named)
        return files

    def record(self, outcome: Outcome, files: Mapping[str, Path]) -> dict[str, Any]:
        """Everything needed to make the image again, as JSON values."""
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self.settings).items()}
        settings |= {"prompts": [outcome.prompt], "seed": outcome.seed, "samples": 1, "iterations": 1}
        return {
            "prompt": outcome.prompt,
            "seed": outcome.seed,
            "command": settings.pop("command"),
            "settings": settings,
            "schedule": dict(self.preset),
            "layout": outcome.layout.to_json(),
            "weights": None if outcome.weights is None else outcome.weights.tolist(),  # (steps, objects)
            "losses": outcome.losses,
            "model": dict(self.model),
            "versions": versions(),
            "files": {kind: str(path) for kind, path in files.items()},
            "written": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        }

    def write_grid(self, outcomes: Sequence[Outcome]) -> Path | None:
        """Write all images on one sheet, where there is more than one."""
        if len(outcomes) < 2:
            return None
        columns = self.settings.columns or self.settings.samples
        number = len(list(self.outdir.glob("grid-*.png")))
        sheet = outputs.grid([outcome.image for outcome in outcomes], columns)
        return outputs.save_png(self.outdir / f"grid-{number:04d}.png", sheet)


def _curve_name(name: str, layout: Layout) -> str:
    """For the legend: "local_1" is the loss of the second object."""
    kind, _, number = name.partition("_")
    return f"{layout.objects[int(number)].phrase} ({int(number) + 1})" if number.isdigit() else kind


def _layout_text(outcome: Outcome) -> str:
    return "; ".join(f"{thing.phrase} ({thing.x:.3f} {thing.y:.3f})" for thing in outcome.layout.objects)
