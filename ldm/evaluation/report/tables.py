"""The tables of ``evaluate.py table`` and ``evidence`` in Markdown, for the screen, the README and docs/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ldm.evaluation.plan import Groups, Plan, by_group, pooled
from ldm.evaluation.report.markdown import markdown_table
from ldm.evaluation.score.judge import score_methods
from ldm.evaluation.score.records import Record

TABLE_RESAMPLES = 10_000  # of the bootstrap of `evaluate.py table`
SECOND = "per-step"  # what the evidence compares ablations with, besides the plain model
_TABLE = {
    "object_recall": "object recall",
    "object_accuracy": "all present",
    "relation_given_both": "relation right, given both",
    "relation": "relation right",
    "disc_hits": "hits in target disc",
}
_COMPARED = ("object_recall", "relation", "disc_hits")
# What `evaluate.py table` calls the methods on a page; others are called by their label.
_TABLE_TITLES = {
    "base": "plain model",
    "per-step": "`per-step`, the default",
    **{
        f"fixed:weight=1.5,blend=unconditional,until=0.3{key}": f"without optimization{title}"
        for key, title in {
            "": "",
            ",best_of=2": ", the best of 2 seeds",
            ",best_of=4": ", the best of 4 seeds",
            ",box=0.35": ", boxes as large as the discs",
            ",swap=true": ", centers exchanged",
        }.items()
    },
    "base:best_of=4": "plain model, the best of 4 seeds",
    "per-step:box=0.35": "default, boxes as large as the discs",
    "per-step:release=1": "default, weights held to the last step",
    "fixed:weight=1": "the paper's equation, weight 1 in all steps",
}
_COLUMNS = {
    "object_recall": "objects there",
    "relation_given_both": "relation right, given both",
    "relation": "relation right",
    "position_with_margin": "position, GenEval",
    "background": "background right",
}
_OBJECTS = {"2": "two objects", "3": "three", "4": "four", "5": "five"}
Rows = Sequence[Mapping[str, Any]]


def table_markdown(rows: Rows, page: bool = False) -> str:
    """The table of one prompt set: ratios with counts, differences from the first method with intervals.

    Args:
        rows: of `score_methods`.
        page: with the names that methods have on pages.
    """
    heads = ["" if page else "method"]
    for name, title in _TABLE.items():
        heads += [title, "difference" if page else f"against {rows[0]['method']}"] if name in _COMPARED else [title]
    lines = [heads]
    for row in rows:
        cells = [_TABLE_TITLES.get(row["method"], f"`{row['method']}`") if page else row["method"]]
        for name in _TABLE:
            cells.append(_share(row["ratios"][name]))
            if name in _COMPARED:
                cells.append(_interval(_against(row, name)))
        lines.append(cells)
    return markdown_table(lines)


# ------------------------------------------------------------------------------------------------ evidence


def evidence_rows(plan: Plan, records: Mapping[str, Record]) -> list[dict[str, Any]]:
    """A row a method over all prompt sets together, compared with the first method and with `SECOND`."""
    return score_methods(pooled(plan, records), second=SECOND)


def evidence_blocks(plan: Plan, records: Mapping[str, Record], rows: Rows, left: int) -> dict[str, str]:
    """The generated blocks of docs/evidence.md by name.

    Args:
        records: a record for every prompt set of the plan.
        rows: of `evidence_rows`.
        left: images of the plan that are not made yet.
    """
    styles = by_group(plan, records, lambda name, prompt: name)
    sizes = by_group(plan, records, lambda name, prompt: str(len(prompt.objects)))
    return {
        "table": methods_markdown(rows),
        "ablations": ablations_markdown(rows),
        "styles": groups_markdown(styles, {name: name.upper() for name in plan.sets}),
        "objects": groups_markdown(sizes, _OBJECTS),
        "summary": summary_markdown(rows, plan.titles),
        "state": _state(plan, records, rows, left),
    }


def _state(plan: Plan, records: Mapping[str, Record], rows: Rows, left: int) -> str:
    """How much is made, and how long an image of each method took."""
    sums: dict[str, list[float]] = {}
    for record in records.values():
        for method, (count, seconds) in record.seconds.items():
            own = sums.setdefault(method, [0, 0.0])
            own[0], own[1] = own[0] + count, own[1] + seconds
    pace = "; ".join(f"`{method}` {round(seconds / count, 2):.1f}" for method, (count, seconds) in sums.items())
    made = sum(row["images"] for row in rows)
    prompts = ", ".join(f"{len(prompts)} in the {name.upper()} style" for name, prompts in plan.sets.items())
    state = f"{made} images are scored, {left} of the plan are left. Prompts: {prompts}."
    return f"{state} Seconds an image, other work on the machine or not: {pace}."


def methods_markdown(rows: Rows) -> str:
    """Ratios with counts; below each the difference from the first method with interval and p-value."""
    lines = [["method", "images", *_COLUMNS.values()]]
    for row in rows:
        cells = [f"`{row['method']}`", str(row["images"])]
        for name in _COLUMNS:
            found = _against(row, name)
            cells.append(_share(row["ratios"][name]) + (f"<br>{_tested(found)}" if found else ""))
        lines.append(cells)
    return markdown_table(lines)


def ablations_markdown(rows: Rows) -> str:
    """Differences of every ablation from the method that it changes, with interval and p-value."""
    names = [name for name in _COLUMNS if name != "position_with_margin"]
    lines = [["method", *(_COLUMNS[name] for name in names)]]
    for row in rows:
        if "against_second" in row:
            found = [_against(row, name, "against_second") for name in names]
            lines.append([f"`{row['method']}`", *(_tested(entry) if entry else "-" for entry in found)])
    return markdown_table(lines)


def groups_markdown(methods: Groups, groups: Mapping[str, str]) -> str:
    """Objects there and relations right of every method by group of prompts; `groups` has the columns' titles."""
    ratios = ("object_recall", "relation")
    lines = [["method", *(f"{title}: {_COLUMNS[ratio]}" for title in groups.values() for ratio in ratios)]]
    for method, found in methods.items():
        shares = [found.get(name, {}).get(ratio, (0, 0)) for name in groups for ratio in ratios]
        lines.append([f"`{method}`", *(_share({"hits": hits, "total": total}) for hits, total in shares)])
    return markdown_table(lines)


def summary_markdown(rows: Rows, titles: Mapping[str, str]) -> str:
    """A short table: objects there and relations right, with the differences from the first method.

    Args:
        titles: what methods are called in it; others are called by their label.
    """
    lines = [["", "images", "objects there", "difference", "relation right", "difference"]]
    for row in rows:
        cells = [titles.get(row["method"], f"`{row['method']}`"), str(row["images"])]
        for name in ("object_recall", "relation"):
            cells += [_share(row["ratios"][name]), _interval(_against(row, name))]
        lines.append(cells)
    return markdown_table(lines)


def benchmark_markdown(scores: Mapping[str, Any]) -> str:
    """A benchmark's table: values with counts and intervals, differences from the first method below them."""
    scale, digits = scores["scale"], 3 if scores["scale"] == 1 else 1
    rows: Rows = scores["rows"]
    names = [name for name in rows[0]["ratios"] if any(row["ratios"].get(name, {}).get("total") for row in rows)]
    lines = [["method", "images", *names]]
    for row in rows:
        cells = [f"`{row['method']}`", str(row["images"])]
        for name in names:
            own, found = row["ratios"][name], _against(row, name)
            cells.append(
                _scaled(own, scale, digits) + (f"<br>{_tested(_times(found, scale), digits)}" if found else "")
            )
        lines.append(cells)
    return markdown_table(lines)


def _scaled(entry: Mapping[str, Any], scale: float, digits: int) -> str:
    """A value with its counts and interval; of a mean of weighed images the counts are no whole numbers."""
    if entry["value"] is None:
        return "-"
    value, low, high = (entry[key] * scale for key in ("value", "low", "high"))
    hits = f"{entry['hits']:.1f}".removesuffix(".0")
    return f"{value:.{digits}f} ({hits}/{entry['total']:g}; {low:.{digits}f} to {high:.{digits}f})"


def _times(entry: Mapping[str, Any], scale: float) -> dict[str, Any]:
    return {key: value * scale if key in ("value", "low", "high") else value for key, value in entry.items()}


def _against(row: Mapping[str, Any], name: str, other: str = "against") -> Mapping[str, Any] | None:
    """The row's difference in a ratio from another method; None for that method's own row."""
    return row[other]["differences"][name] if other in row else None


def _share(entry: Mapping[str, Any]) -> str:
    hits, total = entry["hits"], entry["total"]
    return f"{hits / total:.3f} ({hits:g}/{total:g})" if total else "-"


def _interval(entry: Mapping[str, Any] | None, digits: int = 3) -> str:
    f = f"+.{digits}f"
    return f"{entry['value']:{f}} ({entry['low']:{f}}, {entry['high']:{f}})" if entry else ""


def _tested(entry: Mapping[str, Any], digits: int = 3) -> str:
    p = f"p {entry['p']:.3f}" if entry["p"] >= 0.001 else "p < 0.001"
    return f"{_interval(entry, digits)}, {p}"
