"""The ways of choosing the weights that `bench/steps.py` compares."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ldm.evaluation.run.methods import parse_method
from ldm.spacetime.presets import PRESETS, Preset

# Weights that are held to the last step, from 1, as the default's were on an earlier model.
STEPWISE = replace(PRESETS["per-step"], initial=1.0, learning_rate=0.1, inner_steps=1, last=0.3, release=1.0)
HELD = replace(STEPWISE, mode="fixed", learning_rate=0.0, inner_steps=0, last=1.0)
WHOLE = replace(STEPWISE, mode="whole-chain", inner_steps=0, last=1.0)
_BY = "blend=unconditional"
# Methods of scripts/evaluate.py: what the constants of the default were chosen from.
SETTINGS = (
    *(f"fixed:weight={weight},{_BY}" for weight in (0.5, 0.75, 1.5, 2, 3)),
    *(f"fixed:weight=1,{_BY},radius={radius}" for radius in (0.15, 0.25, 0.3)),
    *(f"fixed:weight=1,{_BY},until={until}" for until in (0.6, 0.8)),
    *(f"fixed:weight={weight}" for weight in (1, 2, 4)),
    "fixed:weight=6,until=0.12",
    f"fixed:weight=1.5,{_BY},until=0.6",
    f"fixed:weight=1,{_BY},radius=0.25,until=0.6",
    *(f"fixed:weight={weight},{_BY},until={until}" for weight in (1, 1.5, 2) for until in (0.2, 0.3, 0.4)),
    *(
        f"per-step:initial={weight},learning_rate={rate},last={until},release={until}"
        for weight in (1, 1.5, 2)
        for until in (0.2, 0.3, 0.4)
        for rate in (0.1, 0.3)
    ),
    *(f"per-step:initial={weight},learning_rate=0.3,last=0.6,release=0.6" for weight in (1, 1.5, 2)),
    *(f"per-step:initial={weight},learning_rate=0.3,inner_steps=3,last=0.3,release=0.3" for weight in (1, 1.5, 2)),
)


@dataclass(frozen=True)
class Variant:
    """A way of choosing the weights.

    Attributes:
        ahead: jumps of DDIM from the present step towards 0, whose last predicted x_0 the loss looks at.
        attention: the loss is the share of the words' attention that lies outside their regions, not CLIP's.
        sign: -1 goes up the gradient; what it loses shows what the gradient is worth.
    """

    preset: Preset | None
    ahead: int = 0
    attention: bool = False
    sign: float = 1.0
    best_of: int = 1


def _per_step(**changes: Any) -> Preset:
    return replace(STEPWISE, **changes)


VARIANTS: dict[str, Variant] = {
    "plain": Variant(None),
    "weights held at 1": Variant(HELD),
    "held, best of 2": Variant(HELD, best_of=2),
    "held, best of 4": Variant(HELD, best_of=4),
    **{
        f"CLIP, lr {rate:g}{', up' * (sign < 0)}": Variant(_per_step(learning_rate=rate), sign=sign)
        for rate in (0.1, 0.3, 1.0)
        for sign in (1.0, -1.0)
    },
    "CLIP, lr 0.3, 5 inner steps": Variant(_per_step(learning_rate=0.3, inner_steps=5)),
    **{
        f"CLIP, all steps, lr {rate:g}{', up' * (sign < 0)}": Variant(
            _per_step(learning_rate=rate, last=1.0), sign=sign
        )
        for rate in (0.3, 1.0)
        for sign in (1.0, -1.0)
    },
    **{
        f"{ahead} steps ahead, lr {rate:g}{', up' * (sign < 0)}": Variant(
            _per_step(learning_rate=rate), ahead=ahead, sign=sign
        )
        for ahead, rate in ((2, 0.3), (4, 0.3), (4, 1.0), (8, 0.3))
        for sign in (1.0, -1.0)
    },
    **{
        f"attention, lr {rate:g}{', all steps' * (last == 1.0)}{', up' * (sign < 0)}": Variant(
            _per_step(learning_rate=rate, last=last), attention=True, sign=sign
        )
        for rate, last in ((0.3, 0.3), (1.0, 0.3), (0.3, 1.0))
        for sign in (1.0, -1.0)
    },
    **{
        f"whole chain, {rounds} rounds, lr {rate:g}{', up' * (sign < 0)}": Variant(
            replace(WHOLE, rounds=rounds, learning_rate=rate), sign=sign
        )
        for rounds, rate in ((3, 0.1), (3, 0.3), (6, 0.3))
        for sign in (1.0, -1.0)
    },
    # As the default, which lets go after the first 30% of the steps.
    "released, CLIP, up": Variant(PRESETS["per-step"], sign=-1.0),
    "released, 4 steps ahead": Variant(PRESETS["per-step"], ahead=4),
    "released, attention": Variant(PRESETS["per-step"], attention=True),
    "released, attention, up": Variant(PRESETS["per-step"], attention=True, sign=-1.0),
    **{name: Variant(PRESETS[name]) for name in ("iccv-2023", "april-2023")},
}


def variant_of(name: str) -> Variant:
    """One of `VARIANTS`, or a method of `scripts/evaluate.py`."""
    if name in VARIANTS:
        return VARIANTS[name]
    method = parse_method(name)
    return Variant(method.preset, best_of=method.best_of)
