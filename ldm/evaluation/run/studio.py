"""What a run makes: an image with its weights and losses, and layouts by predictor or rule, loaded when needed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm.evaluation.methods import Method, Placing
from ldm.evaluation.promptfiles import EvalPrompt, EvalRelation, prompts_hash
from ldm.evaluation.runner import ImageArray, Sampling, generate_images, optimized
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.util import UserError

if TYPE_CHECKING:
    from ldm.generation.pipeline import ModelChoice, Pipeline


@dataclass
class Made:
    """An image (H, W, 3), the weights by step and object, and the losses by name in the order of evaluation."""

    image: ImageArray
    weights: list[list[float]] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=dict)


def make(
    pipeline: Pipeline,
    method: Method,
    prompts: Sequence[str],
    layouts: Sequence[Layout],
    seeds: Sequence[int],
    sampling: Sampling,
) -> list[Made]:
    """One image a prompt, made together; see :func:`ldm.evaluation.runner.generate_images`.

    Prompts without objects are sampled plainly whatever the method, with its guidance.
    """
    if method.preset is None or not any(layout.objects for layout in layouts):
        plain = replace(method, preset=None)
        return [Made(image) for image in generate_images(pipeline, plain, prompts, layouts, seeds, sampling)]
    from ldm.generation.images import to_images

    result = optimized(pipeline, method, prompts, layouts, seeds, sampling)
    made = []
    for number, image in enumerate(to_images(result.images)):
        objects = len(layouts[number].objects)
        weights = result.weights[:, :objects, number].detach().cpu().tolist()  # (S, N)
        made.append(Made(image, weights, _losses(result.history, number, objects)))
    return made


class Studio:
    """The models of a run, loaded at the first image, and what identifies them.

    Args:
        layout: who gives the centers where a method does not say it.
        clip, predictor: files that replace the model's own.

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
    ) -> None:
        for flag, path in (("--clip", clip), ("--predictor", predictor)):
            if path is not None and not path.is_file():
                raise UserError(f"{flag} {path} is not a file; give the path of one that exists")
        self.choice, self.sampling, self.layout = choice, sampling, layout
        self.clip, self.predictor, self.device = clip, predictor, device
        self._predicted: dict[str, Layout] = {}

    @cached_property
    def pipeline(self) -> Pipeline:
        """The loaded models."""
        from ldm.generation.pipeline import load_pipeline

        return load_pipeline(self.choice, device=self.device, clip=self.clip, predictor=self.predictor)

    def settings(self, prompts: Sequence[EvalPrompt]) -> dict[str, Any]:
        """What all images of a run share."""
        from layout_predictor.inference.checkpoints import DEFAULT_WEIGHTS
        from ldm.generation.images import file_hash

        predictor = self.predictor or DEFAULT_WEIGHTS
        named = {"model": self.choice.ckpt, "clip": self.clip, "predictor": predictor if predictor.is_file() else None}
        return {
            **{f"{key}_sha256": file_hash(path) for key, path in named.items() if path is not None},
            "prompts_sha256": prompts_hash(prompts),
            "sampler": "plms",
            "steps": self.sampling.steps,
            "scale": self.sampling.scale,
            "layout": self.layout,
            "noise": "seed + number of the prompt",
        }

    def place(self, method: Method, prompt: EvalPrompt) -> Layout:
        """The prompt's layout for this method. UserError for directions that contradict each other."""
        if (method.layout or self.layout) == "rule":
            return rule_layout(prompt)
        if prompt.text not in self._predicted:
            self._predicted[prompt.text] = self.pipeline.predict_layout(prompt.text)
        return self._predicted[prompt.text]

    def make(
        self, method: Method, prompts: Sequence[str], layouts: Sequence[Layout], seeds: Sequence[int]
    ) -> list[Made]:
        """See :func:`make`."""
        return make(self.pipeline, method, prompts, layouts, seeds, self.sampling)


def _losses(history: Sequence[dict[str, Any]], number: int, objects: int) -> dict[str, list[float]]:
    """The losses of image `number` of a batch, by name; without those of objects that only others of it have."""
    padding = re.compile(r"local_(\d+)")
    curves: dict[str, list[float]] = {}
    for entry in history:
        for name, values in entry["loss"].items():
            found = padding.fullmatch(name)
            if found is None or int(found[1]) < objects:
                curves.setdefault(name, []).append(float(values[number]))
    return curves


def rule_layout(prompt: EvalPrompt) -> Layout:
    """Centers that obey every stated direction: columns by left and right, rows by above and below.

    Objects that no direction separates stand side by side in their cell, in the order of the prompt.

    Raises:
        UserError: the directions contradict each other.
    """
    count = len(prompt.objects)
    columns = _levels(count, prompt, "left", "right")
    rows = _levels(count, prompt, "above", "below")
    objects = []
    for number, item in enumerate(prompt.objects):
        cell = [i for i in range(count) if (columns[i], rows[i]) == (columns[number], rows[number])]
        x = (columns[number] + (cell.index(number) + 0.5) / len(cell)) / (max(columns) + 1)
        y = (rows[number] + 0.5) / (max(rows) + 1)
        objects.append(LayoutObject(item.phrase, round(x, 4), round(y, 4), name=item.name))
    return Layout(tuple(objects), prompt.text)


def _levels(count: int, prompt: EvalPrompt, before: str, after: str) -> list[int]:
    """For every object how many others must come before it along one axis: the longest chain of relations."""
    levels = [0] * count
    chains = [_ordered(relation, before) for relation in prompt.relations if relation.direction in (before, after)]
    for _ in range(count + 1):
        changed = False
        for low, high in chains:
            if levels[high] <= levels[low]:
                levels[high], changed = levels[low] + 1, True
        if not changed:
            return levels
    raise UserError(f"the relations of '{prompt.text}' contradict each other; correct the prompt file")


def _ordered(relation: EvalRelation, before: str) -> tuple[int, int]:
    same = relation.direction == before
    return (relation.first, relation.second) if same else (relation.second, relation.first)
