"""Long commands killed at random moments: what must hold afterwards, and that the next run goes on."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from PIL import Image

from ldm.util import load_state_dict
from tests import training_parts as parts
from tests.golden_data import ROOT
from tests.tiny_world import TinyWorld

PROMPTS = "a cat to the left of a dog\na bus above a cat\n" * 3


@dataclass(frozen=True)
class Command:
    """What to start, how long it takes at most, and what must hold in the folder after every kill and at the end."""

    name: str
    words: Callable[[Path, TinyWorld], Sequence[str | Path]]
    whole: Callable[[Path], None]
    finished: Callable[[Path], bool]


def _images_are_whole(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        if not path.name.startswith(".tmp-"):
            with Image.open(path) as image:
                image.load()
    for path in folder.rglob("*.json"):
        if not path.name.startswith(".tmp-"):
            json.loads(path.read_text(encoding="utf-8"))


def _samples_have_details(folder: Path) -> None:
    _images_are_whole(folder)
    for path in (folder / "out" / "samples").glob("[0-9]*.png"):
        assert (folder / "out" / "details" / path.stem / "settings.json").is_file(), path


def _checkpoints_are_whole(folder: Path) -> None:
    for path in folder.rglob("*.ckpt"):
        if not path.name.startswith(".tmp-"):
            load_state_dict(path)


def _target_is_whole(folder: Path) -> None:
    if (folder / "out.safetensors").exists():
        load_state_dict(folder / "out.safetensors")


def _lines_are_whole(folder: Path) -> None:
    if (folder / "out.jsonl").exists():
        assert len([json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]) == 6


def _text(world: TinyWorld) -> list[str | Path]:
    return ["--config", world.config, "--ckpt", world.ckpt, "--device", "cpu"]


def _refine(folder: Path, world: TinyWorld) -> list[str | Path]:
    fast = ["--plms", "--ddim_steps", "3", "--n_iter", "4", "--lr", "0.1"]
    return [ROOT / "scripts/txt2img-refine.py", *world.flags(), *fast, "--prompt", "a cat", "--outdir", folder / "out"]


def _evaluate(folder: Path, world: TinyWorld) -> list[str | Path]:
    (folder / "prompts.txt").write_text(PROMPTS, encoding="utf-8")
    flags = ["--prompts", folder / "prompts.txt", "--methods", "base,fixed:weight=1", "--steps", "2"]
    return [ROOT / "scripts/txt2img-gpt.py", *_text(world), *flags, "--outdir", folder / "out"]


def _train(folder: Path, world: TinyWorld) -> list[str | Path]:
    if not (folder / "run.yaml").exists():
        config = parts.image_run(folder, 60, modelcheckpoint={"params": {"every_n_train_steps": 2}})
        (folder / "run.yaml").write_text(yaml.safe_dump(config))
    words: list[str | Path] = [ROOT / "main.py", "-t", "--logdir", folder / "logs", "--threads", "1"]
    last = next(folder.glob("logs/*/checkpoints/last.ckpt"), None)
    if last is not None:
        return [*words, "--resume", last.parents[1]]
    return [*words, "--base", folder / "run.yaml", "-n", f"run{time.time_ns()}"]


def _layouts(folder: Path, world: TinyWorld) -> list[str | Path]:
    (folder / "prompts.txt").write_text(PROMPTS, encoding="utf-8")
    script = ROOT / "layout_predictor/inference/inference_coco.py"
    return [script, "--from-file", folder / "prompts.txt", "--out", folder / "out.jsonl"]


def _convert(folder: Path, world: TinyWorld) -> list[str | Path]:
    return [ROOT / "scripts/convert_checkpoint.py", world.ckpt, folder / "out.safetensors", "--config", world.config]


COMMANDS = (
    Command("txt2img-refine.py", _refine, _samples_have_details, lambda f: any(f.glob("out/grid-*.png"))),
    Command("txt2img-gpt.py", _evaluate, _images_are_whole, lambda f: len(list(f.glob("out/*/*.png"))) == 12),
    Command("main.py", _train, _checkpoints_are_whole, lambda f: any(f.glob("logs/*/checkpoints/last.ckpt"))),
    Command("inference_coco.py", _layouts, _lines_are_whole, lambda f: (f / "out.jsonl").exists()),
    Command("convert_checkpoint.py", _convert, _target_is_whole, lambda f: (f / "out.safetensors").exists()),
)


def _start(command: Command, folder: Path, world: TinyWorld) -> subprocess.Popen[bytes]:
    words = [sys.executable, *map(str, command.words(folder, world))]
    return subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def kill_and_go_on(command: Command, folder: Path, world: TinyWorld, kills: int, seed: int = 0) -> int:
    """Kill a command `kills` times, each at a random moment, and let it finish; how many kills met it at work.

    Raises:
        AssertionError: something is half-written, or the last run does not finish what was begun.
    """
    rng, met = random.Random(seed), 0
    started = time.monotonic()
    rehearsal = folder / "rehearsal"
    rehearsal.mkdir()
    assert _start(command, rehearsal, world).wait() == 0
    length, work = time.monotonic() - started, folder / "work"
    work.mkdir()
    for _ in range(kills):
        process = _start(command, work, world)
        try:
            process.wait(timeout=rng.uniform(0.1, 1.0) * length)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            met += 1
        command.whole(work)
    if not command.finished(work):
        process = _start(command, work, world)
        _, said = process.communicate()
        assert process.returncode == 0, said.decode()[-2000:]
    assert command.finished(work)
    command.whole(work)
    return met
