"""Manners that the scripts share: flags, one line for a mistake, progress on stderr, results on stdout.

Imports nothing heavy, so that `--help` and a mistyped flag answer at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm import boundary, lightning
from ldm.errors import UserError
from ldm.generation.pipeline import set_threads as set_threads
from ldm.generation.progress import Progress
from ldm.generation.settings import DTYPES, NOISES, PRECISIONS, PRESET_NAMES, SAMPLERS
from ldm.targets import VARIABLE

if TYPE_CHECKING:
    from ldm.generation.record import Outcome
    from ldm.generation.safety import Guard
    from ldm.spacetime.layout import LayoutObject

Action = Callable[[argparse.Namespace, Progress], Iterable[str]]  # what a script does; yields lines to print


class Parser(boundary.Parser):
    """A flag that is not given sets nothing, so that defaults live in one place.

    `more` goes to argparse; `argument_default=None` gives every flag a value.
    """

    def __init__(self, description: str | None = None, **more: Any) -> None:
        usual = {"formatter_class": argparse.RawDescriptionHelpFormatter, "argument_default": argparse.SUPPRESS}
        super().__init__(description=description, **{**usual, **more})


# Flags that save memory, and what to try.
SMALLER = {
    "--H": "a smaller --H and --W",
    "--n_samples": "fewer --n_samples",
    "--batch-size": "a smaller --batch-size",
    "--batch_size": "a smaller --batch_size",
    "--block-checkpointing": "--block-checkpointing",
    "--precision": "--precision autocast",
}


class ProgressBar:
    """A bar on stderr for each stage of the work, with the loss where there is one."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, what: str, done: float, total: float, losses: Mapping[str, float] | None = None) -> None:
        """`total` 0 is for what has no steps: its name stands while it lasts."""
        from tqdm import tqdm

        if not total and not sys.stderr.isatty():
            if not done:
                print(f"{what} ...", file=sys.stderr, flush=True)
            return
        if self._bar is None:
            counted = "{l_bar}{bar}| [{elapsed}<{remaining}{postfix}]" if total else "{desc} ..."
            # The mean rate of the whole run: parts of it differ, as their shares of the total do.
            self._bar = tqdm(
                total=total or 1, desc=what, file=sys.stderr, bar_format=counted, smoothing=0, leave=bool(total)
            )
        if losses:
            shown = losses.get("total", next(iter(losses.values())))
            self._bar.set_postfix_str(f"loss {shown:.4f}", refresh=False)
        self._bar.update(done - self._bar.n)
        if done >= (total or 1):
            self.close()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def run_script(parser: argparse.ArgumentParser, arguments: Sequence[str] | None, action: Action) -> int:
    """Parse, run `action` and print each line that it yields.

    A command that keeps what it finishes and makes only what lacks sets the default `resumes=True` on its parser:
    whoever interrupts it is told that the same command goes on.

    Returns:
        The exit code: 0, 2 for a user's mistake (one line on stderr), 130 for Ctrl-C.
    """
    given = argparse.Namespace()

    def work() -> None:
        options = parser.parse_args(arguments, given)
        if not sys.warnoptions:
            warnings.simplefilter("ignore")  # of libraries; what concerns the user is logged
        boundary.log_lines(logging.WARNING)
        bar = ProgressBar()
        try:
            for line in action(options, bar):
                print(line, flush=True)
        finally:
            bar.close()

    def interrupted() -> str:
        more = " The same command goes on where it stopped." if getattr(given, "resumes", False) else ""
        return f"interrupted: what was being made was not written.{more}"

    known = parser._option_string_actions  # noqa: SLF001  argparse has no public list of them
    smaller = [what for flag, what in SMALLER.items() if flag in known]
    return boundary.run(work, interrupted, smaller=f"try {' or '.join(smaller)}" if smaller else boundary.SMALLER)


def leave_out_lightning() -> None:
    """What a script that only samples calls first, in a process of its own: it starts in less time.

    Not where a program's own classes may be built (`ldm.targets`), which may want all of Lightning.
    """
    if not os.environ.get(VARIABLE):
        lightning.leave_out()


class Script:
    """The `main` of a script: called with its arguments, by default the process's, it returns the exit code."""

    def __init__(self, build_parser: Callable[[], Parser], action: Action) -> None:
        self.build_parser, self.action = build_parser, action

    def __call__(self, arguments: Sequence[str] | None = None) -> int:
        return run_script(self.build_parser(), arguments, self.action)


def told_files(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """A line for each file, as soon as it is written; the grid comes when all images are there."""
    files, told = dict[str, Path](), dict[str, Path]()
    for outcome in outcomes:
        files, told = outcome.files, dict(outcome.files)
        yield from (f"{kind}: {path}" for kind, path in told.items())
    yield from (f"{kind}: {path}" for kind, path in files.items() if kind not in told)


# ------------------------------------------------------------------------------------------- shared flags
# Each sets the setting that its dest names, see ldm.generation.settings.


def add_prompt_flags(parser: Parser) -> None:
    """--prompt and --from-file; see `take_prompts`."""
    add = parser.add_argument_group("what to make").add_argument
    add("--prompt", type=boundary.text, default=None, help="the text to draw")
    text = "one prompt a line, an image each time; n_samples of them share a batch"
    add("--from-file", type=Path, default=None, metavar="FILE", help=text)


def add_layout_flags(parser: Parser) -> None:
    """Layouts by hand; see `take_objects`."""
    add = parser.add_argument_group("layout by hand").add_argument
    add(
        "--layout", type=Path, metavar="FILE", help="regions of the objects: ours, or LMD's, GLIGEN's, COCO's, 7Bench's"
    )
    add("--layout-id", metavar="ID", help="of several layouts in the file (that of the prompt)")
    one = partial(add, dest="objects", action="append", default=[])
    one("--box", nargs=5, metavar=("PHRASE", "LEFT", "TOP", "RIGHT", "BOTTOM"), help="an object's box, 0 to 1")
    one("--at", nargs=3, metavar=("PHRASE", "X", "Y"), help="an object's center, 0 to 1")


def add_preset_flags(parser: Parser, default: str) -> None:
    """The method, for scripts in which it is the exception; `default` tells when it is what."""
    add = parser.add_argument_group("the method").add_argument
    add("--preset", "--schedule", choices=PRESET_NAMES, help=f"how the weights come about ({default})")
    add("--clip", metavar="NAME|FILE", help="the CLIP of the loss (ViT-B/32, or the embedded one)")


def take_objects(given: dict[str, Any]) -> tuple[LayoutObject, ...]:
    """Move the objects of --box and --at out of the parsed flags, in their order. Raises UserError for a wrong one."""
    from ldm.spacetime.layout import LayoutObject

    objects = []
    for phrase, *texts in given.pop("objects"):
        flag = "--box" if len(texts) == 4 else "--at"
        try:
            numbers = [float(text) for text in texts]
        except ValueError:
            listed = " ".join(texts)
            raise UserError(f"{flag} '{phrase}' needs numbers from 0 to 1 after the phrase, not {listed}") from None
        entry = {"box": numbers} if flag == "--box" else dict(zip("xy", numbers, strict=True))
        objects.append(LayoutObject.from_json({"phrase": phrase, **entry}, f"{flag} '{phrase}'"))
    return tuple(objects)


def add_number_flags(parser: Parser, samples: int = 1, iterations: int = 1, size: str = "") -> None:
    """How many images from which seeds; with `size`, a text for the help, also of which size."""
    add = parser.add_argument_group("size and number" if size else "number").add_argument
    for flag, dest in (("--H", "height"), ("--W", "width")) if size else ():
        add(flag, type=boundary.PIXELS, dest=dest, metavar="PX", help=f"{dest} ({size})")
    number = partial(add, type=boundary.COUNT, metavar="N")
    number("--n_samples", dest="samples", default=samples, help=f"images made together ({samples})")
    number("--n_iter", dest="iterations", default=iterations, help=f"times every prompt is taken ({iterations})")
    add("--seed", type=boundary.SEED, metavar="N", help="image i starts from seed + i (42)")
    text = "a generator of the CPU for each image, or what CUDA draws for the whole run as published (per-image)"
    add("--noise", choices=NOISES, help=text)


def add_sampling_flags(
    parser: Parser, samplers: Sequence[str] = ("plms", "dpm_solver"), scale: str = "7.5, or 5 for the embedded model"
) -> None:
    """How to sample; `scale` tells the default guidance."""
    group = parser.add_argument_group("sampling (DDIM without a flag)")
    kind = group.add_mutually_exclusive_group()
    for name in samplers:
        kind.add_argument(f"--{name}", dest="sampler", action="store_const", const=name, help=SAMPLERS[name])
    add = group.add_argument
    add("--ddim_steps", type=boundary.STEPS, dest="steps", metavar="N", help="steps of any sampler, 1 to 1000 (50)")
    add("--ddim_eta", type=boundary.FRACTION, dest="eta", metavar="ETA", help="DDIM's noise, 0 to 1 (0)")
    add("--scale", type=boundary.GUIDANCE, help=f"guidance ({scale})")
    add("--negative_prompt", type=boundary.text, metavar="TEXT", help="what the image shall not show (nothing)")


def add_output_flags(parser: Parser, outdir: Path) -> None:
    """Where images and grid go."""
    add = parser.add_argument_group("where it goes").add_argument
    add("--outdir", type=Path, default=outdir, metavar="DIR", help=f"({outdir})")
    add("--skip_grid", action="store_true", help="no grid of all images")
    add("--skip_save", action="store_true", help="no files of single images")
    add(
        "--n_rows",
        type=boundary.whole(0, 1_000_000),
        dest="columns",
        metavar="N",
        help="images in a row of the grid (n_samples)",
    )


def add_model_flags(parser: Parser, numbers: bool = True) -> None:
    """The model and where it runs; with `numbers` also what is checked against it, and the starting noise."""
    add = parser.add_argument_group("the model").add_argument
    add("--config", type=Path, metavar="YAML", help="of the diffusion model")
    add("--ckpt", type=Path, metavar="FILE", help=".ckpt or .safetensors")
    if numbers:
        add("--C", type=boundary.COUNT, dest="channels", metavar="N", help="channels of the latents (the model's)")
        add("--f", type=boundary.COUNT, dest="factor", metavar="N", help="pixels per latent pixel (the model's)")
        add("--fixed_code", action="store_true", help="the same starting noise in every batch")
    add_device_flags(parser, packs=True)


def add_diffusers_flags(parser: Parser, **model: Any) -> None:
    """A model of diffusers in place of config and checkpoint; `model` is what argparse is told of --model."""
    add = parser.add_argument_group("a model of diffusers").add_argument
    add("--model", metavar="DIR|NAME", help="a folder (Stable Diffusion 1, 2, XL), a hub name, a file of XL", **model)
    add("--dtype", choices=DTYPES, help="of its U-Net and text encoders (float32)")
    add("--lora", action="append", metavar="FILE[:SCALE]", help="an adapter for it, .safetensors; may stand repeatedly")
    add("--offload", action="store_true", help="text encoders are on the card only while they run")


def add_device_flags(parser: Parser, precision: bool = True, packs: bool = False) -> None:
    """Where it runs and in which precision; `packs` for scripts that pack weights."""
    add = parser.add_argument_group("where it runs").add_argument
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps (the best there is)")
    add("--threads", type=boundary.THREADS, metavar="N", help="CPU threads")
    if precision:
        add("--precision", choices=PRECISIONS, help="(autocast on CUDA, else full)")
    if packs:
        text = "on a CPU: less time, up to two more copies of the weights (large models, where memory allows)"
        add("--pack-weights", action=argparse.BooleanOptionalAction, help=text)


def add_guard_flags(parser: Parser, asked: bool = False) -> None:
    """Safety checker and watermark; `asked` for scripts whose published images have neither: off without a flag."""
    add = parser.add_argument_group(f"safety checker and watermark{' (off)' if asked else ''}").add_argument
    if asked:
        add("--watermark", action="store_true", default=False, help="mark images invisibly, as txt2img.py does")
    else:
        add("--no-safety-checker", dest="safety", action="store_false", default=True, help="leave it out")
        add("--no-watermark", dest="watermark", action="store_false", default=True, help="leave it out")
    where = (
        "check images, with the weights in this folder"
        if asked
        else "folder with its weights (the cache of Hugging Face)"
    )
    add("--safety-checker", type=Path, default=None, metavar="DIR", dest="safety_folder", help=where)


def take_guard(given: dict[str, Any]) -> Guard:
    """Move the flags of `add_guard_flags` out of the parsed ones. UserError for what is asked for and missing."""
    from ldm.generation.safety import Guard

    asked = "safety" not in given
    watermark, folder = given.pop("watermark"), given.pop("safety_folder")
    safety = folder is not None if asked else given.pop("safety")
    guard = Guard(safety, watermark, folder, required=asked)
    return guard.prepare() if asked else guard


def take_prompts(given: dict[str, Any]) -> tuple[str, ...]:
    """Move `prompt` and `from_file` out of the parsed flags into a tuple of prompts; those of a file share batches.

    Raises:
        UserError: both are given, or the file cannot be used.
    """
    prompt, file = given.pop("prompt"), given.pop("from_file")
    if prompt is not None and file is not None:
        raise UserError("--prompt and --from-file exclude each other; give one of them")
    given["grouped"] = file is not None
    return read_prompts(file) if file is not None else () if prompt is None else (prompt,)


def read_prompts(path: Path) -> tuple[str, ...]:
    """The lines of `path` that are not blank. Raises UserError where there are none."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise UserError(f"--from-file {path} cannot be read as text; give a file with one prompt a line") from err
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise UserError(f"--from-file {path} holds no prompt; write one a line")
    return prompts


def command_line(name: str, arguments: Sequence[str] | None) -> str:
    """The command by which a script was called, for the record."""
    return shlex.join(["python", f"scripts/{name}.py", *(sys.argv[1:] if arguments is None else arguments)])
