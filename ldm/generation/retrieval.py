"""Text to image with retrieved neighbors (Blattmann et al. 2022).

The context is the prompt's CLIP embedding and, with neighbors, the embeddings of its nearest image patches.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.backends.compvis import CompVis
from ldm.errors import UserError
from ldm.generation.generate import Guard, outcomes
from ldm.generation.neighbors import (
    DATABASE_ROOT,
    SEARCHER_ROOT,
    Database,
    Searcher,
    build_searcher,
    load_database,
    load_searcher,
    normalized,
)
from ldm.generation.pipeline import Pipeline, choose_model, load_pipeline, pack_weights, start
from ldm.generation.progress import Progress, stage
from ldm.generation.record import Outcome
from ldm.generation.settings import GenerateSettings, check_counts, check_settings
from ldm.modules.encoders.openai_clip import find_clip, load_clip
from ldm.paths import project_file

logger = logging.getLogger(__name__)

CONFIG = Path("configs/retrieval-augmented-diffusion/768x768.yaml")
CKPT = Path("models/rdm/rdm768x768/model.ckpt")
PUBLISHED = re.compile(  # databases
    "openimages|artbench-(art_nouveau|baroque|expressionism|impressionism|post_impressionism|realism|renaissance|"
    "romanticism|surrealism|ukiyo_e)"
)


@dataclass(frozen=True, kw_only=True)
class RetrievalSettings(GenerateSettings):
    """What to make and how."""

    preset: None = None
    height: int | None = 768
    width: int | None = 768
    scale: float | None = 5.0
    clip_type: str = "ViT-L/14"  # published name or path
    database: str = "artbench-surrealism"  # published name or folder
    searcher: Path | None = None  # folder of the trained searcher; by default that of the database's name
    use_neighbors: bool = False
    knn: int = 10
    n_repeat: int = 1  # of the prompt's embedding in the context

    def more_parameters(self) -> dict[str, str]:
        """The neighbors, where there are some."""
        return {"Neighbors": f"{self.knn} of {self.database}"} if self.use_neighbors else {}


class RetrievalModel(CompVis):
    """A model whose contexts are CLIP embeddings: of the prompt, and of the image patches nearest to it."""

    def __init__(self, model: Any, config: Any, settings: RetrievalSettings) -> None:
        assert settings.scale is not None
        super().__init__(model, config, settings.scale)
        self.settings = settings
        self.clip = load_clip(settings.clip_type, self.device)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """(B, n_repeat, D), or (B, n_repeat + knn, D) with neighbors, rows of length 1; zeros for an empty text.

        Raises:
            UserError: the database or its searcher cannot be used, or the CLIP does not fit the model.
        """
        prompts = [text for text in texts if text]
        self.tell_unread(prompts, self.clip.unread)
        embedded = self.clip.model.encode_text(self.clip.tokenize(prompts).to(self.device)).float()
        embedded = embedded / embedded.norm(dim=-1, keepdim=True)  # (B, D)
        wanted = self.params["unet_config"]["params"].get("context_dim")
        if wanted is not None and embedded.shape[-1] != wanted:
            raise UserError(
                f"{self.settings.clip_type} gives contexts of width {embedded.shape[-1]}, the model takes {wanted}; "
                "choose the CLIP that the model was trained with"
            )
        context = embedded[:, None].repeat(1, self.settings.n_repeat, 1)
        if self.settings.use_neighbors:
            context = torch.cat([context, self.neighbors(embedded).to(context)], dim=1)
        made = iter(context)
        return torch.stack([next(made) if text else torch.zeros_like(context[0]) for text in texts])

    def neighbors(self, queries: Tensor) -> Tensor:
        """Embeddings of the patches nearest to (B, D), nearest first: (B, knn, D)."""
        database, searcher = self._search
        if database.embedding.shape[1] != queries.shape[1]:
            raise UserError(
                f"the embeddings of {self.settings.database} have width {database.embedding.shape[1]}, those of "
                f"{self.settings.clip_type} {queries.shape[1]}; choose the CLIP that the database was made with"
            )
        rows = searcher.search(normalized(queries.cpu().numpy()), self.settings.knn)  # (B, k)
        return torch.from_numpy(database.embedding[rows])

    @cached_property
    def _search(self) -> tuple[Database, Searcher]:
        name, knn = self.settings.database, self.settings.knn
        named = PUBLISHED.fullmatch(name) is not None
        folder = project_file(DATABASE_ROOT / name) if named else Path(name)
        database = load_database(folder)
        if not 1 <= knn <= len(database.embedding):
            raise UserError(f"--knn must be from 1 to {len(database.embedding)}, the size of {folder}")
        saved = self.settings.searcher or (project_file(SEARCHER_ROOT / name) if named else None)
        searcher = load_searcher(saved) if saved is not None else None
        if searcher is None:
            logger.warning("No trained searcher for %s: building one (scripts/train_searcher.py keeps it).", folder)
            searcher = build_searcher(database.embedding, knn)
        return database, searcher


def open_model(settings: RetrievalSettings) -> Pipeline:
    """The retrieval-augmented model. Raises UserError where it is not there or takes no context."""
    config, ckpt = settings.config or project_file(CONFIG), settings.ckpt or project_file(CKPT)
    if not ckpt.is_file():
        raise UserError(f"no checkpoint at {ckpt}; scripts/download_models.sh fetches it, or name one with --ckpt")
    find_clip(settings.clip_type)
    pipeline = load_pipeline(choose_model(config, ckpt), device=settings.device)
    if pipeline.backend.conditioning_key != "crossattn":
        raise UserError(f"{config} takes no context by cross-attention; give a retrieval-augmented model")
    pack_weights(pipeline, settings.pack_weights)
    pipeline.backend = RetrievalModel(pipeline.model, pipeline.backend.config, settings)
    return pipeline


def draw_with_neighbors(
    settings: RetrievalSettings, guard: Guard = list, progress: Progress | None = None
) -> Iterator[Outcome]:
    """Make the images; yields each when it is written.

    Raises:
        UserError: a setting, a file, a folder or a model that cannot be used.
    """
    check_settings(settings)
    check_counts(settings, "n_repeat", "knn")
    if not settings.use_neighbors:
        for option in fields(settings):
            if option.name in ("knn", "database", "searcher") and getattr(settings, option.name) != option.default:
                logger.warning("--%s does nothing without --use_neighbors.", option.name)
    start(settings)
    with stage(progress, "loading the models"):
        pipeline = open_model(settings)
    return outcomes(settings, progress, guard=guard, pipeline=pipeline)
