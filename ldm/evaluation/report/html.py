"""The report: one HTML file with table, curves and images, worst cases first; it needs nothing from outside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from ldm.evaluation.drawing import curves_svg, image_svg, mean_curve
from ldm.evaluation.manifest import Entry, FinishedRun
from ldm.evaluation.metrics import RATIOS
from ldm.evaluation.promptfiles import EvalPrompt
from ldm.util import UserError, atomic_write

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:76em;padding:0 1em;color:#222;background:#fff}
table{border-collapse:collapse;display:block;overflow-x:auto}
td,th{border:1px solid #ccc;padding:.3em .5em;text-align:left;vertical-align:top}
th{background:#f3f3f3}tbody th{min-width:8em;overflow-wrap:anywhere}
small{color:#555}.clear{font-weight:600}.warning{background:#fff3d6;padding:.5em 1em}
.case{border-top:1px solid #ccc;padding:.6em 0}.row,.plots{display:flex;flex-wrap:wrap;gap:1em}
figure{margin:0}.row figure{width:15em}.image{width:100%;display:block;background:#eee}
.image image{image-rendering:pixelated}.disc{fill:none;stroke-dasharray:2 1.5;stroke-width:.8}
.box rect{fill:none;stroke-width:.9}.box text{font-size:5px;paint-order:stroke;stroke:#fff;stroke-width:1px}
.plot{width:24em}.row .plot{width:100%}.plot text{font-size:10px}.plot polyline{fill:none;stroke-width:1.5}
.axis{fill:none;stroke:#999}.legend{font-size:80%}.fault{color:#a40000}
#boxes:not(:checked)~main .box,#discs:not(:checked)~main .disc{display:none}
"""


def write_report(run: FinishedRun, scores: Mapping[str, Any], path: Path, cases: int = 60) -> Path:
    """Write the report of a run that was scored; see :func:`report`."""
    text = report(run, scores, cases)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def report(run: FinishedRun, scores: Mapping[str, Any], cases: int = 60) -> str:
    """The page.

    Args:
        run: the folder with the images.
        scores: what :func:`ldm.evaluation.judge.judge_run` found in it.
        cases: prompts and seeds whose images are shown, those with the most faults first.

    Raises:
        UserError: the scores are those of another run, or of another form.
    """
    try:
        return "\n".join(_page(run, scores, cases))
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(
            f"the scores of {run.folder} are not those of this run ({error!r}); make them by scripts/evaluate.py score"
        ) from None


def _page(run: FinishedRun, scores: Mapping[str, Any], cases: int) -> Iterator[str]:
    title = f"Evaluation of {len({image['number'] for image in scores['images']})} prompts"
    yield f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    yield f"<style>{_STYLE}</style></head><body><h1>{title}</h1>"
    short = {key: str(value) if len(str(value)) < 30 else str(value)[:10] for key, value in run.settings.items()}
    told = ", ".join(f"{key} {value}" for key, value in short.items())
    yield f"<p>{escape(told)}. Detector: {escape(scores['detector'])}.</p>"
    for line in scores["told"]:
        yield f"<p>{escape(line)}</p>"
    for what, keys in (("missing", scores["missing"]), ("damaged", scores["corrupt"])):
        if keys:
            named = escape(", ".join(keys))
            yield f'<p class="warning">{len(keys)} images are {what} and scored nowhere: {named}.</p>'
    yield '<input type="checkbox" id="boxes" checked><label for="boxes">detected boxes</label> '
    yield '<input type="checkbox" id="discs" checked><label for="discs">discs of the layout</label><main>'
    yield from _table(scores["rows"])
    yield from _mean_curves(run)
    yield from _cases(run, scores["images"], cases)
    yield "</main></body></html>"


# ---------------------------------------------------------------------------------------------------- table


def _table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    shown = [name for name in RATIOS if any(row["ratios"][name]["value"] is not None for row in rows)]
    visor = [n for n in ("1", "2", "3", "4") if any(row["visor"][n][1] for row in rows)]
    yield "<h2>Scores</h2><table><thead><tr><th>method</th>"
    yield "".join(f"<th>{escape(RATIOS[name])}</th>" for name in shown)
    yield "".join(f"<th>VISOR<sub>{n}</sub></th>" for n in visor) + "</tr></thead><tbody>"
    for row in rows:
        yield f"<tr><th>{escape(row['method'])}<br><small>{row['images']} images</small></th>"
        for name in shown:
            difference = row["against"]["differences"][name] if "against" in row else None
            yield f"<td>{_estimate(row['ratios'][name], name)}{_difference(difference)}</td>"
        for n in visor:
            hits, total = row["visor"][n]
            yield f"<td>{hits / total:.3f}<br><small>{hits}/{total}</small></td>" if total else "<td>-</td>"
        yield "</tr>"
    yield "</tbody></table><p><small>Below each value: its counts and the 95% interval of a bootstrap over prompts. "
    yield "&Delta;: the difference from the first method on the images that both have, its interval, and the p-value "
    yield "of a paired permutation test over prompts, not corrected for the number of comparisons; bold where p &lt; "
    yield "0.05. All else is within noise.</small></p>"


def _estimate(entry: Mapping[str, Any], name: str) -> str:
    if entry["value"] is None:
        return "-"
    digits = 1 if name == "clip_score" else 3
    of = f"{entry['total']:g} images" if name == "clip_score" else f"{entry['hits']:g}/{entry['total']:g}"
    return (
        f"{entry['value']:.{digits}f}<br><small>{of}<br>{entry['low']:.{digits}f} to {entry['high']:.{digits}f}</small>"
    )


def _difference(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return ""
    mark = ' class="clear"' if entry["p"] < 0.05 else ""
    return (
        f"<br><small{mark}>&Delta; {entry['value']:+.3f} ({entry['low']:+.3f}, {entry['high']:+.3f}), "
        f"p&nbsp;{'&lt; 0.001' if entry['p'] < 0.001 else format(entry['p'], '.3f')}</small>"
    )


# --------------------------------------------------------------------------------------------------- curves


def _mean_curves(run: FinishedRun) -> Iterator[str]:
    """Losses and weights of every optimized method, averaged over its images."""
    plots = []
    for method in run.methods:
        details = [run.details(entry) for entry in run.entries if entry.method == method]
        names = sorted({name for item in details for name in item.get("losses", {})})
        if not names:
            continue
        losses = {
            name: mean_curve([item["losses"][name] for item in details if name in item.get("losses", {})])
            for name in names
        }
        plots.append(curves_svg(losses, f"{method}: mean loss", "evaluation"))
        weighted = [item["weights"] for item in details if item.get("weights")]
        weights = mean_curve([[sum(step) / len(step) for step in steps if step] for steps in weighted])
        plots.append(curves_svg({"mean weight": weights}, f"{method}: mean weight of the objects", "denoising step"))
    if plots:
        yield f'<h2>Losses and weights</h2><div class="plots">{"".join(plots)}</div>'


# ------------------------------------------------------------------------------------------------- images


def _cases(run: FinishedRun, images: Sequence[Mapping[str, Any]], limit: int) -> Iterator[str]:
    groups: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for image in images:
        groups.setdefault((image["number"], image["seed"]), []).append(image)
    order = run.methods
    worst = sorted(groups, key=lambda place: (-sum(_faults(item["facts"]) for item in groups[place]), place))
    yield "<h2>Images, worst cases first</h2>"
    if len(worst) > limit:
        yield f"<p>{limit} of {len(worst)} prompts and seeds; the others have fewer faults.</p>"
    for number, seed in worst[:limit]:
        prompt = run.prompts[number]
        yield f'<section class="case"><h3>{escape(prompt.text)}</h3><small>prompt {number}, seed {seed}</small>'
        yield '<div class="row">'
        for item in sorted(groups[number, seed], key=lambda p: order.index(p["method"])):
            yield _image(run, prompt, item)
        yield "</div></section>"


def _faults(facts: Mapping[str, Any]) -> int:
    wrong = [not relation["right"] for relation in facts["relations"]]
    colors = [*facts["colors"], facts["background"]]
    return sum(not found for found in facts["found"]) + sum(wrong) + sum(right is False for right in colors)


def _image(run: FinishedRun, prompt: EvalPrompt, item: Mapping[str, Any]) -> str:
    entry = Entry(item["method"], item["folder"], item["number"], item["seed"])
    path, details = run.image(entry), run.details(entry)
    try:
        with Image.open(path) as image:
            size = image.size
    except OSError:
        return f'<figure><p class="warning">{escape(entry.key)} is no longer there or damaged.</p></figure>'
    names = [thing.name for thing in prompt.objects]
    drawn = image_svg(path, size, names, item["boxes"], details.get("layout", {}), details.get("radius"))
    losses = details.get("losses", {})
    plot = curves_svg(losses, "loss", "evaluation") if any(len(curve) > 1 for curve in losses.values()) else ""
    faults = _fault_words(prompt, item["facts"])
    told = f'<span class="fault">{escape(faults)}</span>' if faults else "right"
    return f"<figure>{drawn}<figcaption><b>{escape(item['method'])}</b>: {told}</figcaption>{plot}</figure>"


def _fault_words(prompt: EvalPrompt, facts: Mapping[str, Any]) -> str:
    names = [thing.name for thing in prompt.objects]
    words = [f"no {name}" for name, found in zip(names, facts["found"], strict=True) if not found]
    for relation, judged in zip(prompt.relations, facts["relations"], strict=True):
        if judged["both"] and not judged["right"]:
            of = " of" if relation.direction in ("left", "right") else ""
            words.append(f"{names[relation.first]} not {relation.direction}{of} {names[relation.second]}")
    for thing, right in zip(prompt.objects, facts["colors"], strict=False):
        if right is False:
            words.append(f"{thing.name} not {thing.color}")
    if facts["background"] is False:
        words.append(f"background not {prompt.background}")
    return "; ".join(words)
