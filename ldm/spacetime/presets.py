"""Presets: named sets of constants by which the weights come about.

`april-2023` and `iccv-2023` reproduce the published releases; `per-step` is the project's default; `fixed` optimizes
nothing. Change a constant with `dataclasses.replace(PRESETS["per-step"], inner_steps=2)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ldm.errors import UserError
from ldm.modules.encoders.openai_clip import ClipBundle
from ldm.spacetime.control import Blend, SpatialControl
from ldm.spacetime.layout import RADIUS, Layout
from ldm.spacetime.objective import HALF_SIDE, ClipObjective

Mode = Literal["fixed", "per-step", "whole-chain"]
# The constants that only some modes use.
USED_BY: dict[str, tuple[Mode, ...]] = {
    **dict.fromkeys(("shared", "rounds", "gradient_steps"), ("whole-chain",)),
    **dict.fromkeys(("inner_steps", "carry_over", "keep_moments", "first", "last"), ("per-step",)),
    **dict.fromkeys(
        ("learning_rate", "global_weight", "local_weight", "normalize", "half_side"), ("per-step", "whole-chain")
    ),
    "release": ("fixed", "per-step"),
}


# What the constants may be.
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("initial", "scale", "global_weight", "local_weight"), (-1000, 1000)),
    **dict.fromkeys(("first", "last", "release"), (0, 1)),
    **dict.fromkeys(("radius", "half_side"), (1e-3, 10)),
    **dict.fromkeys(("gradient_steps", "inner_steps"), (0, 1000)),
    **{"learning_rate": (0, 1000), "rounds": (1, 1000)},
}


@dataclass(frozen=True)
class Preset:
    """When the weights of the steps move, and by which rule.

    What is optimized is lambda (S, N, B), or (N, B) where it is `shared`; the attention takes w = scale * lambda.

    Raises:
        UserError: one lambda for all steps where each step moves its own.
    """

    name: str
    # "fixed": no gradient; "per-step": within each step, from its predicted x_0; "whole-chain": once a round, from the
    # final image through all steps
    mode: Mode
    blend: Blend  # which attention output the local one is measured against
    initial: float  # lambda before the first update
    learning_rate: float = 0.0  # of Adam with its default betas
    shared: bool = False  # whole-chain: one lambda for all steps
    rounds: int = 1  # whole-chain: passes through the chain
    gradient_steps: int = 0  # whole-chain: the gradient passes through so many of the last steps only; 0 is all of them
    inner_steps: int = 0  # per-step: gradient steps within each denoising step
    initial_per_object: bool = False  # lambda starts at initial / N for an image of N objects
    scale: float = 1.0  # w = scale * lambda
    scale_per_object: bool = False  # w = scale / N * lambda
    global_weight: float = 1.0  # of 1 - cos(image, prompt) in the loss
    local_weight: float = 5.0  # of the sum over objects of 1 - cos(crop, object)
    normalize: bool = True  # CLIP's mean and standard deviation applied to its input
    mask_dtype: torch.dtype = torch.float64  # of the arithmetic at a disc's rim
    clamp: bool = False  # centers moved into [0, 1] for the discs
    share_overlaps: bool = False  # where masks add up to more than 1, they are divided by their sum
    radius: float = RADIUS  # of a disc, as a fraction of the image side
    half_side: float = HALF_SIDE  # of a crop, as a fraction of the image side
    carry_over: bool = True  # per-step: start from the weights of the step before, not from `initial`
    keep_moments: bool = False  # per-step: Adam's state lasts over the steps
    first: float = 0.0  # per-step: optimize from this fraction of the chain on ...
    last: float = 1.0  # ... up to this one; other steps take the weights as they are
    release: float = 1.0  # fixed, per-step: from this fraction of the chain on the weights are 0, the sampling is plain

    def __post_init__(self) -> None:
        for name, (least, most) in RANGES.items():
            if not least <= getattr(self, name) <= most:
                raise UserError(f"{name} of a preset must be from {least:g} to {most:g}, not {getattr(self, name)}")
        if self.shared and self.mode == "per-step":
            raise UserError(
                f"the preset {self.name} has no weights that all steps share; take iccv-2023 or april-2023, "
                "or a small last (0.04), after which the weights of the first steps stay"
            )

    def ignores(self, constant: str) -> bool:
        """Whether the constant of that name changes nothing."""
        return self.mode not in USED_BY.get(constant, (self.mode,))

    def adapt(self, control: SpatialControl) -> SpatialControl:
        """The control with this preset's blend and masks."""
        names = ("blend", "mask_dtype", "clamp", "share_overlaps", "radius")
        return replace(control, **{name: getattr(self, name) for name in names})

    @property
    def passes(self) -> int:
        """How often the whole chain is sampled."""
        return self.rounds if self.mode == "whole-chain" else 1

    def optimizes(self, layouts: Sequence[Layout]) -> bool:
        """Whether the weight of any object moves, so that an objective is needed."""
        return self.mode != "fixed" and any(thing.optimize for layout in layouts for thing in layout.objects)

    def objective(self, clip: ClipBundle, prompts: Sequence[str], layouts: Sequence[Layout]) -> ClipObjective:
        """The loss with this preset's constants; a prompt and a layout per image."""
        return ClipObjective(
            clip,
            prompts,
            layouts,
            normalize=self.normalize,
            global_weight=self.global_weight,
            local_weight=self.local_weight,
            half_side=self.half_side,
        )

    def initial_weights(self, present: Tensor, layouts: Sequence[Layout] = ()) -> Tensor:
        """lambda (N, B) float32 to start from: `initial`, or w / scale for an object of a layout with a weight w.

        Args:
            present: (N, B) bool.
            layouts: one per image, or none.
        """
        weights = torch.full(present.shape, self.initial) / _count(present, self.initial_per_object)
        scales = self.scales(present)
        for b, layout in enumerate(layouts):
            for i, entry in enumerate(layout.objects):
                if entry.weight is not None:
                    weights[i, b] = entry.weight / scales[i, b]
        return weights

    def scales(self, present: Tensor) -> Tensor:
        """Factors (N, B) float32 with w = factor * lambda; present (N, B) bool."""
        return torch.full(present.shape, self.scale) / _count(present, self.scale_per_object)

    def moves(self, index: int, total: int) -> bool:
        """Whether the weights of step `index` of `total` are optimized (per-step)."""
        return self.first * total <= index < self.last * total and self.holds(index, total)

    def holds(self, index: int, total: int) -> bool:
        """Whether step `index` of `total` is controlled at all (per-step)."""
        return index < self.release * total


def _count(present: Tensor, per_object: bool) -> Tensor:
    """(B,) number of objects of each image, at least 1; ones unless `per_object`."""
    count = present.sum(0).clamp(min=1) if per_object else torch.ones(present.shape[1])
    return count.to(torch.float32)


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="per-step",
            mode="per-step",
            # All of these were chosen on the emoji world (docs). The blend is that of the ICCV release: the paper's
            # equation, "conditional", puts fewer objects where they should be at any weight tried.
            blend="unconditional",
            initial=1.5,
            learning_rate=0.3,
            inner_steps=1,
            last=0.3,
            release=0.3,
        ),
        Preset(
            name="april-2023",
            mode="whole-chain",
            blend="conditional",
            initial=0.5,
            learning_rate=0.05,
            rounds=20,
            scale=8.0,
            scale_per_object=True,
            global_weight=0.0,
            normalize=False,
            clamp=True,
        ),
        Preset(
            name="iccv-2023",
            mode="whole-chain",
            blend="unconditional",
            initial=5.0,
            initial_per_object=True,
            learning_rate=0.005,
            rounds=3,
            normalize=False,
            mask_dtype=torch.float32,
        ),
        Preset(name="fixed", mode="fixed", blend="conditional", initial=1.0),
    )
}
