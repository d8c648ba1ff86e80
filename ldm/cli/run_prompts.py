"""What scripts/txt2img-gpt.py, txt2img-mscoco.py and txt2img-vsr.py do: one runner behind three published names."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ldm.cli.common import Parser, Progress, add_device_flags, run_script, set_threads
from ldm.paths import ROOT
from ldm.util import UserError

if TYPE_CHECKING:
    from ldm.evaluation.harness import Summary
    from ldm.evaluation.shards import Shard

METHODS = "base,per-step,april-2023,iccv-2023"


def build_parser(name: str, what: str) -> Parser:
    """The flags of one front; `name` is its prompt set, `what` describes the set."""
    parser = Parser(
        f"Images of {what} by several methods, for scripts/evaluate.py score and report.\n\n"
        "Started again with the same flags it goes on where it was."
    )
    add = parser.add_argument_group("what to make").add_argument
    add(
        "--prompts",
        type=Path,
        required=True,
        metavar="FILE",
        help="blocks of Objects/Relation/Sentence, one sentence a line, *.pkl, or *.jsonl",
    )
    add("--methods", nargs="+", default=[METHODS], metavar="METHOD", help=f"joined by commas or blanks ({METHODS})")
    add(
        "--seeds",
        type=int,
        nargs="+",
        default=[42],
        metavar="N",
        help="an image of every prompt from each; prompt n starts from the noise of N + n (42)",
    )
    add("--from", type=int, default=0, dest="start", metavar="N", help="first prompt, counted from 0 (0)")
    add("--to", type=int, default=None, dest="stop", metavar="N", help="the prompt to stop before (all)")
    add(
        "--layout",
        choices=("predictor", "rule"),
        default="predictor",
        help="centers by the layout predictor, or by the directions of the prompt file (predictor)",
    )
    add = parser.add_argument_group("how and where to").add_argument
    add(
        "--outdir",
        type=Path,
        default=Path("outputs") / f"txt2img-{name}",
        metavar="DIR",
        help=f"(outputs/txt2img-{name})",
    )
    add("--ddim_steps", "--steps", type=int, default=50, dest="steps", metavar="N", help="PLMS steps (50)")
    add("--scale", type=float, default=None, metavar="X", help="guidance (7.5; 5 embedded)")
    add("--batch-size", type=int, default=1, metavar="N", help="images made together; a kill loses as many (1)")
    add("--shard", default=None, metavar="R/N", help="make part R of N (what torchrun or Lightning says)")
    add("--ray", type=int, default=None, metavar="N", help="share the work among N Ray tasks")
    add = parser.add_argument_group("the models").add_argument
    for flag, word in (("--config", "YAML"), ("--ckpt", "FILE"), ("--clip", "FILE"), ("--predictor", "FILE")):
        add(flag, type=Path, default=None, metavar=word, help="see txt2img-refine.py")
    add_device_flags(parser)
    parser.set_defaults(device=None, threads=None, resumes=True)
    return parser


def split_methods(words: Sequence[str]) -> list[str]:
    """Methods joined by commas or blanks; a constant (key=value) belongs to the method before it."""
    methods: list[str] = []
    for part in ",".join(words).split(","):
        if methods and re.fullmatch(r"\s*\w+=[^:]*", part):
            methods[-1] += f",{part.strip()}"
        elif part.strip():
            methods.append(part.strip())
    return methods


def main(name: str, what: str, arguments: Sequence[str] | None = None) -> int:
    """Run one front; the exit code."""
    return run_script(build_parser(name, what), arguments, run)


def run(options: argparse.Namespace, progress: Progress) -> Iterator[str]:
    """Make what is missing; yields the line that says what is where. UserError for images that failed, too."""
    import logging

    from ldm.evaluation.shards import parse_shard, run_on_ray, shard_of

    logging.getLogger("ldm.evaluation").setLevel(logging.INFO)
    for key in ("prompts", "outdir", "config", "ckpt", "clip", "predictor"):  # a Ray task has another folder
        if (path := getattr(options, key)) is not None:
            setattr(options, key, path.absolute())
    if options.ray is not None:
        if options.ray < 1 or options.shard is not None:
            raise UserError("--ray takes a number from 1 and excludes --shard; leave one out")
        parts = run_on_ray(options.ray, partial(run_shard, options), ROOT)
    else:
        shard = parse_shard(options.shard) if options.shard else shard_of(os.environ)
        parts = [run_shard(options, shard)]
    made, kept = sum(part.made for part in parts), sum(part.kept for part in parts)
    failed = {key: reason for part in parts for key, reason in part.failed.items()}
    yield f"{made} images made, {kept} there before, in {options.outdir}"
    if failed:
        key, reason = next(iter(failed.items()))
        raise UserError(f"{len(failed)} images could not be made, the first is {key}: {reason}")


def run_shard(options: argparse.Namespace, shard: Shard) -> Summary:
    """One shard of the run that the flags describe."""
    from ldm.evaluation.harness import make_tasks, run_tasks
    from ldm.evaluation.making import Studio
    from ldm.evaluation.methods import parse_method
    from ldm.evaluation.promptfiles import read_prompt_file
    from ldm.evaluation.runner import Sampling
    from ldm.generation.pipeline import choose_model

    if not 1 <= options.steps <= 1000:
        raise UserError(f"--steps {options.steps} is not from 1 to 1000; 50 is usual")
    if options.batch_size < 1:
        raise UserError(f"--batch-size {options.batch_size} is not at least 1")
    if any(not 0 <= seed < 2**63 for seed in options.seeds):
        raise UserError("--seeds must not be negative")
    set_threads(options.threads)
    prompts = read_prompt_file(options.prompts)
    methods = [parse_method(text) for text in split_methods(options.methods)]
    tasks = make_tasks(prompts, methods, options.seeds, options.start, options.stop)
    choice = choose_model(options.config, options.ckpt)
    scale = options.scale if options.scale is not None else 5.0 if choice.embedded else 7.5
    studio = Studio(
        choice, Sampling(options.steps, scale), options.layout, options.clip, options.predictor, options.device
    )
    return run_tasks(
        options.outdir, prompts, tasks, studio.settings(prompts), studio.place, studio.make, shard, options.batch_size
    )
