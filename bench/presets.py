"""What the presets cost beside plain sampling: calls of the U-Net, operations, seconds; of the embedded model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from bench.counting import count_work, in_turn
from bench.memory import LAYOUT, PROMPT
from ldm.generation.draw import draw
from ldm.generation.pipeline import Pipeline, choose_model, load_pipeline
from ldm.generation.settings import Sampling
from ldm.paths import EMOJI_CONFIG, project_file
from ldm.spacetime.presets import PRESETS, Preset

PLAIN = "plain"
NAMES = ("per-step", "april-2023", "iccv-2023")


def measure(rounds: int = 5, steps: int = 50, names: Sequence[str] = NAMES) -> dict[str, Any]:
    """By preset: {"calls": forward calls, "backward": of them differentiated, "flops": of all}, and the seconds and
    their ratio to plain sampling, see `bench.counting.in_turn`.

    A backward pass is to the weights of the objects alone, none to the model's, so it computes about as much as a call.
    Decoding and CLIP are part of flops and seconds; loading is not. The published presets are timed in one round only,
    and counted on one of their passes through the chain, which are all alike.
    """
    pipeline = load_pipeline(choose_model(project_file(EMOJI_CONFIG)))
    presets: dict[str, Preset | None] = {PLAIN: None, **{name: PRESETS[name] for name in names}}
    sampling = Sampling(sampler="plms", steps=steps)

    def make(preset: Preset | None) -> None:
        draw(pipeline, [PROMPT], [LAYOUT], [42], preset, sampling)

    slow = {name for name, preset in presets.items() if preset and preset.mode == "whole-chain"}
    rows = in_turn({name: partial(make, preset) for name, preset in presets.items()}, PLAIN, rounds, slow)
    for name, preset in presets.items():
        with _counted(pipeline) as calls:
            flops = count_work(partial(make, preset and replace(preset, rounds=1))).flops
        passes = preset.rounds if preset else 1
        rows[name] |= {key: value * passes for key, value in {**calls, "flops": flops}.items()}
    return rows


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
