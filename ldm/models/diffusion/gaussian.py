"""Denoising diffusion (Ho et al. 2020): the noise process and training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ldm.arguments import Count, Fraction, Range, Weight
from ldm.lightning import Callback, LightningModule
from ldm.models.diffusion.ancestral import AncestralSampling
from ldm.models.diffusion.wrapper import DiffusionWrapper
from ldm.models.training import AfterStep, images_of, scheduled
from ldm.modules.diffusionmodules.util import extract_into_tensor, make_beta_schedule
from ldm.modules.ema import LitEma
from ldm.util import UserError, drop_constants, load_into, load_state_dict
from ldm.weights import fit_names


def noise_buffers(betas: np.ndarray, v_posterior: float, parameterization: str) -> dict[str, Tensor]:
    """Every constant of the process and its posterior, each (timesteps,) float32, by its published name."""
    alphas = 1.0 - betas
    acp = np.cumprod(alphas)
    previous = np.append(1.0, acp[:-1])
    variance = (1 - v_posterior) * betas * (1.0 - previous) / (1.0 - acp) + v_posterior * betas
    with np.errstate(divide="ignore"):
        if parameterization == "eps":
            vlb = betas**2 / (2 * variance * alphas * (1 - acp))
        elif parameterization == "x0":  # the published formula: the denominator is 2 - acp
            vlb = 0.5 * np.sqrt(acp) / (2.0 - acp)
        else:
            vlb = np.ones_like(acp)
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


class DDPM(AncestralSampling, LightningModule):
    """Gaussian diffusion in pixel space.

    Args:
        unet_config: of the network, see :class:`DiffusionWrapper`; `conditioning_key` goes there, too.
        timesteps, beta_schedule, linear_start, linear_end, cosine_s, given_betas: see :meth:`register_schedule`.
        loss_type: "l1" or "l2"; parameterization: what the network predicts, "eps", "x0" or "v".
        ckpt_path, ignore_keys, load_only_unet: see :meth:`init_from_ckpt`.
        monitor: metric that checkpoints are ranked by.
        use_ema, ema_decay: keep averages of the weights.
        first_stage_key: entry of a batch with the images; image_size, channels: of what is diffused.
        log_every_t: steps between the states that are kept or shown.
        clip_denoised: clip the predicted x_0 to [-1, 1] while sampling.
        original_elbo_weight, l_simple_weight: weights of the two parts of the loss.
        v_posterior: 0: posterior variance; 1: beta.
        scheduler_config: of the learning rate; weight_decay: of AdamW.
        use_positional_encodings: known to no published model; refused where true.
        learn_logvar, logvar_init: a learned log variance of the loss for every step.
        snr_gamma: min-SNR weighting (Hang et al. 2023), off by default.
    """

    betas: Tensor
    alphas_cumprod: Tensor
    alphas_cumprod_prev: Tensor
    sqrt_alphas_cumprod: Tensor
    sqrt_one_minus_alphas_cumprod: Tensor
    log_one_minus_alphas_cumprod: Tensor
    sqrt_recip_alphas_cumprod: Tensor
    sqrt_recipm1_alphas_cumprod: Tensor
    posterior_variance: Tensor
    posterior_log_variance_clipped: Tensor
    posterior_mean_coef1: Tensor
    posterior_mean_coef2: Tensor
    lvlb_weights: Tensor
    logvar: Tensor
    cond_stage_model: Any

    def __init__(
        self,
        unet_config: Mapping[str, Any],
        timesteps: Annotated[int, Range(1, 100_000)] = 1000,
        beta_schedule: str = "linear",
        loss_type: Literal["l1", "l2"] = "l2",
        ckpt_path: str | None = None,
        ignore_keys: Sequence[str] = (),
        load_only_unet: bool = False,
        monitor: str | None = "val/loss",
        use_ema: bool = True,
        first_stage_key: str = "image",
        image_size: Count | Sequence[Count] = 256,
        channels: Count = 3,
        log_every_t: Count = 100,
        clip_denoised: bool = True,
        linear_start: Fraction = 1e-4,
        linear_end: Fraction = 2e-2,
        cosine_s: Fraction = 8e-3,
        given_betas: Sequence[float] | None = None,
        original_elbo_weight: Weight = 0.0,
        v_posterior: Fraction = 0.0,
        l_simple_weight: Weight = 1.0,
        conditioning_key: str | None = None,
        parameterization: Literal["eps", "x0", "v"] = "eps",
        scheduler_config: Mapping[str, Any] | None = None,
        use_positional_encodings: bool = False,
        learn_logvar: bool = False,
        logvar_init: float = 0.0,
        *,
        ema_decay: Fraction = 0.9999,
        weight_decay: Weight = 0.01,
        snr_gamma: Weight | None = None,
    ) -> None:
        super().__init__()
        if use_positional_encodings:
            raise UserError("use_positional_encodings is not supported; no published model has them, leave it out")
        self.cond_stage_model = None
        self.parameterization, self.loss_type = parameterization, loss_type
        self.image_size, self.channels, self.first_stage_key = image_size, channels, first_stage_key
        self.monitor, self.log_every_t, self.clip_denoised = monitor, log_every_t, clip_denoised
        self.use_ema, self.ema_decay, self.weight_decay = use_ema, ema_decay, weight_decay
        self.scheduler_config, self.learning_rate = scheduler_config, 1e-4
        self.v_posterior, self.snr_gamma = v_posterior, snr_gamma
        self.original_elbo_weight, self.l_simple_weight = original_elbo_weight, l_simple_weight
        self.learn_logvar, self.logvar_init = learn_logvar, logvar_init
        self.register_schedule(given_betas, beta_schedule, timesteps, linear_start, linear_end, cosine_s)
        self.model = DiffusionWrapper(unet_config, conditioning_key)
        if self.use_ema:
            self.model_ema = LitEma(self.model, ema_decay)
        logvar = torch.full((self.num_timesteps,), logvar_init, device="cpu")
        if learn_logvar:
            self.logvar = nn.Parameter(logvar)
        else:
            self.register_buffer("logvar", logvar, persistent=False)
        self.register_load_state_dict_pre_hook(drop_constants)
        self.begin_from(ckpt_path, ignore_keys, load_only_unet)

    def register_schedule(
        self,
        given_betas: Sequence[float] | None = None,
        beta_schedule: str = "linear",
        timesteps: int = 1000,
        linear_start: float = 1e-4,
        linear_end: float = 2e-2,
        cosine_s: float = 8e-3,
    ) -> None:
        """Set the forward process (Ho et al. 2020, eq. 2): `given_betas`, or those of :func:`make_beta_schedule`."""
        if given_betas is None:
            betas = make_beta_schedule(beta_schedule, timesteps, linear_start, linear_end, cosine_s)
        else:
            betas = np.asarray(given_betas, dtype=np.float64)
        self._exact_betas, self.num_timesteps = betas, len(betas)
        self.linear_start, self.linear_end = linear_start, linear_end
        buffers = noise_buffers(betas, self.v_posterior, self.parameterization)
        self.derived_buffers = tuple(buffers)  # a checkpoint need not hold them
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=name != "lvlb_weights")

    def reset_buffers(self) -> None:
        """Recompute what follows from the config, exactly, whatever a checkpoint stored (in half precision, say)."""
        device = self.device if self.device.type != "meta" else "cpu"
        for name, value in noise_buffers(self._exact_betas, self.v_posterior, self.parameterization).items():
            setattr(self, name, value.to(device))
        if not self.learn_logvar:
            self.logvar = torch.full((self.num_timesteps,), self.logvar_init, device=device)

    def q_mean_variance(self, x_start: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and log variance of q(x_t | x_0) for x_start (B, ...) and steps t (B,)."""
        mean = extract_into_tensor(self.sqrt_alphas_cumprod, t, x_start.shape) * x_start
        variance = extract_into_tensor(1.0 - self.alphas_cumprod, t, x_start.shape)
        return mean, variance, extract_into_tensor(self.log_one_minus_alphas_cumprod, t, x_start.shape)

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

    def get_v(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """v = sqrt(alpha) noise - sqrt(1 - alpha) x_0 at steps t (B,) (Salimans and Ho 2022)."""
        return (
            extract_into_tensor(self.sqrt_alphas_cumprod, t, x.shape) * noise
            - extract_into_tensor(self.sqrt_one_minus_alphas_cumprod, t, x.shape) * x
        )

    def predict_start_from_z_and_v(self, x_t: Tensor, t: Tensor, v: Tensor) -> Tensor:
        """x_0 from x_t and the predicted v."""
        return (
            extract_into_tensor(self.sqrt_alphas_cumprod, t, x_t.shape) * x_t
            - extract_into_tensor(self.sqrt_one_minus_alphas_cumprod, t, x_t.shape) * v
        )

    def predict_eps_from_z_and_v(self, x_t: Tensor, t: Tensor, v: Tensor) -> Tensor:
        """The noise from x_t and the predicted v."""
        return (
            extract_into_tensor(self.sqrt_alphas_cumprod, t, x_t.shape) * v
            + extract_into_tensor(self.sqrt_one_minus_alphas_cumprod, t, x_t.shape) * x_t
        )

    def q_posterior(self, x_start: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and clipped log variance of q(x_{t-1} | x_t, x_0): Ho et al. eq. 7."""
        mean = (
            extract_into_tensor(self.posterior_mean_coef1, t, x_t.shape) * x_start
            + extract_into_tensor(self.posterior_mean_coef2, t, x_t.shape) * x_t
        )
        variance = extract_into_tensor(self.posterior_variance, t, x_t.shape)
        return mean, variance, extract_into_tensor(self.posterior_log_variance_clipped, t, x_t.shape)

    def apply_model(self, x_noisy: Tensor, t: Tensor, cond: Any = None, **kwargs: Any) -> Any:
        """The network's output for x_t (B, C, H, W) at steps t (B,)."""
        return self.model(x_noisy, t, **kwargs)

    def get_loss(self, pred: Tensor, target: Tensor, mean: bool = True) -> Tensor:
        """Absolute or squared error, elementwise unless `mean`."""
        error = (pred - target).abs() if self.loss_type == "l1" else (pred - target).square()
        return error.mean() if mean else error

    def p_losses(self, x_start: Tensor, t: Tensor, noise: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Training loss of x_0 (B, C, H, W) at steps t (B,), and its parts for the log: Ho et al. eq. 14."""
        return self._losses(x_start, None, t, noise)

    def _losses(self, x_start: Tensor, cond: Any, t: Tensor, noise: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        noise = torch.randn_like(x_start) if noise is None else noise
        output = self.apply_model(self.q_sample(x_start, t, noise), t, cond)
        target = {"eps": noise, "x0": x_start, "v": None}[self.parameterization]
        if target is None:
            target = self.get_v(x_start, noise, t)
        simple = self.get_loss(output, target, mean=False).flatten(1).mean(1)  # (B,)
        prefix = "train" if self.training else "val"
        parts = {f"{prefix}/loss_simple": simple.mean()}
        logvar = self.logvar.to(simple.device)[t]
        gamma = simple * self.snr_weights(t) / logvar.exp() + logvar
        if self.learn_logvar:
            parts[f"{prefix}/loss_gamma"] = gamma.mean()
            parts["logvar"] = self.logvar.mean()
        vlb = (self.lvlb_weights[t] * simple).mean()
        loss = self.l_simple_weight * gamma.mean() + self.original_elbo_weight * vlb
        return loss, {**parts, f"{prefix}/loss_vlb": vlb, f"{prefix}/loss": loss}

    def snr_weights(self, t: Tensor) -> Tensor:
        """min(SNR, gamma), over SNR for noise prediction and over SNR + 1 for v: (B,); ones where off."""
        if self.snr_gamma is None:
            return torch.ones_like(t, dtype=torch.float32)
        acp = self.alphas_cumprod[t]
        snr = acp / (1 - acp)
        clipped = snr.clamp(max=self.snr_gamma)
        return clipped / {"eps": snr, "x0": torch.ones_like(snr), "v": snr + 1}[self.parameterization]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of x_0 (B, C, H, W) at steps drawn uniformly; what follows goes to :meth:`p_losses`."""
        t = torch.randint(0, self.num_timesteps, (x.shape[0],), device=x.device)
        return self.p_losses(x, t, *args, **kwargs)

    def get_input(self, batch: Mapping[str, Any], k: str) -> Any:
        """Images (B, C, H, W) at `k` of a batch."""
        return images_of(batch, k)

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

    def configure_callbacks(self) -> list[Callback]:
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
            self.trained_parameters(), lr=self.learning_rate, weight_decay=self.weight_decay, fused=True
        )
        return scheduled(self.scheduler_config, optimizer)

    def begin_from(self, ckpt_path: str | None, ignore_keys: Sequence[str], load_only_unet: bool) -> None:
        """Load the weights that the config names, but not on the meta device: a checkpoint is to fill that model."""
        if ckpt_path is not None and not next(self.model.parameters()).is_meta:
            self.init_from_ckpt(ckpt_path, ignore_keys, load_only_unet)

    def init_from_ckpt(self, path: str, ignore_keys: Sequence[str] = (), only_model: bool = False) -> None:
        """Load weights by name, but those that begin with one of `ignore_keys`; `only_model`: the network's alone.

        Averages begin at the loaded weights where the checkpoint holds none.
        """
        found = fit_names(load_state_dict(path), self.state_dict())
        state = {k: v for k, v in found.items() if not k.startswith(tuple(ignore_keys))}
        averaged = any(k.startswith("model_ema.") for k in state)
        if only_model:
            state = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
            ignore_keys = [k.removeprefix("model.") for k in ignore_keys]
        allowed = (*ignore_keys, "model_ema.", *self.derived_buffers)
        load_into(self.model if only_model else self, state, f"checkpoint {path}", allowed, ("model_ema.",))
        if self.use_ema and (only_model or not averaged):
            self.model_ema = LitEma(self.model, self.ema_decay)

    @torch.no_grad()
    def log_images(
        self,
        batch: Mapping[str, Any],
        N: int = 8,
        n_row: int = 2,
        sample: bool = True,
        return_keys: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """Inputs, `n_row` of them ever noisier, samples and their chain, each (B, C, H, W) in about [-1, 1]."""
        inputs = DDPM.get_input(self, batch, self.first_stage_key)[:N].to(self.device)
        logs = {"inputs": inputs, "diffusion_row": self.noised_row(inputs[:n_row])}
        if sample:
            with self.ema_scope("Plotting"):
                samples, states = self.sample(len(inputs), return_intermediates=True)
            logs |= {"samples": samples, "denoise_row": self.denoise_row(states)}
        return {k: v for k, v in logs.items() if not return_keys or k in return_keys}

    def noised_row(self, x: Tensor) -> Tensor:
        """Each of x (n, C, H, W) ever noisier: (n rows, C, H, W)."""
        steps = range(0, self.num_timesteps, self.log_every_t)
        noised = [self.q_sample(x, torch.full((len(x),), t, device=x.device)) for t in steps]
        return torch.stack(noised, dim=1).flatten(0, 1)

    def denoise_row(self, states: Sequence[Tensor]) -> Tensor:
        """States (B, C, H, W) of a chain, image by image: (B states, C, H, W)."""
        return torch.stack(list(states), dim=1).flatten(0, 1)
