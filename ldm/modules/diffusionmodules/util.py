"""Schedules, embeddings and small layers shared by the diffusion networks."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn

from ldm.modules import lean
from ldm.util import UserError, instantiate_from_config
from ldm.util import mean_flat as mean_flat  # published under this name, too

logger = logging.getLogger(__name__)
SiLU = nn.SiLU  # published under this name, too


def make_beta_schedule(
    schedule: str, n_timestep: int, linear_start: float = 1e-4, linear_end: float = 2e-2, cosine_s: float = 8e-3
) -> np.ndarray:
    """Noise variances beta_t of the forward process, (n_timestep,) float64.

    `linear` is linear in sqrt(beta), as latent diffusion has it, `sqrt_linear` in beta itself; `cosine` is Nichol and
    Dhariwal, 2021, eq. 17.
    """
    if schedule == "linear":
        return np.linspace(linear_start**0.5, linear_end**0.5, n_timestep, dtype=np.float64) ** 2
    if schedule == "cosine":
        return betas_for_alpha_bar(n_timestep, lambda u: math.cos((u + cosine_s) / (1 + cosine_s) * math.pi / 2) ** 2)
    if schedule == "sqrt_linear":
        return np.linspace(linear_start, linear_end, n_timestep, dtype=np.float64)
    if schedule == "sqrt":
        return np.linspace(linear_start, linear_end, n_timestep, dtype=np.float64) ** 0.5
    raise UserError(f"unknown beta schedule '{schedule}': use linear, cosine, sqrt_linear or sqrt")


def betas_for_alpha_bar(
    num_diffusion_timesteps: int, alpha_bar: Callable[[float], float], max_beta: float = 0.999
) -> np.ndarray:
    """Betas (num_diffusion_timesteps,), at most `max_beta`, whose product of (1 - beta) follows `alpha_bar`."""
    grid = np.array([alpha_bar(i / num_diffusion_timesteps) for i in range(num_diffusion_timesteps + 1)])
    return np.clip(1 - grid[1:] / grid[:-1], 0, max_beta)


def make_ddim_timesteps(
    ddim_discr_method: str, num_ddim_timesteps: int, num_ddpm_timesteps: int, verbose: bool = True
) -> np.ndarray:
    """Ascending training timesteps that a sampler visits (it walks them backwards).

    `uniform` takes every floor(T / S)-th step: more than S entries where S does not divide T (7 of 1000 gives 8). An
    entry beyond T - 1 is capped, or dropped where T - 1 is there already. `quad` repeats small steps where S is large.

    Returns: (entries,) int64 in [1, T - 1]; take the number of steps from its length.
    Raises: UserError for a step count outside [1, T] or an unknown method.
    """
    if not 1 <= num_ddim_timesteps <= num_ddpm_timesteps:
        raise UserError(f"sampling steps must be between 1 and {num_ddpm_timesteps}, got {num_ddim_timesteps}")
    # Counted from one, so that the last sampling step ends at alpha_0 and not before it.
    last = num_ddpm_timesteps - 1
    if ddim_discr_method == "uniform":
        stride = num_ddpm_timesteps // num_ddim_timesteps
        steps = np.unique(np.minimum(np.arange(0, num_ddpm_timesteps, stride) + 1, last))
    elif ddim_discr_method == "quad":
        roots = np.linspace(0, np.sqrt(num_ddpm_timesteps * 0.8), num_ddim_timesteps)
        steps = np.minimum((roots**2).astype(np.int64) + 1, last)
    else:
        raise UserError(f"unknown timestep spacing '{ddim_discr_method}': use uniform or quad")
    if verbose:
        logger.info("sampling timesteps: %s", steps)
    return steps


def make_ddim_sampling_parameters(
    alphacums: Tensor | np.ndarray, ddim_timesteps: np.ndarray, eta: float, verbose: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise scale, alpha-bar and previous alpha-bar of each sampling step (DDIM, arXiv 2010.02502, eq. 16).

    Args:
        alphacums: (T,) cumulative products of (1 - beta).
        ddim_timesteps: (S,) ascending indices into `alphacums`.
        eta: 0 is deterministic DDIM, 1 the noise of DDPM.
    Returns: (sigmas, alphas, alphas_prev), each (S,) float64.
    """
    if isinstance(alphacums, Tensor):
        alphacums = alphacums.detach().cpu().numpy()
    table = alphacums.astype(np.float64)
    alphas = table[ddim_timesteps]
    alphas_prev = np.concatenate([table[:1], alphas[:-1]])
    sigmas = eta * np.sqrt((1 - alphas_prev) / (1 - alphas) * (1 - alphas / alphas_prev))
    if verbose:
        logger.info("sigmas for eta=%s: %s", eta, sigmas)
    return sigmas, alphas, alphas_prev


def extract_into_tensor(a: Tensor, t: Tensor, x_shape: Sequence[int]) -> Tensor:
    """Pick `a[t]` for a batch: a (T,), t (B,) long -> (B, 1, ..., 1), to broadcast against `x_shape`."""
    return a.gather(-1, t).reshape(t.shape[0], *((1,) * (len(x_shape) - 1)))


def noise_like(shape: Sequence[int], device: torch.device | str, repeat: bool = False) -> Tensor:
    """Standard normal noise of `shape`; with `repeat` one sample shared by the whole batch."""
    if not repeat:
        return torch.randn(tuple(shape), device=device)
    return torch.randn((1, *shape[1:]), device=device).repeat(shape[0], *((1,) * (len(shape) - 1)))


def send(values: Tensor, device: torch.device | str) -> Tensor:
    """The values on `device`; those that come from the host go to a CUDA card without anybody waiting for them."""
    if torch.device(device).type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def timestep_embedding(timesteps: Tensor, dim: int, max_period: float = 10000, repeat_only: bool = False) -> Tensor:
    """Sinusoidal embedding: cosines then sines of t at `dim // 2` geometric frequencies, zero-padded if odd.

    Args:
        timesteps: (B,), whole or fractional.
        repeat_only: repeat t `dim` times instead.
    Returns: (B, dim) float32 (`repeat_only` keeps the dtype of `timesteps`).
    """
    if repeat_only:
        return timesteps[:, None].expand(-1, dim)
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps[:, None].float() * torch.exp(-math.log(max_period) * exponents)  # (B, half)
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, dim % 2))


def checkpoint(func: Callable[..., Any], inputs: Sequence[Any], params: Any, flag: bool) -> Any:
    """`func(*inputs)`; with `flag`, its activations are computed again in the backward pass.

    Parameters may be frozen and tensors may come through a closure. `params` is not needed.
    """
    if flag and torch.is_grad_enabled():
        return torch.utils.checkpoint.checkpoint(func, *inputs, use_reentrant=False)
    return func(*inputs)


class CheckpointFunction(torch.autograd.Function):
    """The published form: ``CheckpointFunction.apply(run_function, length, *inputs, *parameters)``.

    Of the arguments the first `length` are given to `run_function`; all that should get gradients must be among them.
    """

    @staticmethod
    def forward(ctx: Any, run_function: Callable[..., Any], length: int, *args: Any) -> Any:  # type: ignore[override]
        ctx.run_function, ctx.inputs, ctx.parameters = run_function, args[:length], args[length:]
        with torch.no_grad():
            return run_function(*ctx.inputs)

    @staticmethod
    def backward(ctx: Any, *output_grads: Any) -> Any:
        inputs = [x.detach().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x for x in ctx.inputs]
        with torch.enable_grad():
            outputs = ctx.run_function(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        arguments = [*inputs, *ctx.parameters]
        wanted = [x for x in arguments if isinstance(x, Tensor) and x.requires_grad]
        made = iter(torch.autograd.grad(outputs, wanted, output_grads, allow_unused=True))
        return None, None, *(next(made) if isinstance(x, Tensor) and x.requires_grad else None for x in arguments)


class GroupNorm32(nn.GroupNorm):
    """Group normalization computed in at least float32, returned in the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        return F.group_norm(x.to(dtype), self.num_groups, weight, bias, self.eps).to(x.dtype)


def normalization(channels: int) -> GroupNorm32:
    """The U-Net's norm: 32 groups, eps 1e-5."""
    return GroupNorm32(32, channels)


def zero_module(module: nn.Module) -> nn.Module:
    """Zero the parameters of `module`, so that the residual branch it ends starts as the identity."""
    for p in module.parameters():
        nn.init.zeros_(p)
    return module


def scale_module(module: nn.Module, scale: float) -> nn.Module:
    """Multiply the parameters of `module` by `scale`."""
    for p in module.parameters():
        p.detach().mul_(scale)
    return module


def conv_nd(dims: int, *args: Any, **kwargs: Any) -> nn.Module:
    """A 1-, 2- or 3-dimensional convolution."""
    return {1: nn.Conv1d, 2: lean.Conv2d, 3: nn.Conv3d}[dims](*args, **kwargs)


def avg_pool_nd(dims: int, *args: Any, **kwargs: Any) -> nn.Module:
    """A 1-, 2- or 3-dimensional average pooling."""
    return {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}[dims](*args, **kwargs)


def linear(*args: Any, **kwargs: Any) -> nn.Linear:
    """A linear layer."""
    return lean.Linear(*args, **kwargs)


class HybridConditioner(nn.Module):
    """Two conditioners, of a condition by channels and of one by cross-attention."""

    def __init__(self, c_concat_config: Mapping[str, Any], c_crossattn_config: Mapping[str, Any]) -> None:
        super().__init__()
        self.concat_conditioner = instantiate_from_config(c_concat_config)
        self.crossattn_conditioner = instantiate_from_config(c_crossattn_config)

    def forward(self, c_concat: Any, c_crossattn: Any) -> dict[str, list[Any]]:
        """Both conditions as `LatentDiffusion.apply_model` takes them."""
        return {
            "c_concat": [self.concat_conditioner(c_concat)],
            "c_crossattn": [self.crossattn_conditioner(c_crossattn)],
        }
