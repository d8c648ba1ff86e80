"""Opening a CLIP of OpenAI's architecture: a published one from a local file, or the emoji world's small one.

Both have OpenAI's state-dict names; saved as a torch file, the small one also opens with `clip.load(path)`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.errors import DAMAGED
from ldm.modules.encoders.tokenizer import WordTokenizer, clip_part, clip_tokenizer, clip_tokens, unread
from ldm.unpickle import load_script
from ldm.util import UserError, load_state_dict, save_safetensors
from ldm.weights import check_finite

# Mean and standard deviation of the pixels (RGB in [0, 1]) that OpenAI's CLIP models were trained with.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

PUBLISHED = ("ViT-B/32", "ViT-B/16", "ViT-L/14")
PUBLISHED_VOCABULARY = 49408  # byte pairs; any other size is a word-level vocabulary
FOLDERS = (Path("models/clip"), Path("~/.cache/clip"))  # the second is where `clip.load` keeps its downloads
HOW_TO_GET = """to get ViT-B/32, run `python -c "import clip; clip.load('ViT-B/32')"` once while online"""


@dataclass(frozen=True)
class ClipBundle:
    """A CLIP and what goes with it.

    Attributes:
        model: `clip.model.CLIP` in float32, frozen, in evaluation mode.
        tokenize: texts to ids (B, L), long ones cut.
        mean, std: of the pixels it was trained with, RGB in [0, 1].
        resolution: side of the images it takes, in pixels.
    """

    model: Any
    tokenize: Callable[[Sequence[str]], Tensor]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resolution: int

    def unread(self, text: str) -> str:
        """The end of a text that is cut off, "" where nothing is."""
        if isinstance(self.tokenize, WordTokenizer):
            return self.tokenize.unread(text)
        return unread(clip_tokenizer(), text, self.model.context_length)


def load_clip(source: str | Path | None = None, device: str | torch.device | None = None) -> ClipBundle:
    """Open a CLIP.

    Args:
        source: a published name (`PUBLISHED`; ViT-B/32 if None), looked up in `FOLDERS`, or a path: OpenAI's JIT
            archive, of which only the weights are taken, a state dict, or a training checkpoint of ours.
        device: where it goes; the CPU if None.

    Raises:
        UserError: the file is missing, corrupt or not a CLIP.
    """
    path = find_clip(source)
    state = openai_names(_read(path))
    model = _build(state, path)
    return ClipBundle(
        model=model.to(device or "cpu"),
        tokenize=_tokenizer(model, path),
        mean=MEAN,
        std=STD,
        resolution=model.visual.input_resolution,
    )


def find_clip(source: str | Path | None = None) -> Path:
    """The file behind a published name or a path; see `load_clip`."""
    name = str(source or "ViT-B/32")
    if name not in PUBLISHED:
        path = Path(name).expanduser()
        if not path.is_file():
            raise UserError(f"There is no CLIP at {path}; {HOW_TO_GET}, or name a file you have.")
        return path
    file = f"{name.replace('/', '-')}.pt"
    for folder in FOLDERS:
        path = folder.expanduser() / file
        if path.is_file():
            return path
    raise UserError(f"CLIP {name} is not here ({' or '.join(str(f / file) for f in FOLDERS)}); {HOW_TO_GET}.")


def openai_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under OpenAI's names: a training checkpoint's `clip.` prefix removed, all else kept."""
    prefixed = {k.removeprefix("clip."): v for k, v in state.items() if k.startswith("clip.")}
    return prefixed or dict(state)


def save_clip(state: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a CLIP's or a training checkpoint's state dict as fp16 safetensors under OpenAI's names."""
    save_safetensors(path, {name: value.half() for name, value in openai_names(state).items()}, metadata)


def _is_jit_archive(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if _is_jit_archive(path):
            return load_script(path)
        return load_state_dict(path)
    except DAMAGED as error:
        raise UserError(f"The CLIP at {path} is truncated or corrupt; {HOW_TO_GET}.") from error
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}; {HOW_TO_GET}.") from error


def _build(state: dict[str, Tensor], path: Path) -> Any:
    """The model in float32, frozen. OpenAI's builder reads all sizes from the state dict's shapes."""
    check_finite(state.items(), f"The CLIP at {path}")
    try:
        model = clip_part("model").build_model(dict(state)).float()
        # The builder rounds the weights to fp16, so they are loaded once more.
        model.load_state_dict({k: v for k, v in state.items() if k in model.state_dict()})
    except DAMAGED as error:
        raise UserError(f"{path} holds no CLIP of OpenAI's architecture; {HOW_TO_GET}.") from error
    return model.eval().requires_grad_(False)


def _tokenizer(model: Any, path: Path) -> Callable[[Sequence[str]], Tensor]:
    if model.vocab_size == PUBLISHED_VOCABULARY:
        return partial(clip_tokens, context_length=model.context_length)
    words = WordTokenizer(context_length=model.context_length)
    if words.vocab_size != model.vocab_size:
        raise UserError(
            f"The CLIP at {path} was trained with another vocabulary ({model.vocab_size} entries, "
            f"configs/emoji/vocab.txt gives {words.vocab_size}); use the weights that belong to this version."
        )
    return words
