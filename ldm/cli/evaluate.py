"""What scripts/evaluate.py does: its subcommands with their flags; what they do is `ldm.evaluation.commands`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ldm import boundary
from ldm.cli.common import Parser, Progress, add_diffusers_flags, run_script, set_threads
from ldm.cli.run_prompts import add_run_flags
from ldm.paths import RESULTS, ROOT

DESCRIPTION = """Scores the embedded model's images: how often objects are there, and where the prompt puts them.

    python scripts/evaluate.py detector                        is the detector right on fresh scenes?
    python scripts/evaluate.py calibrate                       ... and on generated images labeled by eye?
    python scripts/evaluate.py single                          does the plain model draw a single object?
    python scripts/evaluate.py table --set report --count 300  the README's table
    python scripts/evaluate.py prompts                         prompt files in the paper's three styles
    python scripts/evaluate.py evidence                        methods and ablations on them (docs/evidence.md)
    python scripts/evaluate.py score --run DIR                 images of txt2img-gpt.py and alike
    python scripts/evaluate.py report --run DIR                ... and one HTML page about them
    python scripts/evaluate.py benchmark geneval --prompts F   a published benchmark (docs/benchmarks.md)

Images are kept under --outdir: a run that was stopped goes on where it was when started again.
"""
OUTDIR = Path("outputs/evaluate")
LABELS = ROOT / "data" / "emoji_labels.json"
PROMPTS = Path("data/prompts")
PLAN = Path("configs/emoji/evidence.yaml")


def build_parser() -> Parser:
    """All subcommands and their flags."""
    parser = Parser(DESCRIPTION)
    subparser: Any = partial(Parser, argument_default=None)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=subparser)

    def command(name: str, text: str, judged: bool = True) -> Any:
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument("--threads", type=boundary.THREADS, metavar="N", help="CPU threads")
        if judged:
            made.add_argument("--out", type=Path, metavar="FILE", help=f"result (docs/results/{name}*)")
            made.add_argument("--detector", type=Path, metavar="FILE", help="weights of the detector (the shipped)")
        return made.add_argument

    add = command("detector", "precision, recall and center error of the detector on fresh scenes")
    add("--count", type=boundary.COUNT, default=600, metavar="N", help="scenes (600)")

    add = command("calibrate", "the same on generated images labeled by eye")
    add("--labels", type=Path, default=LABELS, metavar="JSON")

    add = command("sheet", "choose images to be labeled: copies, a label file, a numbered contact sheet")
    add("--labels", type=Path, default=LABELS, metavar="JSON", help="label file to start")
    add("--outdir", type=Path, default=OUTDIR, metavar="DIR", help="images to choose from")
    add("--count", type=boundary.COUNT, default=50, metavar="N", help="images (50)")
    add("--seed", type=boundary.SEED, default=0, help="of the choice")

    add = command("single", "share of one-object prompts whose object the plain model draws")
    add("--count", type=boundary.COUNT, default=240, metavar="N", help="prompts (240)")
    _add_sampling(add)

    add = command("table", "the plain model, fixed weights and each preset on prompts of two objects, or of more")
    sets = ("choose", "report", "choose-many", "report-many")
    add("--set", choices=sets, default="report", help="of prompts; -many are of three to five objects (report)")
    add("--count", type=boundary.COUNT, default=300, metavar="N", help="prompts (300)")
    text = "base fixed:weight=1 per-step april-2023 iccv-2023; constants may follow: per-step:inner_steps=2"
    add("--methods", nargs="+", metavar="METHOD", help=text)
    add("--layout", choices=("rule", "predictor"), default="rule", help="target centers (rule)")
    text = "earlier results of these prompts, whose images are not made again"
    add("--known", nargs="+", type=Path, default=(), metavar="JSONL", help=text)
    add("--batch-size", type=boundary.COUNT, metavar="N", help="images made together (what suits the method)")
    add("--page", type=Path, nargs="+", default=[], metavar="MD", help="bring the table of these pages up to date")
    _add_minutes(add)
    _add_sampling(add)

    text = "write the prompt files of the emoji world: four styles, for choosing and for reporting"
    add = command("prompts", text, judged=False)
    add("--outdir", type=Path, default=PROMPTS, metavar="DIR", help=f"({PROMPTS})")

    text = "the methods and ablations of a plan on its prompt files; goes on from the scores that are there"
    add = command("evidence", text, judged=False)
    add("--plan", type=Path, default=ROOT / PLAN, metavar="YAML", help=f"({PLAN})")
    add("--out", type=Path, default=RESULTS, metavar="DIR", help="scores (docs/results)")
    add("--page", type=Path, nargs="+", default=[], metavar="MD", help="bring the tables of these pages up to date")
    add("--again", nargs="+", default=[], metavar="METHOD", help="forget the scores of these methods")
    _add_minutes(add)
    _add_models(add, Path("outputs/evidence"))

    add = command("score", "what the images of a run show: recall, relations, colors, counts, CLIP score", judged=False)
    _add_run(add)
    text = "emoji, transformers:FOLDER-OR-NAME, torchvision:MODEL[=FILE] (emoji)"
    add("--detector", default="emoji", metavar="KIND", help=text)
    add("--threshold", type=boundary.FRACTION, metavar="X", help="least score of a box (the detector's own)")
    text = (
        "for CLIP score and colors: a CLIP in OpenAI's format, or for the score alone a folder or hub name of "
        "transformers (the embedded one, with the emoji detector)"
    )
    add("--clip", metavar="FILE", help=text)
    add("--device", metavar="NAME", help="of the detector (cpu)")

    add = command("report", "one HTML page about a scored run: table, curves, images", judged=False)
    _add_run(add)
    add("--out", type=Path, metavar="HTML", help="(report.html in the run's folder)")
    add("--cases", type=boundary.COUNT, default=60, metavar="N", help="prompts shown, worst first (60)")
    text = "a published benchmark: draw its prompts or take another program's images, score, report"
    published = commands.add_parser("benchmark", help=text, description=text)
    add = published.add_argument
    add(
        "name",
        metavar="NAME",
        help="geneval, visor, t2i-2d, t2i-3d, t2i-complex, t2i-numeracy, lmd, 7bench, cbench, obench",
    )
    add("--prompts", type=Path, metavar="FILE", help="the published file as it is (visor: made, where it is left out)")
    text = "centers as the benchmark states them, or by the layout predictor (given)"
    add("--layout", choices=("given", "predicted"), default="given", help=text)
    add("--images", type=Path, metavar="DIR", help="score these, in the benchmark's own folder format")
    add("--export", type=Path, metavar="DIR", help="write our images in that format, a folder a method")
    text = (
        "emoji, transformers:FOLDER-OR-NAME, torchvision:MODEL[=FILE] (the benchmark's; emoji for the embedded model)"
    )
    add("--detector", metavar="KIND", help=text)
    add(
        "--threshold",
        type=boundary.FRACTION,
        metavar="X",
        help="least score of a box (the benchmark's own; 0.4 for emoji)",
    )
    add("--colors", metavar="CLIP", help="what judges colors (ViT-L/14; the embedded one with the emoji detector)")
    add("--depth", metavar="NAME", help="folder or hub name of a depth network, for t2i-3d (Intel/dpt-hybrid-midas)")
    add("--out", type=Path, metavar="JSON", help="the numbers of the table, also here")
    add("--page", type=Path, nargs="+", default=[], metavar="MD", help="bring the table of these pages up to date")
    add("--cases", type=boundary.COUNT, default=60, metavar="N", help="prompts in the report, worst first (60)")
    add_run_flags(published, Path("outputs/benchmark"), "base,per-step", None)

    for name in ("single", "table", "evidence"):  # images that are there are kept
        add_diffusers_flags(commands.choices[name])
        commands.choices[name].set_defaults(resumes=True)
    return parser


def _add_minutes(add: Any) -> None:
    add("--minutes", type=boundary.number(0, 1e6), metavar="N", help="make images for so long; 0 makes only the table")


def _add_run(add: Any) -> None:
    add("--run", type=Path, required=True, metavar="DIR", help="--outdir of txt2img-gpt.py and alike")
    add("--scores", type=Path, metavar="JSON", help="(scores.json in the run's folder)")


def _add_sampling(add: Any) -> None:
    add("--steps", type=boundary.STEPS, default=25, metavar="N", help="PLMS steps (25)")
    add("--scale", type=boundary.GUIDANCE, default=5.0, help="guidance (5)")
    text = "published presets: recompute nothing; a quarter faster, 0.7 GB for every image of a batch (embedded model)"
    add("--keep-activations", action="store_true", help=text)
    _add_models(add, OUTDIR)


def _add_models(add: Any, outdir: Path) -> None:
    add("--outdir", type=Path, default=outdir, metavar="DIR", help=f"images ({outdir})")
    add("--config", type=Path, metavar="YAML", help="of another model (with --ckpt)")
    add("--ckpt", type=Path, metavar="FILE", help="weights of another model")
    add("--clip", type=Path, metavar="FILE", help="weights of another CLIP")
    add("--device", metavar="NAME", help="cpu, cuda, mps (the best there is)")


def run(options: argparse.Namespace, progress: Progress) -> Iterator[str]:
    """Runs a subcommand; yields what it says."""
    from ldm.evaluation.commands import COMMANDS

    logging.getLogger("ldm.evaluation").setLevel(logging.INFO)
    set_threads(options.threads)
    yield from COMMANDS[options.command](options)


def main(arguments: list[str] | None = None) -> int:
    """Runs a subcommand; 0 if it worked, 2 for a user's mistake, 130 if interrupted."""
    return run_script(build_parser(), arguments, run)
