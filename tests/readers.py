"""Every reader of a user's file, tried with damaged, hostile and unusual content (hypothesis)."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from layout_predictor.inference.batch import read_sentences
from layout_predictor.inference.understand import understand
from layout_predictor.inference.wordings import read_wordings
from layout_predictor.LayoutTransformer.data.coco import read_annotations, read_captions, read_relation_sentences
from layout_predictor.LayoutTransformer.training.checkpoint import load_exported, load_training
from layout_predictor.LayoutTransformer.training.config import read_config
from ldm.checkpoints import check_resumable
from ldm.cli.common import read_prompts
from ldm.convert.convert import config_of_folder
from ldm.errors import UserError
from ldm.evaluation.prompts.files import read_prompt_file
from ldm.evaluation.run.methods import parse_method
from ldm.generation.generate import read_layout
from ldm.modules.encoders.openai_clip import load_clip
from ldm.modules.encoders.tokenizer import read_vocab
from ldm.paths import ROOT
from ldm.pixels import read_image, read_mask
from ldm.util import load_config, load_state_dict
from tests.tiny_layout_data import RELATIONS, coco_file
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


def _png() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        Image.new("RGBA", (5, 4), (200, 10, 10, 128)).save(f"{folder}/a.png")
        return Path(folder, "a.png").read_bytes()


def _torch(old: bool = False, **beside: Any) -> bytes:
    content = {"state_dict": {"a.b": torch.zeros(3)}, "epoch": 1, **beside}
    torch.save(content, file := io.BytesIO(), _use_new_zipfile_serialization=not old)
    return file.getvalue()


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


def _in_folder(name: str) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:
        folder = path.parent / "folder"
        for part, content in (("vae", VAE), ("text_encoder", {})):
            (folder / part).mkdir(parents=True, exist_ok=True)
            (folder / part / "config.json").write_text(json.dumps(content))
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(path.read_bytes())
        return config_of_folder(folder)

    return read


UNET = {"in_channels": 4, "out_channels": 4, "layers_per_block": 2, "cross_attention_dim": 24, "sample_size": 8}
UNET |= {"block_out_channels": [32, 64], "attention_head_dim": 8}
UNET |= {"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D"] * 2}
VAE = {"block_out_channels": [32, 64], "latent_channels": 4, "layers_per_block": 2, "scaling_factor": 0.2}
PNG, TORCH, SAFE = _png(), _torch(), save({"a.weight": torch.arange(6.0)})
LAYOUT_CONFIG = (ROOT / "configs" / "emoji" / "layout.yaml").read_text(encoding="utf-8")
PROMPTS = (ROOT / "data" / "prompts" / "choose-gpt.txt").read_text(encoding="utf-8")[:600]
READERS = (
    Reader("config", ".yaml", rewritten(CONFIG, yaml.safe_dump), load_config),
    Reader("layout", ".json", rewritten(LAYOUT, json.dumps), read_layout),
    Reader("checkpoint, torch", ".ckpt", damaged(TORCH) | repacked(TORCH), load_state_dict),
    Reader("checkpoint, old torch", ".ckpt", damaged(_torch(old=True)), load_state_dict),
    Reader("checkpoint of a trainer", ".ckpt", repacked(_torch(folder=Path("a"))), load_state_dict),
    Reader("old checkpoint of a trainer", ".ckpt", damaged(_torch(old=True, folder=Path("a"))), load_state_dict),
    Reader("checkpoint to go on from", ".ckpt", damaged(TORCH) | repacked(TORCH), lambda p: check_resumable(p, {})),
    Reader("checkpoint, safetensors", ".safetensors", damaged(SAFE), load_state_dict),
    Reader("CLIP", ".pt", damaged(TORCH), load_clip),
    Reader("image", ".png", damaged(PNG), read_image),
    Reader("mask", ".png", damaged(PNG), read_mask),
    Reader("prompts, one a line", ".txt", damaged("a cat\na dog\n"), read_prompts),
    Reader("prompts of an evaluation, text", ".txt", damaged(PROMPTS), read_prompt_file),
    Reader("prompts of an evaluation, JSON", ".jsonl", rewritten(RELATIONS[0], json.dumps), read_prompt_file),
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
    Reader("captions", ".json", rewritten(RELATIONS[0], json.dumps), lambda p: read_captions(p, {})),
    Reader("relation sentences", ".jsonl", rewritten(RELATIONS[0], json.dumps), read_relation_sentences),
    Reader("wordings", ".yaml", damaged("kind:\n- {text: a cat}\n"), read_wordings),
    Reader("sentences", ".txt", damaged("a cat left of a dog\n"), read_sentences),
    Reader("layout model", ".safetensors", damaged(SAFE), load_exported),
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
