"""How near the gradient of a loss on images of half the size is to the exact one, on the embedded model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch
from torch import Tensor

from ldm.generation.chain import start_chain
from ldm.generation.draw import contexts, latent_shape, run_chain
from ldm.generation.pipeline import choose_model, load_pipeline
from ldm.generation.settings import Sampling, fit_to_model
from ldm.paths import EMOJI_CONFIG, project_file
from ldm.spacetime.presets import PRESETS

PROMPTS = 24  # of data/prompts/choose-gpt.txt, spread over it


def measure() -> dict[str, Any]:
    """{"gradients": how many, "cosine", "length": quartiles} over the steps of the default preset that move weights.

    With a learning rate of 0 both chains are the same, so their gradients are of the same places.
    """
    from ldm.evaluation.prompts.files import read_prompt_file

    pipeline = load_pipeline(choose_model(project_file(EMOJI_CONFIG)), device="cpu")
    every = read_prompt_file(project_file(Path("data/prompts/choose-gpt.txt")))
    preset = replace(PRESETS["per-step"], learning_rate=0.0)
    cosines, lengths = list[float](), list[float]()
    for number, entry in enumerate(every[:: max(len(every) // PROMPTS, 1)][:PROMPTS]):
        layout = pipeline.predict_layout(entry.text)
        if not layout.objects:
            continue
        found = []
        for half in (False, True):
            sampling = fit_to_model(Sampling(sampler="plms", steps=25, half_decode=half), pipeline.backend)
            sampler, chain = start_chain(
                pipeline.backend, sampling, [number], latent_shape(pipeline.backend, sampling), preset=preset
            )
            assert sampling.height and sampling.width
            chain |= contexts(pipeline.backend, [entry.text], [""], (sampling.height, sampling.width))
            _, result = run_chain(pipeline, sampler, chain, [entry.text], [layout], preset, sampling)
            assert result is not None
            found.append([step["grad"].flatten() for step in result.history])
        for exact, near in zip(*found, strict=True):
            cosines.append(_cosine(exact, near))
            lengths.append(float(near.norm() / exact.norm()))
    return {"gradients": len(cosines), "cosine": quantiles(cosines, n=4), "length": quantiles(lengths, n=4)}


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))
