"""What a diffusion model's config may say, in typed groups instead of one constructor of thirty arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from ldm.suggest import did_you_mean
from ldm.util import UserError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class NoiseOptions:
    """The forward process (Ho et al. 2020, eq. 2)."""

    timesteps: int = 1000
    beta_schedule: str = "linear"  # linear in sqrt(beta) | cosine | sqrt_linear | sqrt
    linear_start: float = 1e-4
    linear_end: float = 2e-2
    cosine_s: float = 8e-3
    given_betas: Sequence[float] | None = None
    v_posterior: float = 0.0  # 0: posterior variance; 1: beta


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """What the network predicts and how errors count."""

    parameterization: Literal["eps", "x0"] = "eps"
    loss_type: Literal["l1", "l2"] = "l2"
    original_elbo_weight: float = 0.0
    l_simple_weight: float = 1.0
    learn_logvar: bool = False
    logvar_init: float = 0.0
    snr_gamma: float | None = None  # min-SNR weighting (Hang et al. 2023); ours, off as published


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """Sizes, batch entries, averaging."""

    first_stage_key: str = "image"
    image_size: int | Sequence[int] = 256
    channels: int = 3
    conditioning_key: str | None = None
    monitor: str | None = "val/loss"
    use_ema: bool = True
    ema_decay: float = 0.9999
    log_every_t: int = 100
    clip_denoised: bool = True
    scheduler_config: Mapping[str, Any] | None = None
    use_positional_encodings: bool = False  # known to no published model; refused where true
    weight_decay: float = 0.01


@dataclasses.dataclass(frozen=True)
class StartOptions:
    """Weights to begin from."""

    ckpt_path: str | None = None
    ignore_keys: Sequence[str] = ()  # prefixes of names to leave out
    load_only_unet: bool = False  # take the network's weights alone


@dataclasses.dataclass(frozen=True)
class LatentOptions:
    """First stage and conditioning (Rombach et al. 2022, sections 3.1 and 3.3)."""

    num_timesteps_cond: int = 1
    cond_stage_key: str = "image"
    cond_stage_trainable: bool = False
    concat_mode: bool = True
    cond_stage_forward: str | None = None
    scale_factor: float = 1.0
    scale_by_std: bool = False


def take(group: type[T], options: dict[str, Any]) -> T:
    """Move the entries that belong to `group` out of `options` into an instance of it."""
    names = [f.name for f in dataclasses.fields(group)]  # type: ignore[arg-type]
    return group(**{name: options.pop(name) for name in names if name in options})


def refuse_rest(options: Mapping[str, Any], owner: str, *groups: type) -> None:
    """UserError where `options` is not empty, with the nearest name that one of the groups has."""
    if not options:
        return
    known = [f.name for g in groups for f in dataclasses.fields(g)]
    name = next(iter(options))
    raise UserError(f"{owner} knows no config key '{name}'{did_you_mean(name, known)}")
