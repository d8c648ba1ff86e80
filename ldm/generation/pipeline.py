"""Everything one image needs, loaded once: diffusion model, CLIP for the loss, layout predictor.

Which model: the one that ``config`` and ``ckpt`` name; else Stable Diffusion v1 where its checkpoint is in
place; else the embedded model of emoji scenes that comes with the project.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm.paths import EMOJI_CKPT, EMOJI_CLIP, EMOJI_CONFIG, SD_CKPT, SD_CONFIG, project_file
from ldm.util import UserError, load_config, load_model_from_config, pick_device

if TYPE_CHECKING:
    import torch

    from ldm.modules.encoders.openai_clip import ClipBundle
    from ldm.spacetime.layout import Layout

SD_CLIP = "ViT-B/32"  # the CLIP of the published method

SD_NOTICE = (
    f"Using the embedded model of emoji scenes: no Stable Diffusion checkpoint at {SD_CKPT} "
    "(to get the real one, download sd-v1-4.ckpt from "
    "https://huggingface.co/CompVis/stable-diffusion-v-1-4-original and put it there)."
)


@dataclass(frozen=True)
class ModelChoice:
    """Which config and checkpoint a run uses, and what to tell the user about it."""

    config: Path
    ckpt: Path
    embedded: bool
    notice: str | None = None

    @property
    def guidance_scale(self) -> float:
        """The guidance that suits the model: 7.5 as published, 5 for the embedded one."""
        return 5.0 if self.embedded else 7.5


def choose_model(config: Path | None = None, ckpt: Path | None = None) -> ModelChoice:
    """The model for these flags, either of which may be left out.

    Raises:
        UserError: a named file does not exist, or an unknown config comes without a checkpoint.
    """
    if config is None and ckpt is None:
        if project_file(SD_CKPT).exists():
            return ModelChoice(project_file(SD_CONFIG), project_file(SD_CKPT), embedded=False)
        return ModelChoice(project_file(EMOJI_CONFIG), project_file(EMOJI_CKPT), True, SD_NOTICE)
    for path, flag in ((config, "--config"), (ckpt, "--ckpt")):
        if path is not None and not path.is_file():
            raise UserError(f"{flag} {path} is not a file; give the path of one that exists")
    pairs = ((SD_CONFIG, SD_CKPT), (EMOJI_CONFIG, EMOJI_CKPT))
    known = {project_file(c).resolve(): project_file(w) for c, w in pairs}
    if config is None:
        assert ckpt is not None
        embedded = ckpt.resolve() == project_file(EMOJI_CKPT).resolve()
        return ModelChoice(project_file(EMOJI_CONFIG if embedded else SD_CONFIG), ckpt, embedded)
    embedded = config.resolve() == project_file(EMOJI_CONFIG).resolve()
    weights = ckpt or known.get(config.resolve())
    if weights is None:
        raise UserError(f"--config {config} needs the checkpoint that belongs to it; name it with --ckpt")
    return ModelChoice(config, weights, embedded)


@dataclass
class Pipeline:
    """The loaded model with what the method puts around it; CLIP and predictor are loaded on first use."""

    model: Any  # LatentDiffusion, frozen, in eval mode
    config: Any
    choice: ModelChoice
    device: torch.device
    clip_source: str | Path
    predictor_source: Path | None = None
    categories: tuple[str, ...] = field(default=())  # of the embedded model; empty where any word will do

    @property
    def factor(self) -> int:
        """Pixels per latent pixel: 2 to the number of the first stage's downsamplings."""
        return 2 ** (len(self._params["first_stage_config"]["params"]["ddconfig"]["ch_mult"]) - 1)

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return int(self._params.get("channels", 4))

    @property
    def image_size(self) -> int:
        """Side, in pixels, of the images that the model was trained on."""
        size = self._params.get("image_size", 64)
        return int(size if isinstance(size, int) else size[0]) * self.factor

    @property
    def guidance_scale(self) -> float:
        """See `ModelChoice.guidance_scale`."""
        return self.choice.guidance_scale

    @property
    def _params(self) -> Any:
        return self.config["model"]["params"]

    @cached_property
    def clip(self) -> ClipBundle:
        """The CLIP of the loss, frozen."""
        from ldm.modules.encoders.openai_clip import load_clip

        return load_clip(self.clip_source, self.device)

    @cached_property
    def predictor(self) -> Any:
        """The layout predictor."""
        from layout_predictor.inference import load_predictor

        return load_predictor(self.predictor_source)

    def predict_layout(self, prompt: str, all_nouns: bool = False) -> Layout:
        """Objects of `prompt` and their centers; no objects where it names none.

        All nouns count with `all_nouns`, else COCO's categories and their synonyms.
        """
        from layout_predictor.inference import predict_layout

        return predict_layout(prompt, self.predictor, all_nouns=all_nouns)

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Texts to their context (B, L, C)."""
        return self.model.get_learned_conditioning(list(texts))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, h, w) to images (B, 3, H, W) in [0, 1]."""
        return ((self.model.decode_first_stage(latents) + 1) / 2).clamp(0, 1)

    def precision(self, name: str) -> contextlib.AbstractContextManager[Any]:
        """Where the model runs in the precision `name`: "full", or "autocast" for mixed precision.

        That is bfloat16, whose range needs no scaling of the loss.
        """
        if name == "full":
            return contextlib.nullcontext()
        import torch

        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def unknown_objects(self, layout: Layout) -> list[str]:
        """Names of the layout's objects that the embedded model never saw; none for other models."""
        names = [thing.name or thing.phrase for thing in layout.objects]
        return [name for name in names if self.categories and name not in self.categories]


def load_pipeline(
    choice: ModelChoice, *, device: str | None = None, clip: str | Path | None = None, predictor: Path | None = None
) -> Pipeline:
    """Load the model of `choice`, frozen, on `device`.

    Args:
        choice: see :func:`choose_model`.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; the best there is by default.
        clip: path or published name of the CLIP for the loss; the one that belongs to the model by default.
        predictor: weights of the layout predictor; the shipped ones by default.

    Raises:
        UserError: config or checkpoint cannot be read, or do not fit each other, or there is no such device.
    """
    where = pick_device(device)
    config = load_config(choice.config)
    model = load_model_from_config(config, choice.ckpt, device=where)
    categories: tuple[str, ...] = ()
    if choice.embedded:
        from ldm.categories import NAMES

        categories = NAMES
    source = clip or (project_file(EMOJI_CLIP) if choice.embedded else SD_CLIP)
    return Pipeline(model, config, choice, where, source, predictor, categories)


def make_sampler(name: str, model: Any) -> Any:
    """The sampler of a flag's name (see :data:`ldm.generation.settings.SAMPLERS`) around `model`."""
    if name == "plms":
        from ldm.models.diffusion.plms import PLMSSampler

        return PLMSSampler(model)
    if name == "dpm_solver":
        from ldm.models.diffusion.dpm_solver import DPMSolverSampler

        return DPMSolverSampler(model)
    from ldm.models.diffusion.ddim import DDIMSampler

    return DDIMSampler(model)
