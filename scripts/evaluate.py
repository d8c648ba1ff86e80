#!/usr/bin/env python
"""Scores the embedded model's images: how often objects are there, and where the prompt puts them.

    python scripts/evaluate.py detector                        is the detector right on fresh scenes?
    python scripts/evaluate.py calibrate                       ... and on generated images labeled by eye?
    python scripts/evaluate.py single                          does the plain model draw a single object?
    python scripts/evaluate.py table --set report --count 300  the README's table
    python scripts/evaluate.py prompts                         prompt files in the paper's three styles
    python scripts/evaluate.py evidence                        methods and ablations on them (docs/evidence.md)
    python scripts/evaluate.py score --run DIR                 images of txt2img-gpt.py and alike
    python scripts/evaluate.py report --run DIR                ... and one HTML page about them

Images are kept under --outdir: a run that was stopped goes on where it was when started again.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from ldm.cli.common import Parser, Progress, run_script, set_threads
from ldm.evaluation import commands as runs
from ldm.evaluation import evidence_command
from ldm.util import UserError

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
OUTDIR = Path("outputs/evaluate")
LABELS = ROOT / "data" / "emoji_labels.json"


def at_least(low: int, high: int | None = None) -> Any:
    """An argparse type for whole numbers from ``low`` to ``high``."""

    def whole(text: str) -> int:
        if not text.lstrip("-").isdigit() or int(text) < low or (high is not None and int(text) > high):
            upper = "" if high is None else f" to {high}"
            raise argparse.ArgumentTypeError(f"{text} is not a whole number from {low}{upper}")
        return int(text)

    return whole


def build_parser() -> Parser:
    """All subcommands and their flags."""
    parser = Parser(__doc__)
    subparser: Any = partial(Parser, argument_default=None)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=subparser)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument("--out", type=Path, metavar="JSON", help=f"result (docs/results/{name}*.json)")
        made.add_argument("--threads", type=at_least(1), metavar="N", help="CPU threads")
        made.add_argument("--detector", type=Path, metavar="FILE", help="weights of the detector (the shipped ones)")
        return made

    detector = command("detector", "precision, recall and center error of the detector on fresh scenes")
    detector.add_argument("--count", type=at_least(1), default=600, metavar="N", help="scenes (600)")

    calibrate = command("calibrate", "the same on generated images labeled by eye")
    calibrate.add_argument("--labels", type=Path, default=LABELS, metavar="JSON")

    sheet = command("sheet", "choose images to be labeled: copies, a label file, a numbered contact sheet")
    sheet.add_argument("--labels", type=Path, default=LABELS, metavar="JSON", help="label file to start")
    sheet.add_argument("--outdir", type=Path, default=OUTDIR, metavar="DIR", help="images to choose from")
    sheet.add_argument("--count", type=at_least(1), default=50, metavar="N", help="images (50)")
    sheet.add_argument("--seed", type=int, default=0, help="of the choice")

    single = command("single", "share of one-object prompts whose object the plain model draws")
    single.add_argument("--count", type=at_least(1), default=240, metavar="N", help="prompts (240)")
    _sampling_flags(single)

    table = command("table", "the plain model, fixed weights and each schedule on two-object prompts")
    table.add_argument("--set", choices=("choose", "report"), default="report", help="of prompts (report)")
    table.add_argument("--count", type=at_least(1), default=300, metavar="N", help="prompts (300)")
    table.add_argument(
        "--methods",
        nargs="+",
        metavar="METHOD",
        help="base fixed:weight=1 per-step "
        "april-2023 iccv-2023; constants may follow: per-step:inner_steps=2,learning_rate=0.2",
    )
    table.add_argument("--layout", choices=("rule", "predictor"), default="rule", help="target centers (rule)")
    table.add_argument(
        "--known",
        nargs="+",
        type=Path,
        default=(),
        metavar="JSON",
        help="earlier results of these prompts, whose images are not made again",
    )
    table.add_argument("--batch-size", type=at_least(1), metavar="N", help="images made together")
    _sampling_flags(table)
    runs.add_commands(commands)
    evidence_command.add_commands(commands)
    return parser


def _sampling_flags(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(resumes=True)  # images that are there are kept
    parser.add_argument("--outdir", type=Path, default=OUTDIR, metavar="DIR", help=f"images ({OUTDIR})")
    parser.add_argument("--steps", type=at_least(1, 1000), default=25, metavar="N", help="PLMS steps (25)")
    parser.add_argument("--scale", type=float, default=5.0, help="guidance (5)")
    parser.add_argument(
        "--keep-activations",
        action="store_true",
        help="published schedules: recompute nothing; "
        "a quarter faster, 0.7 GB for every image of a batch (embedded model)",
    )
    parser.add_argument("--config", type=Path, metavar="YAML", help="of another model (with --ckpt)")
    parser.add_argument("--ckpt", type=Path, metavar="FILE", help="weights of another model")
    parser.add_argument("--clip", type=Path, metavar="FILE", help="weights of another CLIP")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, mps (the best there is)")


def run_detector(options: argparse.Namespace) -> str:
    """Scores the detector on clean and on degraded fresh scenes, and where every single object is large."""
    from ldm.evaluation.calibration import agreement, fresh_scenes
    from ldm.evaluation.report import write_json
    from ldm.models.detector import load_detector

    detector = load_detector(options.detector)
    result: dict[str, Any] = {"scenes": options.count}
    for name, degraded, close_ups in (("clean", False, 0.0), ("degraded", True, 0.0), ("close_ups", True, 1.0)):
        images, truths = zip(*fresh_scenes(options.count, degraded, close_ups), strict=True)
        result[name] = agreement(detector, images, truths).to_json()
    write_json(options.out or RESULTS / "detector.json", result)
    return "\n".join(f"{name}: {_agreement(result[name])}" for name in ("clean", "degraded", "close_ups"))


def run_calibrate(options: argparse.Namespace) -> str:
    """Scores the detector on the images labeled by eye."""
    from ldm.evaluation.calibration import agreement, read_labels
    from ldm.evaluation.report import write_json
    from ldm.models.detector import load_detector

    labeled = read_labels(options.labels)
    detector = load_detector(options.detector)
    found = agreement(detector, [item.load() for item in labeled], [item.objects for item in labeled])
    result = {"images": len(labeled), "generated": found.to_json()}
    write_json(options.out or RESULTS / "calibration.json", result)
    return f"{len(labeled)} generated images: {_agreement(result['generated'])}"


def _agreement(entry: Any) -> str:
    parts = [f"{name} {_ratio(entry[name])}" for name in ("precision", "recall")]
    error = entry["center_error_px"]
    return ", ".join([*parts, "no center" if error is None else f"center error {error:.2f} px"])


def _ratio(entry: Any) -> str:
    value = "-" if entry["value"] is None else f"{entry['value']:.3f}"
    return f"{value} ({entry['hits']}/{entry['total']})"


def run_sheet(options: argparse.Namespace) -> str:
    """Starts a label file with images chosen at random, blind to the method."""
    from ldm.evaluation.calibration import contact_sheet, pick_images, read_labels, start_labels
    from ldm.util import atomic_write

    start_labels(pick_images(options.outdir, options.count, options.seed), options.labels)
    image = contact_sheet([item.load() for item in read_labels(options.labels)])
    path = options.out or options.outdir / "sheet.png"
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG")
    return f"fill in the objects in {options.labels}; the images are on {path}"


def run_single(options: argparse.Namespace) -> str:
    """Makes one-object images with the plain model and counts those that show their object."""
    from ldm.evaluation.calibration import detect_images
    from ldm.evaluation.methods import parse_method
    from ldm.evaluation.prompts import single_prompts
    from ldm.evaluation.report import write_json
    from ldm.evaluation.runner import ImageStore, Job, make_images
    from ldm.evaluation.scoring import Ratio
    from ldm.models.detector import load_detector
    from ldm.spacetime.layout import Layout

    sampling, load, described = _model(options, needs_clip=False)
    prompts, base = single_prompts(options.count), parse_method("base")
    detector = load_detector(options.detector)
    store = ImageStore(options.outdir / "single", {**described, "prompts": "single"})
    jobs = [Job(i, prompt.text, Layout((), prompt.text), prompt.seed) for i, prompt in enumerate(prompts)]
    make_images(store, [base], jobs, load, sampling)
    found = detect_images(detector, [store.load(base, job.index) for job in jobs])
    hits: dict[str, list[bool]] = {}
    for prompt, detections in zip(prompts, found, strict=True):
        hits.setdefault(prompt.name, []).append(any(item.name == prompt.name for item in detections))
    total = Ratio(sum(sum(rows) for rows in hits.values()), len(prompts))
    by_name = {name: Ratio(sum(rows), len(rows)).to_json() for name, rows in hits.items()}
    result = {"settings": described, "recall": total.to_json(), "by_category": by_name}
    write_json(options.out or RESULTS / "single.json", result)
    weakest = sorted(by_name, key=lambda name: by_name[name]["value"])[:5]
    return f"single-object recall {_ratio(result['recall'])}; weakest: {', '.join(weakest)}"


def run_table(options: argparse.Namespace) -> str:
    """Makes what images are missing, scores all, and writes the table."""
    from ldm.evaluation.known import read_known
    from ldm.evaluation.methods import DEFAULT_METHODS, parse_method
    from ldm.evaluation.prompts import relation_prompts
    from ldm.evaluation.report import build_table, markdown, write_json
    from ldm.evaluation.runner import ImageStore, make_images, make_jobs
    from ldm.generation.images import file_hash
    from ldm.models.detector import DEFAULT_WEIGHTS, load_detector

    methods = [parse_method(text) for text in options.methods or DEFAULT_METHODS]
    prompts = relation_prompts(options.set, options.count)
    detector = load_detector(options.detector)
    sampling, load, described = _model(options, needs_clip=any(method.preset for method in methods))
    predictor = load().predict_layout if options.layout == "predictor" else None
    jobs = make_jobs(prompts, predictor)
    described = {**described, "prompts": options.set, "layout": options.layout}
    store = ImageStore(options.outdir / f"{options.set}-{options.layout}", described)
    settings = {**described, "count": options.count, "detector_sha256": file_hash(options.detector or DEFAULT_WEIGHTS)}
    known = read_known(options.known, settings, prompts, methods)
    counts = {label: len(scores) for label, scores in known.items()}
    make_images(store, methods, jobs, load, sampling, options.batch_size, counts)
    table = build_table(detector, store, methods, prompts, jobs, settings, known)
    name = f"table-{options.set}{'-predictor' if predictor else ''}.json"
    write_json(options.out or RESULTS / name, table)
    return markdown(table)


def _model(options: argparse.Namespace, needs_clip: bool) -> tuple[Any, Any, dict[str, Any]]:
    """Sampling, a function that loads the pipeline once, and what identifies both in a result."""
    from functools import cache

    from ldm.evaluation.runner import Sampling
    from ldm.generation.images import file_hash
    from ldm.generation.pipeline import choose_model, load_pipeline
    from ldm.paths import EMOJI_CKPT, EMOJI_CLIP, EMOJI_CONFIG, project_file

    config, ckpt = options.config or project_file(EMOJI_CONFIG), options.ckpt or project_file(EMOJI_CKPT)
    choice = choose_model(config, ckpt)
    clip = options.clip or project_file(EMOJI_CLIP)
    if needs_clip and not clip.is_file():
        raise UserError(f"--clip {clip} is not a file; give the path of one that exists.")
    sampling = Sampling(options.steps, options.scale, options.keep_activations)
    described = {"model_sha256": file_hash(choice.ckpt), "sampler": "plms", **asdict(sampling)}
    del described["keep_activations"]  # of time and memory alone
    if clip.is_file():
        described["clip_sha256"] = file_hash(clip)
    return sampling, cache(lambda: load_pipeline(choice, device=options.device, clip=clip)), described


COMMANDS: dict[str, Callable[[argparse.Namespace], str | Iterator[str]]] = {
    "detector": run_detector,
    "calibrate": run_calibrate,
    "sheet": run_sheet,
    "single": run_single,
    "table": run_table,
    **runs.COMMANDS,
    **evidence_command.COMMANDS,
}


def run(options: argparse.Namespace, progress: Progress) -> Iterator[str]:
    """Runs a subcommand; yields what it says."""
    logging.getLogger("ldm.evaluation").setLevel(logging.INFO)
    set_threads(options.threads)
    said = COMMANDS[options.command](options)
    yield from [said] if isinstance(said, str) else said


def main(arguments: list[str] | None = None) -> int:
    """Runs a subcommand; 0 if it worked, 2 for a user's mistake, 130 if interrupted."""
    return run_script(build_parser(), arguments, run)


if __name__ == "__main__":
    sys.exit(main())
