"""`scripts/evaluate.py score` and `report`: what the images of a run show, and one page about it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ldm.util import UserError


def add_commands(commands: Any) -> None:
    """The two subcommands with their flags."""
    for name, text in (
        ("score", "what the images of a run show: recall, relations, colors, counts, CLIP score"),
        ("report", "one HTML page about a scored run: table, curves, images"),
    ):
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument("--run", type=Path, required=True, metavar="DIR", help="--outdir of txt2img-gpt.py and alike")
        made.add_argument("--scores", type=Path, metavar="JSON", help="(scores.json in the run's folder)")
        made.add_argument("--threads", type=int, metavar="N", help="CPU threads")
        if name == "report":
            made.add_argument("--out", type=Path, metavar="HTML", help="(report.html in the run's folder)")
            made.add_argument("--cases", type=int, default=60, metavar="N", help="prompts shown, worst first (60)")
            continue
        made.add_argument(
            "--detector",
            default="emoji",
            metavar="KIND",
            help="emoji, transformers:FOLDER-OR-NAME, torchvision:MODEL[=FILE] (emoji)",
        )
        made.add_argument("--threshold", type=float, metavar="X", help="least score of a box (the detector's own)")
        made.add_argument(
            "--clip",
            metavar="FILE",
            help="for CLIP score and colors: a CLIP in OpenAI's format, "
            "or for the score alone a folder or hub name of transformers (the embedded one, with "
            "the emoji detector)",
        )
        made.add_argument("--device", metavar="NAME", help="of the detector (cpu)")


def run_score(options: argparse.Namespace) -> Iterator[str]:
    """Scores a run's images into scores.json; yields the lines of the table and where it is.

    Raises:
        UserError: the run can't be scored; or, once the scores of the others are written, it lacks images.
    """
    from ldm.evaluation.backgrounds import background_color
    from ldm.evaluation.detectors import open_detector
    from ldm.evaluation.judge import Judges, judge_run
    from ldm.evaluation.manifest import read_run, write_json

    run = read_run(options.run)
    detector = open_detector(options.detector, options.device, options.threshold)
    clip_score, colors, told = _open_clip(options)
    background = background_color if options.detector.partition(":")[0] == "emoji" else None
    scores = judge_run(run, Judges(detector, clip_score, colors, background, told))
    path = options.scores or options.run / "scores.json"
    write_json(path, scores)
    for row in scores["rows"]:
        cells = [
            f"{name} {entry['value']:.3f} ({entry['hits']:g}/{entry['total']:g})"
            for name, entry in row["ratios"].items()
            if entry["value"] is not None
        ]
        yield f"{row['method']}: {', '.join(cells)}"
    yield str(path)
    if lost := len(scores["missing"]) + len(scores["corrupt"]):
        raise UserError(
            f"{lost} of {len(run.entries)} images are missing or damaged, {path} names them; start the run again "
            "with the same flags to make them, and then score it again"
        )


def _open_clip(options: argparse.Namespace) -> tuple[Any, Any, tuple[str, ...]]:
    """The CLIP score, the CLIP for colors, and lines about both."""
    from ldm.evaluation.clipscores import open_clip_score
    from ldm.modules.encoders.openai_clip import load_clip
    from ldm.paths import EMOJI_CLIP, project_file

    source = options.clip
    if source is None and options.detector.partition(":")[0] == "emoji" and project_file(EMOJI_CLIP).is_file():
        source = str(project_file(EMOJI_CLIP))
    if source is None:
        return None, None, ("No CLIP was named, so there is no CLIP score and no judgement of colors.",)
    clip_score, line = open_clip_score(source)
    if not Path(source).is_file():
        return clip_score, None, (f"CLIP score: {line}.", "Colors are judged by a CLIP in OpenAI's format only.")
    return clip_score, load_clip(source), (f"CLIP score: {line}; colors by the same CLIP on the crop of the box.",)


def run_report(options: argparse.Namespace) -> str:
    """Writes the report; its path."""
    from ldm.evaluation.html import write_report
    from ldm.evaluation.manifest import read_run

    if options.cases < 1:
        raise UserError(f"--cases {options.cases} is not at least 1")
    run = read_run(options.run)
    path = options.scores or options.run / "scores.json"
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{path} can't be read; make it with scripts/evaluate.py score --run {options.run}") from None
    return str(write_report(run, scores, options.out or options.run / "report.html", options.cases))


COMMANDS: dict[str, Callable[[argparse.Namespace], str | Iterator[str]]] = {"score": run_score, "report": run_report}
