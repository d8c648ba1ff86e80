"""Whether the gradient steps on the weights help, and why or why not: the embedded model on its choosing prompts.

`variants` draws the prompts by every way of choosing weights that is to be compared; `seen` asks from which step on
CLIP can tell what will be there; `moves` lays the gradient at a step beside what changing that weight does in the end.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.variants import HELD, SETTINGS, STEPWISE, VARIANTS, WHOLE, Variant, variant_of
from ldm.categories import NAMES
from ldm.errors import UserError
from ldm.evaluation.prompts.files import read_prompt_file
from ldm.evaluation.prompts.prompt import EvalPrompt, rule_layout
from ldm.evaluation.score.detectors import EmojiBoxes
from ldm.evaluation.score.judge import Judges, look
from ldm.evaluation.score.metrics import counts
from ldm.generation.chain import start_chain
from ldm.generation.draw import GeneratedImage, best_of, contexts, latent_shape
from ldm.generation.images import to_images
from ldm.generation.pipeline import Pipeline, choose_model, load_pipeline
from ldm.generation.settings import Sampling, fit_to_model
from ldm.models.detector import load_detector
from ldm.models.diffusion.sampler import Sampler
from ldm.models.diffusion.sampling import Step, WeightedEpsFn, full_timesteps, predict_x0
from ldm.modules.attention import CrossAttention
from ldm.modules.encoders.tokenizer import split_words
from ldm.paths import EMOJI_CONFIG, project_file
from ldm.spacetime.control import SpatialControl
from ldm.spacetime.layout import Layout
from ldm.spacetime.objective import ClipObjective
from ldm.spacetime.optimize import Result, optimize

logger = logging.getLogger(__name__)
SETS = ("choose-gpt", "choose-many")
COUNT, SEED, STEPS, SCALE = 100, 1000, 25, 5.0
LOOKED_AT = (0, 1, 2, 3, 4, 6, 8, 12, 16, 20)  # steps at which a weight is changed by `moves`
LESS, MORE = 0.0, 3.0  # what it is changed to, from 1


@dataclass(frozen=True)
class Scene:
    """A prompt with its place in its file and its layout by rule."""

    number: int
    entry: EvalPrompt
    layout: Layout


@cache
def scenes(name: str, count: int) -> tuple[Scene, ...]:
    """The first prompts of a set whose relations a layout can obey."""
    found = []
    for number, entry in enumerate(read_prompt_file(project_file(Path("data/prompts") / f"{name}.txt"))[:count]):
        try:
            found.append(Scene(number, entry, rule_layout(entry)))
        except UserError:
            continue
    return tuple(found)


def measure(device: str | None) -> dict[str, Any]:
    """All three parts; a quarter of an hour on a card, a day on a core."""
    pipeline = pipeline_on(device)
    return {"variants": variants(pipeline), "seen": seen(pipeline), "moves": moves(pipeline)}


def pipeline_on(device: str | None) -> Pipeline:
    """The embedded model."""
    return load_pipeline(choose_model(project_file(EMOJI_CONFIG)), device=device)


# ------------------------------------------------------------------------------------------------ drawing


def run(
    pipeline: Pipeline, batch: Sequence[Scene], variant: Variant, weights: Tensor | None = None, shift: int = 0
) -> tuple[Tensor, Result | None, list[Tensor]]:
    """Images (B, 3, H, W) in [0, 1], how their weights came about, and the latents that each step predicts.

    Args:
        weights: (S, N, B) that the steps take, with a preset that moves none.
        shift: added to the seeds.
    """
    backend = pipeline.backend
    sampling = fit_to_model(Sampling(sampler="plms", steps=STEPS, scale=SCALE), backend)
    seeds = [SEED + shift + scene.number for scene in batch]
    texts, layouts = [scene.entry.text for scene in batch], [scene.layout for scene in batch]
    predicted: list[Tensor] = []
    sampler, chain = start_chain(backend, sampling, seeds, latent_shape(backend, sampling), preset=variant.preset)
    assert sampling.height and sampling.width
    chain |= contexts(backend, texts, [""] * len(batch), (sampling.height, sampling.width))
    chain["on_step"] = lambda state: predicted.append(state["pred_x0"])
    preset = variant.preset
    if preset is None:
        with torch.no_grad():
            return backend.decode(sampler.sample(**chain)[0]), None, predicted
    with torch.no_grad():
        control = SpatialControl.build(layouts, backend.encode)
    if weights is not None:
        with torch.no_grad():
            acting = preset.adapt(control)
            return backend.decode(sampler.sample(**chain, control=acting, weights=weights)[0]), None, predicted
    if variant.ahead:
        sampler.predicted_x0 = partial(look_ahead, variant.ahead, sampler)  # type: ignore[method-assign]
    clip = preset.objective(pipeline.clip, texts, layouts) if preset.optimizes(layouts) else None
    with ExitStack() as stack:
        objective: Any = clip
        if variant.attention:
            objective = stack.enter_context(attention_loss(pipeline, batch, preset.adapt(control)))
        if variant.sign < 0:
            objective = partial(_negative, objective)
        result = optimize(backend, sampler, control, objective, preset, **chain)
    return result.images, result, predicted


def _negative(objective: Any, images: Tensor) -> dict[str, Tensor]:
    losses = objective(images)
    return {**losses, "total": -losses["total"]}


def look_ahead(
    jumps: int, sampler: Sampler, eps_fn: WeightedEpsFn, x: Tensor, step: Step, weights: Tensor | None
) -> Tensor:
    """x_0 predicted after so many jumps of DDIM towards it, all with these weights."""
    alpha, eps = step.alpha, eps_fn(x, step.timesteps(x), weights)
    for jump in range(1, jumps + 1):
        t = int(step.t * (1 - jump / (jumps + 1)))
        after = float(sampler.model.alphas_cumprod[t])
        x = after**0.5 * predict_x0(x, eps, alpha) + (1 - after) ** 0.5 * eps
        alpha, eps = after, eps_fn(x, full_timesteps(t, x), weights)
    return predict_x0(x, eps, alpha)


@contextmanager
def attention_loss(pipeline: Pipeline, batch: Sequence[Scene], control: SpatialControl) -> Iterator[Any]:
    """An objective: the sum over objects of the squared share of its words' attention outside its region.

    It is taken in every cross-attention of the prompt's rows, in the call of the U-Net before.
    """
    context = pipeline.backend.encode([""])
    words = torch.zeros(control.num_objects, len(batch), context.shape[1], device=context.device)  # (N, B, L)
    for b, scene in enumerate(batch):
        said = split_words(scene.entry.text)
        for i, thing in enumerate(scene.layout.objects):
            name = split_words(thing.name or thing.phrase)
            for first in range(len(said) - len(name) + 1):
                if said[first : first + len(name)] == name:
                    words[i, b, first + 1 : first + 1 + len(name)] = 1.0  # the text begins with a mark
    found: list[Tensor] = []

    def watch(layer: Any, arguments: tuple[Any, ...]) -> None:
        if not torch.is_grad_enabled() or len(arguments) < 2:
            return
        q, k = (
            project(value[-len(batch) :]).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
            for project, value in ((layer.to_q, arguments[0]), (layer.to_k, arguments[1]))
        )
        attention = (q @ k.transpose(-1, -2) * layer.scale).softmax(-1).mean(1)  # (B, P, L)
        side = round(attention.shape[1] ** 0.5)
        of_words = torch.einsum("bpl,nbl->nbp", attention, words)
        inside = (of_words * control.masks(side, side)).sum(-1) / of_words.sum(-1).clamp(min=1e-6)  # (N, B)
        found.append(((1 - inside) ** 2 * (words.sum(-1) > 0)).sum(0))

    def objective(_: Tensor) -> dict[str, Tensor]:
        total = torch.stack(found).mean(0)
        found.clear()
        return {"total": total}

    layers = [m for name, m in pipeline.backend.model.named_modules() if name.endswith("attn2")]
    assert layers and all(isinstance(layer, CrossAttention) for layer in layers)
    hooks = [layer.register_forward_pre_hook(watch) for layer in layers]
    try:
        yield objective
    finally:
        for hook in hooks:
            hook.remove()


# ----------------------------------------------------------------------------------------------- measuring


def variants(
    pipeline: Pipeline, names: Sequence[str] = (*VARIANTS, *SETTINGS), count: int = COUNT
) -> list[dict[str, Any]]:
    """A row per variant and set: [hits, total] of both ratios, and the mean CLIP loss of the images."""
    judges, rows = Judges(EmojiBoxes()), list[dict[str, Any]]()
    for name in names:
        variant = variant_of(name)
        for set_ in SETS:
            batch = scenes(set_, count)
            tried = [_drawn(pipeline, batch, variant, shift) for shift in range(variant.best_of)]
            kept = [best_of(pipeline, list(images), variant.preset) for images in zip(*tried, strict=True)]
            loss = _loss(pipeline, batch)
            with torch.no_grad():
                losses = loss(_pixels(kept, pipeline.device))["total"]
            facts = [look(one.image, scene.entry, judges)[1] for one, scene in zip(kept, batch, strict=True)]
            found = [counts(one) for one in facts]
            row: dict[str, Any] = {"variant": name, "set": set_, "images": len(batch), "loss": float(losses.mean())}
            for ratio in ("object_recall", "relation"):
                row[ratio] = [sum(one[ratio][part] for one in found) for part in (0, 1)]
            rows.append(row)
            logger.info("%s", row)
    return rows


def _drawn(pipeline: Pipeline, batch: Sequence[Scene], variant: Variant, shift: int) -> list[GeneratedImage]:
    images = to_images(run(pipeline, batch, variant, shift=shift)[0])
    return [
        GeneratedImage(scene.entry.text, SEED + scene.number + shift, scene.layout, image)
        for scene, image in zip(batch, images, strict=True)
    ]


def _loss(pipeline: Pipeline, batch: Sequence[Scene]) -> ClipObjective:
    """CLIP's loss on images of these prompts and layouts, the same for every variant."""
    return STEPWISE.objective(pipeline.clip, [s.entry.text for s in batch], [s.layout for s in batch])


def _pixels(images: Sequence[GeneratedImage], device: torch.device) -> Tensor:
    return torch.stack([torch.from_numpy(one.image).permute(2, 0, 1) for one in images]).to(device).float() / 255


def seen(pipeline: Pipeline, count: int = COUNT) -> list[dict[str, Any]]:
    """By step, how well the loss of an object's crop in the predicted image tells whether it will be found.

    "auc" is the share of pairs (an object that is found, one that isn't) in which the first has the lower loss;
    1/2 is chance. Weights are held at 1.
    """
    judges, rows = Judges(EmojiBoxes()), []
    for set_ in SETS:
        batch = scenes(set_, count)
        images, _, predicted = run(pipeline, batch, VARIANTS["weights held at 1"])
        facts = [look(one, scene.entry, judges)[1] for one, scene in zip(to_images(images), batch, strict=True)]
        loss = _loss(pipeline, batch)
        for step, latents in enumerate(predicted):
            with torch.no_grad():
                found = loss(pipeline.backend.decode(latents))
            groups: dict[bool, list[float]] = {True: [], False: []}
            for b, one in enumerate(facts):
                for i, is_there in enumerate(one.found):
                    groups[is_there].append(float(found[f"local_{i}"][b]))
            there, lacking = (torch.tensor(groups[key]) for key in (True, False))
            below = (there[:, None] < lacking[None]).float() + 0.5 * (there[:, None] == lacking[None]).float()
            row = {"set": set_, "step": step, "found": len(there), "not": len(lacking), "auc": float(below.mean())}
            rows.append(row)
    return rows


def moves(pipeline: Pipeline, count: int = COUNT) -> list[dict[str, Any]]:
    """By step: what changing an object's weight there from 0 to 3 does to the image, and whether gradients foretell it.

    "decided": the share of images in which the object's presence (the detector's largest heat for it) changes by more
    than 0.2. "per-step" and "whole chain": the correlation of the gradient at weight 1, of the loss on that step's
    prediction and on the final image, with the change of the final loss ("loss") and of the presence ("presence",
    with the sign turned, so that 1 is a perfect guide); "agree" is the share of decided images of the right sign.
    """
    detector = load_detector().to(pipeline.device)
    batch = scenes("choose-many", count)
    which = torch.tensor([scene.number % len(scene.layout.objects) for scene in batch], device=pipeline.device)
    label = torch.tensor([NAMES.index(s.entry.names[i]) for s, i in zip(batch, which.tolist(), strict=True)])
    rows_, label = torch.arange(len(batch), device=pipeline.device), label.to(pipeline.device)
    still = replace(STEPWISE, learning_rate=0.0, last=1.0)  # both chains are those of the weights at 1
    loss = _loss(pipeline, batch)
    local = run(pipeline, batch, Variant(still))[1]
    whole = run(pipeline, batch, Variant(replace(WHOLE, learning_rate=0.0)))[1]
    assert local is not None and whole is not None
    ones = torch.ones(STEPS, local.weights.shape[1], len(batch), device=pipeline.device)

    @torch.no_grad()
    def finish(step: int, value: float) -> tuple[Tensor, Tensor]:
        weights = ones.clone()
        weights[step, which, rows_] = value
        images = run(pipeline, batch, Variant(HELD), weights)[0]
        heat = detector(images)[0].sigmoid().flatten(2).amax(2)  # (B, categories)
        return loss(images)["total"], heat[rows_, label]

    found = []
    for step in LOOKED_AT:
        (less, absent), (more, there) = finish(step, LESS), finish(step, MORE)
        change, presence = more - less, there - absent
        decided = presence.abs() > 0.2
        row: dict[str, Any] = {
            "step": step,
            "images": len(batch),
            "decided": int(decided.sum()),
            "more": int((decided & (presence > 0)).sum()),
        }
        for name, gradient in (
            ("per-step", local.history[step]["grad"].to(change)),
            ("whole chain", whole.history[0]["grad"][step].to(change)),
        ):
            own = gradient[which, rows_]
            agree = ((own < 0) == (presence > 0)) & decided
            row[name] = {
                "loss": _correlation(own, change),
                "presence": _correlation(-own, presence),
                "agree": int(agree.sum()),
            }
        found.append(row)
    return found


def _correlation(a: Tensor, b: Tensor) -> float:
    """Of ranks (Spearman)."""
    ranks = torch.stack([a, b]).argsort(1).argsort(1).double()
    return float(torch.corrcoef(ranks)[0, 1])
