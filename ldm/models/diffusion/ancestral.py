"""Ancestral sampling through every step of the forward process (Ho et al. 2020, algorithm 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ldm.models.diffusion.sampling import Generators, noise_like
from ldm.util import UserError


class AncestralSampling:
    """The reverse process of a diffusion model, for both parameterizations; a part of :class:`DDPM`."""

    device: Any
    first_stage_model: Any
    apply_model: Callable[..., Any]
    predict_start_from_noise: Callable[..., Tensor]
    q_posterior: Callable[..., tuple[Tensor, Tensor]]
    q_sample: Callable[..., Tensor]
    parameterization: str
    clip_denoised: bool
    num_timesteps: int
    log_every_t: int
    channels: int
    image_size: int | Sequence[int]

    def p_mean_variance(
        self, x: Tensor, t: Tensor, cond: Any = None, quantize_denoised: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and log variance of p(x_{t-1} | x_t), and the predicted x_0, for x (B, C, H, W), t (B,)."""
        out = self.apply_model(x, t, cond)
        x0 = self.predict_start_from_noise(x, t, out) if self.parameterization == "eps" else out
        if self.clip_denoised:
            x0 = x0.clamp(-1.0, 1.0)
        if quantize_denoised:
            x0 = self.first_stage_model.quantize(x0)[0]
        return (*self.q_posterior(x0, x, t), x0)

    def p_sample(
        self,
        x: Tensor,
        t: Tensor,
        cond: Any = None,
        generator: Generators = None,
        quantize_denoised: bool = False,
        temperature: float = 1.0,
    ) -> Tensor:
        """One step x_t to x_{t-1}: Ho et al. algorithm 2."""
        mean, log_variance, _ = self.p_mean_variance(x, t, cond, quantize_denoised)
        noise = temperature * noise_like(x.shape, generator, x.device, x.dtype)
        nonzero = (t > 0).to(x.dtype).reshape(-1, *([1] * (x.ndim - 1)))
        return mean + nonzero * (0.5 * log_variance).exp() * noise

    @torch.no_grad()
    def p_sample_loop(
        self,
        shape: Sequence[int],
        cond: Any = None,
        *,
        x_T: Tensor | None = None,
        timesteps: int | None = None,
        mask: Tensor | None = None,
        x0: Tensor | None = None,
        quantize_denoised: bool = False,
        generator: Generators = None,
        callback: Callable[[int], None] | None = None,
        log_every_t: int | None = None,
        verbose: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """Samples of `shape` (B, C, H, W), and the states on the way.

        Args:
            x_T: state to begin from, else noise; `timesteps`: begin at this step instead of the last.
            mask, x0: where `mask` is 1, x0 is kept (noised afresh after every step).
            quantize_denoised: take every predicted x_0 to the codebook of the first stage.
            generator: of all noise; one, or one for each image.
            callback: called with the number of each step.
            log_every_t: steps between the states that are returned.

        Raises:
            UserError: a mask without x0, or steps outside the process.
        """
        steps = self.num_timesteps if timesteps is None else timesteps
        if not 1 <= steps <= self.num_timesteps:
            raise UserError(f"timesteps must lie in 1..{self.num_timesteps}, not {steps}")
        if mask is not None and x0 is None:
            raise UserError("a mask needs x0, the latents to keep")
        every = log_every_t or self.log_every_t
        x = noise_like(shape, generator) if x_T is None else x_T
        x = x.to(self.device)
        states = [x]
        for i in tqdm(range(steps - 1, -1, -1), desc="DDPM", disable=not verbose):
            t = torch.full((shape[0],), i, device=x.device, dtype=torch.long)
            x = self.p_sample(x, t, cond, generator, quantize_denoised)
            if mask is not None:
                known = self.q_sample(x0, t, noise_like(x.shape, generator, x.device, x.dtype))
                x = mask * known + (1.0 - mask) * x
            if i % every == 0 or i == steps - 1:
                states.append(x)
            if callback is not None:
                callback(i)
        return x, states

    def sample(
        self, cond: Any = None, batch_size: int = 16, return_intermediates: bool = False, **options: Any
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """`batch_size` samples (B, C, H, W); `options` as for :meth:`p_sample_loop`."""
        size = self.image_size
        side = (size, size) if isinstance(size, int) else tuple(size)
        samples, states = self.p_sample_loop((batch_size, self.channels, *side), cond, **options)
        return (samples, states) if return_intermediates else samples
