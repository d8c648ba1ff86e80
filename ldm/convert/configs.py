"""What a network looks like: parameters of a CompVis config to the JSON of a `diffusers` folder, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldm.util import UserError

GROUPS = 32  # of the normalizations of every published U-Net
CLIP_L = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}


def _refuse(part: str, key: str, value: Any) -> None:
    raise UserError(f"{part} with {key} {value} has no counterpart on the other side; only Stable Diffusion v1's kind")


# -------------------------------------------------------------------------------------------------- U-Net


def unet_to_diffusers(params: Mapping[str, Any], sample_size: int) -> dict[str, Any]:
    """The ``unet/config.json`` of a U-Net with spatial transformers.

    Raises:
        UserError: a kind of U-Net that UNet2DConditionModel does not have.
    """
    wanted = {"use_spatial_transformer": True, "resblock_updown": False, "use_scale_shift_norm": False, "dims": 2}
    fallback = {"use_spatial_transformer": False, "dims": 2}
    for key, value in wanted.items():
        if (given := params.get(key, fallback.get(key, False))) != value:
            _refuse("a U-Net", key, given)
    for key in ("num_classes", "n_embed"):
        if params.get(key) is not None:
            _refuse("a U-Net", key, params[key])
    if params.get("transformer_depth", 1) != 1:
        _refuse("a U-Net", "transformer_depth", params["transformer_depth"])
    widths = [int(params["model_channels"] * m) for m in params["channel_mult"]]
    attended = {int(r) for r in params["attention_resolutions"]}
    crosses = [2**level in attended for level in range(len(widths))]
    size = int(params.get("num_head_channels", -1))
    heads: Any = int(params.get("num_heads", -1)) if size == -1 else [width // size for width in widths]
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": sample_size,
        "in_channels": int(params["in_channels"]),
        "out_channels": int(params["out_channels"]),
        "down_block_types": ["CrossAttnDownBlock2D" if cross else "DownBlock2D" for cross in crosses],
        "up_block_types": ["CrossAttnUpBlock2D" if cross else "UpBlock2D" for cross in reversed(crosses)],
        "block_out_channels": widths,
        "layers_per_block": int(params["num_res_blocks"]),
        "cross_attention_dim": int(params["context_dim"]),
        "attention_head_dim": heads,  # the number of heads, in spite of its name
        "norm_num_groups": GROUPS,
        "norm_eps": 1e-5,
        "act_fn": "silu",
        "center_input_sample": False,
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "mid_block_scale_factor": 1,
    }


def unet_from_diffusers(config: Mapping[str, Any]) -> dict[str, Any]:
    """CompVis parameters of a ``unet/config.json``.

    Raises:
        UserError: a kind of U-Net that our UNetModel does not have.
    """
    fixed = {
        "norm_num_groups": GROUPS,
        "act_fn": "silu",
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "class_embed_type": None,
        "addition_embed_type": None,
        "resnet_time_scale_shift": "default",
        "dual_cross_attention": False,
        "only_cross_attention": False,
        "transformer_layers_per_block": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "time_embedding_type": "positional",
    }
    for key, value in fixed.items():
        if config.get(key, value) != value:
            _refuse("a U-Net", key, config[key])
    widths = list(config["block_out_channels"])
    base = widths[0]
    if any(width % base for width in widths):
        _refuse("a U-Net", "block_out_channels", widths)
    for key in ("layers_per_block", "cross_attention_dim"):
        if not isinstance(config[key], int):
            _refuse("a U-Net", key, config[key])
    kinds = list(config["down_block_types"])
    if unknown := set(kinds) - {"CrossAttnDownBlock2D", "DownBlock2D"}:
        _refuse("a U-Net", "down_block_types", sorted(unknown)[0])
    return {
        "image_size": config.get("sample_size") or 64,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": base,
        "attention_resolutions": [2**i for i, kind in enumerate(kinds) if kind.startswith("CrossAttn")],
        "num_res_blocks": config["layers_per_block"],
        "channel_mult": [width // base for width in widths],
        **_heads(config, widths),
        "use_spatial_transformer": True,
        "transformer_depth": 1,
        "context_dim": config["cross_attention_dim"],
        "use_checkpoint": False,
        "legacy": False,
    }


def _heads(config: Mapping[str, Any], widths: list[int]) -> dict[str, int]:
    """Heads of one number at all levels, or of one width."""
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    if isinstance(heads, int):
        return {"num_heads": heads}
    sizes = {width // n for width, n in zip(widths, heads, strict=True)}
    if len(sizes) > 1:
        _refuse("a U-Net", "attention_head_dim", heads)
    return {"num_head_channels": sizes.pop()}


# ---------------------------------------------------------------------------------------------------- VAE


def vae_to_diffusers(params: Mapping[str, Any], scale_factor: float) -> dict[str, Any]:
    """The ``vae/config.json`` of an AutoencoderKL.

    Raises:
        UserError: a kind of autoencoder that diffusers's AutoencoderKL does not have.
    """
    dd = params["ddconfig"]
    if list(dd.get("attn_resolutions", ())):
        _refuse("an autoencoder", "attn_resolutions", list(dd["attn_resolutions"]))
    if dd.get("attn_type", "vanilla") != "vanilla" or dd.get("use_linear_attn"):
        _refuse("an autoencoder", "attn_type", dd.get("attn_type", "linear"))
    if params["embed_dim"] != dd["z_channels"]:
        _refuse("an autoencoder", "embed_dim", f"{params['embed_dim']} and z_channels {dd['z_channels']}")
    levels = len(dd["ch_mult"])
    return {
        "_class_name": "AutoencoderKL",
        "sample_size": int(dd["resolution"]),
        "in_channels": int(dd["in_channels"]),
        "out_channels": int(dd["out_ch"]),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": [int(dd["ch"] * m) for m in dd["ch_mult"]],
        "layers_per_block": int(dd["num_res_blocks"]),
        "latent_channels": int(dd["z_channels"]),
        "norm_num_groups": int(dd.get("num_groups", GROUPS)),
        "act_fn": "silu",
        "scaling_factor": float(scale_factor),
    }


def vae_from_diffusers(config: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
    """CompVis parameters of a ``vae/config.json``, and the scale factor of its latents.

    Raises:
        UserError: a kind of autoencoder that ours is not.
    """
    fixed = {
        "act_fn": "silu",
        "mid_block_add_attention": True,
        "shift_factor": None,
        "use_quant_conv": True,
        "use_post_quant_conv": True,
    }
    for key, value in fixed.items():
        if config.get(key, value) != value:
            _refuse("an autoencoder", key, config[key])
    if unknown := set(config["down_block_types"]) - {"DownEncoderBlock2D"}:
        _refuse("an autoencoder", "down_block_types", sorted(unknown)[0])
    widths = list(config["block_out_channels"])
    if any(width % widths[0] for width in widths):
        _refuse("an autoencoder", "block_out_channels", widths)
    groups = config.get("norm_num_groups", GROUPS)
    params = {
        "embed_dim": config["latent_channels"],
        "ddconfig": {
            "double_z": True,
            "z_channels": config["latent_channels"],
            "resolution": config.get("sample_size") or 512,
            "in_channels": config["in_channels"],
            "out_ch": config["out_channels"],
            "ch": widths[0],
            "ch_mult": [width // widths[0] for width in widths],
            "num_res_blocks": config["layers_per_block"],
            "attn_resolutions": [],
            "dropout": 0.0,
            **({} if groups == GROUPS else {"num_groups": groups}),
        },
        "lossconfig": {"target": "torch.nn.Identity"},
    }
    return params, float(config.get("scaling_factor", 0.18215))


# ------------------------------------------------------------------------------------------- text encoder


def text_to_diffusers(tower: Any) -> dict[str, Any]:
    """The ``text_encoder/config.json`` of a tower (see :class:`ldm.modules.encoders.modules.TextTower`)."""
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": tower.vocab_size,
        "hidden_size": tower.width,
        "intermediate_size": 4 * tower.width,
        "projection_dim": tower.width,
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
        "max_position_embeddings": tower.context_length,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "bos_token_id": tower.vocab_size - 2,
        "eos_token_id": tower.vocab_size - 1,
        "pad_token_id": 1,
    }


def text_from_diffusers(config: Mapping[str, Any]) -> dict[str, Any]:
    """The ``cond_stage_config`` of a ``text_encoder/config.json``.

    Raises:
        UserError: another encoder than Stable Diffusion v1's, whose vocabulary a folder does not tell.
    """
    config = config.get("text_config") or config
    for key, value in CLIP_L.items():
        if config.get(key) != value:
            raise UserError(
                f"the text encoder has {key} {config.get(key)}, Stable Diffusion v1's has {value}; "
                "name the config that belongs to the folder with --config"
            )
    return {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder"}


def scheduler_to_diffusers(params: Mapping[str, Any]) -> dict[str, Any]:
    """The ``scheduler/scheduler_config.json``: PLMS as diffusers calls it, over the model's own betas."""
    return {
        "_class_name": "PNDMScheduler",
        "num_train_timesteps": int(params.get("timesteps", 1000)),
        "beta_schedule": "scaled_linear",
        "beta_start": float(params.get("linear_start", 1e-4)),
        "beta_end": float(params.get("linear_end", 2e-2)),
        "skip_prk_steps": True,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "clip_sample": False,
        "trained_betas": None,
    }


def model_from_parts(
    unet: Mapping[str, Any],
    vae: Mapping[str, Any],
    scale_factor: float,
    text: Mapping[str, Any],
    scheduler: Mapping[str, Any],
) -> dict[str, Any]:
    """The whole CompVis config of a folder."""
    if scheduler.get("beta_schedule", "scaled_linear") != "scaled_linear":
        _refuse("a scheduler", "beta_schedule", scheduler["beta_schedule"])
    if scheduler.get("prediction_type", "epsilon") != "epsilon":
        _refuse("a scheduler", "prediction_type", scheduler["prediction_type"])
    params = {
        "linear_start": scheduler.get("beta_start", 0.00085),
        "linear_end": scheduler.get("beta_end", 0.012),
        "timesteps": scheduler.get("num_train_timesteps", 1000),
        "log_every_t": 200,
        "first_stage_key": "jpg",
        "cond_stage_key": "txt",
        "image_size": unet["image_size"],
        "channels": vae["embed_dim"],
        "cond_stage_trainable": False,
        "conditioning_key": "crossattn",
        "scale_factor": scale_factor,
        "use_ema": False,
        "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": dict(unet)},
        "first_stage_config": {"target": "ldm.models.autoencoder.AutoencoderKL", "params": dict(vae)},
        "cond_stage_config": dict(text),
    }
    return {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params}}
