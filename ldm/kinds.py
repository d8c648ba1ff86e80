"""What a file of weights is, by its first bytes and by the names in it: for the sentence that says why it is no use."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Beginnings of files that hold no weights: what such a file is, and what to do.
NOT_WEIGHTS = (
    (rb"version https://git-lfs", "is a git-lfs pointer; fetch the file itself with `git lfs pull`"),
    (rb"(?i)<(!doctype|html|head|body|\?xml)", "is a web page; download the file itself"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!", "is a compressed archive; unpack it first"),
    (rb"GGUF", "is a GGUF file, whose quantized weights can't be used; take the .safetensors of the same model"),
    (rb"\x89HDF", "is an HDF5 file of Keras; take the .safetensors of the same model"),
    (rb"\x89PNG|\xff\xd8\xff|RIFF", "is an image; give the path of model weights"),
    (rb"[\[{]", "is a JSON file; give the path of model weights"),
)
_UNET, _ENCODER = r"(model\.diffusion_model\.)?", r"(cond_stage_model\.)?"
# Patterns of names that some tensor has: what the file is, and what to do. The first that is found counts.
PARTS_IN_IT = (
    (
        r"lora_|\.lora[._]|\.lora_[AB]\.|hada_w|lokr_",
        "a LoRA, which changes a model; merge it into its base model first",
    ),
    (r"string_to_param|^emb_params$", "a textual inversion, one word's embedding; give a whole model"),
    (
        r"^control_model\.|zero_convs?\.|controlnet_|input_hint_block",
        "a ControlNet, an addition to a model; give the model",
    ),
    (_UNET + r"joint_blocks\.", "Stable Diffusion 3; give a model of Stable Diffusion v1"),
    (_UNET + r"(double_blocks|single_blocks)\.", "Flux; give a model of Stable Diffusion v1"),
    (
        r"^conditioner\.embedders\.|" + _UNET + r"label_emb\.",
        "Stable Diffusion XL; give a model of Stable Diffusion v1",
    ),
    (
        _ENCODER + r"model\.transformer\.resblocks\.",
        "Stable Diffusion 2; give its own config with --config, or a model of v1",
    ),
)
# The same where every tensor has such a name.
NOTHING_ELSE = (
    (
        r"(encoder|decoder|quant_conv|post_quant_conv|quantize|loss|first_stage_model)\.",
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
    (r"(cond_stage_model\.)?(transformer\.)?text_model\.", "a text encoder only; give a whole model"),
    (
        r"(visual|transformer|token_embedding|ln_final|positional_embedding|text_projection|logit_scale)\b",
        "a CLIP; --clip takes it",
    ),
)


def not_weights(head: bytes) -> str | None:
    """What the file with these first bytes is instead of weights, and what to do; None where it may hold weights."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    return next((what for pattern, what in NOT_WEIGHTS if re.match(pattern, start)), None)


def is_safetensors(head: bytes) -> bool:
    """Whether a file with these first bytes (9 or more) is one: the length of a JSON header, and the header."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 30


def what_it_is(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> str | None:
    """What weights are that do not fit a model whose weights are `own`, and what to do; None for what is not known."""
    names: Collection[str] = state
    for pattern, what in PARTS_IN_IT:
        found = re.compile(pattern)
        if any(found.search(name) for name in names) and not any(found.search(name) for name in own):
            return what
    first = "model.diffusion_model.input_blocks.0.0.weight"
    if first in state and first in own and state[first].shape[1:2] == (9,) != own[first].shape[1:2]:
        return (
            "an inpainting model, whose U-Net takes 9 channels; give "
            "configs/stable-diffusion/v1-inpainting-inference.yaml with --config to scripts/inpaint.py"
        )
    if (
        all(value.ndim <= 2 and value.shape[-1:] in ((768,), (1024,), (1280,)) for value in state.values())
        and len(state) < 4
    ):
        return "a textual inversion, one word's embedding; give a whole model"
    for pattern, what in NOTHING_ELSE:
        if all(re.match(pattern, name) for name in names) and not all(re.match(pattern, name) for name in own):
            return what
    return None
