"""What scripts/txt2img-gpt.py, txt2img-mscoco.py and txt2img-vsr.py do: one runner behind three published names."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from ldm import boundary
from ldm.cli.common import Parser, Progress, add_device_flags, add_diffusers_flags, run_script
from ldm.util import UserError

logger = logging.getLogger(__name__)

_NUMBER = boundary.whole(0, 10**9)
METHODS = "base,per-step,april-2023,iccv-2023"
WHAT = {
    "gpt": "prompts written by GPT, of two to five objects",
    "mscoco": "captions of MS-COCO",
    "vsr": "captions of VSR (Liu et al., 2023), a relation each",
}

# Flags of the published scripts, which share txt2img's, that change nothing here: a run always samples by PLMS, takes
# its prompts from a file and keeps each image by itself.
IDLE: tuple[str, ...] = (
    "prompt",
    "plms",
    "dpm_solver",
    "laion400m",
    "fixed_code",
    "skip_grid",
    "skip_save",
    "ddim_eta",
    "n_iter",
    "n_rows",
    "C",
    "f",
)


def build_parser(name: str) -> Parser:
    """The flags of one script; `name` is its prompt set, a key of `WHAT`."""
    parser = Parser(
        f"Images of {WHAT[name]} by several methods, for the evaluation.\n\n"
        f"    python scripts/txt2img-{name}.py --prompts FILE --methods base,per-step --seeds 42 43 --outdir DIR\n"
        f"    torchrun --nproc-per-node 4 scripts/txt2img-{name}.py ...      shared among four processes\n"
        "    python scripts/evaluate.py score --run DIR                     what the images show\n\n"
        "Started again with the same flags it goes on where it was."
    )
    group = parser.add_argument_group("what to make")
    text = "blocks of Objects/Relation/Sentence, one sentence a line, *.pkl, or *.jsonl"
    group.add_argument("--prompts", "--from-file", type=Path, required=True, metavar="FILE", help=text)
    text = "centers by the layout predictor, or by the relations of the prompt file (predictor)"
    group.add_argument("--layout", choices=("predictor", "rule"), default="predictor", help=text)
    add_run_flags(parser, Path("outputs") / f"txt2img-{name}", METHODS, [42])
    for flag in IDLE:
        parser.add_argument(f"--{flag}", nargs="?", help=argparse.SUPPRESS)
    return parser


def add_run_flags(parser: Parser, outdir: Path, methods: str, seeds: Sequence[int] | None) -> None:
    """What a run of several methods takes, whatever its prompts and layouts; see `ldm.evaluation.run.launch`."""
    add = parser.add_argument_group("what to make").add_argument
    add("--methods", nargs="+", default=[methods], metavar="METHOD", help=f"joined by commas or blanks ({methods})")
    usual = "as many as published" if seeds is None else " ".join(map(str, seeds))
    text = f"an image of every prompt from each; prompt n starts from the noise of N + n ({usual})"
    add("--seeds", "--seed", type=boundary.SEED, nargs="+", default=seeds, metavar="N", help=text)
    add("--from", type=_NUMBER, default=0, dest="start", metavar="N", help="first prompt, counted from 0 (0)")
    add("--to", type=_NUMBER, default=None, dest="stop", metavar="N", help="the prompt to stop before (all)")
    add = parser.add_argument_group("how and where to").add_argument
    add("--outdir", type=Path, default=outdir, metavar="DIR", help=f"({outdir})")
    add("--ddim_steps", "--steps", type=boundary.STEPS, default=50, dest="steps", metavar="N", help="PLMS steps (50)")
    add("--scale", type=boundary.GUIDANCE, default=None, metavar="X", help="guidance (7.5; 5 embedded)")
    for flag, dest in (("--H", "height"), ("--W", "width")):
        add(flag, type=boundary.PIXELS, default=None, dest=dest, metavar="PX", help=f"{dest} (the model's)")
    text = "images made together; a kill loses as many (1)"
    add("--batch-size", "--n_samples", type=boundary.COUNT, default=1, metavar="N", help=text)
    add("--shard", default=None, metavar="R/N", help="make part R of N (what torchrun or Lightning says)")
    add("--ray", type=boundary.COUNT, default=None, metavar="N", help="share the work among N Ray tasks")
    add = parser.add_argument_group("the models").add_argument
    for flag, word in (("--config", "YAML"), ("--ckpt", "FILE"), ("--clip", "FILE"), ("--predictor", "FILE")):
        add(flag, type=Path, default=None, metavar=word, help="see txt2img-refine.py")
    add_diffusers_flags(parser)
    add_device_flags(parser)
    parser.set_defaults(**dict.fromkeys(("device", "threads", "precision", "model", "dtype", "lora")), offload=False)
    parser.set_defaults(resumes=True)


def main(name: str, arguments: Sequence[str] | None = None) -> int:
    """Run one of the scripts; the exit code."""
    return run_script(build_parser(name), arguments, run)


def run(options: argparse.Namespace, progress: Progress) -> Iterator[str]:
    """Make what is missing; yields the line that says what is where. UserError for images that failed, too."""
    from ldm.evaluation.prompts.files import read_prompt_file
    from ldm.evaluation.run.launch import make_images

    if idle := [f"--{flag}" for flag in IDLE if flag != "plms" and flag in options]:
        logger.warning("%s: of the published flags, without effect here.", ", ".join(idle))
    _, summary = make_images(options, read_prompt_file(options.prompts))
    yield f"{summary.made} images made, {summary.kept} there before, in {options.outdir}"
    if summary.failed:
        key, reason = next(iter(summary.failed.items()))
        raise UserError(f"{len(summary.failed)} images could not be made, the first is {key}: {reason}")
