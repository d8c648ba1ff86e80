"""Every reader of a user's file, tried with damaged, hostile and unusual content (hypothesis)."""

from __future__ import annotations

import io
import json
import pickle
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from layout_predictor.inference.batch import read_sentences
from layout_predictor.inference.understand import understand
from layout_predictor.inference.wordings import read_wordings
from layout_predictor.LayoutTransformer.data.coco import (
    ImageObjects,
    read_annotations,
    read_captions,
    read_relation_sentences,
)
from layout_predictor.LayoutTransformer.data.tokenizer import SentenceTokenizer, train_tokenizer
from layout_predictor.LayoutTransformer.data.vg_msdn import read_images
from layout_predictor.LayoutTransformer.model import LayoutConfig, build_model
from layout_predictor.LayoutTransformer.training.checkpoint import export, load_exported, load_training
from layout_predictor.LayoutTransformer.training.config import read_config
from ldm.checkpoints import check_resumable
from ldm.cli.common import read_prompts
from ldm.convert.configs import TABLES
from ldm.convert.convert import config_of_folder
from ldm.data.image_folder import read_lines, read_rgb
from ldm.data.imagenet import read_indices
from ldm.errors import UserError
from ldm.evaluation.benchmarks.suites import open_benchmark
from ldm.evaluation.plan import read_plan
from ldm.evaluation.prompts.files import read_prompt_file
from ldm.evaluation.run.methods import parse_method
from ldm.evaluation.score.calibration import read_labels
from ldm.evaluation.score.records import Record
from ldm.generation.layouts import read_layout
from ldm.generation.neighbors import load_database
from ldm.modules.encoders.openai_clip import load_clip
from ldm.modules.encoders.tokenizer import read_vocab
from ldm.paths import ROOT
from ldm.pixels import read_image, read_mask
from ldm.util import load_config, load_state_dict
from tests.tiny_layout_data import RELATIONS, VG_IMAGE, coco_file
from tests.tiny_world import CONFIG, LAYOUT

Content = st.SearchStrategy[bytes]
ODD = st.sampled_from(
    [None, -1, 0, 10**400, 1e308, float("nan"), float("inf"), "", "x" * 5000, "\ud800", [], {}, [[]], True]
)
SAMPLE = "a two no cat dog the left of right above ( ) : , . between and in on corner 3 <lora:x:1> 猫"
WORDS = st.sampled_from(["\n", *SAMPLE.split()])


@dataclass(frozen=True)
class Reader:
    """Something that reads: what it is called, the suffix of its file, what it is given, and the call."""

    name: str
    suffix: str
    content: Content
    read: Callable[[Path], Any]


def _texts(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


def damaged(whole: str | bytes) -> Content:
    """Bytes of any kind, and a whole file cut, or with a part exchanged."""
    data = _texts(whole)
    place = st.integers(0, len(data))
    part = st.tuples(place, place, st.binary(max_size=30)).map(lambda x: data[: x[0]] + x[2] + data[x[1] :])
    return st.one_of(st.binary(max_size=300), place.map(lambda end: data[:end]), part)


def rewritten(record: Any, write: Callable[[Any], str]) -> Content:
    """A whole record with the value at some place exchanged for an odd one, besides what `damaged` does."""
    places = list(_places(record))

    def put(drawn: tuple[tuple[Any, ...], Any]) -> bytes:
        copy = json.loads(json.dumps(record))
        holder = copy
        for key in drawn[0][:-1]:
            holder = holder[key]
        holder[drawn[0][-1]] = drawn[1]
        try:
            return _texts(write(copy))
        except (ValueError, yaml.YAMLError):
            return b"{}"

    return st.one_of(st.tuples(st.sampled_from(places), ODD).map(put), damaged(write(record)))


def _places(value: Any, path: tuple[Any, ...] = ()) -> Any:
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*path, key))


def _image(kind: str, mode: str = "RGB") -> bytes:
    Image.new(mode, (5, 4), "white").save(file := io.BytesIO(), kind)
    return file.getvalue()


def _layout_model() -> bytes:
    config = LayoutConfig(hidden_size=16, num_layers=1, num_heads=2, feed_forward_size=32, max_positions=194)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer(["a cat left of a dog"], 300)
        export(f"{folder}/a", build_model(replace(config, vocab_size=len(tokenizer)), seed=0), tokenizer)
        return Path(folder, "a").read_bytes()


def _torch(old: bool = False, **beside: Any) -> bytes:
    content = {"state_dict": {"a.b": torch.zeros(3)}, "epoch": 1, **beside}
    torch.save(content, file := io.BytesIO(), _use_new_zipfile_serialization=not old)
    return file.getvalue()


def _npy() -> bytes:
    np.save(file := io.BytesIO(), np.zeros((1, 3, 4, 4), np.uint8))
    return file.getvalue()


def _npz() -> bytes:
    parts = {"embedding": np.ones((2, 4), np.float32), "img_id": np.arange(2), "patch_coords": np.zeros((2, 4))}
    np.savez(file := io.BytesIO(), **parts)
    return file.getvalue()


def _alone(path: Path) -> Path:
    """A folder that holds nothing but the file."""
    (folder := path.parent / "alone").mkdir(exist_ok=True)
    return path.replace(folder / path.name).parent


def repacked(whole: bytes) -> Content:
    """A torch archive with a damaged pickle."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}

    def pack(pickle: bytes) -> bytes:
        with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
            for name, data in files.items():
                archive.writestr(name, pickle if name.endswith("data.pkl") else data)
        return file.getvalue()

    return damaged(next(data for name, data in files.items() if name.endswith("data.pkl"))).map(pack)


def go_on(path: Path) -> None:
    """Whether a training could go on from the checkpoint."""
    check_resumable(path, {"a.b": torch.zeros(3)})


def _in_folder(name: str) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:
        folder = path.parent / "folder"
        for part, content in (("vae", VAE), ("text_encoder", TABLES["text_encoder"]["theirs"])):
            (folder / part).mkdir(parents=True, exist_ok=True)
            (folder / part / "config.json").write_text(json.dumps(content))
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(path.read_bytes())
        return config_of_folder(folder)

    return read


UNET = {"in_channels": 4, "out_channels": 4, "layers_per_block": 2, "cross_attention_dim": 24, "sample_size": 8}
UNET |= {"block_out_channels": [32, 64], "attention_head_dim": 8}
UNET |= {"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D"] * 2}
VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"],
    "block_out_channels": [32, 64],
    "latent_channels": 4,
    "layers_per_block": 2,
    "scaling_factor": 0.2,
}
PNG, TORCH, SAFE = _image("PNG", "RGBA"), _torch(), save({"a.weight": torch.arange(6.0)})
PROMPT = {"prompt": "a cat left of a dog", "objects": ["a cat", {"name": "dog", "count": 2, "color": "red"}]}
PROMPT |= {"relations": [["cat", "left of", "dog"], [0, "above", 1]]}
CAPTION = {"image_id": 1, "caption": "A dog.", "words": ["A ", "dog"], "candidates": [[1, "dog", "a dog"]]}
OBJECTS = {1: ImageObjects(("dog",), (18,), np.full((1, 4), 0.5))}
RUN = _torch(optimizer_states=[], loops={})
IMAGES = [PNG, _image("PNG", "P"), *(_image(kind) for kind in ("JPEG", "GIF", "TIFF", "WEBP", "BMP"))]
LABELS = {"images": [{"file": "a.png", "objects": [{"name": "cat", "x": 0.2, "y": 0.5}]}]}
HEAD = {"settings": {}, "constants": {}, "seconds": {"base": [1, 0.5]}}
PLAN: dict[str, Any] = {
    "steps": 2,
    "scale": 5.0,
    "layout": "rule",
    "sets": {"few": "data/example_prompts.txt"},
    "titles": {"base": "a"},
}
PLAN["stages"] = [{"methods": ["base", "per-step"], "count": 2, "seeds": [1], "sets": ["few"]}]
CLAUSES = [{"class": "cat", "count": 1}, {"class": "dog", "count": 2, "color": "red", "position": ["left of", 0]}]
GENEVAL = {"tag": "position", "include": CLAUSES, "exclude": [], "prompt": "a cat and a dog"}
LAYOUT_CONFIG = (ROOT / "configs" / "emoji" / "layout.yaml").read_text(encoding="utf-8")
PROMPTS = (ROOT / "data" / "prompts" / "choose-gpt.txt").read_text(encoding="utf-8")[:600]
READERS = (
    Reader("config", ".yaml", rewritten(CONFIG, yaml.safe_dump), load_config),
    Reader("layout", ".json", rewritten(LAYOUT, json.dumps), read_layout),
    Reader("checkpoint, torch", ".ckpt", damaged(TORCH) | repacked(TORCH), load_state_dict),
    Reader("checkpoint, old torch", ".ckpt", damaged(_torch(old=True)), load_state_dict),
    Reader("checkpoint of a trainer", ".ckpt", repacked(_torch(folder=Path("a"))), load_state_dict),
    Reader("old checkpoint of a trainer", ".ckpt", damaged(_torch(old=True, folder=Path("a"))), load_state_dict),
    Reader("checkpoint to go on from", ".ckpt", damaged(RUN) | repacked(RUN), go_on),
    Reader("checkpoint, safetensors", ".safetensors", damaged(SAFE), load_state_dict),
    Reader("CLIP", ".pt", damaged(TORCH), load_clip),
    Reader("image", ".png", st.sampled_from(IMAGES).flatmap(damaged), read_image),
    Reader("mask", ".png", damaged(PNG), read_mask),
    Reader("prompts, one a line", ".txt", damaged("a cat\na dog\n"), read_prompts),
    Reader("prompts of an evaluation, text", ".txt", damaged(PROMPTS), read_prompt_file),
    Reader("prompts of an evaluation, JSON", ".jsonl", rewritten(PROMPT, json.dumps), read_prompt_file),
    Reader("published sentences of an evaluation", ".json", rewritten(RELATIONS, json.dumps), read_prompt_file),
    Reader(
        "method of an evaluation",
        ".txt",
        damaged("fixed:weight=1,layout=rule"),
        lambda p: parse_method(p.read_text("latin1")),
    ),
    Reader("diffusers folder", ".json", rewritten(UNET, json.dumps), _in_folder("unet/config.json")),
    Reader("vocabulary", ".txt", damaged("cat\ndog\n"), read_vocab),
    Reader(
        "layout training config",
        ".yaml",
        damaged(LAYOUT_CONFIG),
        lambda p: read_config(p, ROOT / "configs/emoji/layout.yaml"),
    ),
    Reader("COCO annotations", ".json", rewritten(coco_file("instances"), json.dumps), read_annotations),
    Reader("captions", ".json", rewritten(CAPTION, json.dumps), lambda p: read_captions(p, OBJECTS)),
    Reader("relation sentences", ".jsonl", rewritten(RELATIONS[0], json.dumps), read_relation_sentences),
    Reader("wordings", ".yaml", damaged("wordings:\n  kind:\n  - [a cat, 0 left]\n"), read_wordings),
    Reader("sentences", ".txt", damaged("a cat left of a dog\n"), read_sentences),
    Reader("Visual Genome", ".json", rewritten([VG_IMAGE], json.dumps), lambda p: read_images(p.parent, [p.stem])),
    Reader("tokenizer", ".json", damaged(train_tokenizer(["a cat"], 300).to_json()), SentenceTokenizer.from_file),
    Reader("labels of a detector", ".json", rewritten(LABELS, json.dumps), read_labels),
    Reader("record of images", ".jsonl", damaged(json.dumps(HEAD)), Record.read),
    Reader("plan of evidence", ".yaml", rewritten(PLAN, yaml.safe_dump), lambda p: read_plan(p, ROOT)),
    Reader("prompts of a benchmark", ".jsonl", rewritten(GENEVAL, json.dumps), open_benchmark("geneval").read_cases),
    Reader("retrieval database", ".npz", damaged(_npz()), lambda p: load_database(_alone(p))),
    Reader("list of images", ".txt", damaged("a.png\nb/c.png\n"), lambda p: read_lines(p, "LSUN")),
    Reader("numbers of images", ".pkl", damaged(pickle.dumps([1, 2, 3])), lambda p: read_indices(p, 9)),
    Reader("array of an image", ".npy", damaged(_npy()), read_rgb),
    Reader("layout model", ".safetensors", damaged(_layout_model()), load_exported),
    Reader("layout checkpoint", ".pth", damaged(TORCH), load_training),
    Reader(
        "a prompt's objects",
        ".txt",
        st.lists(WORDS, max_size=25).map(lambda words: _texts(" ".join(words))),
        lambda p: understand(p.read_text("utf-8")),
    ),
)


def try_reader(reader: Reader, examples: int, folder: Path) -> Counter[str]:
    """How often what it was given was "read" and "refused" with a sentence; any other error is raised."""
    counts: Counter[str] = Counter()
    path = folder / f"file{reader.suffix}"

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(reader.content)
    def attempt(content: bytes) -> None:
        path.write_bytes(content)
        try:
            reader.read(path)
            counts["read"] += 1
        except UserError as error:
            assert str(error).strip(), "an empty sentence"
            counts["refused"] += 1

    attempt()
    return counts
