"""What a diffusion model's config may say, in typed groups instead of one constructor of thirty arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from ldm.arguments import Count, Fraction, Range, Weight, wrong_value
from ldm.suggest import did_you_mean
from ldm.util import UserError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class NoiseOptions:
    """The forward process (Ho et al. 2020, eq. 2)."""

    timesteps: Annotated[int, Range(1, 100_000)] = 1000
    beta_schedule: str = "linear"  # linear in sqrt(beta) | cosine | sqrt_linear | sqrt
    linear_start: Fraction = 1e-4
    linear_end: Fraction = 2e-2
    cosine_s: Fraction = 8e-3
    given_betas: Sequence[float] | None = None
    v_posterior: Fraction = 0.0  # 0: posterior variance; 1: beta


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """What the network predicts and how errors count."""

    parameterization: Literal["eps", "x0"] = "eps"
    loss_type: Literal["l1", "l2"] = "l2"
    original_elbo_weight: Weight = 0.0
    l_simple_weight: Weight = 1.0
    learn_logvar: bool = False
    logvar_init: float = 0.0
    snr_gamma: Weight | None = None  # min-SNR weighting (Hang et al. 2023); ours, off as published


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """Sizes, batch entries, averaging."""

    first_stage_key: str = "image"
    image_size: Count | Sequence[Count] = 256
    channels: Count = 3
    conditioning_key: str | None = None
    monitor: str | None = "val/loss"
    use_ema: bool = True
    ema_decay: Fraction = 0.9999
    log_every_t: Count = 100
    clip_denoised: bool = True
    scheduler_config: Mapping[str, Any] | None = None
    use_positional_encodings: bool = False  # known to no published model; refused where true
    weight_decay: Weight = 0.01


@dataclasses.dataclass(frozen=True)
class StartOptions:
    """Weights to begin from."""

    ckpt_path: str | None = None
    ignore_keys: Sequence[str] = ()  # prefixes of names to leave out
    load_only_unet: bool = False  # take the network's weights alone


@dataclasses.dataclass(frozen=True)
class LatentOptions:
    """First stage and conditioning (Rombach et al. 2022, sections 3.1 and 3.3)."""

    num_timesteps_cond: Count = 1
    cond_stage_key: str = "image"
    cond_stage_trainable: bool = False
    concat_mode: bool = True
    cond_stage_forward: str | None = None
    scale_factor: float = 1.0
    scale_by_std: bool = False


def take(group: type[T], options: dict[str, Any]) -> T:
    """Move the entries that belong to `group` out of `options` into an instance of it."""
    names = [f.name for f in dataclasses.fields(group)]  # type: ignore[arg-type]
    given = {name: options.pop(name) for name in names if name in options}
    if wrong := wrong_value(group, given):
        raise UserError(f"the diffusion model's {wrong}")
    return group(**given)


def refuse_rest(options: Mapping[str, Any], owner: str, *groups: type) -> None:
    """UserError where `options` is not empty, with the nearest name that one of the groups has."""
    if not options:
        return
    known = [f.name for g in groups for f in dataclasses.fields(g)]
    name = next(iter(options))
    raise UserError(f"{owner} knows no config key '{name}'{did_you_mean(name, known)}")
