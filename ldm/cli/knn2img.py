"""Text to image with retrieved neighbors (Blattmann et al. 2022): what `scripts/knn2img.py` does, as a function.

The context is the prompt's CLIP embedding and, with neighbors, the embeddings of its nearest image patches.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.cli.common import Progress, StepCounter, no_progress, set_threads
from ldm.cli.images import ImageFolder
from ldm.cli.neighbors import DATABASE_ROOT, SEARCHER_ROOT, build_searcher, load_database, load_searcher, normalized
from ldm.generation.images import ImageArray, parameters_text, to_images
from ldm.generation.pipeline import Pipeline, choose_model, load_pipeline, make_sampler
from ldm.generation.settings import SAMPLERS, check_writable
from ldm.models.diffusion.sampling import check_steps, noise_like, seeded_generators
from ldm.modules.encoders.openai_clip import ClipBundle, load_clip
from ldm.paths import project_file
from ldm.util import UserError

logger = logging.getLogger(__name__)

CONFIG = Path("configs/retrieval-augmented-diffusion/768x768.yaml")
CKPT = Path("models/rdm/rdm768x768/model.ckpt")
ARTBENCH = (
    "art_nouveau",
    "baroque",
    "expressionism",
    "impressionism",
    "post_impressionism",
    "realism",
    "renaissance",
    "romanticism",
    "surrealism",
    "ukiyo_e",
)
DATABASES = ("openimages", *(f"artbench-{style}" for style in ARTBENCH))


@dataclass(frozen=True)
class RetrievalSettings:
    """What to make and how."""

    prompts: tuple[str, ...]
    outdir: Path
    config: Path | None = None
    ckpt: Path | None = None
    clip_type: str = "ViT-L/14"  # published name or path
    database: str = "artbench-surrealism"  # published name or folder
    searcher: Path | None = None  # folder of the trained searcher; by default that of the database's name
    use_neighbors: bool = False
    knn: int = 10
    n_repeat: int = 1  # of the prompt's embedding in the context
    sampler: str = "ddim"
    steps: int = 50
    eta: float = 0.0
    height: int = 768
    width: int = 768
    scale: float = 5.0
    samples: int = 1
    iterations: int = 1
    columns: int = 0
    seed: int = 42
    skip_grid: bool = False
    skip_save: bool = False
    device: str | None = None
    threads: int | None = None


@dataclass
class Retriever:
    """Embeds prompts and finds the patches nearest to them."""

    settings: RetrievalSettings
    clip: ClipBundle
    _database: Any = field(default=None, repr=False)
    _searcher: Any = field(default=None, repr=False)

    def context(self, prompts: list[str], device: torch.device) -> Tensor:
        """(B, n_repeat, D), or (B, n_repeat + knn, D) with neighbors; every row of length 1.

        Raises:
            UserError: the database or its searcher cannot be used.
        """
        with torch.no_grad():
            embedded = self.clip.model.encode_text(self.clip.tokenize(prompts).to(device)).float()
        embedded = embedded / embedded.norm(dim=-1, keepdim=True)  # (B, D)
        context = embedded[:, None].repeat(1, self.settings.n_repeat, 1)
        if not self.settings.use_neighbors:
            return context
        return torch.cat([context, self.neighbors(embedded).to(context)], dim=1)

    def neighbors(self, queries: Tensor) -> Tensor:
        """Embeddings of the patches nearest to (B, D), nearest first: (B, knn, D)."""
        self._open(queries.shape[1])
        vectors, k = self._database.embedding, self.settings.knn
        rows = self._searcher.search(normalized(queries.cpu().numpy()), k)  # (B, k)
        return torch.from_numpy(vectors[rows])

    def _open(self, width: int) -> None:
        if self._database is not None:
            return
        named = self.settings.database in DATABASES
        folder = project_file(DATABASE_ROOT / self.settings.database) if named else Path(self.settings.database)
        database = load_database(folder)
        if database.embedding.shape[1] != width:
            raise UserError(
                f"the embeddings of {folder} have width {database.embedding.shape[1]}, those of "
                f"{self.settings.clip_type} {width}; choose the CLIP that the database was made with"
            )
        if not 1 <= self.settings.knn <= len(database.embedding):
            raise UserError(f"--knn must be from 1 to {len(database.embedding)}, the size of {folder}")
        saved = self.settings.searcher or (project_file(SEARCHER_ROOT / self.settings.database) if named else None)
        searcher = load_searcher(saved) if saved is not None else None
        if searcher is None:
            logger.warning("No trained searcher for %s: building one (scripts/train_searcher.py keeps it).", folder)
            searcher = build_searcher(database.embedding, self.settings.knn)
        self._database, self._searcher = database, searcher


def check(settings: RetrievalSettings) -> None:
    """Refuse what no model can do, before anything is loaded. Raises UserError."""
    if not settings.prompts or any(not prompt.strip() for prompt in settings.prompts):
        raise UserError("there is no prompt; give one with --prompt or --from-file")
    for name in ("samples", "iterations", "n_repeat", "knn", "height", "width"):
        if getattr(settings, name) < 1:
            raise UserError(f"{name} must be at least 1, not {getattr(settings, name)}")
    if settings.sampler == "plms" and settings.eta:
        raise UserError("PLMS is deterministic; leave out --ddim_eta or use DDIM")
    check_steps(settings.steps)


def open_model(settings: RetrievalSettings) -> Pipeline:
    """The retrieval-augmented model. Raises UserError where it is not there or takes no context."""
    config, ckpt = settings.config or project_file(CONFIG), settings.ckpt or project_file(CKPT)
    if not ckpt.is_file():
        raise UserError(f"no checkpoint at {ckpt}; scripts/download_models.sh fetches it, or name one with --ckpt")
    pipeline = load_pipeline(choose_model(config, ckpt), device=settings.device)
    if pipeline.model.model.conditioning_key != "crossattn":
        raise UserError(f"{config} takes no context by cross-attention; give a retrieval-augmented model")
    for flag, size in (("--H", settings.height), ("--W", settings.width)):
        if size % (8 * pipeline.factor):
            raise UserError(f"{flag} {size} is not a multiple of {8 * pipeline.factor}, as this model needs")
    return pipeline


def draw_with_neighbors(
    settings: RetrievalSettings,
    guard: Callable[[list[ImageArray]], list[ImageArray]] = list,
    progress: Progress = no_progress,
) -> list[Path]:
    """Make the images; returns the paths of what was written, the grid last.

    Raises:
        UserError: a setting, a file, a folder or a model that cannot be used.
    """
    check(settings)
    check_writable(settings.outdir)
    set_threads(settings.threads)
    pipeline = open_model(settings)
    retriever = Retriever(settings, load_clip(settings.clip_type, pipeline.device))
    folder, files, images, seed = ImageFolder(settings.outdir), [], [], settings.seed
    for _ in range(settings.iterations):
        for prompt in settings.prompts:
            seeds = list(range(seed, seed + settings.samples))
            seed += settings.samples
            made = guard(to_images(sample_batch(pipeline, retriever, prompt, seeds, progress), low=-1))
            images += made
            if not settings.skip_save:
                files += [folder.save(p, _text(settings, prompt, s)) for p, s in zip(made, seeds, strict=True)]
    if not settings.skip_grid and (sheet := folder.save_grid(images, settings.columns or settings.samples)):
        files.append(sheet)
    return files


@torch.no_grad()
def sample_batch(
    pipeline: Pipeline, retriever: Retriever, prompt: str, seeds: list[int], progress: Progress = no_progress
) -> Tensor:
    """Images of one prompt, one a seed: (B, 3, H, W), about [-1, 1]."""
    settings = retriever.settings
    context = retriever.context([prompt], pipeline.device).repeat(len(seeds), 1, 1)
    wanted = getattr(pipeline.config["model"]["params"]["unet_config"]["params"], "context_dim", None)
    if wanted is not None and context.shape[-1] != wanted:
        raise UserError(
            f"{settings.clip_type} gives contexts of width {context.shape[-1]}, the model takes {wanted}; "
            "choose the CLIP that the model was trained with"
        )
    generators = seeded_generators(seeds)
    shape = (pipeline.channels, settings.height // pipeline.factor, settings.width // pipeline.factor)
    sampler = make_sampler(settings.sampler, pipeline.model)
    latents, _ = sampler.sample(
        S=settings.steps,
        batch_size=len(seeds),
        shape=shape,
        conditioning=context,
        unconditional_guidance_scale=settings.scale,
        unconditional_conditioning=torch.zeros_like(context),
        eta=settings.eta,
        x_T=noise_like((len(seeds), *shape), generators),
        generator=generators,
        callback=StepCounter(progress, "sampling", len(sampler.schedule(settings.steps, settings.eta))),
        verbose=False,
    )
    return pipeline.model.decode_first_stage(latents)


def _text(settings: RetrievalSettings, prompt: str, seed: int) -> str:
    fields = {
        "Steps": settings.steps,
        "Sampler": SAMPLERS[settings.sampler],
        "CFG scale": settings.scale,
        "Seed": seed,
        "Size": f"{settings.width}x{settings.height}",
        "Neighbors": f"{settings.knn} of {settings.database}" if settings.use_neighbors else None,
    }
    return parameters_text(prompt, fields)
