"""What a U-Net call and an image cost against steps, objects, pixels and batch, and a model that explains it.

The model: seconds = flops x a + bytes x b + operations x c, the three counted (`bench.work`), the three costs fitted to
the medians. One fit for calls of the Stable Diffusion v1 U-Net (packed weights, random numbers), one for whole images
of the embedded model, in which starting an operation costs as much as computing it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from bench.timing import Call, timed
from bench.unet import CENTERS, make_control, own_unet
from bench.work import Work, count_work, fit
from ldm.extensions.packed import pack, unpack
from ldm.generation.draw import draw
from ldm.generation.pipeline import choose_model, load_pipeline
from ldm.generation.settings import Sampling
from ldm.paths import EMOJI_CONFIG, project_file
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.spacetime.presets import PRESETS, Preset
from ldm.util import UserError

Case = dict[str, int | str]
WORDS = ("cat", "bus", "dog", "car")
# pixels a side, objects, batch
CALLS = (
    (64, 2, 1),
    (128, 2, 1),
    (192, 2, 1),
    (256, 2, 1),
    (128, 0, 1),
    (128, 1, 1),
    (128, 4, 1),
    (128, 2, 2),
    (128, 2, 4),
)
# schedule, steps, pixels, objects, batch
IMAGES = (
    ("plain", 10, 64, 2, 1),
    ("plain", 25, 64, 2, 1),
    ("plain", 50, 64, 2, 1),
    ("plain", 100, 64, 2, 1),
    ("plain", 25, 64, 2, 4),
    ("plain", 25, 64, 2, 8),
    ("plain", 25, 96, 2, 1),
    ("plain", 25, 128, 2, 1),
    ("per-step", 10, 64, 2, 1),
    ("per-step", 25, 64, 2, 1),
    ("per-step", 50, 64, 2, 1),
    ("per-step", 100, 64, 2, 1),
    ("per-step", 25, 64, 1, 1),
    ("per-step", 25, 64, 3, 1),
    ("per-step", 25, 64, 4, 1),
    ("per-step", 25, 64, 2, 4),
    ("per-step", 25, 96, 2, 1),
    ("per-step", 25, 128, 2, 1),
)


def measure(rounds: int = 5) -> dict[str, Any]:
    """Both tables with their fits: {"calls": {...}, "images": {...}}. The number of threads is the process's."""
    return {"calls": _table(_calls(), rounds), "images": _table(_images(), rounds)}


def _table(cases: Iterator[tuple[Case, Work, Call]], rounds: int) -> dict[str, Any]:
    """Times every case, fits the costs, and says by how much each row is missed."""
    rows: list[dict[str, Any]] = []
    works: list[Work] = []
    for case, work, call in cases:
        seconds = [timed(call) for _ in range(rounds + 1)][1:]  # the first warms up
        works.append(work)
        rows.append(
            {
                **case,
                "flops": work.flops,
                "bytes": work.bytes,
                "operations": work.operations,
                "seconds": seconds,
                "median": median(seconds),
            }
        )
    costs, explained = fit(works, [row["median"] for row in rows])
    for row, value in zip(rows, explained, strict=True):
        row["model"] = value
    worst = max(abs(row["model"] / row["median"] - 1) for row in rows)
    return {"rows": rows, "costs": dict(zip(("flop", "byte", "operation"), costs, strict=True)), "worst": worst}


def _calls() -> Iterator[tuple[Case, Work, Call]]:
    """A guided, controlled call of the Stable Diffusion v1 U-Net in float32."""
    model = own_unet()
    torch.manual_seed(0)
    texts = torch.randn(len(CENTERS), 77, 768)
    for pixels, objects, batch in CALLS:
        x, t = torch.randn(2 * batch, 4, pixels // 8, pixels // 8), torch.full((2 * batch,), 500)
        context = torch.randn(2 * batch, 77, 768)
        control = make_control(objects, texts, batch)
        weights = None if control is None else torch.ones(objects, batch)

        def call(x: Tensor = x, t: Tensor = t, c: Tensor = context, s: Any = control, w: Any = weights) -> None:
            with torch.no_grad():
                model(x, t, c, control=s, weights=w)

        unpack(model)
        call()  # what is computed once an image is not part of a call
        work = count_work(call)
        pack(model)
        yield {"pixels": pixels, "objects": objects, "batch": batch}, work, call


def _images() -> Iterator[tuple[Case, Work, Call]]:
    """Images of the embedded model, PLMS, decoding included, loading and files not."""
    config = project_file(EMOJI_CONFIG)
    if not config.is_file():
        raise UserError(f"{config} is not there; run this in the project's folder")
    pipeline = load_pipeline(choose_model(config))
    for schedule, steps, pixels, objects, batch in IMAGES:
        settings = Sampling(sampler="plms", steps=steps, height=pixels, width=pixels)
        plain = schedule == "plain"
        placed = tuple(LayoutObject(f"a {word}", *at) for word, at in zip(WORDS, CENTERS, strict=True))[:objects]
        layout = Layout(() if plain else placed)
        prompt = " and ".join(f"a {word}" for word in WORDS[:objects])
        draw_all = partial(draw, pipeline, [prompt] * batch, [layout] * batch, range(batch))
        preset = None if plain else PRESETS[schedule]

        def call(draw_all: Any = draw_all, preset: Preset | None = preset, settings: Sampling = settings) -> None:
            draw_all(preset, settings)

        yield (
            {
                "schedule": schedule,
                "steps": steps,
                "pixels": pixels,
                "objects": 0 if plain else objects,
                "batch": batch,
            },
            count_work(call),
            call,
        )


def plot(result: dict[str, Any], path: Path) -> None:
    """Measured seconds against the model's, both tables, both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    titles = {"calls": "a U-Net call, Stable Diffusion v1", "images": "images of the embedded model"}
    for axes, (name, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        rows = result[name]["rows"]
        marks = sorted({str(row.get("schedule", "")) for row in rows})
        for mark in marks:
            own = [row for row in rows if str(row.get("schedule", "")) == mark]
            axes.scatter([row["model"] for row in own], [row["median"] for row in own], label=mark or "packed weights")
        ends = [f(row[key] for row in rows for key in ("model", "median")) for f in (min, max)]
        axes.plot(ends, ends, color="black", linewidth=0.8, label="the model")
        axes.fill_between(ends, [0.8 * x for x in ends], [1.2 * x for x in ends], alpha=0.15, label="within 20%")
        axes.set(xscale="log", yscale="log", title=title)
        axes.set(xlabel="flops, bytes and operations say (s)", ylabel="measured (s)")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks((0.3, 1, 3, 10), labels=("0.3", "1", "3", "10"))
            axis.set_ticks((), minor=True)
        axes.legend()
    figure.savefig(path, dpi=120, format="png")
