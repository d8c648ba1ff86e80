"""How soon a script answers, how soon it draws, and what memory loading takes; each in a process of its own.

Seconds come twice: on the clock, and of the processor (user and system), which other work on the machine hardly
changes. Files are in the page cache after the first round.
"""

from __future__ import annotations

import json
import os
import resource
import runpy
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ldm.paths import ROOT
from ldm.util import UserError

SCRIPTS = (
    "scripts/txt2img-refine.py",
    "scripts/txt2img.py",
    "scripts/evaluate.py",
    "main.py",
    "layout_predictor/train.py",
)
IMAGE = (
    "scripts/txt2img-refine.py",
    "--plms",
    "--prompt",
    "The motorcycle is parking to the right of a bus.",
    "--config",
    "configs/emoji/inference.yaml",
)
SUFFIXES = (".ckpt", ".safetensors", ".half.safetensors")  # the last is float16, and float32 once loaded
MARGIN = 1.05  # of the disk space, beyond the weights themselves
Row = dict[str, Any]


def measure(config: Path, rounds: int = 5, threads: int = 1) -> Row:
    """Rows by what was measured.

    Args:
        config: of the model whose loading is measured, with random weights in a temporary folder.
        rounds: of which medians are taken; loading comes once a format.
        threads: of the CPU, in every process.

    Raises:
        UserError: too little disk space, or a process that failed.
    """
    with tempfile.TemporaryDirectory(prefix="bench-startup-") as name:
        folder = Path(name)
        check_space(folder, weight_bytes(config))
        first = summary([first_image_step(folder / "images", threads) for _ in range(rounds)])
        return {
            "help": {script: summary([_help(script) for _ in range(rounds)]) for script in SCRIPTS},
            "first denoising step": {"command": " ".join(IMAGE), **first},
            "loading": {suffix: loading(config, folder / f"model{suffix}", threads) for suffix in SUFFIXES},
        }


def check_space(folder: Path, size: int) -> None:
    """UserError for a folder where a file of `size` bytes finds no room."""
    free = shutil.disk_usage(folder).free
    if free < size * MARGIN:
        raise UserError(
            f"{folder.parent} has {free / 2**30:.1f} GiB free and the weights take {size / 2**30:.1f} GiB; "
            "name a folder with more room in TMPDIR"
        )


def summary(runs: Sequence[Row]) -> Row:
    """Medians of "seconds" and "cpu", and all values of both."""
    medians = {name: statistics.median(run[name] for run in runs) for name in ("seconds", "cpu")}
    return {**medians, "runs": [[round(run["seconds"], 3), round(run["cpu"], 3)] for run in runs]}


def peak_bytes() -> int:
    """The most memory that this process has had resident, pages of mapped files included."""
    try:  # ru_maxrss remembers the parent, whose memory a process has until it becomes another program
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def weight_bytes(config: Path) -> int:
    """Of the float32 state dict of the model in `config`."""
    from ldm.util import load_config, outline_from_config

    model = outline_from_config(load_config(config).model)
    return sum(value.nbytes for value in model.state_dict().values())


def _help(script: str) -> Row:
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.perf_counter() - begun, "cpu": cpu}


def _child(threads: int, *arguments: Any) -> Row:
    """What a function below prints, run by a new interpreter. UserError where it fails."""
    command = [sys.executable, "-m", "bench.startup", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UserError(f"the process that measures '{arguments[0]}' failed: {reason}")
    result: Row = json.loads(done.stdout.splitlines()[-1])
    return result


def first_image_step(outdir: Path, threads: int) -> Row:
    """Seconds from the start of the image's process to its first denoising step."""
    return _child(threads, "first-step", time.time(), outdir)


def loading(config: Path, path: Path, threads: int) -> Row:
    """Seconds and memory (see :func:`load`) of loading `path`, which is made first and removed afterwards."""
    try:
        _child(threads, "make", config, path)
        return _child(threads, "load", config, path)
    finally:
        path.unlink(missing_ok=True)


# -------------------------------------------------------------------------------- in the measured processes


def first_step(begun: str, outdir: str) -> None:
    """Run the script until its progress bar hears of the first denoising step, then end the process."""
    from ldm.cli import common

    def told(self: Any, what: str, done: float, total: float, losses: Any = None) -> None:
        if not done or not total:  # what is loaded has no steps
            return
        print(json.dumps({"seconds": time.time() - float(begun), "cpu": time.process_time()}), flush=True)
        os._exit(0)

    common.ProgressBar.__call__ = told  # type: ignore[method-assign]
    sys.argv = [*IMAGE, "--outdir", outdir]
    runpy.run_path(IMAGE[0], run_name="__main__")


def make(config: str, path: str) -> None:
    """Write a checkpoint of the model in `config` with random weights, in the form that the ending names."""
    import torch

    from ldm.files import save_safetensors
    from ldm.util import instantiate_from_config, load_config

    state = instantiate_from_config(load_config(config).model).state_dict()
    if ".half." in path:
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    if path.endswith(".safetensors"):
        save_safetensors(path, state)
    else:
        torch.save({"state_dict": state, "global_step": 0}, path)
    print(json.dumps({"bytes": os.path.getsize(path)}))


def load(config: str, path: str) -> None:
    """Load `path`, read every weight once, and tell seconds and memory.

    "peak" is of the whole process, "interpreter" its part before loading; "ratio" is the peak over the bytes of the
    weights, "beyond" the same without the interpreter's part.
    """
    import torch

    from ldm.util import get_obj_from_str, load_config, load_model_from_config

    sections = load_config(config)
    get_obj_from_str(sections.model.target)
    interpreter, begun, cpu = peak_bytes(), time.perf_counter(), time.process_time()
    model = load_model_from_config(sections, path)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    with torch.no_grad():  # pages of a mapped file count once they are read
        total = sum(float(value.sum()) for value in model.state_dict().values())
    size, peak = sum(value.nbytes for value in model.state_dict().values()), peak_bytes()
    row = {"seconds": seconds, "cpu": cpu, "weights": size, "interpreter": interpreter, "peak": peak, "sum": total}
    print(json.dumps({**row, "ratio": peak / size, "beyond": (peak - interpreter) / size}))


if __name__ == "__main__":
    {"first-step": first_step, "make": make, "load": load}[sys.argv[1]](*sys.argv[2:])
