"""What a U-Net call and an image cost against steps, objects, pixels and batch, and a model that explains it.

The model: seconds = flops x a + bytes x b + operations x c, the three counted (`bench.counting`), the three costs
fitted to the medians. One fit for calls of the Stable Diffusion v1 U-Net (packed weights, random numbers), one for
images of the embedded model, in which starting an operation costs as much as computing it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from bench.counting import Call, Work, count_work, fit, in_turn
from bench.unet import CENTERS, make_control, make_unet
from ldm.extensions.packed import pack, unpack
from ldm.generation.draw import draw
from ldm.generation.pipeline import choose_model, load_pipeline
from ldm.generation.settings import Sampling
from ldm.paths import EMOJI_CONFIG, project_file
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.spacetime.presets import PRESETS
from ldm.util import UserError

Case = dict[str, int | str]
WORDS = ("cat", "bus", "dog", "car")
# pixels a side, objects, batch
CALLS = (
    *((pixels, 2, 1) for pixels in (64, 128, 192, 256)),
    *((128, objects, 1) for objects in (0, 1, 4)),
    *((128, 2, batch) for batch in (2, 4)),
)
# preset, steps, pixels, objects, batch
IMAGES = (
    *(("plain", steps, 128, 2, 1) for steps in (10, 25, 50, 100)),
    *(("plain", 25, 128, 2, batch) for batch in (4, 8)),
    *(("plain", 25, pixels, 2, 1) for pixels in (192, 256)),
    *(("per-step", steps, 128, 2, 1) for steps in (10, 25, 50, 100)),
    *(("per-step", 25, 128, objects, 1) for objects in (1, 3, 4)),
    ("per-step", 25, 128, 2, 4),
    *(("per-step", 25, pixels, 2, 1) for pixels in (192, 256)),
)


def measure(rounds: int = 5) -> dict[str, Any]:
    """Both tables with their fits: {"calls": {...}, "images": {...}}."""
    return {"calls": _table(_calls(), rounds), "images": _table(_images(), rounds)}


def _table(cases: Iterator[tuple[Case, Work, Call]], rounds: int) -> dict[str, Any]:
    """Times every case, fits the costs, and says by how much each row is missed."""
    rows: list[dict[str, Any]] = []
    works: list[Work] = []
    for case, work, call in cases:
        own = in_turn({"": call}, "", rounds)[""]
        works.append(work)
        rows.append({**case, **asdict(work), "seconds": own["seconds"], "median": own["median"]})
    costs, explained = fit(works, [row["median"] for row in rows])
    for row, value in zip(rows, explained, strict=True):
        row["model"] = value
    worst = max(abs(row["model"] / row["median"] - 1) for row in rows)
    return {"rows": rows, "costs": dict(zip(("flop", "byte", "operation"), costs, strict=True)), "worst": worst}


def _calls() -> Iterator[tuple[Case, Work, Call]]:
    """Guided, controlled calls of the Stable Diffusion v1 U-Net in float32."""
    model = make_unet()
    torch.manual_seed(0)
    texts = torch.randn(len(CENTERS), 77, 768)
    for pixels, objects, batch in CALLS:
        x, t = torch.randn(2 * batch, 4, pixels // 8, pixels // 8), torch.full((2 * batch,), 500)
        control = make_control(objects, texts, batch)
        weights = None if control is None else torch.ones(objects, batch)
        call = torch.no_grad()(partial(model, x, t, torch.randn(2 * batch, 77, 768), control=control, weights=weights))
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
    placed = tuple(LayoutObject(f"a {word}", *at) for word, at in zip(WORDS, CENTERS, strict=True))
    for name, steps, pixels, objects, batch in IMAGES:
        preset = PRESETS.get(name)
        prompt, layout = " and ".join(f"a {word}" for word in WORDS[:objects]), Layout(placed[:objects])
        sampling = Sampling(sampler="plms", steps=steps, height=pixels, width=pixels)
        call = partial(draw, pipeline, [prompt] * batch, [layout] * batch, range(batch), preset, sampling)
        controlled = objects if preset else 0
        case: Case = {"preset": name, "steps": steps, "pixels": pixels, "objects": controlled, "batch": batch}
        yield case, count_work(call), call


def plot(result: dict[str, Any], path: Path) -> None:
    """Measured seconds against the model's, both tables, both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    titles = {"calls": "a U-Net call, Stable Diffusion v1", "images": "images of the embedded model"}
    for axes, (name, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        rows = result[name]["rows"]
        for mark in sorted({row.get("preset", "packed weights") for row in rows}):
            own = [row for row in rows if row.get("preset", mark) == mark]
            axes.scatter([row["model"] for row in own], [row["median"] for row in own], label=mark)
        ends = [f(row[key] for row, key in product(rows, ("model", "median"))) for f in (min, max)]
        axes.plot(ends, ends, color="black", linewidth=0.8, label="the model")
        axes.fill_between(ends, [0.8 * x for x in ends], [1.2 * x for x in ends], alpha=0.15, label="within 20%")
        axes.set(xscale="log", yscale="log", title=title)
        axes.set(xlabel="flops, bytes and operations say (s)", ylabel="measured (s)")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks((0.3, 1, 3, 10), labels=("0.3", "1", "3", "10"))
            axis.set_ticks((), minor=True)
        axes.legend()
    figure.savefig(path, dpi=120, format="png")
