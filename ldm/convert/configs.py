"""What a network looks like: parameters of a CompVis config to the JSON of a `diffusers` folder, and back.

Every function raises UserError for a kind of part that the other side does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldm.files import read_yaml
from ldm.util import UserError

TABLES: dict[str, Any] = read_yaml(Path(__file__).with_name("diffusers.yaml"))
GROUPS = 32  # of the normalizations, where a config says nothing
ATTENTION_BLOCK, PLAIN_BLOCK = "CrossAttnDownBlock2D", "DownBlock2D"


def _refuse(part: str, key: str, value: Any) -> None:
    raise UserError(f"{part} with {key} {value} has no counterpart on the other side; only Stable Diffusion v1's kind")


def _check(part: str, given: Mapping[str, Any], needed: Mapping[str, Any]) -> None:
    """Refuse `given` values that are not the `needed` ones; what is not given is as needed."""
    for key, value in needed.items():
        if given.get(key, value) != value:
            _refuse(part, key, given[key])


def _multiples(part: str, widths: list[int]) -> list[int]:
    """The widths of the levels over that of the first."""
    if any(width % widths[0] for width in widths):
        _refuse(part, "block_out_channels", widths)
    return [width // widths[0] for width in widths]


def unet_to_diffusers(params: Mapping[str, Any], sample_size: int) -> dict[str, Any]:
    """The ``unet/config.json`` of a U-Net with spatial transformers."""
    _check("a U-Net", {"use_spatial_transformer": False, **params}, TABLES["unet"]["ours"])
    widths = [int(params["model_channels"] * m) for m in params["channel_mult"]]
    attended = {int(r) for r in params["attention_resolutions"]}
    down = [ATTENTION_BLOCK if 2**level in attended else PLAIN_BLOCK for level in range(len(widths))]
    size = int(params.get("num_head_channels", -1))
    heads: Any = int(params.get("num_heads", -1)) if size == -1 else [width // size for width in widths]
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": sample_size,
        "in_channels": int(params["in_channels"]),
        "out_channels": int(params["out_channels"]),
        "down_block_types": down,
        "up_block_types": [kind.replace("Down", "Up") for kind in reversed(down)],
        "block_out_channels": widths,
        "layers_per_block": int(params["num_res_blocks"]),
        "cross_attention_dim": int(params["context_dim"]),
        "attention_head_dim": heads,  # the number of heads, in spite of its name
        **TABLES["unet"]["written"],
    }


def unet_from_diffusers(config: Mapping[str, Any]) -> dict[str, Any]:
    """CompVis parameters of a ``unet/config.json``."""
    _check("a U-Net", config, TABLES["unet"]["theirs"])
    widths, kinds = list(config["block_out_channels"]), list(config["down_block_types"])
    multiples = _multiples("a U-Net", widths)
    for key in ("layers_per_block", "cross_attention_dim"):
        if not isinstance(config[key], int):
            _refuse("a U-Net", key, config[key])
    if unknown := set(kinds) - {ATTENTION_BLOCK, PLAIN_BLOCK}:
        _refuse("a U-Net", "down_block_types", sorted(unknown)[0])
    return {
        "image_size": config.get("sample_size") or 64,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": widths[0],
        "attention_resolutions": [2**i for i, kind in enumerate(kinds) if kind == ATTENTION_BLOCK],
        "num_res_blocks": config["layers_per_block"],
        "channel_mult": multiples,
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


def vae_to_diffusers(params: Mapping[str, Any], scale_factor: float) -> dict[str, Any]:
    """The ``vae/config.json`` of an AutoencoderKL."""
    dd = params["ddconfig"]
    if params.get("fold", 1) != 1:
        _refuse("an autoencoder", "fold", params["fold"])
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
    """CompVis parameters of a ``vae/config.json``, and the scale factor of its latents."""
    _check("an autoencoder", config, TABLES["vae"]["theirs"])
    if unknown := set(config["down_block_types"]) - {"DownEncoderBlock2D"}:
        _refuse("an autoencoder", "down_block_types", sorted(unknown)[0])
    widths = list(config["block_out_channels"])
    groups = config.get("norm_num_groups", GROUPS)
    ddconfig = {
        "double_z": True,
        "z_channels": config["latent_channels"],
        "resolution": config.get("sample_size") or 512,
        "in_channels": config["in_channels"],
        "out_ch": config["out_channels"],
        "ch": widths[0],
        "ch_mult": _multiples("an autoencoder", widths),
        "num_res_blocks": config["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
        **({} if groups == GROUPS else {"num_groups": groups}),
    }
    loss = {"target": "torch.nn.Identity"}
    params = {"embed_dim": config["latent_channels"], "ddconfig": ddconfig, "lossconfig": loss}
    return params, float(config.get("scaling_factor", 0.18215))


def text_to_diffusers(tower: Any) -> dict[str, Any]:
    """The ``text_encoder/config.json`` of a tower (see :class:`ldm.modules.encoders.modules.TextTower`)."""
    return {
        **TABLES["text_encoder"]["written"],
        "vocab_size": tower.vocab_size,
        "hidden_size": tower.width,
        "intermediate_size": 4 * tower.width,
        "projection_dim": tower.width,
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
        "max_position_embeddings": tower.context_length,
        "bos_token_id": tower.vocab_size - 2,
        "eos_token_id": tower.vocab_size - 1,
    }


def text_from_diffusers(config: Mapping[str, Any]) -> dict[str, Any]:
    """The ``cond_stage_config`` of Stable Diffusion v1's encoder; a folder does not tell another one's vocabulary."""
    config = config.get("text_config") or config
    for key, value in TABLES["text_encoder"]["theirs"].items():
        if config.get(key) != value:
            raise UserError(
                f"the text encoder has {key} {config.get(key)}, Stable Diffusion v1's has {value}; "
                "name the config that belongs to the folder with --config"
            )
    return {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder"}


def scheduler_to_diffusers(params: Mapping[str, Any]) -> dict[str, Any]:
    """The ``scheduler/scheduler_config.json``."""
    return {
        **TABLES["scheduler"]["written"],
        "num_train_timesteps": int(params.get("timesteps", 1000)),
        "beta_start": float(params.get("linear_start", 1e-4)),
        "beta_end": float(params.get("linear_end", 2e-2)),
    }


def model_from_parts(
    unet: Mapping[str, Any],
    vae: Mapping[str, Any],
    scale_factor: float,
    text: Mapping[str, Any],
    scheduler: Mapping[str, Any],
) -> dict[str, Any]:
    """The whole CompVis config of a folder."""
    _check("a scheduler", scheduler, TABLES["scheduler"]["theirs"])
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
        "conditioning_key": "crossattn" if unet["in_channels"] == vae["embed_dim"] else "hybrid",  # that of inpainting
        "scale_factor": scale_factor,
        "use_ema": False,
        "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": dict(unet)},
        "first_stage_config": {"target": "ldm.models.autoencoder.AutoencoderKL", "params": dict(vae)},
        "cond_stage_config": dict(text),
    }
    return {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params}}
