"""Long commands stopped at random moments: what must hold afterwards, and that the next run goes on."""

from __future__ import annotations

import copy
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

from ldm.util import load_state_dict
from tests import training_parts as parts
from tests.golden_data import ROOT
from tests.tiny_layout_data import DATA
from tests.tiny_world import TinyWorld

PROMPTS = "a cat to the left of a dog\na bus above a cat\n" * 3
STEPS = 60  # of a training
Words = list[str | Path]


@dataclass(frozen=True)
class Command:
    """What to start in a folder, and what it has made there, which no kill may change; None before its end."""

    name: str
    words: Callable[[Path, TinyWorld], Words]
    result: Callable[[Path], Any]


def _text(world: TinyWorld) -> Words:
    return ["--config", world.config, "--ckpt", world.ckpt, "--device", "cpu"]


def _refine(folder: Path, world: TinyWorld) -> Words:
    fast = ["--plms", "--ddim_steps", "3", "--n_iter", "4", "--lr", "0.1"]
    return [ROOT / "scripts/txt2img-refine.py", *world.flags(), *fast, "--prompt", "a cat", "--outdir", folder / "out"]


def _evaluate(folder: Path, world: TinyWorld) -> Words:
    (folder / "prompts.txt").write_text(PROMPTS, encoding="utf-8")
    flags = ["--prompts", folder / "prompts.txt", "--methods", "base,fixed:weight=1", "--steps", "2"]
    return [ROOT / "scripts/txt2img-gpt.py", *_text(world), *flags, "--outdir", folder / "out"]


def _inpaint(folder: Path, world: TinyWorld) -> Words:
    (folder / "in").mkdir(exist_ok=True)
    for i in range(8):
        Image.new("RGB", (32, 32), (30 * i, 90, 200)).save(folder / "in" / f"{i}.png")
        Image.new("L", (32, 32), 255).save(folder / "in" / f"{i}_mask.png")
    flags = ["--indir", folder / "in", "--outdir", folder / "out", "--steps", "4", "--prompt", "a cat"]
    return [ROOT / "scripts/inpaint.py", *_text(world), *flags]


def _train(folder: Path, world: TinyWorld) -> Words:
    if not (folder / "run.yaml").exists():
        config = parts.image_run(folder, STEPS, modelcheckpoint={"params": {"every_n_train_steps": 2}})
        (folder / "run.yaml").write_text(yaml.safe_dump(config))
    words: Words = [ROOT / "main.py", "-t", "--logdir", folder / "logs", "--threads", "1"]
    last = next(folder.glob("logs/*/checkpoints/last.ckpt"), None)
    if last is not None:
        return [*words, "--resume", last.parents[1]]
    return [*words, "--base", folder / "run.yaml", "-n", f"run{time.time_ns()}"]


def _train_layouts(folder: Path, world: TinyWorld) -> Words:
    sections = copy.deepcopy(DATA["training"])
    sections["TRAINING"]["EPOCHS"] = 10
    sections["OUTPUT"]["OUTPUT_DIR"] = str(folder / "run")
    (folder / "layout.yaml").write_text(yaml.safe_dump(sections))
    words: Words = [ROOT / "layout_predictor/train.py", "--cfg_path", folder / "layout.yaml"]
    return [*words, "--resume", last] if (last := folder / "run" / "last.pth").exists() else words


def _layouts(folder: Path, world: TinyWorld) -> Words:
    (folder / "prompts.txt").write_text(PROMPTS, encoding="utf-8")
    script = ROOT / "layout_predictor/inference/inference_coco.py"
    return [script, "--from-file", folder / "prompts.txt", "--out", folder / "out.jsonl"]


def _convert(folder: Path, world: TinyWorld) -> Words:
    return [ROOT / "scripts/convert_checkpoint.py", world.ckpt, folder / "out", "--config", world.config]


def _images(pattern: str, number: int) -> Callable[[Path], Any]:
    def made(folder: Path) -> Any:
        found = {str(path.relative_to(folder)): _pixels(path) for path in folder.glob(pattern)}
        return found if len(found) >= number else None

    return made


def _pixels(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.tobytes()


def _trained(folder: Path) -> Any:
    for path in folder.glob("logs/*/checkpoints/last.ckpt"):
        if torch.load(path, map_location="cpu", weights_only=True)["global_step"] == STEPS:
            return _content(path)
    return None


def _content(path: Path) -> Any:
    if path.suffix in (".safetensors", ".ckpt"):  # the order in such a file is free
        return {name: value.tolist() for name, value in load_state_dict(path).items()}
    return path.read_bytes()


def _files(pattern: str) -> Callable[[Path], Any]:
    return lambda folder: {path.name: _content(path) for path in folder.glob(pattern) if path.is_file()} or None


COMMANDS = (
    Command("txt2img-refine.py", _refine, lambda folder: any(folder.glob("out/grid-*.png")) or None),
    Command("txt2img-gpt.py", _evaluate, _images("out/*/*.png", 12)),
    Command("inpaint.py", _inpaint, _images("out/*.png", 8)),
    Command("main.py", _train, _trained),
    Command("train.py", _train_layouts, _files("run/layout.safetensors")),
    Command("inference_coco.py", _layouts, _files("out.jsonl")),
    Command("convert_checkpoint.py", _convert, _files("out/*/*")),
)


def check_whole(folder: Path) -> dict[Path, bytes]:
    """The pixels of every image, once each image, record and checkpoint in `folder` is known to be whole."""
    images = {}
    for path in (path for path in folder.rglob("*.*") if not any(part.startswith(".tmp-") for part in path.parts)):
        if path.suffix == ".png":
            images[path] = _pixels(path)
        elif path.suffix in (".ckpt", ".pth", ".safetensors"):
            load_state_dict(path)
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
    for path in folder.glob("out/samples/[0-9]*.png"):
        assert (folder / "out" / "details" / path.stem / "settings.json").is_file(), path
    return images


def _start(words: Sequence[str | Path], folder: Path) -> subprocess.Popen[bytes]:
    def hear() -> None:  # Ctrl-C, to which what is started in the background is deaf
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with (folder / "said.txt").open("wb") as said:
        line = [sys.executable, *map(str, words)]
        return subprocess.Popen(line, cwd=folder, stdout=subprocess.DEVNULL, stderr=said, preexec_fn=hear)


def kill_and_go_on(command: Command, folder: Path, world: TinyWorld, kills: int, seed: int = 0) -> int:
    """Stop a command `kills` times, each at a random moment, by SIGKILL and Ctrl-C in turn, and let it go on.

    Each run that comes to its end is compared with one that nobody stopped; the next one begins anew.

    Returns:
        How many runs were compared.

    Raises:
        AssertionError: something is half-written, lost or another than without a kill, or a run does not go on.
    """
    rng, compared, stopped = random.Random(seed), 0, 0
    (rehearsal := folder / "rehearsal").mkdir()
    started = time.monotonic()
    process = _start(command.words(rehearsal, world), rehearsal)
    assert process.wait() == 0, _said(rehearsal)
    length, wanted = time.monotonic() - started, command.result(rehearsal)
    assert wanted is not None
    while stopped < kills:
        (work := folder / f"work{compared}").mkdir(exist_ok=True)
        before = check_whole(work)
        process = _start(command.words(work, world), work)
        try:
            code = process.wait(timeout=rng.uniform(0.1, 1.0) * length)
        except subprocess.TimeoutExpired:
            ended_by = (signal.SIGKILL, signal.SIGINT)[stopped % 2]
            process.send_signal(ended_by)
            code = process.wait()
            stopped += 1
            if code == 130:
                last = _said(work).splitlines()[-1]
                assert last.startswith("interrupted") and "Traceback" not in _said(work), _said(work)
            # All was done and told when Ctrl-C came.
            assert code != -signal.SIGINT or command.result(work) is not None, _said(work)
        if stopped == kills and command.result(work) is None:
            process = _start(command.words(work, world), work)
            assert process.wait() == 0, _said(work)
        assert code in (0, 130, -signal.SIGKILL, -signal.SIGINT), f"exit code {code}: {_said(work)}"
        after = check_whole(work)
        assert not (changed := [path for path, pixels in before.items() if after.get(path) != pixels]), changed
        if (result := command.result(work)) is not None:
            assert result == wanted, "the result is another than without a kill"
            assert stopped < kills or not list(work.rglob(".tmp-*")), "what a killed run left is still there"
            compared += 1
    return compared


def _said(folder: Path) -> str:
    return (folder / "said.txt").read_text("utf-8", "replace")[-3000:]
