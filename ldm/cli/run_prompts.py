"""What scripts/txt2img-gpt.py, txt2img-mscoco.py and txt2img-vsr.py do: one runner behind three published names."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ldm import boundary
from ldm.cli.common import Parser, Progress, add_device_flags, run_script, set_threads
from ldm.paths import ROOT
from ldm.util import UserError

if TYPE_CHECKING:
    from ldm.evaluation.run.harness import Summary
    from ldm.evaluation.run.shards import Shard

_NUMBER = boundary.whole(0, 10**9)
METHODS = "base,per-step,april-2023,iccv-2023"
WHAT = {
    "gpt": "prompts written by GPT, of two to five objects",
    "mscoco": "captions of MS-COCO",
    "vsr": "captions of VSR (Liu et al., 2023), a relation each",
}


def build_parser(name: str) -> Parser:
    """The flags of one script; `name` is its prompt set, a key of `WHAT`."""
    parser = Parser(
        f"Images of {WHAT[name]} by several methods, for the evaluation.\n\n"
        f"    python scripts/txt2img-{name}.py --prompts FILE --methods base,per-step --seeds 42 43 --outdir DIR\n"
        f"    torchrun --nproc-per-node 4 scripts/txt2img-{name}.py ...      shared among four processes\n"
        "    python scripts/evaluate.py score --run DIR                     what the images show\n\n"
        "Started again with the same flags it goes on where it was."
    )
    outdir = Path("outputs") / f"txt2img-{name}"
    add = parser.add_argument_group("what to make").add_argument
    text = "blocks of Objects/Relation/Sentence, one sentence a line, *.pkl, or *.jsonl"
    add("--prompts", type=Path, required=True, metavar="FILE", help=text)
    text = f"joined by commas or blanks ({METHODS})"
    add("--methods", nargs="+", default=[METHODS], metavar="METHOD", help=text)
    text = "an image of every prompt from each; prompt n starts from the noise of N + n (42)"
    add("--seeds", type=boundary.SEED, nargs="+", default=[42], metavar="N", help=text)
    add(
        "--from",
        type=boundary.whole(0, 10**9),
        default=0,
        dest="start",
        metavar="N",
        help="first prompt, counted from 0 (0)",
    )
    add(
        "--to",
        type=boundary.whole(0, 10**9),
        default=None,
        dest="stop",
        metavar="N",
        help="the prompt to stop before (all)",
    )
    text = "centers by the layout predictor, or by the relations of the prompt file (predictor)"
    add("--layout", choices=("predictor", "rule"), default="predictor", help=text)
    add = parser.add_argument_group("how and where to").add_argument
    add("--outdir", type=Path, default=outdir, metavar="DIR", help=f"({outdir})")
    add("--ddim_steps", "--steps", type=boundary.STEPS, default=50, dest="steps", metavar="N", help="PLMS steps (50)")
    add("--scale", type=boundary.GUIDANCE, default=None, metavar="X", help="guidance (7.5; 5 embedded)")
    add(
        "--batch-size",
        type=boundary.COUNT,
        default=1,
        metavar="N",
        help="images made together; a kill loses as many (1)",
    )
    add("--shard", default=None, metavar="R/N", help="make part R of N (what torchrun or Lightning says)")
    add("--ray", type=boundary.COUNT, default=None, metavar="N", help="share the work among N Ray tasks")
    add = parser.add_argument_group("the models").add_argument
    for flag, word in (("--config", "YAML"), ("--ckpt", "FILE"), ("--clip", "FILE"), ("--predictor", "FILE")):
        add(flag, type=Path, default=None, metavar=word, help="see txt2img-refine.py")
    add_device_flags(parser)
    parser.set_defaults(device=None, threads=None, resumes=True)
    return parser


def main(name: str, arguments: Sequence[str] | None = None) -> int:
    """Run one of the scripts; the exit code."""
    return run_script(build_parser(name), arguments, run)


def run(options: argparse.Namespace, progress: Progress) -> Iterator[str]:
    """Make what is missing; yields the line that says what is where. UserError for images that failed, too."""
    import logging

    from ldm.evaluation.run.shards import parse_shard, run_on_ray, shard_of

    logging.getLogger("ldm.evaluation").setLevel(logging.INFO)
    for key in ("prompts", "outdir", "config", "ckpt", "clip", "predictor"):  # a Ray task has another folder
        if (path := getattr(options, key)) is not None:
            setattr(options, key, path.absolute())
    if options.ray is not None:
        if options.shard is not None:
            raise UserError("--ray excludes --shard; leave one out")
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
    from ldm.evaluation.prompts.files import read_prompt_file
    from ldm.evaluation.run.harness import make_tasks, run_tasks
    from ldm.evaluation.run.methods import parse_method, split_methods
    from ldm.evaluation.run.studio import Studio
    from ldm.generation.pipeline import choose_model
    from ldm.generation.settings import Sampling

    set_threads(options.threads)
    prompts = read_prompt_file(options.prompts)
    methods = [parse_method(text) for text in split_methods(options.methods)]
    tasks = make_tasks(prompts, methods, options.seeds, options.start, options.stop)
    choice = choose_model(options.config, options.ckpt)
    scale = options.scale if options.scale is not None else choice.guidance_scale
    sampling = Sampling(sampler="plms", steps=options.steps, scale=scale)
    studio = Studio(choice, sampling, options.layout, options.clip, options.predictor, options.device)
    return run_tasks(
        options.outdir, prompts, tasks, studio.settings(prompts), studio.place, studio.make, shard, options.batch_size
    )
