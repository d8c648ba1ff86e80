"""The tables of ``evaluate.py evidence`` in Markdown, for docs/evidence.md and the README."""

from __future__ import annotations

from typing import Any

from ldm.evaluation.markdown import markdown_table

_COLUMNS = {
    "object_recall": "objects there",
    "relation_given_both": "relation right, given both",
    "relation": "relation right",
    "position_with_margin": "position, GenEval",
    "background": "background right",
}
_OBJECTS = {"2": "two objects", "3": "three", "4": "four", "5": "five"}
# What a method is called in the README; the command's own name of it stands in docs/evidence.md.
_TITLES = {
    "base": "plain model",
    "per-step": "`per-step`, the default",
    "fixed:weight=1,blend=unconditional": "default, without optimization",
    "per-step:layout=rule": "default, without the predictor (layout by rule)",
    "fixed:weight=1": "paper's equation, without optimization",
    "per-step:blend=conditional": "paper's equation, optimized as the default",
    "per-step:last=0.04,inner_steps=8": "default, weights constant over time",
    "per-step:swap=true": "default, centers exchanged",
    "iccv-2023:shared=true": "`iccv-2023`, weights constant over time",
    "per-step:radius=0.1,half_side=0.1": "default, radius 0.1 for 0.2",
    "per-step:radius=0.3,half_side=0.3": "default, radius 0.3",
    "base:guidance=2": "plain model, guidance 2 for 5",
    "per-step:guidance=2": "default, guidance 2",
    "base:guidance=8": "plain model, guidance 8",
    "per-step:guidance=8": "default, guidance 8",
}


def evidence_blocks(content: dict[str, Any]) -> dict[str, str]:
    """The generated blocks of docs/evidence.md and the README by name, from what ``evaluate.py evidence`` wrote."""
    seconds = content["seconds_a_image"]
    pace = "; ".join(f"`{method}` {seconds[method]:.1f}" for method in seconds)
    made = sum(row["images"] for row in content["rows"])
    prompts = ", ".join(f"{count} in the {name.upper()} style" for name, count in content["prompts"].items())
    state = f"{made} images are scored, {content['images_left']} of the plan are left. Prompts: {prompts}."
    return {
        "table": evidence_markdown(content),
        "ablations": second_markdown(content),
        "styles": groups_markdown(content["styles"], {name: name.upper() for name in content["prompts"]}),
        "objects": groups_markdown(content["objects"], _OBJECTS),
        "summary": summary_markdown(content),
        "state": f"{state} Seconds an image, other work on the machine or not: {pace}.",
    }


def evidence_markdown(content: dict[str, Any]) -> str:
    """The table of ``evaluate.py evidence``: ratios with counts; below each the difference with interval and p-value.

    The difference is from the first method, on the images that both have.
    """
    lines = [["method", "images", *_COLUMNS.values()]]
    for row in content["rows"]:
        cells = [f"`{row['method']}`", str(row["images"])]
        for name in _COLUMNS:
            entry = row["ratios"][name]
            found = row["against"]["differences"][name] if "against" in row else None
            cells.append(_ratio(entry["hits"], entry["total"]) + (f"<br>{_tested(found)}" if found else ""))
        lines.append(cells)
    return markdown_table(lines)


def second_markdown(content: dict[str, Any]) -> str:
    """Differences of every ablation from the method that it changes, with interval and p-value."""
    rows = [row for row in content["rows"] if "against_second" in row]
    names = [name for name in _COLUMNS if name != "position_with_margin"]
    lines = [["method", *(_COLUMNS[name] for name in names)]]
    for row in rows:
        found = [row["against_second"]["differences"][name] for name in names]
        lines.append([f"`{row['method']}`", *(_tested(entry) if entry else "-" for entry in found)])
    return markdown_table(lines)


def groups_markdown(methods: dict[str, Any], groups: dict[str, str]) -> str:
    """Objects there and relations right of every method by group of prompts; `groups` has the columns' titles."""
    ratios = ("object_recall", "relation")
    lines = [["method", *(f"{title}: {_COLUMNS[ratio]}" for title in groups.values() for ratio in ratios)]]
    for method, found in methods.items():
        entries = [found.get(name, {}).get(ratio) for name in groups for ratio in ratios]
        cells = [_ratio(entry["hits"], entry["total"]) if entry else "-" for entry in entries]
        lines.append([f"`{method}`", *cells])
    return markdown_table(lines)


def summary_markdown(content: dict[str, Any]) -> str:
    """A short table: objects there and relations right, with the differences from the first method."""
    lines = [["", "images", "objects there", "difference", "relation right", "difference"]]
    for row in content["rows"]:
        cells = [_TITLES.get(row["method"], f"`{row['method']}`"), str(row["images"])]
        for name in ("object_recall", "relation"):
            entry = row["ratios"][name]
            found = row["against"]["differences"][name] if "against" in row else None
            cells += [_ratio(entry["hits"], entry["total"]), _interval(found) if found else ""]
        lines.append(cells)
    return markdown_table(lines)


def _ratio(hits: float, total: float) -> str:
    return f"{hits / total:.3f} ({hits:g}/{total:g})" if total else "-"


def _interval(entry: dict[str, Any]) -> str:
    return f"{entry['value']:+.3f} ({entry['low']:+.3f}, {entry['high']:+.3f})"


def _tested(entry: dict[str, Any]) -> str:
    p = f"p {entry['p']:.3f}" if entry["p"] >= 0.001 else "p < 0.001"
    return f"{_interval(entry)}, {p}"
