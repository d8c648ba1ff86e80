"""The models of a run, loaded at the first image, and what identifies them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from layout_predictor.inference.checkpoints import default_weights
from ldm.evaluation.prompts.prompt import EvalPrompt, given_layout, prompts_hash, rule_layout
from ldm.evaluation.run.methods import Method, Placing
from ldm.generation.draw import GeneratedImage, draw
from ldm.generation.pipeline import ModelChoice, Pipeline, load_pipeline
from ldm.generation.record import describe_adapted, model_hash
from ldm.generation.settings import Sampling
from ldm.spacetime.layout import Layout
from ldm.util import UserError


class Studio:
    """Makes layouts and images.

    Args:
        sampling: of all images, where a method does not say it.
        layout: who gives the centers where a method does not say it.
        clip, predictor: files that replace the model's own.
        spread: of the centers by rule, see `rule_layout`.

    Raises:
        UserError: one of the files does not exist.
    """

    def __init__(
        self,
        choice: ModelChoice,
        sampling: Sampling,
        layout: Placing = "predictor",
        clip: Path | None = None,
        predictor: Path | None = None,
        device: str | None = None,
        spread: float = 1.0,
    ) -> None:
        for flag, path in (("--clip", clip), ("--predictor", predictor)):
            if path is not None and not path.is_file():
                raise UserError(f"{flag} {path} is not a file; give the path of one that exists")
        self.choice, self.sampling, self.layout = choice, sampling, layout
        self.clip, self.predictor, self.device, self.spread = clip, predictor, device, spread
        self._predicted: dict[str, Layout] = {}

    @cached_property
    def pipeline(self) -> Pipeline:
        """The loaded models."""
        return load_pipeline(self.choice, device=self.device, clip=self.clip, predictor=self.predictor)

    def settings(self, prompts: Sequence[EvalPrompt]) -> dict[str, Any]:
        """What all images of a run share."""
        predictor, choice = self.predictor or default_weights(), self.choice
        named = {"model": choice.ckpt, "clip": self.clip, "predictor": predictor if predictor.is_file() else None}
        return {
            **{f"{key}_sha256": model_hash(path) for key, path in named.items() if path is not None},
            **({} if choice.diffusers is None else {"model": choice.diffusers, **describe_adapted(choice)}),
            "prompts_sha256": prompts_hash(prompts),
            "sampler": self.sampling.sampler,
            "steps": self.sampling.steps,
            "scale": self.sampling.scale,
            "layout": self.layout,
            "noise": "seed + number of the prompt",
            **{name: value for name in ("height", "width", "precision") if (value := getattr(self.sampling, name))},
        }

    def predicts(self, method: Method) -> bool:
        """Whether the method's images depend on the layout predictor."""
        return method.preset is not None and (method.layout or self.layout) == "predictor"

    def place(self, method: Method, prompt: EvalPrompt) -> Layout:
        """The prompt's layout for this method. UserError for relations that contradict each other."""
        placing = method.layout or self.layout
        if placing == "given":
            return given_layout(prompt)
        if placing == "rule":
            return rule_layout(prompt, self.spread)
        if prompt.text not in self._predicted:
            self._predicted[prompt.text] = self.pipeline.predict_layout(prompt.text)
        return self._predicted[prompt.text]

    def make(
        self, method: Method, prompts: Sequence[str], layouts: Sequence[Layout], seeds: Sequence[int]
    ) -> list[GeneratedImage]:
        """One image a prompt, made together; see `ldm.generation.draw.draw`."""
        sampling = replace(self.sampling, best_of=method.best_of)
        if method.guidance is not None:
            sampling = replace(sampling, scale=method.guidance)
        return draw(self.pipeline, prompts, layouts, seeds, method.preset, sampling)
