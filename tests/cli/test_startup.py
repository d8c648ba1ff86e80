"""Scripts answer `--help` at once; what `bench/startup.py` measures, on the small model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import startup
from bench.page import startup_table
from ldm.files import read_json
from ldm.generation import images
from ldm.generation.generate import GenerateSettings, generate
from ldm.util import UserError
from tests import tiny_world

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [
    *sorted(ROOT.glob("scripts/*.py")),
    *(ROOT / "main.py", ROOT / "bench/__main__.py"),
    *(ROOT / "layout_predictor" / name for name in ("train.py", "make_tokenizer.py", "tools/parse_captions.py")),
    *(ROOT / "layout_predictor/inference" / name for name in ("inference_coco.py", "evaluate.py")),
]
EMOJI = ROOT / "configs/emoji/inference.yaml"
HEAVY = {"torch", "numpy", "transformers", "pytorch_lightning", "spacy", "matplotlib", "PIL", "omegaconf"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_help_imports_nothing_heavy(script: Path) -> None:
    code = (
        "import runpy, sys; sys.argv[1:] = ['--help']\n"
        f"try: runpy.run_path({str(script)!r}, run_name='__main__')\n"
        f"except SystemExit as end: print(end.code, sorted({HEAVY} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


# What sampling has no use for; NLTK, where it is installed, loads scipy.
UNUSED = {"pytorch_lightning", "lightning_fabric", "torchmetrics", "torchvision", "transformers", "torch._dynamo"}
UNUSED |= set() if find_spec("nltk") else {"scipy"}


def loaded_by(script: str | Path, *words: str | Path, **environment: str) -> set[str]:
    """The modules that a script's process has loaded once its images are there."""
    code = (
        f"import runpy, sys; sys.argv[1:] = {[str(word) for word in words]!r}\n"
        f"try: runpy.run_path('scripts/{script}.py', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "print(*sys.modules)"
    )
    command, variables = [sys.executable, "-c", code], {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "words",
    [
        ("txt2img-refine", "--prompt", "A cat is to the left of a dog."),
        ("txt2img", "--prompt", "a cat", "--no-safety-checker", "--no-watermark"),
        ("txt2img-gpt", "--prompts", "prompts.txt", "--methods", "per-step", "--seeds", "1"),
    ],
    ids=lambda words: words[0],
)
def test_what_samples_loads_nothing_that_it_does_not_use(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("A cat is to the left of a dog.\n")
    named = (tmp_path / word if word == "prompts.txt" else word for word in words)
    loaded = loaded_by(*named, "--config", EMOJI, "--ddim_steps", "2", "--outdir", tmp_path / "out")
    assert list(tmp_path.rglob("*.png")) and loaded & UNUSED == set()


def test_classes_of_a_program_find_all_of_lightning(tmp_path: Path) -> None:
    words = ("--prompt", "a cat", "--config", EMOJI, "--ddim_steps", "2", "--outdir", tmp_path)
    loaded = loaded_by("txt2img", *words, "--no-safety-checker", "--no-watermark", LDM_ALLOW_TARGETS="tests.")
    assert "pytorch_lightning" in loaded


def test_no_step_waits_for_the_hash_of_the_checkpoint(
    world: tiny_world.TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped = threading.Event()

    def slow(path: Path) -> str:
        assert stepped.wait(60), "the chain has not begun"
        return "ab" * 32

    def progress(what: str, done: float, total: float, losses: Mapping[str, float]) -> None:
        if done and total:
            stepped.set()

    monkeypatch.setattr(images, "file_hash", slow)
    where = {"config": world.config, "ckpt": world.ckpt, "device": "cpu", "outdir": tmp_path}
    [made] = generate(GenerateSettings(("a cat",), layout=world.layout, preset="fixed", steps=2, **where), progress)
    assert read_json(made.files["settings"])["model"]["ckpt_sha256"] == "ab" * 32


def test_summary_takes_medians() -> None:
    runs = [{"seconds": float(n), "cpu": n / 2} for n in (3, 1, 9)]
    assert startup.summary(runs) == {"seconds": 3.0, "cpu": 1.5, "runs": [[3.0, 1.5], [1.0, 0.5], [9.0, 4.5]]}


def test_too_little_disk_space_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**30))
    startup.check_space(tmp_path, 2**29)
    with pytest.raises(UserError, match="1.0 GiB free and the weights take 1.0 GiB.*TMPDIR"):
        startup.check_space(tmp_path, 2**30)


def test_peak_counts_what_was_freed_again() -> None:
    before = startup.peak_bytes()
    assert before > 2**20
    block = bytearray(b"x") * (before + 2**26)
    del block
    assert startup.peak_bytes() >= before + 2**26


@pytest.mark.parametrize("suffix", startup.SUFFIXES[2:])
def test_loading_is_measured_in_a_process_that_ends(tmp_path: Path, suffix: str) -> None:
    row = startup.loading(EMOJI, tmp_path / f"model{suffix}", 1)
    assert list(tmp_path.iterdir()) == []
    assert row["weights"] == startup.weight_bytes(EMOJI)
    assert row["interpreter"] < row["peak"] < row["interpreter"] + 4 * row["weights"]
    rows = {"help": {}, "first denoising step": {"seconds": 1.0, "cpu": 0.5}, "loading": {suffix: row}}
    head, *table = startup_table(rows)
    assert [line[0] for line in table] == ["emoji image, to the end of the first step", f"loading SD v1, `{suffix}`"]
    assert all(len(line) == len(head) for line in table)


def test_a_measuring_process_that_fails_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'make' failed: .*does not exist"):
        startup.loading(tmp_path / "none.yaml", tmp_path / "model.ckpt", 1)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", startup.SUFFIXES[:2])
def test_stable_diffusion_is_loaded_without_a_second_copy(tmp_path: Path, suffix: str) -> None:
    config = ROOT / "configs/stable-diffusion/v1-inference.yaml"
    row = startup.loading(config, tmp_path / f"model{suffix}", 1)
    assert row["weights"] > 4.2e9
    assert row["beyond"] < 1.1


@pytest.mark.slow
def test_the_first_denoising_step_comes_soon(tmp_path: Path) -> None:
    assert startup.first_image_step(tmp_path, 1)["cpu"] < 10
