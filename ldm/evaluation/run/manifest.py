"""The state of every image of a run, in files that are whole at any moment.

A run's folder holds ``settings.json`` (what all images share), ``prompts.json``, one ``manifest-RANK-of-COUNT.json``
a shard, and for each method ``METHOD/method.json`` (its constants) and ``METHOD/NUMBER-sSEED.png`` with ``.json``
beside it (layout, weights, losses). An image's JSON is written before the image, so an image that is there is complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ldm.errors import DAMAGED
from ldm.evaluation.prompts.prompt import EvalPrompt, from_json, prompts_hash
from ldm.evaluation.run.shards import Shard
from ldm.files import read_json, read_kept, write_json
from ldm.generation.images import ImageArray
from ldm.util import UserError

PENDING, WORKING, DONE, FAILED = "pending", "working", "done", "failed"
_ORDER = (PENDING, FAILED, WORKING, DONE)  # of two shards' words on one image the later one counts


@dataclass(frozen=True)
class Entry:
    """One image of a run: of prompt `number`, by the method of that label and folder, from that seed's noise."""

    method: str
    folder: str
    number: int
    seed: int

    @property
    def key(self) -> str:
        """The image's path inside the run's folder, without suffix."""
        return f"{self.folder}/{self.number:05d}-s{self.seed}"


class Manifest:
    """What one shard knows of its images; every change is on the disk before the call returns."""

    def __init__(self, folder: Path, shard: Shard) -> None:
        self.path = folder / f"manifest-{shard.name}.json"
        self.images: dict[str, dict[str, Any]] = _read(self.path)["images"] if self.path.exists() else {}

    def add(self, entries: Iterable[Entry], states: Mapping[str, str]) -> None:
        """Note images with their states by key."""
        for entry in entries:
            state = {"state": states[entry.key], "method": entry.method, "number": entry.number, "seed": entry.seed}
            self.images[entry.key] = state
        write_json(self.path, {"images": self.images})

    def mark(self, keys: Iterable[str], state: str, **more: Any) -> None:
        """Note the new state of images, and more about them."""
        for key in keys:
            self.images[key].update(state=state, **more)
        write_json(self.path, {"images": self.images})


@dataclass(frozen=True)
class FinishedRun:
    """What is in a run's folder, for scoring and for the report."""

    folder: Path
    settings: dict[str, Any]
    prompts: list[EvalPrompt]
    entries: dict[Entry, str]  # with their states
    files: Mapping[Entry, Path] = field(default_factory=dict)  # of images that another program made

    @property
    def methods(self) -> list[str]:
        """Labels, in the order in which they were first asked for."""
        return list(dict.fromkeys(entry.method for entry in self.entries))

    def image(self, entry: Entry) -> Path:
        """Where the image is, or would be."""
        return self.files.get(entry, self.folder / f"{entry.key}.png")

    def details(self, entry: Entry) -> dict[str, Any]:
        """The JSON beside an image: layout, and weights and losses where there are any; empty if it is lost."""
        return read_kept(self.folder / f"{entry.key}.json")


def read_run(folder: Path) -> FinishedRun:
    """A run's folder with the manifests of all its shards. UserError if it is none, or a file is damaged."""
    if not (folder / "prompts.json").is_file() or not (folder / "settings.json").is_file():
        raise UserError(f"{folder} holds no run; make one with scripts/txt2img-gpt.py --outdir {folder}")
    found: dict[Entry, str] = {}
    for path in sorted(folder.glob("manifest-*.json")):
        for key, value in _read(path)["images"].items():
            entry = Entry(value["method"], key.partition("/")[0], value["number"], value["seed"])
            found[entry] = max(found.get(entry, PENDING), value["state"], key=_ORDER.index)
    if not found:
        raise UserError(f"{folder} holds no manifest; start the run again with the same --outdir")
    return FinishedRun(folder, _load(folder / "settings.json"), _prompts(folder / "prompts.json"), found)


def load_image(path: Path) -> ImageArray | None:
    """The pixels (H, W, 3) of an image; None if it is damaged."""
    try:
        with Image.open(path) as file:
            return np.asarray(file.convert("RGB"))
    except DAMAGED:
        return None


def keep_prompts(folder: Path, prompts: list[EvalPrompt]) -> None:
    """Write the prompts into a run's folder. UserError if it holds others."""
    path = folder / "prompts.json"
    if not path.exists():
        write_json(path, [prompt.to_json() for prompt in prompts])
    elif prompts_hash(_prompts(path)) != prompts_hash(prompts):
        raise UserError(f"{folder} holds images of other prompts; choose another --outdir")


def claim(path: Path, content: Mapping[str, Any]) -> None:
    """Write settings to a file, or check that they are those of the file. UserError if they differ."""
    if not path.exists():
        write_json(path, content)
    elif changed := changed_keys(_load(path), content):
        raise UserError(
            f"{path.parent} holds images made with other settings ({', '.join(changed)}); "
            "choose another output folder or remove it."
        )


def changed_keys(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The names, sorted, under which two settings differ; a setting that is not there is None."""
    return sorted(key for key in {*known, *wanted} if known.get(key) != wanted.get(key))


def _prompts(path: Path) -> list[EvalPrompt]:
    try:
        return [from_json(item) for item in _load(path)]
    except (KeyError, TypeError):
        raise UserError(f"{path} is damaged, or of an earlier version; choose another --outdir") from None


def _load(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError):
        raise UserError(f"{path} is damaged; remove it and start the run again with the same --outdir") from None


def _read(path: Path) -> dict[str, Any]:
    content = _load(path)
    if not isinstance(content, dict) or not isinstance(content.get("images"), dict):
        raise UserError(f"{path} is damaged; remove it and start the run again with the same --outdir")
    return content
