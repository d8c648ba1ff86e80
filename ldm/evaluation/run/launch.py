"""A run as the flags of a script describe it: alone, as one of several parts, or shared among Ray tasks."""

from __future__ import annotations

import logging
import os
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ldm.evaluation.prompts.prompt import EvalPrompt
from ldm.evaluation.run.harness import Summary, Task, make_tasks, run_tasks
from ldm.evaluation.run.methods import parse_method, split_methods
from ldm.evaluation.run.shards import Shard, parse_shard, run_on_ray, shard_of
from ldm.evaluation.run.studio import Studio
from ldm.generation.pipeline import choose_model, set_threads
from ldm.generation.settings import Sampling
from ldm.paths import ROOT
from ldm.util import UserError

_PATHS = ("outdir", "config", "ckpt", "clip", "predictor")


def read_tasks(options: Namespace, prompts: Sequence[EvalPrompt]) -> list[Task]:
    """All images that the flags ask for, the same for every shard. UserError as of `make_tasks`."""
    methods = [parse_method(text) for text in split_methods(options.methods)]
    return make_tasks(prompts, methods, options.seeds, options.start, options.stop)


def make_images(options: Namespace, prompts: Sequence[EvalPrompt]) -> tuple[Shard, Summary]:
    """Make the images that lack; which part of them was ours, and what became of it.

    Raises:
        UserError: the flags can't be, or the folder holds another run; see `run_tasks`.
    """
    logging.getLogger("ldm.evaluation").setLevel(logging.INFO)
    for key in _PATHS:  # a Ray task has another folder
        if (path := getattr(options, key)) is not None:
            setattr(options, key, path.absolute())
    if options.model is not None and Path(options.model).exists():
        options.model = str(Path(options.model).absolute())
    if options.ray is None:
        shard = parse_shard(options.shard) if options.shard else shard_of(os.environ)
        return shard, make_shard(options, prompts, shard)
    if options.shard is not None:
        raise UserError("--ray excludes --shard; leave one out")
    whole = Summary()
    for part in run_on_ray(options.ray, partial(make_shard, options, prompts), ROOT):
        whole.made, whole.kept = whole.made + part.made, whole.kept + part.kept
        whole.failed |= part.failed
    return Shard(), whole


def make_shard(options: Namespace, prompts: Sequence[EvalPrompt], shard: Shard) -> Summary:
    """One shard of the run that the flags describe."""
    tasks = read_tasks(options, prompts)
    set_threads(options.threads)
    choice = choose_model(
        options.config, options.ckpt, options.model, options.dtype, options.offload, options.lora or ()
    )
    scale = options.scale if options.scale is not None else choice.guidance_scale
    given = {name: getattr(options, name) for name in ("height", "width", "precision")}
    sampling = Sampling(sampler="plms", steps=options.steps, scale=scale, **given)
    studio = Studio(choice, sampling, options.layout, options.clip, options.predictor, options.device)
    return run_tasks(
        options.outdir, prompts, tasks, studio.settings(prompts), studio.place, studio.make, shard, options.batch_size
    )
