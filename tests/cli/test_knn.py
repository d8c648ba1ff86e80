"""Nearest neighbors: `scripts/train_searcher.py` and `scripts/knn2img.py` on a small random database."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ldm.errors import UserError
from ldm.generation import neighbors
from ldm.generation.neighbors import build_searcher, load_database, load_searcher, normalized
from tests import tiny_world
from tests.scripts_under_test import refusal, run, tiny_config, write_model

WIDTH = 16  # of the tiny CLIP's embeddings
needs_search = pytest.mark.skipif(
    not any(map(importlib.util.find_spec, neighbors.BACKENDS)), reason=neighbors.NO_BACKEND
)
needs_faiss = pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss is not installed")


def write_database(folder: Path, count: int = 40) -> Path:
    """Random embeddings in two files."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, part in enumerate(np.split(rng.standard_normal((count, WIDTH)).astype(np.float32), 2)):
        arrays: dict[str, Any] = {"img_id": np.arange(len(part)), "patch_coords": np.zeros((len(part), 4))}
        np.savez(folder / f"part_{i}.npz", embedding=part, **arrays)
    return folder


def retrieval(params: dict[str, Any]) -> None:
    """The kind of the published 768x768 model: CLIP embeddings as context."""
    params["unet_config"]["params"]["context_dim"] = WIDTH
    params["cond_stage_config"] = {"target": "torch.nn.Identity"}


@pytest.fixture(scope="module")
def flags(world: tiny_world.TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags of a tiny retrieval-augmented model, its CLIP and a database."""
    folder = tmp_path_factory.mktemp("rdm")
    config, ckpt = write_model(folder / "model", tiny_config(retrieval))
    database = write_database(folder / "patches")
    named = {"--config": config, "--ckpt": ckpt, "--clip_type": world.clip, "--database": database}
    size = ["--H", "32", "--W", "32", "--ddim_steps", "2", "--device", "cpu"]
    return [*(str(word) for pair in named.items() for word in pair), *size]


@pytest.mark.parametrize("backend", neighbors.BACKENDS)
def test_search_is_exact_and_survives_a_file(tmp_path: Path, backend: str) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    database = write_database(tmp_path / "patches")
    run("train_searcher", "-d", database, "-t", tmp_path / "index", "-k", "5", "--backend", backend)
    vectors = load_database(database).embedding
    assert vectors.shape == (40, WIDTH) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    queries = normalized(np.random.default_rng(1).standard_normal((3, WIDTH)))
    searcher = load_searcher(tmp_path / "index")
    assert searcher is not None
    assert np.array_equal(searcher.search(queries, 5), np.argsort(-queries @ vectors.T, axis=1)[:, :5])


@needs_faiss
def test_a_large_database_is_searched_by_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "EXACT_BELOW", 100)
    vectors = normalized(np.random.default_rng(0).standard_normal((2000, WIDTH)))
    found = build_searcher(vectors, 1, "faiss").search(vectors[:20], 1)
    assert (found[:, 0] == np.arange(20)).mean() >= 0.9


def test_scann_is_preferred_where_it_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Index:
        def __init__(self, vectors: np.ndarray) -> None:
            self.vectors = vectors

        def search_batched(self, queries: np.ndarray, final_num_neighbors: int) -> tuple[np.ndarray, None]:
            return np.argsort(-queries @ self.vectors.T, axis=1)[:, :final_num_neighbors].astype(np.uint32), None

        def serialize(self, folder: str) -> None:
            np.save(f"{folder}/vectors.npy", self.vectors)
            (Path(folder) / "scann_config.pb").touch()

    class Builder:
        def __init__(self, vectors: np.ndarray, knn: int, distance: str) -> None:
            assert distance == "dot_product"
            self.vectors = vectors

        def score_brute_force(self) -> Builder:
            return self

        def build(self) -> Index:
            return Index(self.vectors)

    def load(folder: str) -> Index:
        return Index(np.load(f"{folder}/vectors.npy"))

    operations = types.SimpleNamespace(builder=Builder, load_searcher=load)
    module = types.ModuleType("scann")
    module.scann_ops_pybind = operations  # type: ignore[attr-defined]
    module.__spec__ = importlib.util.spec_from_loader("scann", None)
    monkeypatch.setitem(sys.modules, "scann", module)
    database = write_database(tmp_path / "patches")
    neighbors.train_searcher(database, tmp_path / "index", 5)
    searcher = load_searcher(tmp_path / "index")
    assert isinstance(searcher, neighbors.ScannSearcher)
    vectors = load_database(database).embedding
    assert searcher.search(vectors[:3], 1)[:, 0].tolist() == [0, 1, 2]


@needs_search
def test_images_with_and_without_neighbors(flags: list[str], tmp_path: Path) -> None:
    for name, words in (("plain", []), ("near", ["--use_neighbors", "--knn", "3"]), ("plms", ["--plms"])):
        run("knn2img", *flags, "--prompt", "a cat", "--n_samples", "2", *words, "--outdir", tmp_path / name)
        assert sorted(p.name for p in (tmp_path / name).rglob("*.png")) == ["00000.png", "00001.png", "grid-0000.png"]
    plain, near = (np.asarray(Image.open(tmp_path / n / "samples" / "00000.png"), int) for n in ("plain", "near"))
    assert plain.shape == (32, 32, 3) and not np.array_equal(plain, near)


def test_without_any_search_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    database = write_database(tmp_path / "patches")
    monkeypatch.setattr("ldm.generation.neighbors.importlib.util.find_spec", lambda name: None)
    said = refusal(capfd, "train_searcher", "-d", database, "-t", tmp_path / "index")
    assert "neither scann nor faiss" in said and not (tmp_path / "index").exists()


def test_mistakes_end_in_one_sentence(flags: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    empty, odd = tmp_path / "empty", tmp_path / "odd"
    empty.mkdir()
    odd.mkdir()
    np.savez(odd / "a.npz", something=np.zeros(3))
    for folder, words in ((empty, "holds no .npz"), (odd, "no part of"), (tmp_path / "none", "is not a folder")):
        with pytest.raises(UserError, match=words):
            load_database(folder)
    out = ["--prompt", "a cat", "--outdir", tmp_path / "out"]
    assert "no prompt" in refusal(capfd, "knn2img", *flags, "--outdir", tmp_path / "out")
    assert "not a multiple of 32" in refusal(capfd, "knn2img", *flags, *out, "--H", "33")
    assert "no checkpoint at" in refusal(capfd, "knn2img", *flags, *out, "--ckpt", tmp_path / "none.ckpt")
    neighbor = [*out, "--use_neighbors"]
    assert "from 1 to 40" in refusal(capfd, "knn2img", *flags, *neighbor, "--knn", "41")
    assert "holds no .npz" in refusal(capfd, "knn2img", *flags, *neighbor, "--database", empty)
    assert not list(tmp_path.rglob("*.png"))
