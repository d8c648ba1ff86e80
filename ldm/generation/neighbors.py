"""Nearest neighbors among CLIP embeddings, for retrieval-augmented diffusion (Blattmann et al. 2022).

The search is scann's where it is installed, else faiss's; both are optional.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm.errors import DAMAGED, UserError
from ldm.files import atomic_write

logger = logging.getLogger(__name__)

Vectors = NDArray[np.float32]  # (N, D), of length 1
DATABASE_ROOT = Path("data/rdm/retrieval_databases")
SEARCHER_ROOT = Path("data/rdm/searchers")
BACKENDS = ("scann", "faiss")
NO_BACKEND = "neither scann nor faiss is installed; pip install faiss-cpu"
# Below this many vectors an exact search takes milliseconds; above it, cells of an inverted file are searched.
EXACT_BELOW = 100_000


@dataclass(frozen=True)
class Database:
    """Embeddings of image patches and where each patch comes from."""

    embedding: Vectors  # (N, D)
    img_id: NDArray[Any]  # (N,)
    patch_coords: NDArray[Any]  # (N, 4)


def load_database(folder: Path) -> Database:
    """All .npz files of a folder, joined in the order of their names, embeddings scaled to length 1.

    Each file holds `embedding` (N, D), `img_id` (N,) and `patch_coords` (N, 4), as published.

    Raises:
        UserError: no such folder, no file in it, or a file that is not of this kind.
    """
    if not folder.is_dir():
        raise UserError(f"retrieval database {folder} is not a folder; unpack the published one there")
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise UserError(f"retrieval database {folder} holds no .npz file; unpack the published one there")
    parts = [_read_part(path) for path in files]
    widths = {part["embedding"].shape[1] for part in parts}
    if len(widths) > 1:
        raise UserError(f"the files of {folder} hold embeddings of different width ({sorted(widths)})")
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return Database(normalized(joined["embedding"]), joined["img_id"], joined["patch_coords"])


def _read_part(path: Path) -> dict[str, NDArray[Any]]:
    keys = ("embedding", "img_id", "patch_coords")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            part = {key: arrays[key] for key in keys}
    except DAMAGED as err:
        raise UserError(f"{path} is no part of a retrieval database: it needs {', '.join(keys)}") from err
    if part["embedding"].ndim != 2 or len({len(array) for array in part.values()}) != 1:
        raise UserError(f"{path} is no part of a retrieval database: its arrays do not belong together")
    return part


def normalized(vectors: NDArray[Any]) -> Vectors:
    """(N, D) with every row scaled to length 1."""
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


class Searcher:
    """Finds the rows with the largest inner product."""

    FILE = ""  # by which a saved one is known

    def __init__(self, index: Any) -> None:
        self.index = index

    @classmethod
    def build(cls, vectors: Vectors, knn: int) -> Searcher:
        """An index over (N, D); `knn` is how many neighbors will be asked for."""
        raise NotImplementedError

    @classmethod
    def load(cls, folder: Path) -> Searcher:
        """Read what `save` wrote. Raises UserError for a corrupt file."""
        raise NotImplementedError

    def search(self, queries: Vectors, k: int) -> NDArray[np.int64]:
        """(B, D) queries to the numbers of their k nearest rows, nearest first: (B, k)."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write it into `folder`, where `load_searcher` finds it."""
        raise NotImplementedError


class FaissSearcher(Searcher):
    """faiss: exact for small databases, cells of an inverted file for large ones."""

    FILE = "index.faiss"

    @classmethod
    def build(cls, vectors: Vectors, knn: int) -> Searcher:
        faiss = importlib.import_module("faiss")
        width = vectors.shape[1]
        if len(vectors) < EXACT_BELOW:
            index = faiss.IndexFlatIP(width)
        else:
            cells = int(4 * len(vectors) ** 0.5)  # faiss's own advice
            index = faiss.index_factory(width, f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT)
            index.train(vectors)
            index.nprobe = max(16, cells // 50)
        index.add(vectors)
        return cls(index)

    @classmethod
    def load(cls, folder: Path) -> Searcher:
        faiss = importlib.import_module("faiss")
        try:
            return cls(faiss.read_index(str(folder / cls.FILE)))
        except RuntimeError as err:
            raise UserError(f"{folder / cls.FILE} is corrupt; run scripts/train_searcher.py again") from err

    def search(self, queries: Vectors, k: int) -> NDArray[np.int64]:
        return self.index.search(np.ascontiguousarray(queries, np.float32), k)[1]

    def save(self, folder: Path) -> None:
        with atomic_write(folder / self.FILE) as temporary:
            importlib.import_module("faiss").write_index(self.index, str(temporary))


class ScannSearcher(Searcher):
    """scann (Guo et al. 2020), with the published choice by the database's size."""

    FILE = "scann_config.pb"

    @classmethod
    def build(cls, vectors: Vectors, knn: int) -> Searcher:
        builder = importlib.import_module("scann").scann_ops_pybind.builder(vectors, knn, "dot_product")
        if len(vectors) < 20_000:
            return cls(builder.score_brute_force().build())
        if len(vectors) >= EXACT_BELOW:
            sample = min(len(vectors), 250_000)
            builder = builder.tree(num_leaves=2000, num_leaves_to_search=100, training_sample_size=sample)
        hashed = builder.score_ah(2, anisotropic_quantization_threshold=0.2)
        return cls(hashed.reorder(max(100, knn)).build())

    @classmethod
    def load(cls, folder: Path) -> Searcher:
        try:
            return cls(importlib.import_module("scann").scann_ops_pybind.load_searcher(str(folder)))
        except DAMAGED as err:
            raise UserError(f"the searcher in {folder} is corrupt; run scripts/train_searcher.py again") from err

    def search(self, queries: Vectors, k: int) -> NDArray[np.int64]:
        return np.asarray(self.index.search_batched(queries, final_num_neighbors=k)[0], np.int64)

    def save(self, folder: Path) -> None:  # several files
        folder.mkdir(parents=True, exist_ok=True)
        self.index.serialize(str(folder))


KINDS: dict[str, type[Searcher]] = {"scann": ScannSearcher, "faiss": FaissSearcher}


def available(backend: str | None = None) -> str:
    """The backend to use: the named one, or the first of BACKENDS that is installed. Raises UserError."""
    if backend is not None and backend not in BACKENDS:
        raise UserError(f"search backend '{backend}' is unknown; choose {' or '.join(BACKENDS)}")
    for name in (backend,) if backend else BACKENDS:
        if importlib.util.find_spec(name) is not None:
            return name
    package = "faiss-cpu" if backend == "faiss" else backend
    raise UserError(f"{backend} is not installed; pip install {package}" if backend else NO_BACKEND)


def build_searcher(vectors: Vectors, knn: int, backend: str | None = None) -> Searcher:
    """An index over (N, D) vectors of length 1. Raises UserError where no backend is installed."""
    return KINDS[available(backend)].build(vectors, knn)


def load_searcher(folder: Path) -> Searcher | None:
    """The saved searcher in `folder`, or None. Raises UserError where its backend is not installed."""
    for name in BACKENDS:
        if (folder / KINDS[name].FILE).is_file():
            return KINDS[available(name)].load(folder)
    return None


def train_searcher(database: Path, target: Path, knn: int, backend: str | None = None) -> Path:
    """Build an index over a retrieval database and save it.

    Raises:
        UserError: see `load_database` and `available`, or a folder that cannot be written.
    """
    if knn < 1:
        raise UserError(f"--knn must be at least 1, not {knn}")
    chosen = available(backend)
    vectors = load_database(database).embedding
    searcher = build_searcher(vectors, min(knn, len(vectors)), chosen)
    try:
        searcher.save(target)
    except OSError as err:
        raise UserError(f"{target} cannot be written: {err.strerror or err}; choose another folder") from err
    return target
