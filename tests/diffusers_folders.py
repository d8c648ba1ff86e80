"""Tiny random models of diffusers, as folders: Stable Diffusion 1, 2 (predicts v) and XL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

WIDTH = 16


def tokenizer(folder: Path) -> Any:
    """A CLIP tokenizer that knows letters."""
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(97, 123)]
    entries = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(entries)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=24)


def text_encoder(projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    width = 2 * WIDTH if projected else WIDTH  # the second encoder of XL is the larger one
    config = CLIPTextConfig(
        vocab_size=54,
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=24,
        projection_dim=width,
        bos_token_id=52,
        eos_token_id=53,
        pad_token_id=53,
    )
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def build(kind: str, folder: Path, inpainting: bool = False) -> Path:
    """Write the model of a kind, "sd1", "sd2" or "xl", into a new folder."""
    import diffusers

    torch.manual_seed({"sd1": 1, "sd2": 2, "xl": 3}[kind])
    large = kind == "xl"
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=9 if inpainting else 4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D" if not large else "CrossAttnDownBlock2D"),
        up_block_types=("UpBlock2D" if not large else "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(2, 4),
        norm_num_groups=8,
        cross_attention_dim=3 * WIDTH if large else WIDTH,
        use_linear_projection=kind != "sd1",
        **(
            {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 2 * WIDTH + 6 * 8,
                "transformer_layers_per_block": (1, 2),
            }
            if large
            else {}
        ),
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=16,
    )
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type="v_prediction" if kind == "sd2" else "epsilon",
    )
    parts: dict[str, Any] = {"unet": unet, "vae": vae, "scheduler": scheduler, "text_encoder": text_encoder()}
    parts["tokenizer"] = tokenizer(folder.with_name(f"{folder.name}-words"))
    if large:
        parts |= {"text_encoder_2": text_encoder(projected=True), "tokenizer_2": parts["tokenizer"]}
        pipe = getattr(diffusers, f"StableDiffusionXL{'Inpaint' * inpainting}Pipeline")(**parts, add_watermarker=False)
    else:
        pipe = getattr(diffusers, f"StableDiffusion{'Inpaint' * inpainting}Pipeline")(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipe.save_pretrained(folder)
    return folder


def write_lora(folder: Path, path: Path, targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")) -> Path:
    """A random adapter for the U-Net of a model in a folder, as the library writes them."""
    import diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    torch.manual_seed(5)
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet")
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=list(targets), init_lora_weights=False))
    layers = get_peft_model_state_dict(unet)
    diffusers.StableDiffusionPipeline.save_lora_weights(path.parent, unet_lora_layers=layers, weight_name=path.name)
    return path


def write_single_file(folder: Path, path: Path) -> Path:
    """The model of XL in a folder as one file, as it was published."""
    import diffusers
    from safetensors.torch import save_file

    from ldm.convert import names

    pipe = diffusers.DiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    table = names.unet_table({"channel_mult": (1, 2), "num_res_blocks": 1, "attention_resolutions": (1, 2)})
    table |= {f"label_emb.0.{2 * i}.": f"add_embedding.linear_{i + 1}." for i in range(2)}
    unet = names.rename(pipe.unet.state_dict(), names.inverse(table), "unet")
    table = names.vae_table({"ch_mult": (1, 2), "num_res_blocks": 1})
    vae = names.rename(pipe.vae.state_dict(), names.inverse(table), "vae")
    vae = names.pointwise(vae, names.vae_attention_weights(vae), convolution=True)
    encoders = pipe.text_encoder, pipe.text_encoder_2
    small, large = ({k.removeprefix("text_model."): x for k, x in one.state_dict().items()} for one in encoders)
    layers = {
        "final_layer_norm": "ln_final",
        "layer_norm": "ln_",
        "self_attn.out_proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "encoder.layers.": "transformer.resblocks.",
        "embeddings.token": "token",
        "embeddings.position_embedding.weight": "positional_embedding",
        "_projection.weight": "_projection",
    }
    state, joined = dict[str, Any](), dict[str, list[torch.Tensor]]()
    for name, value in large.items():
        for theirs, ours in layers.items():
            name = name.replace(theirs, ours)
        head, _, tail = name.partition("self_attn.")
        if tail:  # queries, keys and values are one matrix
            joined.setdefault(f"{head}attn.in_proj_{tail.rpartition('.')[2]}", [value] * 3)["kvq".index(tail[0])] = (
                value
            )
        else:
            state[name] = value.T if name == "text_projection" else value
    state |= {name: torch.cat([q, k, v]) for name, (k, v, q) in joined.items()}
    parts = {"model.diffusion_model.": unet, "first_stage_model.": vae, "conditioner.embedders.1.model.": state}
    parts["conditioner.embedders.0.transformer.text_model."] = small
    save_file({start + k: x.contiguous() for start, part in parts.items() for k, x in part.items()}, path)
    return path
