"""`scripts/evaluate.py prompts` and `evidence`: the prompt files of the emoji world, and the table made with them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ldm.paths import ROOT
from ldm.util import UserError

PROMPTS = Path("data/prompts")
PLAN = Path("configs/emoji/evidence.yaml")
RESULTS = ROOT / "docs" / "results"
PREDICTOR = "predictor_sha256"
SECOND = "per-step"  # what ablations are compared with, besides the plain model


def add_commands(commands: Any) -> None:
    """The two subcommands with their flags."""
    text = "write the prompt files of the emoji world: three styles, for choosing and for reporting"
    made = commands.add_parser("prompts", help=text, description=text)
    made.add_argument("--outdir", type=Path, default=PROMPTS, metavar="DIR", help=f"({PROMPTS})")
    made.set_defaults(threads=None)
    text = "the methods and ablations of a plan on its prompt files; goes on from the scores that are there"
    made = commands.add_parser("evidence", help=text, description=text)
    made.set_defaults(resumes=True)
    made.add_argument("--plan", type=Path, default=ROOT / PLAN, metavar="YAML", help=f"({PLAN})")
    made.add_argument("--outdir", type=Path, default=Path("outputs/evidence"), metavar="DIR", help="images")
    made.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="scores (docs/results)")
    made.add_argument(
        "--page",
        type=Path,
        nargs="+",
        default=[],
        metavar="MD",
        help="bring the tables of these pages up to date, as in --page docs/evidence.md README.md",
    )
    made.add_argument("--again", nargs="+", default=[], metavar="METHOD", help="forget the scores of these methods")
    made.add_argument("--minutes", type=float, metavar="N", help="make images for so long; 0 makes only the table")
    made.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    made.add_argument("--config", type=Path, metavar="YAML", help="of another model (with --ckpt)")
    made.add_argument("--ckpt", type=Path, metavar="FILE", help="weights of another model")
    made.add_argument("--clip", type=Path, metavar="FILE", help="weights of another CLIP")
    made.add_argument("--device", metavar="NAME", help="cpu, cuda, mps (the best there is)")


def run_prompts(options: argparse.Namespace) -> str:
    """Writes the prompt files; their paths."""
    from ldm.evaluation.promptsets import write_sets

    return "\n".join(map(str, write_sets(options.outdir)))


def run_evidence(options: argparse.Namespace) -> str:
    """Makes and scores what lacks, writes the records and the table; the table."""
    from ldm.evaluation.evidence import Record, build_rows, by_group, fill, read_plan
    from ldm.evaluation.evidence_tables import evidence_blocks, evidence_markdown
    from ldm.evaluation.front import split_methods
    from ldm.evaluation.markdown import update_page
    from ldm.evaluation.report import write_json
    from ldm.evaluation.shards import Shard, hold

    if options.minutes is not None and options.minutes < 0:
        raise UserError(f"--minutes {options.minutes} is not at least 0")
    plan = read_plan(options.plan, ROOT)
    shop, ruler = _workshop(options, plan)
    with hold(options.outdir, Shard()):
        records = {
            name: Record(
                options.out / f"evidence-{name}.json",
                {key: value for key, value in {**shop.settings(prompts), **ruler}.items() if key != PREDICTOR},
                len(prompts),
            )
            for name, prompts in plan.sets.items()
        }
        for method in split_methods(options.again):
            for record in records.values():
                record.drop(method)
        left = fill(plan, records, shop, options.minutes)
        rows = build_rows(records, plan.methods, SECOND)
        content = {
            "prompts": {name: len(prompts) for name, prompts in plan.sets.items()},
            "images_left": left,
            "settings": {name: record.settings for name, record in records.items()},
            "seconds_a_image": _seconds(records.values()),
            "rows": rows,
            "styles": by_group(plan, records, lambda name, prompt: name),
            "objects": by_group(plan, records, lambda name, prompt: str(len(prompt.objects))),
        }
        write_json(options.out / "evidence.json", content)
        for page in options.page:
            update_page(page, evidence_blocks(content))
    more = [f"{left} images are left; the same command goes on"] if left else []
    return "\n".join([evidence_markdown(content), *more, str(options.out / "evidence.json")])


def _workshop(options: argparse.Namespace, plan: Any) -> tuple[Any, dict[str, Any]]:
    """Where images are made and judged, and what identifies the judges."""
    from ldm.evaluation.backgrounds import background_color
    from ldm.evaluation.clipscores import open_clip_score
    from ldm.evaluation.detectors import open_detector
    from ldm.evaluation.evidence import Workshop
    from ldm.evaluation.judge import Judges
    from ldm.evaluation.making import Studio
    from ldm.evaluation.runner import Sampling
    from ldm.generation.images import file_hash
    from ldm.generation.pipeline import choose_model
    from ldm.models.detector import DEFAULT_WEIGHTS
    from ldm.paths import EMOJI_CKPT, EMOJI_CLIP, EMOJI_CONFIG, project_file

    config, ckpt = options.config or project_file(EMOJI_CONFIG), options.ckpt or project_file(EMOJI_CKPT)
    clip = options.clip or project_file(EMOJI_CLIP)
    studio = Studio(
        choose_model(config, ckpt), Sampling(plan.steps, plan.scale), plan.layout, clip, device=options.device
    )
    judges = Judges(open_detector("emoji"), open_clip_score(str(clip))[0], background=background_color)
    predictor = studio.settings([]).get(PREDICTOR)
    shop = Workshop(options.outdir, studio.settings, studio.place, studio.make, judges, predictor)
    return shop, {"detector_sha256": file_hash(DEFAULT_WEIGHTS)}


def _seconds(records: Any) -> dict[str, float]:
    """Mean time of an image by method, over all records."""
    sums: dict[str, list[float]] = {}
    for record in records:
        for method, (count, seconds) in record.seconds.items():
            before = sums.setdefault(method, [0, 0.0])
            sums[method] = [before[0] + count, before[1] + seconds]
    return {method: round(seconds / count, 2) for method, (count, seconds) in sums.items()}


COMMANDS = {"prompts": run_prompts, "evidence": run_evidence}
