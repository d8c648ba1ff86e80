"""What the subcommands of scripts/evaluate.py do; each takes the parsed flags and yields the lines that it says."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ldm import locks
from ldm.categories import NAMES
from ldm.evaluation.benchmarks.command import benchmark
from ldm.evaluation.benchmarks.emoji import geneval_file, visor_file
from ldm.evaluation.plan import Plan, Stage, Workshop, claim_methods, fill, read_plan
from ldm.evaluation.prompts.emoji import RULE_SPREAD, single_prompts, table_prompts, write_sets
from ldm.evaluation.report.html import write_report
from ldm.evaluation.report.markdown import update_page
from ldm.evaluation.report.tables import TABLE_RESAMPLES, evidence_blocks, evidence_rows, table_markdown
from ldm.evaluation.run.manifest import read_run
from ldm.evaluation.run.methods import DEFAULT_METHODS, parse_method, split_methods
from ldm.evaluation.run.shards import Shard, hold
from ldm.evaluation.run.studio import Studio
from ldm.evaluation.score import calibration, detectors
from ldm.evaluation.score.background import background_color
from ldm.evaluation.score.calibration import ratio
from ldm.evaluation.score.clip import open_clip, open_clip_score
from ldm.evaluation.score.judge import Judges, judge_run, score_methods
from ldm.evaluation.score.records import Record
from ldm.files import read_json, write_json, write_json_lines, write_text
from ldm.generation.images import check_image_name, file_hash, save_image
from ldm.generation.pipeline import choose_model
from ldm.generation.settings import Sampling
from ldm.models.detector import DEFAULT_WEIGHTS
from ldm.paths import EMOJI_CKPT, EMOJI_CLIP, EMOJI_CONFIG, RESULTS, ROOT, project_file
from ldm.util import UserError

TABLE_SEED, SINGLE_SEED = 1000, 5000  # prompt n starts from the noise of this plus n


# ------------------------------------------------------------------------------------------- the detector


def detector(options: Namespace) -> Iterator[str]:
    """Scores the detector on clean and on degraded fresh scenes, and where every single object is large."""
    model = detectors.EmojiBoxes(options.detector)
    result: dict[str, Any] = {"scenes": options.count}
    for name, degraded, close_ups in (("clean", False, 0.0), ("degraded", True, 0.0), ("close_ups", True, 1.0)):
        scenes = calibration.fresh_scenes(options.count, degraded, close_ups)
        result[name] = calibration.agreement(model, scenes).to_json()
        yield f"{name}: {_agreement(result[name])}"
    write_json(options.out or RESULTS / "detector.json", result)


def calibrate(options: Namespace) -> Iterator[str]:
    """Scores the detector on the images labeled by eye."""
    labeled = calibration.read_labels(options.labels)
    found = calibration.agreement(detectors.EmojiBoxes(options.detector), labeled).to_json()
    write_json(options.out or RESULTS / "calibration.json", {"images": len(labeled), "generated": found})
    yield f"{len(labeled)} generated images: {_agreement(found)}"


def _agreement(entry: Any) -> str:
    error = entry["center_error_px"]
    center = "no center" if error is None else f"center error {error:.2f} px"
    return f"precision {_ratio(entry['precision'])}, recall {_ratio(entry['recall'])}, {center}"


def _ratio(entry: Any) -> str:
    value = "-" if entry["value"] is None else f"{entry['value']:.3f}"
    return f"{value} ({entry['hits']:g}/{entry['total']:g})"


def sheet(options: Namespace) -> Iterator[str]:
    """Starts a label file with images chosen at random, blind to the method."""
    if options.out is not None:
        check_image_name(options.out)
    files = calibration.pick_images(options.outdir, options.count, options.seed)
    calibration.start_labels(files, options.labels)
    image = calibration.contact_sheet([image for image, _ in calibration.read_labels(options.labels)])
    path = save_image(options.out or options.outdir / "sheet.png", image)
    yield f"fill in the objects in {options.labels}; the images are on {path}"


# ----------------------------------------------------------------------------------------- made and judged


def _workshop(
    options: Namespace, plan: Plan, judges: Judges, weights: Path | None = None, discs: bool = False
) -> Workshop:
    """Where the images of a plan are made and judged; `weights` of the detector, if they aren't the shipped ones."""
    config, ckpt = (
        (options.config, options.ckpt)
        if options.model
        else (options.config or project_file(EMOJI_CONFIG), options.ckpt or project_file(EMOJI_CKPT))
    )
    choice = choose_model(config, ckpt, options.model, options.dtype, options.offload, options.lora or ())
    kept = getattr(options, "keep_activations", False)
    sampling = Sampling(sampler="plms", steps=plan.steps, scale=plan.scale, keep_activations=kept)
    clip, spread = options.clip or project_file(EMOJI_CLIP), RULE_SPREAD if discs else 1.0
    studio = Studio(choice, sampling, plan.layout, clip, device=options.device, spread=spread)
    return Workshop(options.outdir, studio, judges, {"detector_sha256": file_hash(weights or DEFAULT_WEIGHTS)}, discs)


def single(options: Namespace) -> Iterator[str]:
    """Makes one-object images with the plain model and counts those that show their object."""
    prompts, base = single_prompts(options.count), parse_method("base")
    stage = Stage(("single",), (base,), options.count, (SINGLE_SEED,))
    plan = Plan({"single": prompts}, (stage,), options.steps, options.scale, "rule")
    shop = _workshop(options, plan, Judges(detectors.EmojiBoxes(options.detector)), options.detector)
    record = Record(options.outdir / "single" / "record.jsonl", shop.record_settings(prompts))
    with locks.hold(options.outdir / "single"):
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


def table(options: Namespace) -> Iterator[str]:
    """Makes and scores what lacks, writes the record and the table; the table."""
    methods = tuple(parse_method(text) for text in options.methods or DEFAULT_METHODS)
    prompts, name = table_prompts(options.set, options.count), f"{options.set}-{options.layout}"
    stage = Stage((name,), methods, options.count, (TABLE_SEED,), options.batch_size)
    plan = Plan({name: prompts}, (stage,), options.steps, options.scale, options.layout)
    judges = Judges(detectors.EmojiBoxes(options.detector), categories=NAMES)
    shop = _workshop(options, plan, judges, options.detector, discs=True)
    file = f"table-{options.set}{'-predictor' if options.layout == 'predictor' else ''}.jsonl"
    out: Path = options.out or RESULTS / file
    busy = f"another process is writing {out}; wait until it ends, or name another --out"
    with locks.hold(options.outdir / name), locks.taken(out.with_name(f".{out.name}.lock"), busy):
        record = Record.open(out, shop.record_settings(prompts))
        claim_methods(plan, {name: record}, shop)
        for path in options.known:
            record.take(Record.read(path), methods, options.count)
        left = fill(plan, {name: record}, shop, options.minutes)
        found = {method.label: record.first(method.label, options.count) for method in methods}
        made = {label: images for label, images in found.items() if images}
        if not made:
            raise UserError("no image of these methods is there yet; give the command more --minutes, or none")
        record.write()
    rows = score_methods(made, TABLE_RESAMPLES)
    for page in options.page:
        update_page(page, {options.set.replace("report", "results"): table_markdown(rows, page=True)})
    yield table_markdown(rows)
    yield from _left(left)


def prompts(options: Namespace) -> Iterator[str]:
    """Writes the prompt files; their paths."""
    yield from map(str, write_sets(options.outdir))
    for name, content in (("geneval-emoji.jsonl", geneval_file()), ("visor-emoji.json", visor_file())):
        write_text(options.outdir / name, content)
        yield str(options.outdir / name)


def evidence(options: Namespace) -> Iterator[str]:
    """Makes and scores what lacks, writes the records and the tables; the table."""
    plan = read_plan(options.plan, ROOT)
    clip_score, _ = open_clip_score(str(options.clip or project_file(EMOJI_CLIP)))
    shop = _workshop(options, plan, Judges(detectors.EmojiBoxes(), clip_score, background=background_color))
    with hold(options.outdir, Shard()), locks.hold(options.out):
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
    yield from _left(left)
    yield str(options.out / "evidence.jsonl")


def _left(images: int) -> Iterator[str]:
    if images:
        yield f"{images} images are left; the same command goes on"


# ------------------------------------------------------------------------------------------ a run's images


def score(options: Namespace) -> Iterator[str]:
    """Scores a run's images into scores.json; yields the lines of the table and where it is.

    Raises:
        UserError: the run can't be scored; or, once the scores of the others are written, it lacks images.
    """
    run, emoji = read_run(options.run), options.detector.partition(":")[0] == "emoji"
    finder = detectors.open_detector(options.detector, options.device, options.threshold)
    source = options.clip
    if source is None and emoji and project_file(EMOJI_CLIP).is_file():
        source = str(project_file(EMOJI_CLIP))
    clip_score, colors, told = open_clip(source)
    scores = judge_run(run, Judges(finder, clip_score, colors, background_color if emoji else None, told=told))
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


def report(options: Namespace) -> Iterator[str]:
    """Writes the report; its path."""
    run = read_run(options.run)
    path = options.scores or options.run / "scores.json"
    try:
        scores = read_json(path)
    except (OSError, ValueError):
        raise UserError(f"{path} can't be read; make it with scripts/evaluate.py score --run {options.run}") from None
    yield str(write_report(run, scores, options.out or options.run / "report.html", options.cases))


COMMANDS: dict[str, Callable[[Namespace], Iterator[str]]] = {
    command.__name__: command
    for command in (detector, calibrate, sheet, single, table, prompts, evidence, score, report, benchmark)
}
