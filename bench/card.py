"""What there is to check on the day that a graphics card is there: `make gpu-check`, ten minutes at most.

Each check says what was found beside what it should be. One that breaks is recorded, and the others go on. With
`--device cpu --small` all that needs no card runs on a CPU in a minute.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.cards import GIB, Model
from bench.counting import Call, in_turn
from bench.memory import PER_STEP, Case, count, measured
from bench.unet import CENTERS, make_control, make_unet
from ldm import boundary
from ldm.boundary import reason
from ldm.errors import UserError
from ldm.evaluation.report.markdown import markdown_table
from ldm.files import write_json, write_text
from ldm.generation.draw import draw
from ldm.generation.images import save_png
from ldm.generation.pipeline import Pipeline, choose_model, load_pipeline
from ldm.generation.settings import Sampling
from ldm.models.diffusion.sampling import join_conditions
from ldm.paths import EMOJI_CONFIG, ROOT, project_file
from ldm.philox import PhiloxGenerator
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.spacetime.presets import PRESETS
from ldm.util import pick_device

logger = logging.getLogger(__name__)

PROMPT = "A cat to the left of a bus."
LAYOUT = Layout((LayoutObject("a cat", 0.25, 0.5), LayoutObject("a bus", 0.75, 0.5)))
LIBRARY, CONTROLLED = "diffusers, plain", "diffusers, 2 objects"
GRAYS = 3.0  # mean difference of gray levels, of 255, up to which images count as the same in half precision
GOLDEN = (
    "tests/unit/test_openaimodel.py::test_unet_is_the_published_one",
    "tests/unit/test_control.py::test_guided_call_is_the_published_one",
    "tests/unit/test_samplers.py::test_golden_chain",
    "tests/golden/test_spacetime_golden.py",
)


@dataclass(frozen=True)
class Found:
    """One line of the result; `good` is None where there is nothing to compare with."""

    check: str
    what: str
    value: str
    wanted: str = ""
    good: bool | None = None


@dataclass(frozen=True)
class Bench:
    """Where and how much: `small` takes sizes for a CPU."""

    device: torch.device
    out: Path
    small: bool

    @property
    def card(self) -> bool:
        """Whether it is one of CUDA."""
        return self.device.type == "cuda"


def golden(bench: Bench) -> Iterator[Found]:
    """The golden vectors of modules, samplers and presets, computed on the device."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(GOLDEN[:1] if bench.small else GOLDEN)]
    told = {**os.environ, "GOLDEN_DEVICE": str(bench.device)}
    done = subprocess.run(command, cwd=ROOT, env=told, capture_output=True, text=True, timeout=240, check=False)
    said = (done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]])[-1]
    yield Found("golden vectors", "tests on the device", said, "all pass", done.returncode == 0)


def images(bench: Bench) -> Iterator[Found]:
    """Images of the embedded model by CPU and device from the same noise, in full precision, and in half."""
    steps = 4 if bench.small else 25
    pipes = {name: _pipeline(name) for name in ("cpu", str(bench.device))}
    kinds: dict[str, Callable[[], Any]] = {
        "float32": partial(torch.backends.cudnn.flags, enabled=True, allow_tf32=False),
        "TF32": nullcontext,  # torch's default: convolutions round to ten bits
        "bfloat16": partial(torch.autocast, bench.device.type, torch.bfloat16),
    }
    if bench.card:
        kinds["float16"] = partial(torch.autocast, "cuda", torch.float16)
    rows: list[NDArray[np.uint8]] = []
    for name in (None, "fixed", "per-step", "iccv-2023"):
        preset = None if name is None else PRESETS[name]
        preset = replace(preset, rounds=1) if preset is not None and preset.mode == "whole-chain" else preset
        shown = []
        for kind, cast in {"": nullcontext, **kinds}.items():
            pipe = pipes["cpu" if not kind else str(bench.device)]
            with cast():
                drawn = draw(pipe, [PROMPT], [LAYOUT], [4], preset, Sampling(steps=steps, precision="full"))
            shown.append(drawn[0].image)
            if kind:
                far = np.abs(shown[0].astype(int) - shown[-1]).mean()
                good = far <= (0.5 if kind == "float32" else GRAYS)
                limit = f"at most {0.5 if kind == 'float32' else GRAYS:g}"
                yield Found(
                    "images", f"{name or 'plain'}, {kind}", f"{far:.2f} gray levels from the CPU's", limit, bool(good)
                )
        rows.append(np.concatenate(shown, axis=1))
    save_png(bench.out / "images.png", np.concatenate(rows))


def memory(bench: Bench) -> Iterator[Found]:
    """The peak of one gradient of the default preset, beside the counted one."""
    if not bench.card:
        yield Found("memory", "peak of the default preset", "there is no card")
        return
    for blocks in (False, True):
        case = Case(PER_STEP, steps=1, whole=True, blocks=blocks, size=512)
        counted, found = count(case) / GIB, measured(case, bench.device) / GIB
        what = f"per-step, 512x512, float32{', blocks recomputed' * blocks}"
        good = found <= 1.25 * counted
        yield Found("memory", what, f"{found:.2f} GiB", f"counted {counted:.2f}, at most a quarter more", good)


def seconds(bench: Bench) -> Iterator[Found]:
    """A guided call of U-Nets with random weights, plain and with two objects, there and back, beside diffusers'."""
    sizes = {"SD 1.5": 64} if bench.small else {"SD 1.5": 512, "SDXL": 1024}
    for name, size in sizes.items():
        rows = in_turn(_calls(name, size, bench), LIBRARY, 1 if bench.small else 5)
        for row, value in rows.items():
            good = value["ratio"] <= 1.05 if row == CONTROLLED and bench.card else None
            told = f"{value['median']:.4f} s, {value['ratio']:.2f} of plain"
            wanted = "" if good is None else "at most 1.05"
            yield Found("seconds", f"{name}, {size}x{size}, {row}", told, wanted, good)


def _calls(name: str, size: int, bench: Bench) -> dict[str, Call]:
    """What is timed: the library's U-Net, in half precision on a card, and of SD 1.5 also ours by autocast."""
    with torch.device(bench.device):
        model = Model(name, torch.float16 if bench.card else torch.float32)
        x, t, one = torch.randn(2, 4, size // 8, size // 8), torch.tensor([500, 500]), model.condition(size)
        texts, weights = torch.randn(len(CENTERS), 77, model.context_dim), torch.ones(2, 1)
    given = join_conditions(one, one)
    control = make_control(2, texts)

    def theirs(w: Tensor | None = None) -> Tensor:
        return model.apply_model(x, t, given, control if w is not None else None, w)

    calls: dict[str, Call] = {
        LIBRARY: partial(_forward, theirs, None, bench),
        CONTROLLED: partial(_forward, theirs, weights, bench),
        f"{CONTROLLED}, there and back": partial(_back, theirs, weights, bench),
    }
    if name != "SD 1.5":
        return calls
    own = make_unet().to(bench.device)

    def ours(w: Tensor | None = None) -> Tensor:
        with torch.autocast(bench.device.type, torch.float16, enabled=bench.card):
            return own(x, t, given, control=control if w is not None else None, weights=w)

    return calls | {
        "ours, plain": partial(_forward, ours, None, bench),
        "ours, 2 objects": partial(_forward, ours, weights, bench),
        "ours, 2 objects, there and back": partial(_back, ours, weights, bench),
    }


def noise(bench: Bench) -> Iterator[Found]:
    """`--noise published` beside the card's own generator."""
    if not bench.card:
        yield Found("noise", "published noise", "there is no card")
        return
    for seed, shape in ((42, (1, 4, 64, 64)), (7, (3, 4, 96, 96))):
        ours, theirs = PhiloxGenerator(seed), torch.Generator(bench.device).manual_seed(seed)
        for draw_ in range(2):
            real = torch.randn(shape, generator=theirs, device=bench.device).cpu()
            far = float((real - ours.randn(shape)).abs().max())
            what = f"seed {seed}, {'x'.join(map(str, shape))}, draw {draw_ + 1}"
            yield Found("noise", what, f"{far:.1e} at most apart", "at most 1e-5", far <= 1e-5)


CHECKS: tuple[Callable[[Bench], Iterator[Found]], ...] = (golden, noise, images, seconds, memory)


def _pipeline(device: str) -> Pipeline:
    return load_pipeline(choose_model(project_file(EMOJI_CONFIG)), device=device)


def _forward(call: Callable[[Tensor | None], Tensor], weights: Tensor | None, bench: Bench) -> None:
    with torch.no_grad():
        call(weights)
    _wait(bench)


def _back(call: Callable[[Tensor | None], Tensor], weights: Tensor, bench: Bench) -> None:
    w = weights.detach().clone().requires_grad_()
    torch.autograd.grad(call(w).float().square().mean(), w)
    _wait(bench)


def _wait(bench: Bench) -> None:
    if bench.card:
        torch.cuda.synchronize()


def check(bench: Bench) -> list[Found]:
    """Every check; what breaks one is its last line."""
    found: list[Found] = []
    for one in CHECKS:
        begun = time.perf_counter()
        try:
            found += one(bench)
        except Exception as error:
            logger.debug("%s", one.__name__, exc_info=True)
            found.append(Found(one.__name__, "stopped", f"{type(error).__name__}: {reason(error)}", "", False))
        if bench.card:
            torch.cuda.empty_cache()
        print(f"{one.__name__}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    return found


def page(found: list[Found], bench: Bench) -> str:
    """The result in Markdown."""
    name = torch.cuda.get_device_name(bench.device) if bench.card else str(bench.device)
    marks = {True: "yes", False: "**no**", None: ""}
    table = [["check", "what", "found", "wanted", "good"]]
    table += [[one.check, one.what, one.value, one.wanted, marks[one.good]] for one in found]
    shown = "\n![CPU, then the device in each precision; plain, fixed, per-step, iccv-2023](images.png)\n"
    there = shown if (bench.out / "images.png").exists() else ""
    return f"# Check on {name}\n\ntorch {torch.__version__}\n\n{markdown_table(table)}\n{there}"


def run(options: Namespace) -> None:
    """Check, print, and write what was found. UserError where something is not as it should be."""
    bench = Bench(pick_device(options.device), options.out, options.small)
    options.out.mkdir(parents=True, exist_ok=True)
    found = check(bench)
    write_json(options.out / "gpu-check.json", {"torch": torch.__version__, "found": [asdict(one) for one in found]})
    write_text(options.out / "gpu-check.md", text := page(found, bench))
    print(text)
    if bad := [f"{one.check}, {one.what}" for one in found if one.good is False]:
        raise UserError(f"not as it should be: {'; '.join(bad)}; see {options.out / 'gpu-check.md'}")


def main(arguments: list[str] | None = None) -> int:
    """Run what the flags say; 0, 2 where something is wrong, 130 for Ctrl-C."""
    parser = boundary.Parser(prog="python -m bench.card", description=__doc__)
    parser.add_argument("--device", default="cuda", metavar="NAME", help="cuda, cuda:1, mps, cpu (cuda)")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/gpu-check"), metavar="DIR", help="(outputs/gpu-check)"
    )
    parser.add_argument("--small", action="store_true", help="sizes for a CPU")
    return boundary.run(lambda: run(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
