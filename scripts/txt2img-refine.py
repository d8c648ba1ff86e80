#!/usr/bin/env python
"""Text to image with spatial-temporal attention: the objects of the prompt where the prompt says.

    python scripts/txt2img-refine.py --plms --prompt "The motorcycle is parking to the right of a bus."

Without a Stable Diffusion checkpoint in place it uses the small embedded model of emoji scenes.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from ldm.spacetime.settings import SCHEDULES, GenerateSettings
from ldm.util import UserError

OUTDIR = Path("outputs/txt2img-refine")


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one line, as the rest of the script does."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (--help lists all flags)\n")


def build_parser() -> argparse.ArgumentParser:
    """All flags; those of the published txt2img keep its names. Each sets the setting that its dest names."""
    parser = Parser(
        description=(__doc__ or "").split("\n\n")[0],
        argument_default=argparse.SUPPRESS,  # what is not given keeps the default of GenerateSettings
    )
    add = parser.add_argument_group("what to make").add_argument
    add("--prompt", default=None, help="the text to draw")
    add("--from-file", type=Path, default=None, metavar="FILE", help="one prompt a line, instead of --prompt")
    add("--layout", type=Path, metavar="JSON", help="objects and centres by hand, no prediction")
    add("--all-nouns", action="store_true", help="control every noun, not only COCO's categories")
    add("--H", type=int, dest="height", metavar="PX", help="height (the model's own by default: 512 or 64)")
    add("--W", type=int, dest="width", metavar="PX", help="width (the model's own by default: 512 or 64)")
    add("--n_samples", type=int, dest="samples", metavar="N", help="pictures made together (1)")
    add("--n_iter", type=int, dest="iterations", metavar="N", help="times every prompt is taken (1)")
    add("--seed", type=int, metavar="N", help="picture i starts from seed + i (42)")
    add("--fixed_code", action="store_true", help="the same starting noise in every batch")

    add = parser.add_argument_group("where it goes").add_argument
    add("--outdir", type=Path, default=OUTDIR, metavar="DIR", help=f"({OUTDIR})")
    add("--skip_grid", action="store_true", help="no grid of all pictures")
    add("--skip_save", action="store_true", help="no files of single pictures")
    add("--n_rows", type=int, dest="columns", metavar="N", help="pictures in a row of the grid (n_samples)")
    add("--baseline", action="store_true", help="also the plain model's picture, from the same seed")
    add("--save-steps", action="store_true", help="also the predicted picture of every step")

    how = parser.add_argument_group("sampling (DDIM without a flag)")
    kind = how.add_mutually_exclusive_group().add_argument
    kind("--plms", dest="sampler", action="store_const", const="plms", help="PLMS, the published choice")
    kind("--dpm_solver", dest="sampler", action="store_const", const="dpm_solver", help="DPM-Solver")
    add = how.add_argument
    add("--ddim_steps", type=int, dest="steps", metavar="N", help="steps of any sampler, 1 to 1000 (50)")
    add("--ddim_eta", type=float, dest="eta", metavar="ETA", help="DDIM's noise, 0 to 1 (0)")
    add("--scale", type=float, help="guidance (7.5, or 5 for the embedded model)")

    add = parser.add_argument_group("the method").add_argument
    add("--schedule", choices=SCHEDULES, help="when the weights are optimised (per-step)")
    add("--inner-steps", type=int, metavar="N", help="gradient steps in a denoising step (per-step)")
    add("--lr", type=float, dest="learning_rate", metavar="RATE", help="learning rate of the weights")
    add("--rounds", type=int, metavar="N", help="passes through the chain (published schedules)")
    add("--block-checkpointing", action="store_true", help="less memory, more time")

    add = parser.add_argument_group("the model").add_argument
    add("--config", type=Path, metavar="YAML", help="of the diffusion model")
    add("--ckpt", type=Path, metavar="FILE", help=".ckpt or .safetensors")
    add("--clip", metavar="NAME|FILE", help="the CLIP of the loss (ViT-B/32, or the embedded one)")
    add("--predictor", type=Path, metavar="FILE", help="weights of the layout predictor")
    add("--C", type=int, dest="channels", metavar="N", help="channels of the latents (the model's)")
    add("--f", type=int, dest="factor", metavar="N", help="pixels per latent pixel (the model's)")
    add("--precision", choices=("full", "autocast"), help="(full)")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps (the best there is)")
    add("--threads", type=int, metavar="N", help="CPU threads")
    return parser


def settings_from(options: argparse.Namespace, command: str) -> GenerateSettings:
    """The flags as settings. Raises UserError for a prompt file that cannot be used."""
    given = dict(vars(options))
    prompt, file = given.pop("prompt"), given.pop("from_file")
    if prompt is not None and file is not None:
        raise UserError("--prompt and --from-file exclude each other; give one of them")
    prompts = read_prompts(file) if file is not None else () if prompt is None else (prompt,)
    return GenerateSettings(prompts=prompts, command=command, **given)


def read_prompts(path: Path) -> tuple[str, ...]:
    """The lines of `path` that are not blank. Raises UserError where there are none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise UserError(f"--from-file {path} cannot be read as text; give a file with one prompt a line") from err
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise UserError(f"--from-file {path} holds no prompt; write one a line")
    return prompts


class ProgressBar:
    """A bar on stderr for each stage of a picture, with the loss where there is one."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, what: str, done: int, total: int, losses: Mapping[str, float]) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(total=total, desc=what, unit="step", file=sys.stderr)
        if losses:
            shown = losses.get("total", next(iter(losses.values())))
            self._bar.set_postfix_str(f"loss {shown:.4f}", refresh=False)
        self._bar.update(done - self._bar.n)
        if done >= total:
            self.close()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def main(arguments: list[str] | None = None) -> int:
    """Run the script; the exit code is 0, 2 for a user's mistake, 130 for Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = build_parser().parse_args(arguments)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # of libraries; what concerns the user is logged
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    bar = ProgressBar()
    try:
        settings = settings_from(options, shlex.join(["python", "scripts/txt2img-refine.py", *arguments]))
        from ldm.spacetime.generate import generate

        for outcome in generate(settings, bar):
            for kind, path in outcome.files.items():
                print(f"{kind}: {path}")
    except UserError as err:
        bar.close()
        print(f"error: {err}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        bar.close()
        print("interrupted: the picture being made was not written.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
