"""The report: one HTML file with table, curves and images, worst cases first; it needs nothing from outside."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError
from PIL import Image

from ldm.evaluation.prompts.prompt import EvalPrompt
from ldm.evaluation.run.manifest import Entry, FinishedRun
from ldm.evaluation.score.metrics import RATIOS, ImageFacts
from ldm.files import write_text
from ldm.generation.images import COLORS
from ldm.util import UserError

_MEANS = ("clip_score", "extra_objects")  # ratios that are no shares
_FRAME = {"width": 360, "height": 170, "left": 44, "top": 10, "right": 352, "floor": 140}  # of a plot
Scores = Mapping[str, Any]


def write_report(run: FinishedRun, scores: Scores, path: Path, cases: int = 60) -> Path:
    """Write the report of a run that was scored; see `report`."""
    write_text(path, report(run, scores, cases))
    return path


def report(run: FinishedRun, scores: Scores, cases: int = 60) -> str:
    """The page.

    Args:
        run: the folder with the images.
        scores: what `ldm.evaluation.score.judge.judge_run` found in it.
        cases: prompts and seeds whose images are shown, those with the most faults first.

    Raises:
        UserError: the scores are those of another run, or of another form.
    """
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, undefined=StrictUndefined)
    try:
        page = environment.get_template("report.html.j2").render(_content(run, scores, cases))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, UndefinedError) as error:
        raise UserError(
            f"the scores of {run.folder} are not those of this run ({error!r}); make them by scripts/evaluate.py score"
        ) from None
    return page.strip() + "\n"


def _content(run: FinishedRun, scores: Scores, cases: int) -> dict[str, Any]:
    """What the template shows."""
    rows, groups = scores["rows"], dict[tuple[int, int], list[dict[str, Any]]]()
    for item in scores["images"]:
        groups.setdefault((item["number"], item["seed"]), []).append({**item, **_judged(run, item)})
    worst = sorted(groups, key=lambda place: (-sum(item["lack"] for item in groups[place]), place))
    order = run.methods
    titles = RATIOS if all("visor" in row for row in rows) else {name: name for name in rows[0]["ratios"]}
    return {
        "title": f"Evaluation of {len({number for number, _ in groups})} prompts",
        "settings": {key: str(v) if len(str(v)) < 30 else str(v)[:10] for key, v in run.settings.items()},
        "scores": {"scale": 1, "references": None, **scores, "rows": [{"against": None, **row} for row in rows]},
        "ratios": titles,
        "means": _MEANS,
        "shown": [name for name in titles if any(row["ratios"][name]["value"] is not None for row in rows)],
        "visor": [n for n in ("1", "2", "3", "4") if any(row.get("visor", {}).get(n, (0, 0))[1] for row in rows)],
        "curves": _mean_curves(run),
        "plot_of": plot,
        "total": len(worst),
        "cases": [
            {
                "text": run.prompts[number].text,
                "number": number,
                "seed": seed,
                "images": [
                    _image(run, run.prompts[number], item)
                    for item in sorted(groups[number, seed], key=lambda item: order.index(item["method"]))
                ],
            }
            for number, seed in worst[:cases]
        ],
    }


def _judged(run: FinishedRun, item: Mapping[str, Any]) -> dict[str, Any]:
    """How wrong an image is as "lack", and its "faults" in words: by its facts, or by a benchmark's score."""
    if "score" in item:
        score = item["score"]
        return {"lack": 1 - float(score["value"]), "faults": list(score["faults"])}
    facts = ImageFacts.from_json(item["facts"])
    return {"lack": facts.faults, "faults": _faults(run.prompts[item["number"]], facts)}


# --------------------------------------------------------------------------------------------------- curves


def _mean_curves(run: FinishedRun) -> list[dict[str, Any]]:
    """Losses and weights of every optimized method, averaged over its images."""
    curves = []
    for method in run.methods:
        details = [run.details(entry) for entry in run.entries if entry.method == method]
        losses = [item["losses"] for item in details if item.get("losses")]
        if losses:
            names = sorted({name for item in losses for name in item})
            mean = {name: mean_curve([item[name] for item in losses if name in item]) for name in names}
            steps = [[sum(step) / len(step) for step in item.get("weights", ()) if step] for item in details]
            curves.append({"method": method, "losses": mean, "weights": mean_curve([s for s in steps if s])})
    return curves


def mean_curve(curves: Sequence[Sequence[float]]) -> list[float]:
    """The mean of curves by index; a short one counts as far as it goes."""
    longest = max((len(curve) for curve in curves), default=0)
    columns = [[curve[index] for curve in curves if index < len(curve)] for index in range(longest)]
    return [sum(column) / len(column) for column in columns]


def plot(curves: Mapping[str, Sequence[float]]) -> dict[str, Any] | None:
    """Curves over their index as points of SVG lines inside a frame; a curve of one value is drawn as a level.

    None where no curve has a value to draw.
    """
    values = [value for curve in curves.values() for value in curve]
    if not values:
        return None
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0
    longest = max(len(curve) for curve in curves.values())
    wide, tall = _FRAME["right"] - _FRAME["left"], _FRAME["floor"] - _FRAME["top"]
    lines = []
    for number, (name, curve) in enumerate(curves.items()):
        heights = list(curve) if len(curve) > 1 else [*curve] * longest
        points = [
            f"{_FRAME['left'] + wide * index / max(1, longest - 1):.1f},{_FRAME['floor'] - tall * (y - low) / span:.1f}"
            for index, y in enumerate(heights)
        ]
        lines.append({"name": name, "points": " ".join(points), "color": COLORS[number % len(COLORS)]})
    return {**_FRAME, "low": low, "high": high, "longest": longest, "lines": lines}


# --------------------------------------------------------------------------------------------------- images


def _image(run: FinishedRun, prompt: EvalPrompt, item: Mapping[str, Any]) -> dict[str, Any]:
    """An image with its boxes and discs in units of a hundredth of its width; without "data" if it is lost."""
    entry = Entry(item["method"], item["folder"], item["number"], item["seed"])
    path, details = run.image(entry), run.details(entry)
    try:
        with Image.open(path) as image:
            high = 100 * image.height / image.width
    except OSError:
        return {"key": entry.key, "data": None}

    def sized(x: float, y: float) -> tuple[float, float]:
        return round(x * 100, 2), round(y * high, 2)

    discs = []
    radius = details.get("radius") or 0.0
    for number, thing in enumerate(details.get("layout", {}).get("objects", ()) if radius else ()):
        (x, y), (rx, ry) = sized(thing["x"], thing["y"]), sized(radius, radius)
        discs.append({"x": x, "y": y, "rx": rx, "ry": ry, "color": COLORS[number % len(COLORS)]})
    boxes = []
    for box in item["boxes"]:
        (x, y), (width, height) = (
            sized(box["left"], box["top"]),
            sized(box["right"] - box["left"], box["bottom"] - box["top"]),
        )
        known = box["name"] in prompt.names
        color = COLORS[prompt.names.index(box["name"]) % len(COLORS)] if known else "#000000"
        boxes.append({**box, "x": x, "y": y, "width": width, "height": height, "color": color})
    losses = details.get("losses", {})
    return {
        "kind": "png" if path.suffix.lower() == ".png" else "jpeg",
        "data": base64.b64encode(path.read_bytes()).decode("ascii"),
        "high": round(high, 2),
        "discs": discs,
        "boxes": boxes,
        "method": item["method"],
        "faults": item["faults"],
        "losses": losses if any(len(curve) > 1 for curve in losses.values()) else {},
    }


def _faults(prompt: EvalPrompt, facts: ImageFacts) -> list[str]:
    """In words."""
    words = [f"no {name}" for name, found in zip(prompt.names, facts.found, strict=True) if not found]
    for stated, both, right in zip(prompt.relations, facts.both, facts.right, strict=True):
        if both and not right:
            words.append(f"{prompt.names[stated.first]} not {stated.relation} {prompt.names[stated.second]}")
    for thing, colored in zip(prompt.objects, facts.colors, strict=False):
        if colored is False:
            words.append(f"{thing.name} not {thing.color}")
    return [*words, f"background not {prompt.background}"] if facts.background is False else words
