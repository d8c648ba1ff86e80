"""A user's mistakes: one sentence and exit code 2, no traceback, no partial file; and Ctrl-C."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from ldm.backends.compvis import CompVis
from ldm.cli import common
from ldm.errors import UserError
from ldm.generation.pipeline import ModelChoice
from ldm.generation.settings import GenerateSettings, fit_to_model
from ldm.paths import SD_CKPT, SD_CONFIG
from ldm.util import load_config
from tests import tiny_world
from tests.golden_data import ROOT
from tests.scripts_under_test import load_script, refusal

Check = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, world: tiny_world.TinyWorld, capfd: pytest.CaptureFixture[str]) -> Check:
    """Runs the script with flags it should refuse, and returns what it says."""

    def run(*flags: str | Path, tiny: bool = True) -> str:
        out = tmp_path / "out"
        words = ["--prompt", "a cat", "--outdir", out, *(world.flags() if tiny else []), *flags]
        said = refusal(capfd, "txt2img-refine", *words)
        assert [path for path in out.rglob("*") if path.is_file()] == []
        return said

    return run


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--preset", "sometimes"], ["sometimes", "per-step", "april-2023", "iccv-2023"]),
        (["--precision", "half"], ["half", "full", "autocast"]),
        (["--ddim_steps", "many"], ["--ddim_steps", "many"]),
        (["--no-such-flag"], ["--no-such-flag"]),
        (["--plms", "--dpm_solver"], ["--plms", "--dpm_solver"]),
        (["--device", "abacus"], ["abacus", "cpu"]),
        (["--H", "500"], ["--H", "500", "32", "512"]),
        (["--W", "48"], ["--W", "48", "32"]),
        (["--H", "-64"], ["--H", "-64", "from 1 to"]),
        (["--f", "8"], ["--f", "8", "4"]),
        (["--C", "3"], ["--C", "3", "4"]),
        (["--ddim_steps", "0"], ["0", "1 to 1000"]),
        (["--ddim_steps", "1001"], ["1001", "1 to 1000"]),
        (["--prompt", ""], ["prompt is empty"]),
        (["--prompt", " \t "], ["prompt is empty"]),
        (["--seed", "-1"], ["seed", "-1"]),
        (["--n_samples", "0"], ["samples", "from 1 to"]),
        (["--scale", "nan"], ["--scale", "nan", "-1000 to 1000"]),
        (["--lr", "0"], ["--lr", "number from"]),
        (["--lr", "1e38"], ["--lr", "1e38"]),
        (["--inner-steps", "0"], ["inner-steps", "from 1 to"]),
        (["--plms", "--ddim_eta", "1"], ["PLMS", "--ddim_eta"]),
        (["--ddim_eta", "-1"], ["eta", "-1"]),
    ],
)
def test_flag_values(refused: Check, flags: list[str], words: list[str]) -> None:
    said = refused(*flags)
    assert [word for word in words if word not in said] == []


def test_sizes_of_stable_diffusion_go_in_64() -> None:
    scale = ModelChoice(SD_CONFIG, SD_CKPT, embedded=False).guidance_scale
    model = CompVis(SimpleNamespace(alphas_cumprod=torch.ones(1)), load_config(ROOT / SD_CONFIG), scale)
    fitted = fit_to_model(GenerateSettings(("a cat",)), model)
    assert (fitted.height, fitted.width, fitted.scale, fitted.factor, fitted.channels) == (512, 512, 7.5, 8, 4)
    with pytest.raises(UserError, match="--W 544 is not a multiple of 64"):
        fit_to_model(GenerateSettings(("a cat",), width=544), model)


# -------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize(
    ("flag", "name", "content", "words"),
    [
        ("--ckpt", "none.ckpt", None, "none.ckpt"),
        ("--ckpt", "page.ckpt", "<!doctype html><title>404</title>", "page.ckpt"),
        ("--config", "none.yaml", None, "none.yaml"),
        ("--config", "open.yaml", "model: [", "open.yaml"),
        ("--config", "data.yaml", "data: {}", "model"),
        ("--config", "run.yaml", "model: {target: os.mkdir, params: {path: ran}}", "os.mkdir"),
        ("--clip", "none.pt", None, "none.pt"),
        ("--clip", "empty.safetensors", "", "empty"),
        ("--clip", "broken.safetensors", "not a model", "broken"),
    ],
)
def test_files_that_cannot_be_read(
    refused: Check, tmp_path: Path, flag: str, name: str, content: str | None, words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    assert words in refused(flag, tmp_path / name)
    assert not Path("ran").exists()


def test_config_without_its_checkpoint(refused: Check, world: tiny_world.TinyWorld) -> None:
    assert "--ckpt" in refused("--config", world.config, tiny=False)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("kept", [0, 100, 0.5])
def test_truncated_checkpoint(
    refused: Check, world: tiny_world.TinyWorld, tmp_path: Path, suffix: str, kept: float
) -> None:
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".ckpt":
        torch.save({"state_dict": load_file(world.ckpt)}, whole)
    else:
        whole.write_bytes(world.ckpt.read_bytes())
    content = whole.read_bytes()
    short = tmp_path / f"short{suffix}"
    short.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    said = refused("--ckpt", short)
    assert "short" in said and ("truncated or corrupt" if kept else "is empty") in said


@pytest.mark.parametrize("kind", ["lacks 1 name", "in other shapes"])
def test_checkpoint_that_does_not_fit(refused: Check, world: tiny_world.TinyWorld, tmp_path: Path, kind: str) -> None:
    state = load_file(world.ckpt)
    name = next(name for name, value in state.items() if name.startswith("model.diffusion_model.") and value.ndim == 4)
    if kind.startswith("lacks"):
        del state[name]
    else:
        state[name] = torch.ones(1, 2, 3, 3)
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    said = refused("--ckpt", tmp_path / "a.ckpt")
    assert kind in said and name in said


class Dangerous:
    """Unpickling this makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_pickle_that_would_run_code(refused: Check, tmp_path: Path, write: Callable[..., object]) -> None:
    marker = tmp_path / "ran"
    write({"state_dict": {"model.weight": torch.ones(1)}, "extra": Dangerous(marker)}, tmp_path / "a.ckpt")
    assert "a.ckpt" in refused("--ckpt", tmp_path / "a.ckpt")
    assert not marker.exists()


def test_predictor_that_cannot_be_read(refused: Check, world: tiny_world.TinyWorld, tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a model")
    flags = ["--config", world.config, "--ckpt", world.ckpt, "--clip", world.clip, "--device", "cpu"]
    assert "broken" in refused(*flags, "--predictor", broken, tiny=False)


# ------------------------------------------------------------------------------------- layouts and prompts


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "layout.json"),
        (b"\xff\x00", "layout.json"),
        (b"{", "JSON"),
        (b'{"objects": [{"phrase": "a cat", "x": 0.5, "y": NaN}]}', "finite"),
        (b'{"layout": {"objects": [{"phrase": "a cat", "x": 2, "y": 0.5}]}}', "between 0 and 1"),
    ],
)
def test_layout_files(refused: Check, tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "layout.json").write_bytes(content)
    assert words in refused("--layout", tmp_path / "layout.json")


def test_prompt_files(tmp_path: Path, world: tiny_world.TinyWorld, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    for name in ("blank.txt", "binary.txt", "nothing.txt"):
        flags = ["--from-file", tmp_path / name, "--outdir", tmp_path / "out", *world.flags()]
        said = refusal(capfd, "txt2img-refine", *flags)
        assert said.startswith("error: --from-file") and name in said
    assert not (tmp_path / "out").exists()


def test_prompt_twice_or_never(refused: Check, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("a cat")
    assert "exclude each other" in refused("--from-file", tmp_path / "a.txt")
    assert "--prompt" in refusal(capfd, "txt2img-refine", "--outdir", tmp_path)


# --------------------------------------------------------------------------------------------- the folder


def test_output_folder_that_cannot_be_written(refused: Check, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused("--outdir", tmp_path / "file")
    assert "cannot be written" in refused("--outdir", tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == ""


def test_ctrl_c_leaves_no_partial_file(tmp_path: Path, world: tiny_world.TinyWorld) -> None:
    """A real interrupt, in the middle of sampling, of the script as a user runs it."""
    out = tmp_path / "out"
    command = [
        sys.executable,
        ROOT / "scripts/txt2img-refine.py",
        "--plms",
        "--prompt",
        "a cat",
        "--ddim_steps",
        "1000",
        *world.flags(),
    ]
    process = subprocess.Popen(
        [*command, "--outdir", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        # A job in the background of a shell ignores interrupts and hands that on; a user's command does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None and process.stdout is not None
    said = b""
    while b"loss" not in said:  # the bar shows a loss once a step has been taken
        byte = process.stderr.read(1)
        assert byte, said.decode()
        said += byte
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read().decode()
    assert process.wait() == 130
    assert "Traceback" not in rest
    assert rest.splitlines()[-1] == "interrupted: what was being made was not written."
    assert process.stdout.read() == b""
    assert [path for path in out.rglob("*") if path.is_file()] == []


def test_ctrl_c_keeps_finished_images(
    tmp_path: Path, world: tiny_world.TinyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load_script("txt2img-refine")
    bar = common.ProgressBar.__call__

    def interrupt_second(self: object, what: str, done: float, total: float, losses: object) -> None:
        bar(self, what, done, total, losses)
        starts.append(what) if total and not done else None
        if len(starts) == 2:
            raise KeyboardInterrupt

    starts: list[str] = []
    monkeypatch.setattr(common.ProgressBar, "__call__", interrupt_second)
    flags = ["--prompt", "a cat", "--ddim_steps", "2", "--n_iter", "2", "--outdir", str(tmp_path)]
    assert script.main([*flags, *world.flags()]) == 130
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["00000.png"]
    assert json.loads((tmp_path / "details/00000/settings.json").read_text())["seed"] == 42
    assert not list(tmp_path.rglob(".tmp-*"))
