"""Denoising diffusion (Ho et al. 2020): the noise process, how a condition enters the network, and training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from ldm.models.diffusion.ancestral import AncestralSampling
from ldm.models.diffusion.options import LossOptions, ModelOptions, NoiseOptions, StartOptions, refuse_rest, take
from ldm.models.training import AfterStep, images_of, scheduled
from ldm.modules.diffusionmodules.util import extract_into_tensor, make_beta_schedule
from ldm.modules.ema import LitEma
from ldm.util import UserError, instantiate_from_config, load_into, load_state_dict


def noise_buffers(noise: NoiseOptions, loss: LossOptions) -> dict[str, Tensor]:
    """Every constant of the process and its posterior, each (timesteps,) float32, by its published name."""
    if noise.given_betas is not None:
        betas = np.asarray(noise.given_betas, dtype=np.float64)
    else:
        betas = make_beta_schedule(
            noise.beta_schedule, noise.timesteps, noise.linear_start, noise.linear_end, noise.cosine_s
        )
    alphas = 1.0 - betas
    acp = np.cumprod(alphas)
    previous = np.append(1.0, acp[:-1])
    variance = (1 - noise.v_posterior) * betas * (1.0 - previous) / (1.0 - acp) + noise.v_posterior * betas
    with np.errstate(divide="ignore"):
        if loss.parameterization == "eps":
            vlb = betas**2 / (2 * variance * alphas * (1 - acp))
        else:  # the published formula: the denominator is 2 - acp
            vlb = 0.5 * np.sqrt(acp) / (2.0 - acp)
    vlb[0] = vlb[1]  # the first posterior variance is zero
    values = {
        "betas": betas,
        "alphas_cumprod": acp,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": np.sqrt(acp),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1.0 - acp),
        "log_one_minus_alphas_cumprod": np.log(1.0 - acp),
        "sqrt_recip_alphas_cumprod": np.sqrt(1.0 / acp),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1.0 / acp - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(previous) / (1.0 - acp),
        "posterior_mean_coef2": (1.0 - previous) * np.sqrt(alphas) / (1.0 - acp),
        "lvlb_weights": vlb,
    }
    # device="cpu": these must have values even while the model is built on the meta device.
    return {k: torch.tensor(v, dtype=torch.float32, device="cpu") for k, v in values.items()}


class DiffusionWrapper(nn.Module):
    """The network, and how a condition enters it.

    A condition enters by `conditioning_key`: "concat", joined to the channels; "crossattn", as context; "hybrid", both;
    "adm", as class vector ``y``; None, not at all.
    """

    def __init__(self, diff_model_config: Mapping[str, Any], conditioning_key: str | None) -> None:
        super().__init__()
        if conditioning_key not in (None, "concat", "crossattn", "hybrid", "adm"):
            raise UserError(f"conditioning_key '{conditioning_key}' is none of concat, crossattn, hybrid, adm, null")
        self.diffusion_model = instantiate_from_config(diff_model_config)
        self.conditioning_key = conditioning_key

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: Sequence[Tensor] | None = None,
        c_crossattn: Sequence[Tensor] | None = None,
        control: Any = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """x (B, C, H, W), t (B,); lists of (B, C', H, W) and of (B, L, D); `control` goes to the attention."""
        key = self.conditioning_key
        if key in ("concat", "hybrid"):
            x = torch.cat([x, *(c_concat or ())], dim=1)
        kwargs: dict[str, Any] = {}
        if key in ("crossattn", "hybrid"):
            contexts = list(c_crossattn or ())
            # The same tensor at every step, so that what is computed from it can be kept.
            kwargs["context"] = contexts[0] if len(contexts) == 1 else torch.cat(contexts, dim=1)
        elif key == "adm":
            kwargs["y"] = (c_crossattn or (None,))[0]
        if control is not None:
            if key not in ("crossattn", "hybrid"):
                raise UserError("spatial control needs a model that is conditioned by cross-attention")
            kwargs.update(control=control, weights=weights)
        return self.diffusion_model(x, t, **kwargs)


class DDPM(AncestralSampling, pl.LightningModule):
    """Gaussian diffusion in pixel space; options as in :mod:`ldm.models.diffusion.options`."""

    betas: Tensor
    alphas_cumprod: Tensor
    alphas_cumprod_prev: Tensor
    sqrt_alphas_cumprod: Tensor
    sqrt_one_minus_alphas_cumprod: Tensor
    sqrt_recip_alphas_cumprod: Tensor
    sqrt_recipm1_alphas_cumprod: Tensor
    posterior_log_variance_clipped: Tensor
    posterior_mean_coef1: Tensor
    posterior_mean_coef2: Tensor
    lvlb_weights: Tensor
    logvar: Tensor

    groups: tuple[type, ...] = (NoiseOptions, LossOptions, ModelOptions, StartOptions)

    def __init__(self, unet_config: Mapping[str, Any], **options: Any) -> None:
        super().__init__()
        self.noise = take(NoiseOptions, options)
        self.objective = take(LossOptions, options)
        self.options = take(ModelOptions, options)
        start = take(StartOptions, options)
        refuse_rest(options, type(self).__name__, *self.groups)
        if self.objective.parameterization not in ("eps", "x0"):
            raise UserError(f"parameterization '{self.objective.parameterization}' is neither eps nor x0")
        if self.objective.loss_type not in ("l1", "l2"):
            raise UserError(f"loss_type '{self.objective.loss_type}' is neither l1 nor l2")
        if self.options.use_positional_encodings:
            raise UserError("use_positional_encodings is not supported; no published model has them, leave it out")
        # Names that other programs read.
        self.parameterization = self.objective.parameterization
        self.image_size, self.channels = self.options.image_size, self.options.channels
        self.first_stage_key, self.monitor = self.options.first_stage_key, self.options.monitor
        self.log_every_t, self.clip_denoised = self.options.log_every_t, self.options.clip_denoised
        self.use_ema, self.learning_rate = self.options.use_ema, 1e-4
        self._register_buffers()
        self.model = DiffusionWrapper(unet_config, self.options.conditioning_key)
        if self.use_ema:
            self.model_ema = LitEma(self.model, self.options.ema_decay)
        logvar = torch.full((self.num_timesteps,), self.objective.logvar_init, device="cpu")
        if self.objective.learn_logvar:
            self.logvar = nn.Parameter(logvar)
        else:
            self.register_buffer("logvar", logvar, persistent=False)
        self.begin_from(start)

    def _register_buffers(self) -> None:
        buffers = noise_buffers(self.noise, self.objective)
        self.derived_buffers = tuple(buffers)  # a checkpoint need not hold them
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=name != "lvlb_weights")
        self.num_timesteps = len(self.betas)

    def reset_buffers(self) -> None:
        """Recompute what follows from the config, exactly, whatever a checkpoint stored (in half precision, say)."""
        for name, value in noise_buffers(self.noise, self.objective).items():
            setattr(self, name, value.to(self.device if self.device.type != "meta" else "cpu"))

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor | None = None) -> Tensor:
        """x_t ~ q(x_t | x_0) for x_start (B, ...) and steps t (B,): Ho et al. eq. 4."""
        noise = torch.randn_like(x_start) if noise is None else noise
        return (
            extract_into_tensor(self.sqrt_alphas_cumprod, t, x_start.shape) * x_start
            + extract_into_tensor(self.sqrt_one_minus_alphas_cumprod, t, x_start.shape) * noise
        )

    def predict_start_from_noise(self, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_0 from x_t and the predicted noise (the inverse of :meth:`q_sample`)."""
        return (
            extract_into_tensor(self.sqrt_recip_alphas_cumprod, t, x_t.shape) * x_t
            - extract_into_tensor(self.sqrt_recipm1_alphas_cumprod, t, x_t.shape) * noise
        )

    def q_posterior(self, x_start: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and clipped log variance of q(x_{t-1} | x_t, x_0): Ho et al. eq. 7."""
        mean = (
            extract_into_tensor(self.posterior_mean_coef1, t, x_t.shape) * x_start
            + extract_into_tensor(self.posterior_mean_coef2, t, x_t.shape) * x_t
        )
        return mean, extract_into_tensor(self.posterior_log_variance_clipped, t, x_t.shape)

    def apply_model(self, x_noisy: Tensor, t: Tensor, cond: Any = None, **kwargs: Any) -> Any:
        """The network's output for x_t (B, C, H, W) at steps t (B,)."""
        return self.model(x_noisy, t, **kwargs)

    def get_loss(self, pred: Tensor, target: Tensor, mean: bool = True) -> Tensor:
        """Absolute or squared error, elementwise unless `mean`."""
        error = (pred - target).abs() if self.objective.loss_type == "l1" else (pred - target).square()
        return error.mean() if mean else error

    def p_losses(
        self, x_start: Tensor, cond: Any, t: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Training loss of x_0 (B, C, H, W) at steps t (B,), and its parts for the log: Ho et al. eq. 14."""
        noise = torch.randn_like(x_start) if noise is None else noise
        output = self.apply_model(self.q_sample(x_start, t, noise), t, cond)
        target = noise if self.parameterization == "eps" else x_start
        simple = self.get_loss(output, target, mean=False).flatten(1).mean(1)  # (B,)
        prefix = "train" if self.training else "val"
        parts = {f"{prefix}/loss_simple": simple.mean()}
        logvar = self.logvar.to(simple.device)[t]
        gamma = simple * self.snr_weights(t) / logvar.exp() + logvar
        if self.objective.learn_logvar:
            parts[f"{prefix}/loss_gamma"] = gamma.mean()
            parts["logvar"] = self.logvar.mean()
        vlb = (self.lvlb_weights[t] * simple).mean()
        loss = self.objective.l_simple_weight * gamma.mean() + self.objective.original_elbo_weight * vlb
        return loss, {**parts, f"{prefix}/loss_vlb": vlb, f"{prefix}/loss": loss}

    def snr_weights(self, t: Tensor) -> Tensor:
        """min(SNR, gamma) / SNR for noise prediction, min(SNR, gamma) for x_0: (B,); ones where off."""
        if self.objective.snr_gamma is None:
            return torch.ones_like(t, dtype=torch.float32)
        acp = self.alphas_cumprod[t]
        snr = acp / (1 - acp)
        clipped = snr.clamp(max=self.objective.snr_gamma)
        return clipped / snr if self.parameterization == "eps" else clipped

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of x_0 (B, C, H, W) at steps drawn uniformly."""
        t = torch.randint(0, self.num_timesteps, (x.shape[0],), device=x.device)
        return self.p_losses(x, cond, t)

    def get_input(self, batch: Mapping[str, Any], key: str) -> Any:
        """Images of a batch, (B, C, H, W)."""
        return images_of(batch, key)

    def shared_step(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its parts on one batch."""
        return self(self.get_input(batch, self.first_stage_key))

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """The loss on one batch."""
        loss, parts = self.shared_step(batch)
        self.log_dict(parts, prog_bar=True, on_step=True, on_epoch=False)
        return loss

    @torch.no_grad()
    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Losses with the trained weights and, as ``..._ema``, with the averaged ones."""
        with torch.random.fork_rng(devices=[]):  # the same steps and noise at every validation
            torch.manual_seed(batch_idx)
            _, parts = self.shared_step(batch)
            with self.ema_scope():
                torch.manual_seed(batch_idx)
                _, averaged = self.shared_step(batch)
        parts.update({f"{k}_ema": v for k, v in averaged.items()})
        self.log_dict(parts, prog_bar=True, on_step=False, on_epoch=True)

    def configure_callbacks(self) -> list[pl.Callback]:
        """What calls :meth:`after_step`."""
        return [AfterStep()]

    def after_step(self) -> None:
        """Move the averaged weights."""
        if self.use_ema:
            self.model_ema(self.model)

    @contextlib.contextmanager
    def ema_scope(self, context: str | None = None) -> Iterator[None]:
        """Run a block with the averaged weights in the network, where the model keeps them."""
        with self.model_ema.scope(self.model) if self.use_ema else contextlib.nullcontext():
            yield

    def trained_parameters(self) -> list[nn.Parameter]:
        """What the optimizer moves."""
        params = list(self.model.parameters())
        return [*params, self.logvar] if isinstance(self.logvar, nn.Parameter) else params

    def configure_optimizers(self) -> Any:
        """AdamW, with a LambdaLR where the config has a scheduler."""
        optimizer = torch.optim.AdamW(
            self.trained_parameters(), lr=self.learning_rate, weight_decay=self.options.weight_decay
        )
        return scheduled(self.options.scheduler_config, optimizer)

    def begin_from(self, start: StartOptions) -> None:
        """Load the weights that the config names, but not on the meta device: a checkpoint is to fill that model."""
        if start.ckpt_path is not None and not next(self.model.parameters()).is_meta:
            self.init_from_ckpt(start.ckpt_path, start.ignore_keys, start.load_only_unet)

    def init_from_ckpt(self, path: str, ignore_keys: Sequence[str] = (), only_model: bool = False) -> None:
        """Load weights by name, but those that begin with one of `ignore_keys`; `only_model`: the network's alone.

        Averages begin at the loaded weights where the checkpoint holds none.
        """
        state = {k: v for k, v in load_state_dict(path).items() if not k.startswith(tuple(ignore_keys))}
        averaged = any(k.startswith("model_ema.") for k in state)
        if only_model:
            state = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
            ignore_keys = [k.removeprefix("model.") for k in ignore_keys]
        allowed = (*ignore_keys, "model_ema.", *self.derived_buffers)
        load_into(self.model if only_model else self, state, f"checkpoint {path}", allowed, ("model_ema.",))
        if self.use_ema and (only_model or not averaged):
            self.model_ema = LitEma(self.model, self.options.ema_decay)

    @torch.no_grad()
    def log_images(
        self, batch: Mapping[str, Any], *, N: int = 8, sample: bool = True, split: str = "train", **kwargs: Any
    ) -> dict[str, Tensor]:
        """Inputs, the same ever noisier, and samples, each (B, C, H, W) in about [-1, 1]."""
        inputs = self.get_input(batch, self.first_stage_key)[:N].to(self.device)
        noised = [
            self.q_sample(inputs[:1], torch.tensor([t], device=self.device))
            for t in range(0, self.num_timesteps, self.log_every_t)
        ]
        logs = {"inputs": inputs, "diffusion_row": torch.cat(noised)}
        if sample:
            with self.ema_scope("Plotting"):
                logs["samples"] = self.p_sample_loop(inputs.shape)[0]
        return logs
