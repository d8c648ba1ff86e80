"""Everything an image needs, loaded once: diffusion model, CLIP for the loss, layout predictor.

Which model: the one that `config` and `ckpt` name; else Stable Diffusion v1 where its checkpoint is in place; else the
embedded model of emoji scenes that comes with the project.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm.errors import UserError
from ldm.generation.naming import category_name
from ldm.generation.progress import Progress, stage
from ldm.generation.settings import Run, check_writable, own_precision
from ldm.kinds import is_xl
from ldm.paths import EMOJI_CKPT, EMOJI_CLIP, EMOJI_CONFIG, SD_CKPT, SD_CONFIG, project_file
from ldm.util import load_config, load_model_from_config, outline_from_config, pick_device
from ldm.weights import check_file

if TYPE_CHECKING:
    import torch

    from ldm.modules.encoders.openai_clip import ClipBundle
    from ldm.spacetime.layout import Layout

logger = logging.getLogger(__name__)

LARGE = 2**28  # bytes of packed weights, from which on they save time
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
    diffusers: str | None = None  # folder or hub name of a model of that library
    dtype: str = "float32"  # of such a model, one of DTYPES
    offload: bool = False  # of such a model: on the card is only the part that runs
    lora: tuple[str, ...] = ()  # of such a model: FILE, or FILE:SCALE

    @property
    def clip(self) -> str | Path:
        """The CLIP that belongs to the model."""
        return project_file(EMOJI_CLIP) if self.embedded else SD_CLIP

    @property
    def guidance_scale(self) -> float:
        """The guidance that suits the model: 7.5 as published, 5 for the embedded one."""
        return 5.0 if self.embedded else 7.5


def choose_model(
    config: Path | None = None,
    ckpt: Path | None = None,
    model: str | None = None,
    dtype: str | None = None,
    offload: bool = False,
    lora: Sequence[str] = (),
) -> ModelChoice:
    """The model for these flags, each of which may be left out.

    Raises:
        UserError: a named file does not exist or is no checkpoint, or an unknown config comes without one.
    """
    if model is not None and Path(model).is_file() and not is_xl(Path(model)):
        ckpt, model = ckpt or Path(model), None
    if model is not None:
        if ckpt is not None or (config is not None and not Path(model).is_file()):
            raise UserError("--model names a whole model; leave out --config and --ckpt")
        return ModelChoice(
            config or Path(model) / "model_index.json",
            Path(model),
            embedded=False,
            diffusers=model,
            dtype=dtype or "float32",
            offload=offload,
            lora=tuple(lora),
        )
    if dtype is not None or offload or lora:
        raise UserError("--dtype, --offload and --lora go with --model, a folder of diffusers or a hub name")
    if config is not None and not config.is_file():
        raise UserError(f"--config {config} is not a file; give the path of one that exists")
    if ckpt is not None:
        check_file(ckpt)
    sd_config, sd_ckpt, emoji_config, emoji_ckpt = map(project_file, (SD_CONFIG, SD_CKPT, EMOJI_CONFIG, EMOJI_CKPT))
    if config is None and ckpt is None:
        if sd_ckpt.exists():
            return ModelChoice(sd_config, sd_ckpt, embedded=False)
        return ModelChoice(emoji_config, emoji_ckpt, embedded=True, notice=SD_NOTICE)
    if config is None:
        assert ckpt is not None
        embedded = ckpt.resolve() == emoji_ckpt.resolve()
        return ModelChoice(emoji_config if embedded else sd_config, ckpt, embedded)
    known = {sd_config.resolve(): sd_ckpt, emoji_config.resolve(): emoji_ckpt}
    weights = ckpt or known.get(config.resolve())
    if weights is None:
        raise UserError(f"--config {config} needs the checkpoint that belongs to it; name it with --ckpt")
    return ModelChoice(config, weights, embedded=config.resolve() == emoji_config.resolve())


@dataclass
class Pipeline:
    """The loaded model with what the method puts around it; CLIP and predictor are loaded on first use."""

    backend: Any  # a `Backend`, frozen, in eval mode
    choice: ModelChoice
    clip_source: str | Path = SD_CLIP
    predictor_source: Path | None = None
    categories: tuple[str, ...] = ()  # of the embedded model; empty where any word will do

    @property
    def model(self) -> Any:
        """The LatentDiffusion, or the U-Net of diffusers."""
        return self.backend.model

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.backend.device

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
        """Objects of `prompt` and their centers; none where it names none.

        All nouns count with `all_nouns`, else COCO's categories, their synonyms and what a stated fact names. What of
        the prompt is not taken as it stands is logged.
        """
        prediction = self.predictor.predict(prompt, all_nouns=all_nouns)
        for note in prediction.notes:
            logger.warning("%s", note)
        return prediction.layout

    def unknown_objects(self, layout: Layout) -> list[str]:
        """Names of the layout's objects that the embedded model never saw; none for other models."""
        if not self.categories:
            return []
        names = [
            name if (name := thing.name) in self.categories else category_name(name or thing.phrase)
            for thing in layout.objects
        ]
        return list(dict.fromkeys(name for name in names if name not in self.categories))


def load_pipeline(
    choice: ModelChoice, *, device: str | None = None, clip: str | Path | None = None, predictor: Path | None = None
) -> Pipeline:
    """Load the model of `choice`, frozen.

    Args:
        device: "cpu", "cuda", "cuda:1", "mps"; the best there is by default.
        clip: path or published name of the CLIP for the loss; the one that belongs to the model by default.
        predictor: weights of the layout predictor; the shipped ones by default.

    Raises:
        UserError: config or checkpoint cannot be read, or do not fit each other, or there is no such device.
    """
    from ldm.backends.compvis import CompVis

    where = pick_device(device)
    if choice.diffusers is not None:
        from ldm.backends import diffusers

        described = None if choice.config == choice.ckpt / "model_index.json" else choice.config
        loaded = diffusers.load(choice.diffusers, where, choice.dtype, choice.offload, choice.lora, described)
        return Pipeline(loaded, choice, clip or choice.clip, predictor)
    config = load_config(choice.config)
    backend = CompVis(load_model_from_config(config, choice.ckpt, device=where), config, choice.guidance_scale)
    categories: tuple[str, ...] = ()
    if choice.embedded:
        from ldm.categories import NAMES

        categories = NAMES
    return Pipeline(backend, choice, clip or choice.clip, predictor, categories)


def start(settings: Run) -> None:
    """See that a run can begin: its folder can be written, its threads are set. Raises UserError."""
    if settings.outdir is not None:
        check_writable(settings.outdir)
    set_threads(settings.threads)


def set_threads(threads: int | None) -> None:
    """Use that many CPU threads. Raises UserError for fewer than one."""
    if threads is None:
        return
    if threads < 1:
        raise UserError(f"threads must be at least 1, not {threads}")
    import torch

    torch.set_num_threads(threads)


def open_pipeline(
    settings: Run,
    clip: str | None = None,
    predictor: Path | None = None,
    needs: Collection[str] = (),
    progress: Progress | None = None,
) -> Pipeline:
    """`start` a run and load the model that it names; a model that nobody named is told of.

    Args:
        needs: "clip" and "predictor": what of them is missing, as a tokenizer of the model's own, is told before the
            model is loaded.

    Raises:
        UserError: what is named is not there, or cannot be used.
    """
    start(settings)
    choice = choose_model(
        settings.config, settings.ckpt, settings.model, settings.dtype, settings.offload, settings.lora
    )
    if choice.notice:
        logger.warning(choice.notice)
    if "clip" in needs:
        from ldm.modules.encoders.openai_clip import find_clip

        find_clip(clip or choice.clip)
    if choice.diffusers is None:
        check_texts(load_config(choice.config))
    loaded = None
    if "predictor" in needs:
        from layout_predictor.inference import load_predictor

        with stage(progress, "loading the layout predictor"):
            loaded = load_predictor(predictor)
    with stage(progress, f"loading {choice.ckpt}"):
        pipeline = load_pipeline(choice, device=settings.device, clip=clip, predictor=predictor)
    if loaded is not None:
        pipeline.predictor = loaded
    pack_weights(pipeline, settings.pack_weights)
    return pipeline


def pack_weights(pipeline: Pipeline, wanted: bool | None) -> None:
    """Pack the weights of a model on a CPU if `wanted`; None is: of a large model where there is room, and it is told.

    Where there is no room for what makes 3x3 convolutions fastest, it is left. Small models gain nothing (the embedded
    one takes 1.09 of the time of a plain image).
    """
    from ldm.extensions.packed import free_memory, pack, room

    if wanted is False:
        return
    model, free = pipeline.model, free_memory()
    tiles = room(model) <= free / 2
    size = room(model, tiles)
    if wanted is None and not LARGE <= size <= free / 2:
        return
    if not pack(model, tiles):
        logger.warning("--pack-weights does nothing here: it is for float32 weights on a CPU with oneDNN")
    elif wanted is None:
        logger.warning(
            "Weights are packed for this CPU, which takes up to %.1f GiB more; --no-pack-weights leaves it.",
            size / 2**30,
        )


def check_texts(config: Any) -> None:
    """See that the model's text encoder has its tokenizer. UserError if it is missing and cannot be fetched."""
    from omegaconf import OmegaConf

    params = OmegaConf.select(config, "model.params")
    encoder = outline_from_config(params.get("cond_stage_config") if isinstance(params, Mapping) else None)
    if hasattr(encoder, "unread"):
        encoder.unread("")


def precision(device: torch.device, name: str | None) -> contextlib.AbstractContextManager[Any]:
    """Where models run in that precision, "autocast" being float16 on CUDA, as published, and bfloat16 elsewhere.

    Latents, weights of objects and the loss stay float32. None is the device's own, see `own_precision`.
    """
    if (name or own_precision(device)) != "autocast":
        return contextlib.nullcontext()
    import torch

    return torch.autocast(device.type, torch.float16 if device.type == "cuda" else torch.bfloat16)


def make_sampler(name: str, model: Any) -> Any:
    """The sampler of a flag's name (a key of `ldm.generation.settings.SAMPLERS`) around a backend."""
    if name == "plms":
        from ldm.models.diffusion.plms import PLMSSampler

        return PLMSSampler(model)
    if name == "dpm_solver":
        from ldm.models.diffusion.dpm_solver import DPMSolverSampler

        return DPMSolverSampler(model)
    from ldm.models.diffusion.ddim import DDIMSampler

    return DDIMSampler(model)
