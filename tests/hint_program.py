"""A program on top of the library, as people write them: a latent diffusion that a hint image steers.

A copy of the U-Net's way down reads the hint and adds to the skips of the frozen U-Net, through convolutions that begin
at zero. All names are imported and used as published.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ldm.models.diffusion.ddim import DDIMSampler
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.modules.attention import SpatialTransformer
from ldm.modules.diffusionmodules.openaimodel import (
    AttentionBlock,
    Downsample,
    ResBlock,
    TimestepEmbedSequential,
    UNetModel,
)
from ldm.modules.diffusionmodules.util import (
    conv_nd,
    extract_into_tensor,
    linear,
    make_ddim_sampling_parameters,
    make_ddim_timesteps,
    noise_like,
    timestep_embedding,
    zero_module,
)
from ldm.util import default, exists, instantiate_from_config, log_txt_as_img


class HintedUNet(UNetModel):
    """The U-Net, whose skips take what the hint adds."""

    def forward(self, x, timesteps=None, context=None, added=None, only_middle=False, **kwargs):  # type: ignore
        skips = []
        with torch.no_grad():
            emb = self.time_embed(timestep_embedding(timesteps, self.model_channels, repeat_only=False))
            h = x.type(self.dtype)
            for module in self.input_blocks:
                h = module(h, emb, context)
                skips.append(h)
            h = self.middle_block(h, emb, context)
        added = None if added is None else list(added)
        if added is not None:
            h += added.pop()
        for module in self.output_blocks:
            skip = skips.pop() if only_middle or added is None else skips.pop() + added.pop()
            h = module(torch.cat([h, skip], dim=1), emb, context)
        return self.out(h.type(x.dtype))


class HintNet(nn.Module):
    """The U-Net's way down with a stem for the hint, and a zero convolution behind each block."""

    def __init__(
        self, in_channels, model_channels, hint_channels, num_res_blocks, attention_resolutions, channel_mult,
        num_heads=-1, num_head_channels=-1, context_dim=None, use_spatial_transformer=True, use_checkpoint=False,
        use_linear_in_transformer=False, disable_self_attentions=None, num_attention_blocks=None, legacy=False, dims=2,
    ):  # fmt: skip
        super().__init__()
        self.model_channels, self.dims, self.dtype = model_channels, dims, torch.float32
        width = 4 * model_channels
        self.time_embed = nn.Sequential(linear(model_channels, width), nn.SiLU(), linear(width, width))
        self.stem = TimestepEmbedSequential(
            conv_nd(dims, hint_channels, 8, 3, padding=1),
            nn.SiLU(),
            conv_nd(dims, 8, 8, 3, padding=1, stride=2),
            nn.SiLU(),
            zero_module(conv_nd(dims, 8, model_channels, 3, padding=1)),
        )

        def attention(ch: int, level: int) -> nn.Module:
            heads = num_heads if num_head_channels == -1 else ch // num_head_channels
            if not use_spatial_transformer:
                return AttentionBlock(ch, use_checkpoint=use_checkpoint, num_heads=heads, num_head_channels=ch // heads)
            off = disable_self_attentions[level] if exists(disable_self_attentions) else False
            return SpatialTransformer(
                ch, heads, ch // heads, depth=1, context_dim=context_dim, disable_self_attn=off,
                use_linear=use_linear_in_transformer, use_checkpoint=use_checkpoint,
            )  # fmt: skip

        blocks = default(num_attention_blocks, [num_res_blocks] * len(channel_mult))
        self.input_blocks = nn.ModuleList(
            [TimestepEmbedSequential(conv_nd(dims, in_channels, model_channels, 3, padding=1))]
        )
        self.zeros, ch, factor = nn.ModuleList([self.zero(model_channels)]), model_channels, 1
        for level, mult in enumerate(channel_mult):
            for index in range(num_res_blocks):
                out = mult * model_channels
                layers: list[nn.Module] = [ResBlock(ch, width, 0, out_channels=out, use_checkpoint=use_checkpoint)]
                if factor in attention_resolutions and index < blocks[level]:
                    layers.append(attention(out, level))
                self.input_blocks.append(TimestepEmbedSequential(*layers))
                ch = out
                self.zeros.append(self.zero(ch))
            if level < len(channel_mult) - 1:
                self.input_blocks.append(TimestepEmbedSequential(Downsample(ch, True, dims=dims, out_channels=ch)))
                self.zeros.append(self.zero(ch))
                factor *= 2
        self.middle_block = TimestepEmbedSequential(
            ResBlock(ch, width, 0, dims=dims), attention(ch, -1), ResBlock(ch, width, 0, dims=dims)
        )
        self.zeros.append(self.zero(ch))

    def zero(self, channels: int) -> TimestepEmbedSequential:
        return TimestepEmbedSequential(zero_module(conv_nd(self.dims, channels, channels, 1, padding=0)))

    def forward(self, x, hint, timesteps, context, **kwargs):  # type: ignore
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels, repeat_only=False))
        guided, outs, h = self.stem(hint, emb, context), [], x.type(self.dtype)
        for module, zero in zip([*self.input_blocks, self.middle_block], self.zeros, strict=True):
            h = module(h, emb, context)
            if guided is not None:
                h += guided
                guided = None
            outs.append(zero(h, emb, context))
        return outs


class HintLDM(LatentDiffusion):
    """Latent diffusion under a text and a hint."""

    def __init__(self, hint_config, hint_key, only_middle, *args, **kwargs):  # type: ignore
        super().__init__(*args, **kwargs)
        self.hint_model = instantiate_from_config(hint_config)
        self.hint_key, self.only_middle, self.locked = hint_key, only_middle, True

    @torch.no_grad()
    def get_input(self, batch, k, bs=None, *args, **kwargs):  # type: ignore
        x, c = super().get_input(batch, self.first_stage_key, *args, **kwargs)
        hint = batch[self.hint_key][:bs].to(self.device).permute(0, 3, 1, 2)
        return x, {"c_crossattn": [c], "c_concat": [hint.to(memory_format=torch.contiguous_format).float()]}

    def apply_model(self, x_noisy, t, cond, *args, **kwargs):  # type: ignore
        assert isinstance(cond, dict)
        context, unet = torch.cat(cond["c_crossattn"], 1), self.model.diffusion_model
        added = None
        if cond["c_concat"] is not None:
            hint = torch.cat(cond["c_concat"], 1)
            added = self.hint_model(x=x_noisy, hint=hint, timesteps=t, context=context)
        return unet(x=x_noisy, timesteps=t, context=context, added=added, only_middle=self.only_middle)

    @torch.no_grad()
    def get_unconditional_conditioning(self, N: int) -> Tensor:
        return self.get_learned_conditioning([""] * N)

    @torch.no_grad()
    def log_images(  # type: ignore
        self, batch, N=4, n_row=2, sample=True, ddim_steps=50, ddim_eta=0.0, return_keys=None, scale=9.0, **kwargs
    ):
        z, c = self.get_input(batch, self.first_stage_key, bs=N)
        hint, text = c["c_concat"][0][:N], c["c_crossattn"][0][:N]
        N = min(z.shape[0], N)
        log = {"reconstruction": self.decode_first_stage(z), "hint": hint * 2.0 - 1.0}
        log["conditioning"] = log_txt_as_img((512, 512), batch[self.cond_stage_key], size=16)
        cond = {"c_concat": [hint], "c_crossattn": [text]}
        samples, _ = self.sample_log(cond, N, ddim=True, ddim_steps=ddim_steps, eta=ddim_eta)
        log["samples"] = self.decode_first_stage(samples)
        free = {"c_concat": [hint], "c_crossattn": [self.get_unconditional_conditioning(N)]}
        guided, _ = self.sample_log(
            cond, N, ddim=True, ddim_steps=ddim_steps, eta=ddim_eta,
            unconditional_guidance_scale=scale, unconditional_conditioning=free,
        )  # fmt: skip
        log["samples_guided"] = self.decode_first_stage(guided)
        return log

    @torch.no_grad()
    def sample_log(self, cond, batch_size, ddim, ddim_steps, **kwargs):  # type: ignore
        sampler, (_, _, h, w) = DDIMSampler(self), cond["c_concat"][0].shape
        return sampler.sample(ddim_steps, batch_size, (self.channels, h // 2, w // 2), cond, verbose=False, **kwargs)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        params = list(self.hint_model.parameters())
        if not self.locked:
            params += list(self.model.diffusion_model.output_blocks.parameters())
            params += list(self.model.diffusion_model.out.parameters())
        return torch.optim.AdamW(params, lr=self.learning_rate)

    def low_vram_shift(self, is_diffusing: bool) -> None:
        for module in (self.model, self.hint_model, self.first_stage_model, self.cond_stage_model):
            module.to(self.device if is_diffusing else "cpu")


class TwiceDDIM:
    """A DDIM of the program's own, from the published parts, which calls the model once for each condition."""

    def __init__(self, model: Any, schedule: str = "linear", **kwargs: Any) -> None:
        self.model, self.ddpm_num_timesteps, self.schedule = model, model.num_timesteps, schedule

    @torch.no_grad()
    def sample(self, S: int, shape: Any, cond: Any, free: Any, scale: float, x_T: Tensor, eta: float = 0.0) -> Tensor:
        steps = make_ddim_timesteps("uniform", S, self.ddpm_num_timesteps, verbose=False)
        alphas_cumprod = self.model.alphas_cumprod.cpu().numpy()
        sigmas, alphas, alphas_prev = make_ddim_sampling_parameters(alphas_cumprod, steps, eta, verbose=False)
        x = x_T
        for index in reversed(range(len(steps))):
            t = torch.full((shape[0],), int(steps[index]), device=x.device, dtype=torch.long)
            with_text, without = self.model.apply_model(x, t, cond), self.model.apply_model(x, t, free)
            e_t = without + scale * (with_text - without)
            root = extract_into_tensor(self.model.sqrt_one_minus_alphas_cumprod, t, x.shape)
            pred_x0 = (x - root * e_t) / float(alphas[index]) ** 0.5
            spread, past = float(sigmas[index]), float(alphas_prev[index])
            x = past**0.5 * pred_x0 + (1.0 - past - spread**2) ** 0.5 * e_t
            x = x + spread * noise_like(x.shape, x.device, False)
        return x
