"""The results as text: for the screen, and as the tables of docs/performance.md and docs/results.md."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ldm.evaluation.report.markdown import markdown_table, update_page
from ldm.util import UserError, atomic_write

GIB = 2**30
PAGE = Path("docs/performance.md")
STEPS_PAGE = Path("docs/results.md")
PLOT = Path("docs/images/cost.png")
Result = dict[str, Any]
Table = list[list[str]]  # the first row is the head


def lines(name: str, result: Result) -> list[str]:
    """The result of a part for the screen."""
    tables = STEPS_TABLES.values() if name == "steps" else [TABLES[name]]
    return [line for table in tables for line in _padded(table(result))] + result.get("absent", [])


def _padded(table: Table) -> list[str]:
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return ["", *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table)]


def blocks(results: Path) -> dict[str, str]:
    """The tables in Markdown by name, from the bench-*.json in `results`. UserError where one is missing."""
    return {name: markdown_table(table(_read(results, name))) for name, table in TABLES.items()}


def steps_blocks(results: Path) -> dict[str, str]:
    """The tables about the gradient steps in Markdown by name."""
    result = _read(results, "steps")
    return {name: markdown_table(table(result)) for name, table in STEPS_TABLES.items()}


def write_page(results: Path) -> None:
    """Bring the tables of `PAGE` and the plot up to date. UserError where a result or the page is missing."""
    from bench.cost import plot

    update_page(PAGE, blocks(results))
    update_page(STEPS_PAGE, steps_blocks(results))
    with atomic_write(PLOT) as temporary:
        plot(_read(results, "cost"), temporary)


def _read(results: Path, name: str) -> Result:
    path = results / f"bench-{name}.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        raise UserError(f"{path} is missing or damaged; make it by python -m bench {name} --out {results}") from None


def _table(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> Table:
    """The rows by format strings, each under its head."""
    return [[*columns], *([cell.format(**row) for cell in columns.values()] for row in rows)]


def _calls(result: Result) -> Table:
    rows = ({"name": name, **row} for name, row in result["rows"].items())
    threads = result["settings"]["threads"]
    seconds = f"seconds, {threads} thread{'s' * (threads > 1)}"
    return _table(rows, {"": "{name}", seconds: "{median:.2f}", "of the library's": "{ratio:.2f}"})


def _memory(result: Result) -> Table:
    rows = (
        {
            **row,
            "checkpoints": "steps and blocks" if row["blocks"] else "steps",
            "precision": "bfloat16 autocast" if row["autocast"] else "float32",
            "counted": "with decoder and CLIP" if row["whole"] else "the chain",
            "GiB": f"{row['peak'] / GIB:.2f}",
        }
        for row in result["rows"]
    )
    return _table(
        rows, {name: f"{{{name}}}" for name in ("preset", "steps", "checkpoints", "precision", "counted", "GiB")}
    )


def _cards(result: Result) -> Table:
    rows = (
        {
            **row,
            "recomputed": " and ".join(
                ["steps"] * (row["preset"] == "whole chain") + ["blocks"] * row["blocks"] or ["nothing"]
            ),
            "loss": "none" if row["preset"] == "fixed" else "half size" if row["half"] else "full size",
            "fits": "none of these" if row["card"] is None else f"{row['card']} GB",
        }
        for row in result["rows"]
    )
    names = ("model", "size", "dtype", "preset", "recomputed", "loss")
    counted = {"weights, GiB": "{weights:.1f}", "peak beside them, GiB": "{peak:.1f}", "card": "{fits}"}
    return _table(rows, {**{name: f"{{{name}}}" for name in names}, **counted})


def _half(result: Result) -> Table:
    rows = (
        {"name": name, "low": low, "middle": middle, "high": high}
        for name, (low, middle, high) in (
            ("cosine with the exact gradient", result["cosine"]),
            ("length, of the exact one's", result["length"]),
        )
    )
    return _table(rows, {"": "{name}", "lower quartile": "{low:.2f}", "median": "{middle:.2f}", "upper": "{high:.2f}"})


def _variants(result: Result) -> Table:
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for row in result["variants"]:
        rows.setdefault(row["variant"], []).append(row)

    def share(parts: Iterable[Mapping[str, Any]], name: str) -> str:
        hits, total = (sum(part[name][i] for part in parts) for i in (0, 1))
        return f"{hits / total:.3f} ({hits}/{total})"

    table = [["weights", "objects there", "relation right", "CLIP loss"]]
    for name, parts in rows.items():
        loss = sum(part["loss"] for part in parts) / len(parts)
        shown = f"`{name}`" if ":" in name or name.endswith("-2023") else name
        table.append([shown, share(parts, "object_recall"), share(parts, "relation"), f"{loss:.2f}"])
    return table


def _seen(result: Result) -> Table:
    by_set: dict[str, dict[int, float]] = {}
    for row in result["seen"]:
        by_set.setdefault(row["set"], {})[row["step"]] = row["auc"]
    steps = sorted(next(iter(by_set.values())))[::4]
    return [["step", *map(str, steps)], *([name, *(f"{auc[i]:.2f}" for i in steps)] for name, auc in by_set.items())]


def _moves(result: Result) -> Table:
    heads = ["step", "presence changes", "of those more"]
    heads += [f"{kind}: {what}" for kind in ("per-step", "whole chain") for what in ("loss", "presence", "right sign")]
    table = [heads]
    for row in result["moves"]:
        cells = [str(row["step"]), f"{row['decided']}/{row['images']}", str(row["more"])]
        for kind in ("per-step", "whole chain"):
            one = row[kind]
            cells += [f"{one['loss']:.2f}", f"{one['presence']:.2f}", f"{one['agree']}/{row['decided']}"]
        table.append(cells)
    return table


def _presets(result: Result) -> Table:
    plain = result["rows"]["plain"]
    rows = (
        {
            "name": name,
            **row,
            "both": (row["calls"] + row["backward"]) / plain["calls"],
            "operations": row["flops"] / plain["flops"],
        }
        for name, row in result["rows"].items()
    )
    columns = {
        "": "{name}",
        "U-Net calls": "{calls}",
        "backward passes": "{backward}",
        "both, of plain": "{both:.1f}",
        "operations, of plain": "{operations:.1f}",
        "seconds": "{median:.2f}",
        "of plain": "{ratio:.1f}",
    }
    return _table(rows, columns)


def _cost(result: Result) -> Table:
    calls = ({"name": "call", "steps": "", **row} for row in result["calls"]["rows"])
    images = ({"name": f"image, {row['preset']}", **row} for row in result["images"]["rows"])
    rows = ({**row, "tflop": row["flops"] / 1e12, "gb": row["bytes"] / 1e9} for row in (*calls, *images))
    columns = {
        "": "{name}",
        **{name: f"{{{name}}}" for name in ("steps", "pixels", "objects", "batch")},
        "TFLOP": "{tflop:.3f}",
        "GB moved": "{gb:.1f}",
        "operations": "{operations}",
        "seconds": "{median:.2f}",
        "the model says": "{model:.2f}",
    }
    return _table(rows, columns)


def startup_table(result: Result) -> Table:
    """Of `bench.startup`."""
    columns = {"": "{name}", "seconds": "{seconds:.2f}", "of the processor": "{cpu:.2f}"}
    memory = {"peak memory, of the weights": "{ratio:.2f}", "without interpreter and libraries": "{beyond:.2f}"}
    runs = [{"name": f"`{script} --help`", **row} for script, row in result["help"].items()]
    runs.append({"name": "emoji image, to the end of the first step", **result["first denoising step"]})
    loads = ({"name": f"loading SD v1, `{suffix}`", **row} for suffix, row in result["loading"].items())
    return [*_table(runs, {**columns, **dict.fromkeys(memory, "")}), *_table(loads, {**columns, **memory})[1:]]


TABLES: dict[str, Callable[[Result], Table]] = {
    "calls": _calls,
    "gradient": _calls,
    "memory": _memory,
    "cards": _cards,
    "half": _half,
    "presets": _presets,
    "cost": _cost,
    "startup": startup_table,
}
# Of docs/results.md, all from bench-steps.json.
STEPS_TABLES: dict[str, Callable[[Result], Table]] = {"steps": _variants, "seen": _seen, "moves": _moves}
