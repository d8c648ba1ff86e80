"""`evaluate.py benchmark`: draw a benchmark's prompts, look at the images, score, report."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from ldm.evaluation.benchmarks.benchmark import Benchmark, Case, Columns, Score, Size, overlaps_of
from ldm.evaluation.benchmarks.boxes import Detection
from ldm.evaluation.benchmarks.folders import export_images, find_images
from ldm.evaluation.benchmarks.looking import Looker, Seen, colored
from ldm.evaluation.benchmarks.suites import Visor, open_benchmark
from ldm.evaluation.report.html import write_report
from ldm.evaluation.report.markdown import update_page
from ldm.evaluation.report.tables import benchmark_markdown
from ldm.evaluation.run.launch import make_images, read_tasks
from ldm.evaluation.run.manifest import DONE, Entry, FinishedRun
from ldm.evaluation.run.shards import Shard
from ldm.evaluation.score.judge import ImageOf, compare_methods
from ldm.evaluation.score.metrics import Box
from ldm.files import write_json
from ldm.generation.pipeline import choose_model
from ldm.models.detector import THRESHOLD as EMOJI_THRESHOLD
from ldm.paths import EMOJI_CLIP, project_file
from ldm.spacetime.layout import RADIUS
from ldm.util import UserError

logger = logging.getLogger(__name__)
_SEED, _STEP = 42, 1_000_000  # of the first image of a prompt, and from one image to the next
COLORS_CLIP = "ViT-L/14"  # that of GenEval


def benchmark(options: Namespace) -> Iterator[str]:
    """Makes what images lack, or takes those of --images; scores all and writes the report; the table.

    Raises:
        UserError: a flag, file or folder can't be used; or, once the others are scored, images are missing.
    """
    emoji = (
        options.detector is None
        and options.images is None
        and choose_model(options.config, options.ckpt, options.model).embedded
    )
    detector = "emoji" if emoji else options.detector
    threshold = options.threshold
    if threshold is None and (detector or "").partition(":")[0] == "emoji":
        threshold = EMOJI_THRESHOLD
    suite = open_benchmark(options.name, threshold)
    cases = _cases(suite, options)
    looker = Looker(
        suite,
        options.outdir,
        detector or suite.facts["detector"],
        options.colors or _colors(cases, detector),
        options.depth or suite.facts.get("depth"),
        options.device,
    )
    run = (_asked if options.images is None else _given)(options, suite, cases)
    looker.check(cases[options.start : options.stop])
    shard = Shard()
    if options.images is None:
        shard, summary = make_images(options, run.prompts)
        for key, reason in list(summary.failed.items())[:5]:
            logger.warning("%s could not be made: %s", key, reason)
    seen: dict[Entry, Seen] = {}
    missing = []
    for number, entry in enumerate(run.entries):
        if not shard.takes(number):
            continue
        found = looker.look(entry.key, run.image(entry), cases[entry.number])
        if found is None:
            missing.append(str(run.image(entry)))
        else:
            seen[entry] = found
        if (number + 1) % 100 == 0:
            logger.info("%d of %d images were looked at", number + 1, len(run.entries))
    if shard.count > 1:
        yield f"part {shard.name} is made and looked at; when all are, the same command without --shard scores them"
        return
    if not seen:
        raise UserError(f"none of the {len(missing)} images can be read, as {missing[0]}; make them again")
    scores = _scores(run, suite, cases, seen, looker.finder.name, missing)
    write_json(options.outdir / "scores.json", scores)
    if options.export is not None:
        for method in run.methods:
            own = [entry for entry in seen if entry.method == method]
            labels = {seed: k for k, seed in enumerate(dict.fromkeys(entry.seed for entry in run.entries), suite.first)}
            images = {(entry.number, labels[entry.seed]): run.image(entry) for entry in own}
            export_images(options.export / own[0].folder, suite, cases, images)
    if options.out is not None:
        write_json(options.out, {key: value for key, value in scores.items() if key != "images"})
    yield benchmark_markdown(scores)
    for page in options.page:
        update_page(page, {suite.name: benchmark_markdown(scores)})
    yield str(write_report(run, scores, options.outdir / "report.html", options.cases))
    if missing:
        listed = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise UserError(
            f"{len(missing)} of {len(run.entries)} images are missing or damaged and were not scored: {listed}"
        )


def _cases(suite: Benchmark, options: Namespace) -> list[Case]:
    if options.prompts is not None:
        return suite.read(options.prompts)
    if isinstance(suite, Visor):
        return suite.made()
    raise UserError(f"--prompts is missing; give {suite.facts['file']} of {suite.facts['title']}")


def _colors(cases: Sequence[Case], detector: str | None) -> str | None:
    """The CLIP that judges colors, where the benchmark has any."""
    if not any(map(colored, cases)):
        return None
    return str(project_file(EMOJI_CLIP)) if (detector or "").partition(":")[0] == "emoji" else COLORS_CLIP


def _asked(options: Namespace, suite: Benchmark, cases: Sequence[Case]) -> FinishedRun:
    """The run of all images that the flags ask for, whether they are there yet or not."""
    if suite.no_layout and options.layout == "given":
        raise UserError(f"{suite.no_layout}, or write --layout predicted")
    options.layout = "given" if options.layout == "given" else "predictor"
    options.seeds = options.seeds or [_SEED + _STEP * k for k in range(suite.facts["samples"])]
    if options.export is not None:
        suite.place(cases[0], 0, len(options.seeds) - 1)  # refuses more images than the evaluator reads
    prompts = [case.prompt for case in cases]
    told = {"benchmark": suite.facts["title"], "layout": options.layout, "steps": options.steps}
    entries = {task.entry: DONE for task in read_tasks(options, prompts)}
    return FinishedRun(options.outdir, told, prompts, entries)


def _given(options: Namespace, suite: Benchmark, cases: Sequence[Case]) -> FinishedRun:
    """The images of another program, of each prompt as many as of any; those that lack are entries without a file."""
    files = find_images(options.images, suite, cases)
    stop = len(cases) if options.stop is None else options.stop
    if not 0 <= options.start < stop <= len(cases):
        raise UserError(f"prompts {options.start} to {stop} do not exist; the file has {len(cases)}, numbered from 0")
    name = options.images.resolve().name or "images"
    labels = sorted({label for _, label in files})
    paths = {
        Entry(name, "images", number, label): files.get(
            (number, label), options.images / suite.place(cases[number], number, label)
        )
        for number in range(options.start, stop)
        for label in labels
    }
    told = {"benchmark": suite.facts["title"], "images": str(options.images)}
    return FinishedRun(options.outdir, told, [case.prompt for case in cases], dict.fromkeys(paths, DONE), paths)


# -------------------------------------------------------------------------------------------------- scoring


def _scores(
    run: FinishedRun,
    suite: Benchmark,
    cases: Sequence[Case],
    seen: Mapping[Entry, Seen],
    detector: str,
    missing: Sequence[str],
) -> dict[str, Any]:
    """What scores.json holds; the form is that of `ldm.evaluation.score.judge.judge_run`."""
    by_method: dict[str, dict[ImageOf, Score]] = {method: {} for method in run.methods}
    images = []
    for entry, what in seen.items():
        score = _score(run, suite, cases[entry.number], entry, what)
        by_method[entry.method][entry.number, entry.seed] = score
        boxes = [_box(one, what.size).to_json() for one in what.detections]
        images.append({**asdict(entry), "boxes": boxes, "score": score.to_json()})

    def tables_of(own: Mapping[ImageOf, Score], places: Sequence[ImageOf]) -> Columns:
        groups: dict[int, list[Score]] = {}
        for number, seed in places:
            groups.setdefault(number, []).append(own[number, seed])
        return suite.table([(cases[number], scores) for number, scores in groups.items()])

    rows = compare_methods(by_method, tables_of)
    return {
        "settings": run.settings,
        "detector": f"{detector}, score from {suite.limit:g}",
        "told": [f"Corrected: {suite.facts['corrected']}."],
        "missing": list(missing),
        "corrupt": [],
        "scale": suite.facts.get("scale", 1),
        "references": suite.facts.get("references") if suite.published else None,
        "rows": rows,
        "images": images,
    }


def _box(found: Detection, size: Size) -> Box:
    left, top, right, bottom = (value / side for value, side in zip(found.box, size * 2, strict=True))
    return Box(found.name, found.score, left, top, right, bottom)


def _score(run: FinishedRun, suite: Benchmark, case: Case, entry: Entry, seen: Seen) -> Score:
    """The score of an image, with how well the objects of its layout are placed."""
    sides = seen.size * 2
    wanted = [(item.name, item.box) for item in case.prompt.objects if item.box]
    if not wanted:
        layout = run.details(entry).get("layout", {})
        discs = [(item.get("name") or item["phrase"], item["x"], item["y"]) for item in layout.get("objects", ())]
        wanted = [(name, (x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS)) for name, x, y in discs]
    boxes = [(name, [value * side for value, side in zip(box, sides, strict=True)]) for name, box in wanted]
    overlaps, detected = overlaps_of(boxes, seen.detections, case.names)
    judged = suite.judge(case, seen.detections, seen.size, seen.depth)
    return replace(judged, overlaps=overlaps, detected=detected)
