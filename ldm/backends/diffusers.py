"""The models of the library `diffusers`: Stable Diffusion 1, 2 and XL, fine-tunes of them, as a folder or by hub name.

The control reaches the U-Net's cross-attentions through processors that take it as an argument and are in place during
a call only; nothing of it stays on a module.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ldm.backends.adapters import add_adapters, parse_adapter
from ldm.backends.folders import check_kind, quiet, read_pipeline
from ldm.boundary import reason
from ldm.errors import UserError
from ldm.modules.attention import Control, add_local, attend

_PLACES = threading.RLock()  # of what is in place on the parts of any model during a call


class Diffusers(nn.Module):
    """A `Backend` around the parts of a pipeline of diffusers; frozen, in eval mode.

    Latents, weights and loss are float32 whatever the U-Net's type.

    Args:
        pipe: a `StableDiffusionPipeline` or `StableDiffusionXLPipeline`.

    Raises:
        UserError: a pipeline of another kind.
    """

    def __init__(self, pipe: Any) -> None:
        super().__init__()
        check_kind(*(kind.__name__ for kind in type(pipe).__mro__))
        self.use_checkpoint = False  # recompute the blocks of U-Net and decoder in the backward pass
        if pipe.unet.config.get("time_cond_proj_dim") is not None:
            raise UserError(
                "this U-Net is given the guidance as a number (a distilled LCM); take the LoRA of LCM on its base model"
            )
        if pipe.unet.config.get("encoder_hid_dim_type") is not None:
            raise UserError("this U-Net is given images beside the text (an IP-Adapter); unload that first")
        self.pipe, self.unet, self.vae = pipe, pipe.unet, pipe.vae
        self.large = getattr(pipe, "text_encoder_2", None) is not None
        for part in (pipe.unet, pipe.vae, pipe.text_encoder, getattr(pipe, "text_encoder_2", None)):
            if part is not None:
                part.requires_grad_(False).eval()
        self._attentions = attentions_of(pipe.unet)

    @cached_property
    def dtype(self) -> torch.dtype:
        """The U-Net's type when first asked; to find it the library looks at every module, several ms for XL."""
        return self.unet.dtype

    @property
    def model(self) -> nn.Module:
        """The U-Net."""
        return self.unet

    @property
    def alphas_cumprod(self) -> Tensor:
        """(T,), cumulative alphas of the training noise."""
        return self.pipe.scheduler.alphas_cumprod.to(self.device)

    @property
    def parameterization(self) -> str:
        """What the model predicts: "eps" or "v"."""
        kind = self.pipe.scheduler.config.get("prediction_type", "epsilon")
        known = {"epsilon": "eps", "v_prediction": "v"}
        if kind not in known:
            raise UserError(f"the model predicts '{kind}'; models that predict epsilon or v can be used")
        return known[kind]

    @property
    def device(self) -> torch.device:
        """Where the U-Net runs."""
        return self.pipe._execution_device  # noqa: SLF001  with offloading not where its weights are

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return int(self.vae.config.latent_channels)

    @property
    def factor(self) -> int:
        """Pixels per latent pixel."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def image_size(self) -> int:
        """Side, in pixels, of the images that the model was trained on."""
        size = self.unet.config.sample_size
        return int(size if isinstance(size, int) else size[0]) * self.factor

    @property
    def guidance_scale(self) -> float:
        """The guidance of the library's own pipelines."""
        return 5.0 if self.large else 7.5

    @property
    def conditioning_key(self) -> str:
        """As that of `LatentDiffusion`: "hybrid" for U-Nets that see the masked image, too."""
        return "hybrid" if self.in_channels > self.channels else "crossattn"

    @property
    def in_channels(self) -> int:
        """Channels that the U-Net takes."""
        return int(self.unet.config.in_channels)

    def beside(self, condition: Any, latents: Tensor) -> dict[str, Tensor]:
        """See `Backend`."""
        return {**(condition if isinstance(condition, dict) else {"context": condition}), "beside": latents}

    def apply_model(
        self, x: Tensor, t: Tensor, conditioning: Any, control: Control | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """See `Backend`; `conditioning` is what `condition` gives."""
        context, added = conditioning, None
        if isinstance(conditioning, dict):
            context = conditioning["context"]
            if "pooled" in conditioning:
                added = {"text_embeds": conditioning["pooled"], "time_ids": conditioning["sizes"]}
                added = {name: value.to(self.dtype) for name, value in added.items()}
            if "beside" in conditioning:
                x = torch.cat([x, conditioning["beside"]], dim=1)
        given: dict[str, Any] = {"encoder_hidden_states": context.to(self.dtype), "added_cond_kwargs": added}
        place: Any = contextlib.nullcontext
        if control is not None:
            place = partial(controlled, self._attentions)
            given["cross_attention_kwargs"] = {"control": (control, weights, tuple(x.shape[-2:]))}
        with place(), self._checkpoints(self.unet, place):
            return self.unet(x.to(self.dtype), t, **given, return_dict=False)[0].to(x.dtype)

    @contextlib.contextmanager
    def _checkpoints(self, part: Any, place: Callable[[], Any] = contextlib.nullcontext) -> Iterator[None]:
        """Blocks of a part that run inside are recomputed in the backward pass, in a `place` again, if wanted."""

        def recomputed(block: Any, *arguments: Any) -> Any:
            first_and_again = contextlib.nullcontext(), place()
            return checkpoint(block.__call__, *arguments, use_reentrant=False, context_fn=lambda: first_and_again)

        if not torch.is_grad_enabled():
            yield
            return
        with _PLACES:
            before = part.is_gradient_checkpointing
            if self.use_checkpoint or before:
                part.enable_gradient_checkpointing(recomputed)
            try:
                yield
            finally:
                part.disable_gradient_checkpointing()
                if before:
                    part.enable_gradient_checkpointing()

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Texts to their contexts (B, L, C)."""
        return self._embed(texts)[0]

    @torch.no_grad()
    def condition(self, texts: Sequence[str], height: int, width: int) -> Any:
        """Texts to what the U-Net is given for an image of that size in pixels: contexts (B, L, C).

        With XL a dictionary with "context", "pooled" (B, D) and "sizes" (B, 6). Its empty text is zeros where the
        model was trained so.
        """
        context, pooled = self._embed(texts)
        if not self.large:
            return context
        if self.pipe.config.get("force_zeros_for_empty_prompt", True):
            empty = torch.tensor([not text for text in texts], device=context.device)
            context = context.masked_fill(empty[:, None, None], 0.0)
            pooled = pooled.masked_fill(empty[:, None], 0.0)
        sizes = torch.tensor([[height, width, 0, 0, height, width]] * len(texts), dtype=context.dtype)
        return {"context": context, "pooled": pooled, "sizes": sizes.to(context.device)}

    def _embed(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(B, L, C) and, with XL, (B, D)."""
        asked = {"device": self.device, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
        found = self.pipe.encode_prompt(prompt=list(texts), **asked)
        context = found[0].float()
        return context, found[2].float() if self.large else context[:, 0]

    def _first_stage(self) -> Any:
        """XL's published first stage has values that are too large for float16: no autocast there."""
        exact = self.large and self.vae.config.get("force_upcast", False)
        return torch.autocast(self.device.type, enabled=False) if exact else contextlib.nullcontext()

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) to images (B, 3, H, W) in [0, 1]; differentiable."""
        z = latents / self.vae.config.scaling_factor + (self.vae.config.get("shift_factor") or 0.0)
        with self._first_stage(), self._checkpoints(self.vae):
            images = self.vae.decode(z.to(self.vae.dtype), return_dict=False)[0].float()
        return ((images + 1) / 2).clamp(0, 1)

    def encode_image(self, image: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """See `Backend`."""
        with self._first_stage():
            posterior = self.vae.encode((2 * image - 1).to(self.vae.dtype)).latent_dist
        drawn = [posterior.mode()] if generators is None else [posterior.sample(one) for one in generators]
        shift = self.vae.config.get("shift_factor") or 0.0
        return (torch.cat(drawn).float() - shift) * self.vae.config.scaling_factor


class ControlProcessor:
    """An attention processor that blends local contexts where it is given a control, and else is the usual one.

    It names the control among its arguments, since a layer hands on only what its processor names.
    """

    def __init__(self, usual: Any) -> None:
        self.usual = usual

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        control: tuple[Control, Tensor, tuple[int, int]] | None = None,
    ) -> Tensor:
        """hidden_states (R, P, C) to the same shape; control: the object, its weights, and the latents' (h, w)."""
        local = None
        if control is not None and encoder_hidden_states is not None:
            whole, weights, size = control
            local = whole.local_attention(*grid_of(hidden_states.shape[1], *size), weights)
        if local is None or encoder_hidden_states is None:
            return self.usual(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        q = attn.to_q(hidden_states)  # (R, P, H*D)
        out = attend(q, attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states), attn.heads)
        return attn.to_out[1](attn.to_out[0](add_local(attn, out, q, local)))


def grid_of(pixels: int, h: int, w: int) -> tuple[int, int]:
    """The grid of a level of the U-Net with so many pixels, for latents of h x w: each level halves, rounding up."""
    while h * w > pixels:
        h, w = (h + 1) // 2, (w + 1) // 2
    if h * w != pixels:
        raise ValueError(f"{pixels} pixels are no level of these latents")
    return h, w


def attentions_of(unet: Any) -> list[Any]:
    """The attention layers of a U-Net of the library."""
    return [module for module in unet.modules() if hasattr(module, "set_processor")]


@contextlib.contextmanager
def controlled(attentions: Sequence[Any]) -> Iterator[None]:
    """Processors that take a control are in place inside; the layers' own come back, after an error, too."""
    with _PLACES:
        own = [layer.processor for layer in attentions]
        if all(isinstance(one, ControlProcessor) for one in own):  # within another such block
            yield
            return
        for layer, processor in zip(attentions, own, strict=True):
            layer.set_processor(ControlProcessor(processor))
        try:
            yield
        finally:
            for layer, processor in zip(attentions, own, strict=True):
                layer.set_processor(processor)


@quiet()
def load(
    source: str | Path,
    device: torch.device,
    dtype: str = "float32",
    offload: bool = False,
    lora: Sequence[str] = (),
    config: Path | None = None,
) -> Diffusers:
    """The backend of a folder, a hub name, or a single file of XL.

    Args:
        dtype: of U-Net and text encoders, "float32", "float16" or "bfloat16"; XL's first stage stays float32.
        offload: keep text encoders in the main memory but while they run (accelerate's).
        lora: adapters, FILE or FILE:SCALE.
        config: for a single file a folder with configs and tokenizers of such a model, in place of the hub's.

    Raises:
        UserError: no such folder, a model of another kind, a missing part, a hub that does not answer, or an adapter
            that does not go with the model.
    """
    if offload and device.type == "cpu":
        raise UserError("--offload keeps parts off a card, and there is none; leave it out")
    adapters = [parse_adapter(text) for text in lora]
    pipe = read_pipeline(source, getattr(torch, dtype), config)
    backend = Diffusers(pipe)
    if adapters:
        add_adapters(pipe, adapters)
        backend = Diffusers(pipe)  # freezes them, too
    if backend.large and pipe.vae.config.get("force_upcast", False):
        pipe.vae.to(torch.float32)
    if offload:
        # U-Net and decoder stay on the card together, since gradients pass through both.
        pipe.model_cpu_offload_seq = "text_encoder->text_encoder_2->unet"
        pipe._exclude_from_cpu_offload = ("safety_checker", "vae")  # noqa: SLF001
        try:
            pipe.enable_model_cpu_offload(device=device)
        except (ImportError, RuntimeError) as error:  # no accelerate, or no card
            raise UserError(f"--offload can't be done here: {reason(error)}") from error
    else:
        pipe.to(device)
    return backend


def __getattr__(name: str) -> Any:
    """The pipelines of `ldm.generation.spacetime_pipeline`, by the name that users were told of."""
    if name in ("SpaceTimePipeline", "SpaceTimeXLPipeline"):
        from ldm.generation import spacetime_pipeline

        return getattr(spacetime_pipeline, name)
    raise AttributeError(name)
