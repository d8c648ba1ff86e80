"""Ancestral sampling through every step of the forward process (Ho et al. 2020, algorithm 2).

Published names and order of arguments; a subclass's own `p_sample` is what the loops call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ldm.models.diffusion.sampling import Generators, ScoreCorrector, check_correctable, noise_like, step_noise
from ldm.util import UserError

IntCallback = Callable[[int], Any]
ImageCallback = Callable[[Tensor, int], Any]
Step = Callable[[Tensor, Tensor, dict[str, Any]], tuple[Tensor, Tensor | None]]  # x, t (B,) -> x_prev, x_0


class AncestralSampling:
    """The reverse process of a diffusion model; a part of :class:`DDPM`."""

    device: Any
    first_stage_model: Any
    apply_model: Callable[..., Any]
    predict_start_from_noise: Callable[..., Tensor]
    predict_start_from_z_and_v: Callable[..., Tensor]
    q_posterior: Callable[..., tuple[Tensor, Tensor, Tensor]]
    q_sample: Callable[..., Tensor]
    parameterization: str
    clip_denoised: bool
    num_timesteps: int
    log_every_t: int
    channels: int
    image_size: int | Sequence[int]

    def _predicted_x0(self, x: Tensor, t: Tensor, output: Tensor, clip: bool, quantize: bool = False) -> Tensor:
        """x_0 (B, C, H, W) as the network's output implies it."""
        if self.parameterization == "eps":
            output = self.predict_start_from_noise(x, t, output)
        elif self.parameterization == "v":
            output = self.predict_start_from_z_and_v(x, t, output)
        output = output.clamp(-1.0, 1.0) if clip else output
        return self.first_stage_model.quantize(output)[0] if quantize else output

    def p_mean_variance(self, x: Tensor, t: Tensor, clip_denoised: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and log variance of p(x_{t-1} | x_t) for x (B, C, H, W), t (B,)."""
        return self.q_posterior(self._predicted_x0(x, t, self.apply_model(x, t, None), clip_denoised), x, t)

    def p_sample(
        self,
        x: Tensor,
        t: Tensor,
        clip_denoised: bool = True,
        repeat_noise: bool = False,
        *,
        generator: Generators = None,
    ) -> Tensor:
        """One step x_t to x_{t-1}: Ho et al. algorithm 2. `repeat_noise`: the same noise for every image."""
        mean, _, log_variance = self.p_mean_variance(x, t, clip_denoised)
        return mean + (0.5 * log_variance).exp() * reverse_noise(x, t, repeat_noise, generator)

    @torch.no_grad()
    def p_sample_loop(
        self, shape: Sequence[int], return_intermediates: bool = False, **options: Any
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Samples of `shape` (B, C, H, W), and with `return_intermediates` the states on the way.

        Args:
            options: see :meth:`reverse`.
        """

        def step(x: Tensor, t: Tensor, extra: dict[str, Any]) -> tuple[Tensor, None]:
            return self.p_sample(x, t, clip_denoised=self.clip_denoised, **extra), None

        x, states = self.reverse(step, shape, **options)
        return (x, states) if return_intermediates else x

    def sample(
        self, batch_size: int = 16, return_intermediates: bool = False, **options: Any
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """`batch_size` samples (B, C, H, W); `options` as for :meth:`p_sample_loop`."""
        return self.p_sample_loop(self.shape_of(batch_size), return_intermediates, **options)

    def shape_of(self, batch_size: int) -> tuple[int, ...]:
        """(B, C, H, W) of what the model was trained on."""
        size = self.image_size
        return (batch_size, self.channels, *((size, size) if isinstance(size, int) else size))

    def reverse(
        self,
        step: Step,
        shape: Sequence[int],
        *,
        x_T: Tensor | None = None,
        verbose: bool = False,
        callback: IntCallback | None = None,
        timesteps: int | None = None,
        mask: Tensor | None = None,
        x0: Tensor | None = None,
        img_callback: ImageCallback | None = None,
        start_T: int | None = None,
        log_every_t: int | None = None,
        generator: Generators = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """The loop: samples of `shape` (B, C, H, W), and the noise with the states, or predicted x_0, on the way.

        Args:
            x_T: state to begin from, else noise; `timesteps`, `start_T`: begin at this step instead of the last.
            mask, x0: where `mask` is 1, x0 is kept (noised afresh after every step).
            generator: of all noise; one, or one for each image.
            callback, img_callback: called after step i with i, and with the state and i.
            log_every_t: steps between what is recorded.

        Raises:
            UserError: a mask without x0, or steps outside the process.
        """
        steps = min(self.num_timesteps if timesteps is None else timesteps, start_T or self.num_timesteps)
        if not 1 <= (timesteps or 1) <= self.num_timesteps or steps < 1:
            raise UserError(f"timesteps must lie in 1..{self.num_timesteps}, not {timesteps}")
        if mask is not None and x0 is None:
            raise UserError("a mask needs x0, the latents to keep")
        every = log_every_t or self.log_every_t
        x = (noise_like(shape, generator) if x_T is None else x_T).to(self.device)
        states, extra = [x], {} if generator is None else {"generator": generator}
        for i in tqdm(range(steps - 1, -1, -1), desc="DDPM", disable=not verbose):
            t = torch.full((shape[0],), i, device=x.device, dtype=torch.long)
            x, predicted = step(x, t, extra)
            if mask is not None:
                known = self.q_sample(x0, t, noise_like(x.shape, generator, x.device, x.dtype))
                x = mask * known + (1.0 - mask) * x
            if i % every == 0 or i == steps - 1:
                states.append(x if predicted is None else predicted)
            if callback is not None:
                callback(i)
            if img_callback is not None:
                img_callback(x, i)
        return x, states


def reverse_noise(
    x: Tensor, t: Tensor, repeat: bool, generator: Generators, temperature: float = 1.0, dropout: float = 0.0
) -> Tensor:
    """The noise of a step of x (B, C, H, W); none where t (B,) is 0. `repeat`: the same for every image."""
    noise = step_noise((1, *x.shape[1:]) if repeat else x.shape, x, generator, temperature, dropout)
    return noise * (t > 0).to(x.dtype).reshape(-1, *([1] * (x.ndim - 1)))


class LatentSampling(AncestralSampling):
    """The same under a condition; a part of :class:`LatentDiffusion`."""

    condition_at: Callable[[Any, Tensor], Any]

    def p_mean_variance(  # type: ignore[override]
        self,
        x: Tensor,
        c: Any,
        t: Tensor,
        clip_denoised: bool,
        return_codebook_ids: bool = False,
        quantize_denoised: bool = False,
        return_x0: bool = False,
        score_corrector: ScoreCorrector | None = None,
        corrector_kwargs: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, ...]:
        """Mean, variance and log variance of p(x_{t-1} | x_t, c) for x (B, C, h, w), t (B,).

        Args:
            return_codebook_ids: give the network's logits over a codebook, too (it has to predict them).
            quantize_denoised: take the predicted x_0 to the codebook of the first stage.
            return_x0: give the predicted x_0, too.
            score_corrector: changes the noise prediction, called with `corrector_kwargs`.
        """
        output: Any = self.apply_model(x, t, c, **({"return_ids": True} if return_codebook_ids else {}))
        if score_corrector is not None:
            check_correctable(self)
            output = score_corrector.modify_score(self, output, x, t, c, **(corrector_kwargs or {}))
        logits = None
        if return_codebook_ids:
            output, logits = output
        x0 = self._predicted_x0(x, t, output, clip_denoised, quantize_denoised)
        posterior = self.q_posterior(x0, x, t)
        if logits is not None:
            return *posterior, logits
        return (*posterior, x0) if return_x0 else posterior

    def p_sample(  # type: ignore[override]
        self,
        x: Tensor,
        c: Any,
        t: Tensor,
        clip_denoised: bool = False,
        repeat_noise: bool = False,
        return_codebook_ids: bool = False,
        quantize_denoised: bool = False,
        return_x0: bool = False,
        temperature: float = 1.0,
        noise_dropout: float = 0.0,
        score_corrector: ScoreCorrector | None = None,
        corrector_kwargs: Mapping[str, Any] | None = None,
        *,
        generator: Generators = None,
    ) -> Any:
        """One step x_t to x_{t-1}, with codebook ids (B, h, w) or the predicted x_0 where they are asked for."""
        mean, _, log_variance, *rest = self.p_mean_variance(
            x,
            c,
            t,
            clip_denoised,
            return_codebook_ids=return_codebook_ids,
            quantize_denoised=quantize_denoised,
            return_x0=return_x0,
            score_corrector=score_corrector,
            corrector_kwargs=corrector_kwargs,
        )
        noise = reverse_noise(x, t, repeat_noise, generator, temperature, noise_dropout)
        x_prev = mean + (0.5 * log_variance).exp() * noise
        if return_codebook_ids:
            return x_prev, rest[0].argmax(dim=1)
        return (x_prev, rest[0]) if return_x0 else x_prev

    @torch.no_grad()
    def p_sample_loop(  # type: ignore[override]
        self,
        cond: Any,
        shape: Sequence[int],
        return_intermediates: bool = False,
        x_T: Tensor | None = None,
        verbose: bool = True,
        callback: IntCallback | None = None,
        timesteps: int | None = None,
        quantize_denoised: bool = False,
        mask: Tensor | None = None,
        x0: Tensor | None = None,
        img_callback: ImageCallback | None = None,
        start_T: int | None = None,
        log_every_t: int | None = None,
        *,
        generator: Generators = None,
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """As DDPM's, under a condition; see :meth:`reverse`."""

        def step(x: Tensor, t: Tensor, extra: dict[str, Any]) -> tuple[Tensor, None]:
            extra = {"clip_denoised": self.clip_denoised, "quantize_denoised": quantize_denoised, **extra}
            return self.p_sample(x, self.condition_at(cond, t), t, **extra), None

        x, states = self.reverse(
            step,
            shape,
            x_T=x_T,
            verbose=verbose,
            callback=callback,
            timesteps=timesteps,
            mask=mask,
            x0=x0,
            img_callback=img_callback,
            start_T=start_T,
            log_every_t=log_every_t,
            generator=generator,
        )
        return (x, states) if return_intermediates else x

    @torch.no_grad()
    def progressive_denoising(
        self,
        cond: Any,
        shape: Sequence[int],
        verbose: bool = True,
        callback: IntCallback | None = None,
        quantize_denoised: bool = False,
        img_callback: ImageCallback | None = None,
        mask: Tensor | None = None,
        x0: Tensor | None = None,
        temperature: float | Sequence[float] = 1.0,
        noise_dropout: float = 0.0,
        score_corrector: ScoreCorrector | None = None,
        corrector_kwargs: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        x_T: Tensor | None = None,
        start_T: int | None = None,
        log_every_t: int | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Samples, and the x_0 predicted on the way. `temperature` may be one for each timestep.

        With `batch_size`, `shape` is (C, h, w).
        """
        if batch_size is not None:
            shape, cond = (batch_size, *shape), first(cond, batch_size)

        def step(x: Tensor, t: Tensor, extra: dict[str, Any]) -> tuple[Tensor, Tensor]:
            factor = temperature if isinstance(temperature, (int, float)) else temperature[int(t[0])]
            return self.p_sample(
                x,
                self.condition_at(cond, t),
                t,
                clip_denoised=self.clip_denoised,
                quantize_denoised=quantize_denoised,
                return_x0=True,
                temperature=factor,
                noise_dropout=noise_dropout,
                score_corrector=score_corrector,
                corrector_kwargs=corrector_kwargs,
            )

        x, (_, *predicted) = self.reverse(
            step,
            shape,
            x_T=x_T,
            verbose=verbose,
            callback=callback,
            mask=mask,
            x0=x0,
            img_callback=img_callback,
            start_T=start_T,
            log_every_t=log_every_t,
        )
        return x, predicted

    def sample(  # type: ignore[override]
        self,
        cond: Any,
        batch_size: int = 16,
        return_intermediates: bool = False,
        x_T: Tensor | None = None,
        verbose: bool = True,
        timesteps: int | None = None,
        quantize_denoised: bool = False,
        mask: Tensor | None = None,
        x0: Tensor | None = None,
        shape: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """`batch_size` samples under the first conditions of `cond`; see :meth:`p_sample_loop`."""
        return self.p_sample_loop(
            first(cond, batch_size),
            self.shape_of(batch_size) if shape is None else shape,
            return_intermediates=return_intermediates,
            x_T=x_T,
            verbose=verbose,
            timesteps=timesteps,
            quantize_denoised=quantize_denoised,
            mask=mask,
            x0=x0,
            **kwargs,
        )


def first(condition: Any, count: int) -> Any:
    """The first `count` entries of a condition, through lists of tensors and dicts."""
    if isinstance(condition, Mapping):
        return {key: first(value, count) for key, value in condition.items()}
    if isinstance(condition, (list, tuple)) and any(isinstance(part, Tensor) for part in condition):
        return [first(part, count) for part in condition]
    return None if condition is None else condition[:count]
