"""Times and memory, each measured beside what it is compared with.

python -m bench                        # all of it: three quarters of an hour on one idle core
python -m bench calls                  # a call of Stable Diffusion v1's U-Net beside that of others
python -m bench gradient               # the same, forward and backward
python -m bench memory                 # what a differentiated image of 512x512 keeps alive, counted
python -m bench cards                  # what models of diffusers need under the presets, counted: a quarter of an hour
python -m bench half                   # the gradient of the loss on half-size images beside the exact one
python -m bench steps                  # do the gradient steps help: embedded model; wants a card (--device cuda)
python -m bench presets                # the presets beside plain sampling, embedded model
python -m bench cost                   # against steps, objects, pixels and batch, and a model of it
python -m bench startup                # --help, the first denoising step, loading; writes 4 GB files meanwhile
python -m bench page                   # the tables of docs/performance.md from the results

With --out FOLDER each writes bench-NAME.json there; the published ones are in docs/results.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from ldm import boundary
from ldm.paths import SD_CONFIG, project_file

RESULTS = Path("docs/results")
PARTS = ("calls", "gradient", "memory", "cards", "half", "presets", "cost", "startup")


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The result of a part."""
    if name in ("calls", "gradient"):
        from bench import others, unet

        size, gradient = options.size or 256, name == "gradient"
        rows = unet.measure(size, options.rounds, gradient)
        return {"size": size, "rows": rows, "absent": [] if gradient else others.absent()}
    if name == "memory":
        from bench import memory

        return {"rows": memory.measure(options.size or 512, options.config)}
    if name == "cards":
        from bench import cards

        return {"rows": cards.measure()}
    if name == "half":
        from bench import half

        return half.measure()
    if name == "steps":
        from bench import steps

        return steps.measure(options.device)
    if name == "presets":
        from bench import presets

        return {"rows": presets.measure(options.rounds)}
    if name == "cost":
        from bench import cost

        return cost.measure(options.rounds)
    from bench import startup

    return startup.measure(project_file(options.config), options.rounds, options.threads)


def run(options: argparse.Namespace) -> None:
    """Measure, print, and write what the flags say."""
    from bench.page import PAGE, lines, write_page

    if options.what == "page":
        write_page(options.out or RESULTS)
        print(PAGE)
        return
    import torch

    from ldm.files import write_json

    torch.set_num_threads(options.threads)
    settings = {"rounds": options.rounds, "threads": options.threads, "torch": torch.__version__}
    for name in [options.what] if options.what else PARTS:
        result = {"settings": settings, **measure(name, options)}
        print("\n".join(lines(name, result)), flush=True)
        if options.out:
            write_json(options.out / f"bench-{name}.json", result)


def main(arguments: list[str] | None = None) -> int:
    """Run what the flags say; 0, 2 for a user's mistake, 130 for Ctrl-C."""
    what = argparse.RawDescriptionHelpFormatter
    parser = boundary.Parser(prog="python -m bench", description=__doc__, formatter_class=what)
    parser.add_argument(
        "what",
        nargs="?",
        choices=(*PARTS, "steps", "page"),
        type=lambda name: "presets" if name == "schedules" else name,  # its earlier name
        help="(all but steps)",
    )
    parser.add_argument("--config", type=Path, default=SD_CONFIG, help="of the model for memory and startup")
    parser.add_argument(
        "--size", type=boundary.PIXELS, help="pixels a side (512 for memory, 256 for calls and gradient)"
    )
    parser.add_argument("--rounds", type=boundary.COUNT, default=5, help="after a warm-up (5)")
    parser.add_argument("--threads", type=boundary.THREADS, default=1, help="of the CPU (1)")
    parser.add_argument("--device", metavar="NAME", help="of steps: cuda, mps, cpu (the best there is)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the results go")

    def action() -> None:
        options = parser.parse_args(arguments)
        if options.size and options.size % 64:
            parser.error(f"--size must be a multiple of 64, not {options.size}")
        boundary.log_lines(logging.ERROR)
        run(options)

    return boundary.run(action, lambda: "interrupted; what was measured before is kept")


if __name__ == "__main__":
    sys.exit(main())
