"""What scripts/evaluate.py does: its subcommands with their flags, each an adapter to `ldm.evaluation`."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm.cli.common import Parser, Progress, run_script, set_threads
from ldm.paths import EMOJI_CKPT, EMOJI_CLIP, EMOJI_CONFIG, RESULTS, ROOT, project_file
from ldm.util import UserError

if TYPE_CHECKING:
    from ldm.evaluation.plan import Plan, Workshop

DESCRIPTION = """Scores the embedded model's images: how often objects are there, and where the prompt puts them.

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
OUTDIR = Path("outputs/evaluate")
LABELS = ROOT / "data" / "emoji_labels.json"
PROMPTS = Path("data/prompts")
PLAN = Path("configs/emoji/evidence.yaml")
TABLE_SEED, SINGLE_SEED = 1000, 5000  # prompt n starts from the noise of this and n


def at_least(low: int, high: int | None = None) -> Any:
    """An argparse type for whole numbers from ``low`` to ``high``."""

    def whole(text: str) -> int:
        if not text.lstrip("-").isdigit() or int(text) < low or (high is not None and int(text) > high):
            upper = "" if high is None else f" to {high}"
            raise argparse.ArgumentTypeError(f"{text} is not a whole number from {low}{upper}")
        return int(text)

    return whole


# --------------------------------------------------------------------------------------------------- flags


def build_parser() -> Parser:
    """All subcommands and their flags."""
    parser = Parser(DESCRIPTION)
    subparser: Any = partial(Parser, argument_default=None)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=subparser)

    def command(name: str, text: str, judged: bool = True) -> Any:
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument("--threads", type=at_least(1), metavar="N", help="CPU threads")
        if judged:
            made.add_argument("--out", type=Path, metavar="FILE", help=f"result (docs/results/{name}*)")
            made.add_argument("--detector", type=Path, metavar="FILE", help="weights of the detector (the shipped)")
        return made.add_argument

    add = command("detector", "precision, recall and center error of the detector on fresh scenes")
    add("--count", type=at_least(1), default=600, metavar="N", help="scenes (600)")

    add = command("calibrate", "the same on generated images labeled by eye")
    add("--labels", type=Path, default=LABELS, metavar="JSON")

    add = command("sheet", "choose images to be labeled: copies, a label file, a numbered contact sheet")
    add("--labels", type=Path, default=LABELS, metavar="JSON", help="label file to start")
    add("--outdir", type=Path, default=OUTDIR, metavar="DIR", help="images to choose from")
    add("--count", type=at_least(1), default=50, metavar="N", help="images (50)")
    add("--seed", type=int, default=0, help="of the choice")

    add = command("single", "share of one-object prompts whose object the plain model draws")
    add("--count", type=at_least(1), default=240, metavar="N", help="prompts (240)")
    _add_sampling(add)

    add = command("table", "the plain model, fixed weights and each preset on two-object prompts")
    add("--set", choices=("choose", "report"), default="report", help="of prompts (report)")
    add("--count", type=at_least(1), default=300, metavar="N", help="prompts (300)")
    text = "base fixed:weight=1 per-step april-2023 iccv-2023; constants may follow: per-step:inner_steps=2"
    add("--methods", nargs="+", metavar="METHOD", help=text)
    add("--layout", choices=("rule", "predictor"), default="rule", help="target centers (rule)")
    text = "earlier results of these prompts, whose images are not made again"
    add("--known", nargs="+", type=Path, default=(), metavar="JSONL", help=text)
    add("--batch-size", type=at_least(1), metavar="N", help="images made together (what suits the method)")
    add("--page", type=Path, nargs="+", default=[], metavar="MD", help="bring the table of these pages up to date")
    _add_sampling(add)

    text = "write the prompt files of the emoji world: three styles, for choosing and for reporting"
    add = command("prompts", text, judged=False)
    add("--outdir", type=Path, default=PROMPTS, metavar="DIR", help=f"({PROMPTS})")

    text = "the methods and ablations of a plan on its prompt files; goes on from the scores that are there"
    add = command("evidence", text, judged=False)
    add("--plan", type=Path, default=ROOT / PLAN, metavar="YAML", help=f"({PLAN})")
    add("--out", type=Path, default=RESULTS, metavar="DIR", help="scores (docs/results)")
    add("--page", type=Path, nargs="+", default=[], metavar="MD", help="bring the tables of these pages up to date")
    add("--again", nargs="+", default=[], metavar="METHOD", help="forget the scores of these methods")
    add("--minutes", type=float, metavar="N", help="make images for so long; 0 makes only the table")
    _add_models(add, Path("outputs/evidence"))

    add = command("score", "what the images of a run show: recall, relations, colors, counts, CLIP score", judged=False)
    _add_run(add)
    text = "emoji, transformers:FOLDER-OR-NAME, torchvision:MODEL[=FILE] (emoji)"
    add("--detector", default="emoji", metavar="KIND", help=text)
    add("--threshold", type=float, metavar="X", help="least score of a box (the detector's own)")
    text = (
        "for CLIP score and colors: a CLIP in OpenAI's format, or for the score alone a folder or hub name of "
        "transformers (the embedded one, with the emoji detector)"
    )
    add("--clip", metavar="FILE", help=text)
    add("--device", metavar="NAME", help="of the detector (cpu)")

    add = command("report", "one HTML page about a scored run: table, curves, images", judged=False)
    _add_run(add)
    add("--out", type=Path, metavar="HTML", help="(report.html in the run's folder)")
    add("--cases", type=int, default=60, metavar="N", help="prompts shown, worst first (60)")
    for name in ("single", "table", "evidence"):  # images that are there are kept
        commands.choices[name].set_defaults(resumes=True)
    return parser


def _add_run(add: Any) -> None:
    add("--run", type=Path, required=True, metavar="DIR", help="--outdir of txt2img-gpt.py and alike")
    add("--scores", type=Path, metavar="JSON", help="(scores.json in the run's folder)")


def _add_sampling(add: Any) -> None:
    add("--steps", type=at_least(1, 1000), default=25, metavar="N", help="PLMS steps (25)")
    add("--scale", type=float, default=5.0, help="guidance (5)")
    text = "published presets: recompute nothing; a quarter faster, 0.7 GB for every image of a batch (embedded model)"
    add("--keep-activations", action="store_true", help=text)
    _add_models(add, OUTDIR)


def _add_models(add: Any, outdir: Path) -> None:
    add("--outdir", type=Path, default=outdir, metavar="DIR", help=f"images ({outdir})")
    add("--config", type=Path, metavar="YAML", help="of another model (with --ckpt)")
    add("--ckpt", type=Path, metavar="FILE", help="weights of another model")
    add("--clip", type=Path, metavar="FILE", help="weights of another CLIP")
    add("--device", metavar="NAME", help="cpu, cuda, mps (the best there is)")


# ------------------------------------------------------------------------------------------- the detector


def run_detector(options: argparse.Namespace) -> Iterator[str]:
    """Scores the detector on clean and on degraded fresh scenes, and where every single object is large."""
    from ldm.evaluation.score.calibration import agreement, fresh_scenes
    from ldm.evaluation.score.detectors import EmojiBoxes
    from ldm.files import write_json

    detector = EmojiBoxes(options.detector)
    result: dict[str, Any] = {"scenes": options.count}
    for name, degraded, close_ups in (("clean", False, 0.0), ("degraded", True, 0.0), ("close_ups", True, 1.0)):
        result[name] = agreement(detector, fresh_scenes(options.count, degraded, close_ups)).to_json()
    write_json(options.out or RESULTS / "detector.json", result)
    yield from (f"{name}: {_agreement(result[name])}" for name in ("clean", "degraded", "close_ups"))


def run_calibrate(options: argparse.Namespace) -> Iterator[str]:
    """Scores the detector on the images labeled by eye."""
    from ldm.evaluation.score.calibration import agreement, read_labels
    from ldm.evaluation.score.detectors import EmojiBoxes
    from ldm.files import write_json

    labeled = read_labels(options.labels)
    found = agreement(EmojiBoxes(options.detector), ((item.load(), item.objects) for item in labeled)).to_json()
    write_json(options.out or RESULTS / "calibration.json", {"images": len(labeled), "generated": found})
    yield f"{len(labeled)} generated images: {_agreement(found)}"


def _agreement(entry: Any) -> str:
    parts = [f"{name} {_ratio(entry[name])}" for name in ("precision", "recall")]
    error = entry["center_error_px"]
    return ", ".join([*parts, "no center" if error is None else f"center error {error:.2f} px"])


def _ratio(entry: Any) -> str:
    value = "-" if entry["value"] is None else f"{entry['value']:.3f}"
    return f"{value} ({entry['hits']:g}/{entry['total']:g})"


def run_sheet(options: argparse.Namespace) -> Iterator[str]:
    """Starts a label file with images chosen at random, blind to the method."""
    from ldm.evaluation.score.calibration import contact_sheet, pick_images, read_labels, start_labels
    from ldm.generation.images import save_png

    start_labels(pick_images(options.outdir, options.count, options.seed), options.labels)
    image = contact_sheet([item.load() for item in read_labels(options.labels)])
    path = save_png(options.out or options.outdir / "sheet.png", image)
    yield f"fill in the objects in {options.labels}; the images are on {path}"


# ----------------------------------------------------------------------------------------- made and judged


def _workshop(options: argparse.Namespace, plan: Plan, detector: Path | None = None, **more: Any) -> Workshop:
    """Where the images of a plan are made and judged; `more` goes to `Workshop` and, "spread", to `Studio`."""
    from ldm.evaluation.plan import Workshop
    from ldm.evaluation.run.studio import Studio
    from ldm.evaluation.score.detectors import EmojiBoxes
    from ldm.evaluation.score.judge import Judges
    from ldm.generation.images import file_hash
    from ldm.generation.pipeline import choose_model
    from ldm.generation.settings import Sampling
    from ldm.models.detector import DEFAULT_WEIGHTS

    choice = choose_model(options.config or project_file(EMOJI_CONFIG), options.ckpt or project_file(EMOJI_CKPT))
    clip = options.clip or project_file(EMOJI_CLIP)
    kept = getattr(options, "keep_activations", False)
    sampling = Sampling(sampler="plms", steps=plan.steps, scale=plan.scale, keep_activations=kept)
    studio = Studio(choice, sampling, plan.layout, clip, device=options.device, spread=more.pop("spread", 1.0))
    judges = more.pop("judges", None) or Judges(EmojiBoxes(detector), categories=more.pop("categories", ()))
    return Workshop(options.outdir, studio, judges, {"detector_sha256": file_hash(detector or DEFAULT_WEIGHTS)}, **more)


def run_single(options: argparse.Namespace) -> Iterator[str]:
    """Makes one-object images with the plain model and counts those that show their object."""
    from ldm.evaluation.plan import Plan, Stage, fill
    from ldm.evaluation.prompts.emoji import single_prompts
    from ldm.evaluation.run.methods import parse_method
    from ldm.evaluation.score.calibration import ratio
    from ldm.evaluation.score.records import Record
    from ldm.files import write_json

    prompts, base = single_prompts(options.count), parse_method("base")
    stage = Stage(("single",), (base,), options.count, (SINGLE_SEED,))
    plan = Plan({"single": prompts}, (stage,), options.steps, options.scale, "rule")
    shop = _workshop(options, plan, options.detector)
    record = Record(options.outdir / "single" / "record.jsonl", shop.record_settings(prompts))
    fill(plan, {"single": record}, shop)
    hits: dict[str, list[bool]] = {}
    for (number, _), shown in sorted(record.facts[base.label].items()):
        hits.setdefault(prompts[number].names[0], []).append(shown.found[0])
    by_name = {name: ratio(sum(found), len(found)) for name, found in hits.items()}
    total = ratio(sum(map(sum, hits.values())), len(prompts))
    result = {"settings": record.settings, "recall": total, "by_category": by_name}
    write_json(options.out or RESULTS / "single.json", result)
    weakest = sorted(by_name, key=lambda name: by_name[name]["value"])[:5]
    yield f"single-object recall {_ratio(total)}; weakest: {', '.join(weakest)}"


def run_table(options: argparse.Namespace) -> Iterator[str]:
    """Makes what images are missing, scores all, and writes the table."""
    from ldm.categories import NAMES
    from ldm.evaluation.plan import Plan, Stage, claim_methods, fill
    from ldm.evaluation.prompts.emoji import RULE_SPREAD, relation_prompts
    from ldm.evaluation.report.markdown import update_page
    from ldm.evaluation.report.tables import TABLE_RESAMPLES, table_markdown
    from ldm.evaluation.run.methods import DEFAULT_METHODS, parse_method
    from ldm.evaluation.score.judge import score_methods
    from ldm.evaluation.score.records import Record

    methods = tuple(parse_method(text) for text in options.methods or DEFAULT_METHODS)
    relation_prompts(options.set, options.count)  # refuses a count beyond the set
    prompts, name = relation_prompts(options.set), f"{options.set}-{options.layout}"
    stage = Stage((name,), methods, options.count, (TABLE_SEED,), options.batch_size)
    plan = Plan({name: prompts}, (stage,), options.steps, options.scale, options.layout)
    shop = _workshop(options, plan, options.detector, categories=NAMES, discs=True, spread=RULE_SPREAD)
    file = f"table-{options.set}{'-predictor' if options.layout == 'predictor' else ''}.jsonl"
    record = Record(options.out or RESULTS / file, shop.record_settings(prompts))
    claim_methods(plan, {name: record}, shop)
    for path in options.known:
        record.take(Record.read(path), methods, options.count)
    fill(plan, {name: record}, shop)
    record.write()
    rows = score_methods({method.label: record.facts[method.label] for method in methods}, TABLE_RESAMPLES)
    for page in options.page:
        update_page(page, {"results": table_markdown(rows, page=True)})
    yield table_markdown(rows)


def run_prompts(options: argparse.Namespace) -> Iterator[str]:
    """Writes the prompt files; their paths."""
    from ldm.evaluation.prompts.emoji import write_sets

    yield from map(str, write_sets(options.outdir))


def run_evidence(options: argparse.Namespace) -> Iterator[str]:
    """Makes and scores what lacks, writes the records and the tables; the table."""
    from ldm.evaluation.plan import fill, read_plan
    from ldm.evaluation.report.markdown import update_page
    from ldm.evaluation.report.tables import evidence_blocks, evidence_rows
    from ldm.evaluation.run.methods import split_methods
    from ldm.evaluation.run.shards import Shard, hold
    from ldm.evaluation.score.background import background_color
    from ldm.evaluation.score.clip import open_clip_score
    from ldm.evaluation.score.detectors import EmojiBoxes
    from ldm.evaluation.score.judge import Judges
    from ldm.evaluation.score.records import Record
    from ldm.files import write_json_lines

    if options.minutes is not None and options.minutes < 0:
        raise UserError(f"--minutes {options.minutes} is not at least 0")
    plan = read_plan(options.plan, ROOT)
    score, _ = open_clip_score(str(options.clip or project_file(EMOJI_CLIP)))
    shop = _workshop(options, plan, judges=Judges(EmojiBoxes(), score, background=background_color))
    with hold(options.outdir, Shard()):
        records = {
            name: Record.open(options.out / f"evidence-{name}.jsonl", shop.record_settings(prompts))
            for name, prompts in plan.sets.items()
        }
        for method in split_methods(options.again):
            for record in records.values():
                record.drop(method)
        left = fill(plan, records, shop, options.minutes)
        rows = evidence_rows(plan, records)
        write_json_lines(options.out / "evidence.jsonl", [{"images_left": left}, *rows])
        blocks = evidence_blocks(plan, records, rows, left)
        for page in options.page:
            update_page(page, blocks)
    yield blocks["table"]
    if left:
        yield f"{left} images are left; the same command goes on"
    yield str(options.out / "evidence.jsonl")


# ------------------------------------------------------------------------------------------ a run's images


def run_score(options: argparse.Namespace) -> Iterator[str]:
    """Scores a run's images into scores.json; yields the lines of the table and where it is.

    Raises:
        UserError: the run can't be scored; or, once the scores of the others are written, it lacks images.
    """
    from ldm.evaluation.run.manifest import read_run
    from ldm.evaluation.score.background import background_color
    from ldm.evaluation.score.clip import open_clip
    from ldm.evaluation.score.detectors import open_detector
    from ldm.evaluation.score.judge import Judges, judge_run
    from ldm.files import write_json

    run, emoji = read_run(options.run), options.detector.partition(":")[0] == "emoji"
    detector = open_detector(options.detector, options.device, options.threshold)
    source = options.clip
    if source is None and emoji and project_file(EMOJI_CLIP).is_file():
        source = str(project_file(EMOJI_CLIP))
    clip_score, colors, told = open_clip(source)
    scores = judge_run(run, Judges(detector, clip_score, colors, background_color if emoji else None, told=told))
    path = options.scores or options.run / "scores.json"
    write_json(path, scores)
    for row in scores["rows"]:
        shown = {name: entry for name, entry in row["ratios"].items() if entry["value"] is not None}
        yield f"{row['method']}: {', '.join(f'{name} {_ratio(entry)}' for name, entry in shown.items())}"
    yield str(path)
    if lost := len(scores["missing"]) + len(scores["corrupt"]):
        raise UserError(
            f"{lost} of {len(run.entries)} images are missing or damaged, {path} names them; start the run again "
            "with the same flags to make them, and then score it again"
        )


def run_report(options: argparse.Namespace) -> Iterator[str]:
    """Writes the report; its path."""
    from ldm.evaluation.report.html import write_report
    from ldm.evaluation.run.manifest import read_run

    if options.cases < 1:
        raise UserError(f"--cases {options.cases} is not at least 1")
    run = read_run(options.run)
    path = options.scores or options.run / "scores.json"
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{path} can't be read; make it with scripts/evaluate.py score --run {options.run}") from None
    yield str(write_report(run, scores, options.out or options.run / "report.html", options.cases))


COMMANDS: dict[str, Callable[[argparse.Namespace], Iterator[str]]] = {
    "detector": run_detector,
    "calibrate": run_calibrate,
    "sheet": run_sheet,
    "single": run_single,
    "table": run_table,
    "prompts": run_prompts,
    "evidence": run_evidence,
    "score": run_score,
    "report": run_report,
}


def run(options: argparse.Namespace, progress: Progress) -> Iterator[str]:
    """Runs a subcommand; yields what it says."""
    logging.getLogger("ldm.evaluation").setLevel(logging.INFO)
    set_threads(options.threads)
    yield from COMMANDS[options.command](options)


def main(arguments: list[str] | None = None) -> int:
    """Runs a subcommand; 0 if it worked, 2 for a user's mistake, 130 if interrupted."""
    return run_script(build_parser(), arguments, run)
