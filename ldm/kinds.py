"""What a file of weights is, by its first bytes and by the names in it: for the sentence that says why it is no use."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Beginnings of files that hold no weights: what such a file is, and what to do.
NOT_WEIGHTS = (
    (rb"version https://git-lfs", "is a git-lfs pointer; fetch the file itself with `git lfs pull`"),
    (rb"<", "is a web page; download the file itself"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd|(?s:.{257})ustar", "is an archive; unpack it first"),
    (rb"GGUF", "is a GGUF file, whose quantized weights can't be used; take the .safetensors of the same model"),
    (rb"\x89HDF", "is an HDF5 file of Keras; take the .safetensors of the same model"),
    (rb"\x93NUMPY", "is an array of NumPy; give the path of model weights"),
    (rb"\x89PNG|\xff\xd8\xff|RIFF", "is an image; give the path of model weights"),
    (rb"[\[{]", "is a JSON file; give the path of model weights"),
    (rb"[\t\n\r -~]{64}|[\t\n\r -~]+\Z", "is a text, such as the error of a server; download the file itself"),
)
INVERSION = "a textual inversion, a word's embedding; give a whole model"
ADAPTER = "an adapter, which is added to a model; give the model"
# Keys of a torch file that no whole model has, with the same.
KEYS: Mapping[Any, str] = {
    "string_to_param": INVERSION,
    **dict.fromkeys(("ip_adapter", "image_proj"), ADAPTER),
    **dict.fromkeys((320, 640, 768, 1024, 1280), "a hypernetwork, which changes a model; give a whole model"),
}
_UNET, _V1 = r"^(model\.diffusion_model\.)?", "give a model of Stable Diffusion v1"
# Patterns of names that some tensor has and none of the model: what the file is, and what to do. The first one counts.
PARTS_IN_IT = (
    (
        r"(^|[._])(lora|lycoris)([._]|$)|\.(hada_w|lokr_w|oft_)|:\d+:(up|down)$",
        "a LoRA, which changes a model; merge it into its base model first",
    ),
    (r"^emb_params$", INVERSION),
    (
        r"^control_model\.|zero_convs?\.|controlnet_|input_hint_block",
        "a ControlNet, which is added to a model; give the model",
    ),
    (r"^(ip_adapter|image_proj)\.|motion_modules?\.|^(adapter\.)?body\.\d+\.(block1|resnets)\.", ADAPTER),
    (_UNET + r"joint_blocks\.", f"Stable Diffusion 3; {_V1}"),
    (_UNET + r"(double_blocks|single_blocks)\.", f"Flux; {_V1}"),
    (r"^(single_)?transformer_blocks\.", f"a transformer of diffusers, as Stable Diffusion 3 and Flux have; {_V1}"),
    (
        r"^conditioner\.embedders\.|" + _UNET + r"label_emb\.",
        f"Stable Diffusion XL; name its .safetensors with --model, or {_V1}",
    ),
    (
        r"^(cond_stage_model\.)?model\.transformer\.resblocks\.",
        "Stable Diffusion 2; give configs/stable-diffusion/v2-inference-v.yaml with --config, or v2-inference.yaml for "
        "its base model",
    ),
    (
        r"^cond_stage_model\.transformer\.(text_model\.)?embeddings\.",
        "a model of Stable Diffusion v1's kind; give its own config with --config",
    ),
)
# The same where every tensor has such a name.
NOTHING_ELSE = (
    (
        r"(encoder|decoder|quant_conv|post_quant_conv|quantize|loss|model_ema|first_stage_model)\.",
        "a first stage (VAE) only; give a whole model",
    ),
    (
        r"((model\.)?diffusion_model\.)?(time_embed|label_emb|input_blocks|middle_block|output_blocks|out)\.",
        "a U-Net only; give a whole model",
    ),
    (
        r"(conv_in|conv_norm_out|conv_out|time_embedding|add_embedding|(down|up)_blocks|mid_block)\.",
        "a U-Net of diffusers; convert its whole folder with scripts/convert_checkpoint.py",
    ),
    (
        r"((cond_stage_model\.)?(transformer\.)?text_model|shared|(embeddings|encoder|final_layer_norm|text_projection))\.",
        "a text encoder only; give a whole model",
    ),
    (
        r"(visual|transformer|token_embedding|ln_final|positional_embedding|text_projection|logit_scale"
        r"|(text|vision)_model|visual_projection)\b",
        "a CLIP; --clip takes OpenAI's",
    ),
)
FIRST = "model.diffusion_model.input_blocks.0.0.weight"  # (channels, those of the input, 3, 3)
CHANNELS = {
    4: "a text-to-image model; give the config that belongs to it, such as configs/stable-diffusion/v1-inference.yaml",
    5: "a model of images and their depth, which can't be used; give one of text alone",
    8: "InstructPix2Pix, which can't be used; give another model",
    9: "an inpainting model; give configs/stable-diffusion/v1-inpainting-inference.yaml with --config to "
    "scripts/inpaint.py",
}
PARTS = {"first_stage_model.": "first stage (VAE)", "cond_stage_model.": "text encoder", "model.": "U-Net"}


def not_weights(head: bytes) -> str | None:
    """What the file with these first bytes is instead of weights, and what to do; None where it may hold weights."""
    if not head.strip(b"\0 \t\r\n"):
        return "is empty; download it again"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    return next((what for pattern, what in NOT_WEIGHTS if re.match(pattern, start)), None)


def other_archive(names: Collection[str]) -> str | None:
    """The same of a zip archive with files of these names."""
    if not any(name.endswith("data.pkl") for name in names):
        return "is an archive; unpack it first"
    script = any(name.endswith("/constants.pkl") for name in names)
    return "is a program of TorchScript, as CLIP is, which --clip takes; give a whole model" if script else None


def other_keys(keys: Iterable[Any]) -> str | None:
    """The same of a torch file with these keys, without "is"."""
    return next((KEYS[key] for key in keys if isinstance(key, int | str) and key in KEYS), None)


def is_safetensors(head: bytes) -> bool:
    """Whether a file with these first bytes (9 or more) is one: the length of a JSON header, and the header."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 30


def is_xl(path: Path) -> bool:
    """Whether a file of safetensors has the names of a checkpoint of Stable Diffusion XL."""
    with path.open("rb") as file:
        head = file.read(9)
        return is_safetensors(head) and b'"conditioner.embedders.' in file.read(int.from_bytes(head[:8], "little"))


def what_it_is(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> str | None:
    """What weights are that do not fit a model whose weights are `own`, and what to do; None for what is not known."""
    for pattern, what in PARTS_IN_IT:
        if any(re.search(pattern, name) for name in state) and not any(re.search(pattern, name) for name in own):
            return what
    if FIRST in state and FIRST in own:
        theirs, ours = (tensors[FIRST].shape[1:2] for tensors in (state, own))
        if theirs != ours and theirs and theirs[0] in CHANNELS:
            return f"{CHANNELS[theirs[0]]} (its U-Net takes {theirs[0]} channels, that of the config {ours[0]})"
    if all("." not in name and value.shape[-1:] in ((768,), (1024,), (1280,)) for name, value in state.items()):
        return INVERSION if state else None
    for pattern, what in NOTHING_ELSE:
        if all(re.match(pattern, name) for name in state) and not all(re.match(pattern, name) for name in own):
            return what
    for prefix, part in PARTS.items():
        lacks = any(name.startswith(prefix) for name in own) and not any(name.startswith(prefix) for name in state)
        if lacks and any(name in own for name in state):
            return f"a model without its {part}; give a whole model"
    return None
