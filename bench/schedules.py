"""What the schedules cost beside plain sampling: calls of the U-Net, operations, seconds; of the embedded model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from bench.memory import LAYOUT, PROMPT
from bench.timing import in_turn
from bench.work import count_work
from ldm.generation.draw import draw
from ldm.generation.pipeline import Pipeline, choose_model, load_pipeline
from ldm.generation.settings import Sampling
from ldm.paths import EMOJI_CONFIG, project_file
from ldm.spacetime.presets import PRESETS

PLAIN = "plain"
METHODS = ("per-step", "april-2023", "iccv-2023")


def measure(
    rounds: int = 5, steps: int = 50, schedules: tuple[str, ...] = ("per-step", "april-2023", "iccv-2023")
) -> dict[str, Any]:
    """By schedule: {"calls": forward calls, "backward": of them differentiated, "flops": of all}, and the seconds and
    their ratio to plain sampling, see :func:`bench.timing.in_turn`.

    A backward pass is to the weights of the objects alone, none to the model's, so it computes about as much as a call.
    Decoding and CLIP are part of flops and seconds; loading is not. The published schedules are timed in one round
    only, and counted on one of their passes through the chain, which are all alike.
    """
    pipeline = load_pipeline(choose_model(project_file(EMOJI_CONFIG)))
    settings = Sampling(sampler="plms", steps=steps)
    names = (PLAIN, *schedules)
    slow = {name for name in schedules if PRESETS[name].mode == "whole-chain"}
    rows = in_turn({name: partial(_draw, pipeline, settings, name) for name in names}, PLAIN, rounds, slow)
    for name in names:
        with _counted(pipeline) as calls:
            flops = count_work(partial(_draw, pipeline, settings, name, 1)).flops
        passes = 1 if name == PLAIN else PRESETS[name].rounds
        rows[name] |= {key: value * passes for key, value in {**calls, "flops": flops}.items()}
    return rows


def _draw(pipeline: Pipeline, settings: Sampling, name: str, rounds: int | None = None) -> None:
    preset = None if name == PLAIN else PRESETS[name]
    if preset is not None and rounds is not None:
        preset = replace(preset, rounds=rounds)
    draw(pipeline, [PROMPT], [LAYOUT], [42], preset, settings)


@contextmanager
def _counted(pipeline: Pipeline) -> Iterator[dict[str, int]]:
    """Forward calls of the U-Net inside, those that the backward pass repeats too, and backward passes through it."""
    calls = {"calls": 0, "backward": 0}

    def before(module: Any, arguments: Any) -> None:
        calls["calls"] += 1

    def after(module: Any, arguments: Any, out: Any) -> None:
        if out.requires_grad:
            out.register_hook(lambda gradient: calls.__setitem__("backward", calls["backward"] + 1))

    unet = pipeline.model.model.diffusion_model
    hooks = (unet.register_forward_pre_hook(before), unet.register_forward_hook(after))
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
