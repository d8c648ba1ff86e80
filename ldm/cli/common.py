"""Manners that the scripts share: flags, one line for a mistake, progress on stderr, results on stdout.

Imports nothing heavy, so that ``--help`` and a mistyped flag answer at once.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ldm.util import UserError

if TYPE_CHECKING:
    from ldm.generation.safety import Guard

Progress = Callable[[str, int, int, Mapping[str, float]], None]  # (what, done, total, losses by name)


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one line; a flag that is not given sets nothing, so that defaults live in one place.

    `more` goes to argparse, as its parsers of subcommands need; ``argument_default=None`` gives flags a value.
    """

    def __init__(self, description: str | None = None, **more: Any) -> None:
        usual = {"formatter_class": argparse.RawDescriptionHelpFormatter, "argument_default": argparse.SUPPRESS}
        super().__init__(description=description, **{**usual, **more})

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (--help lists all flags)\n")


class ProgressBar:
    """A bar on stderr for each stage of the work, with the loss where there is one."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, what: str, done: int, total: int, losses: Mapping[str, float] | None = None) -> None:
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


class StepCounter:
    """A sampler's ``callback`` that tells the progress of one chain of `total` steps."""

    def __init__(self, progress: Progress, what: str, total: int) -> None:
        self.progress, self.what, self.total, self.done = progress, what, total, 0

    def __call__(self, state: Mapping[str, Any]) -> None:
        self.done += 1
        self.progress(self.what, self.done, self.total, {})


def no_progress(what: str, done: int, total: int, losses: Mapping[str, float]) -> None:
    """For callers that do not want to know."""


def run_script(
    parser: Parser, arguments: Sequence[str] | None, action: Callable[[argparse.Namespace, Progress], Iterable[str]]
) -> int:
    """Parse, run `action` and print each line that it yields.

    A command that keeps what it finishes and makes only what lacks sets the default ``resumes=True`` on its parser:
    whoever interrupts it is told that the same command goes on.

    Returns:
        The exit code: 0, 2 for a user's mistake (one line on stderr), 130 for Ctrl-C.
    """
    options = parser.parse_args(arguments)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # of libraries; what concerns the user is logged
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    bar = ProgressBar()
    try:
        for line in action(options, bar):
            print(line)
    except UserError as err:
        bar.close()
        print(f"error: {err}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        bar.close()
        more = " The same command goes on where it stopped." if getattr(options, "resumes", False) else ""
        print(f"interrupted: what was being made was not written.{more}", file=sys.stderr)
        return 130
    return 0


# ------------------------------------------------------------------------------------------- shared flags


def add_prompt_flags(parser: Parser) -> None:
    """--prompt and --from-file; see :func:`take_prompts`."""
    add = parser.add_argument_group("what to make").add_argument
    add("--prompt", default=None, help="the text to draw")
    add("--from-file", type=Path, default=None, metavar="FILE", help="one prompt a line, instead of --prompt")


def add_output_flags(parser: Parser, outdir: Path) -> None:
    """Where images and grid go; the names are dests of :class:`ldm.generation.settings.GenerateSettings`."""
    add = parser.add_argument_group("where it goes").add_argument
    add("--outdir", type=Path, default=outdir, metavar="DIR", help=f"({outdir})")
    add("--skip_grid", action="store_true", help="no grid of all images")
    add("--skip_save", action="store_true", help="no files of single images")
    add("--n_rows", type=int, dest="columns", metavar="N", help="images in a row of the grid (n_samples)")


def add_model_flags(parser: Parser) -> None:
    """The model, its numbers, and where it runs."""
    add = parser.add_argument_group("the model").add_argument
    add("--config", type=Path, metavar="YAML", help="of the diffusion model")
    add("--ckpt", type=Path, metavar="FILE", help=".ckpt or .safetensors")
    add("--C", type=int, dest="channels", metavar="N", help="channels of the latents (the model's)")
    add("--f", type=int, dest="factor", metavar="N", help="pixels per latent pixel (the model's)")
    add("--precision", choices=("full", "autocast"), help="(full)")
    add_device_flags(parser)


def add_device_flags(parser: Parser) -> None:
    """Where it runs."""
    add = parser.add_argument_group("where it runs").add_argument
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps (the best there is)")
    add("--threads", type=int, metavar="N", help="CPU threads")


def add_guard_flags(parser: Parser) -> None:
    """What is done to a finished image; see :mod:`ldm.generation.safety`."""
    add = parser.add_argument_group("safety checker and watermark").add_argument
    add("--no-safety-checker", dest="safety", action="store_false", default=True, help="leave it out")
    add("--no-watermark", dest="watermark", action="store_false", default=True, help="leave it out")
    add(
        "--safety-checker",
        type=Path,
        default=None,
        metavar="DIR",
        dest="safety_folder",
        help="folder with its weights (the cache of Hugging Face)",
    )


def add_asked_guard_flags(parser: Parser) -> None:
    """The same, for scripts whose published images have neither: off unless asked for."""
    add = parser.add_argument_group("safety checker and watermark (off)").add_argument
    add("--watermark", action="store_true", default=False, help="mark images invisibly, as txt2img.py does")
    add(
        "--safety-checker",
        type=Path,
        default=None,
        metavar="DIR",
        dest="safety_folder",
        help="check images, with the weights in this folder",
    )


def take_guard(given: dict[str, Any]) -> Guard:
    """Move the flags of :func:`add_guard_flags` or :func:`add_asked_guard_flags` out of the parsed ones.

    Raises:
        UserError: what is asked for cannot be had.
    """
    from ldm.generation.safety import Guard

    asked = "safety" not in given
    watermark, folder = given.pop("watermark"), given.pop("safety_folder")
    safety = folder is not None if asked else given.pop("safety")
    guard = Guard(safety, watermark, folder, required=asked)
    return guard.prepare() if asked else guard


def take_prompts(given: dict[str, Any]) -> tuple[str, ...]:
    """Move ``prompt`` and ``from_file`` out of the parsed flags into a tuple of prompts.

    Raises:
        UserError: both are given, or the file cannot be used.
    """
    prompt, file = given.pop("prompt"), given.pop("from_file")
    if prompt is not None and file is not None:
        raise UserError("--prompt and --from-file exclude each other; give one of them")
    return read_prompts(file) if file is not None else () if prompt is None else (prompt,)


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


def set_threads(threads: int | None) -> None:
    """Use that many CPU threads. Raises UserError for fewer than one."""
    if threads is None:
        return
    if threads < 1:
        raise UserError(f"threads must be at least 1, not {threads}")
    import torch

    torch.set_num_threads(threads)
