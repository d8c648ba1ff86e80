"""The results as text: for the screen, and as the tables of docs/performance.md."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ldm.evaluation.report.markdown import markdown_table, update_page
from ldm.util import UserError, atomic_write

GIB, GB = 2**30, 1e9
PAGES = (Path("docs/performance.md"),)
PLOT = Path("docs/images/cost.png")
Result = dict[str, Any]
Table = list[list[str]]  # the first row is the head


def lines(name: str, result: Result) -> list[str]:
    """The result of a part for the screen."""
    table = TABLES[name](result)
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return ["", *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table)]


def blocks(results: Path) -> dict[str, str]:
    """The tables in Markdown by name, from the bench-*.json in `results`. UserError where one is missing."""
    return {name: markdown_table(table(_read(results, name))) for name, table in TABLES.items()}


def write_pages(results: Path) -> None:
    """Bring the tables of `PAGES` and the plot up to date. UserError where a result or a page is missing."""
    from bench.cost import plot

    made = blocks(results)
    for page in PAGES:
        update_page(page, made)
    with atomic_write(PLOT) as temporary:
        plot(_read(results, "cost"), temporary)


def _read(results: Path, name: str) -> Result:
    path = results / f"bench-{name}.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        raise UserError(f"{path} is missing or damaged; make it by python -m bench {name} --out {results}") from None


def calls_table(result: Result) -> Table:
    """Of `bench.unet`."""
    rows = [[name, f"{row['median']:.2f}", f"{row['ratio']:.2f}"] for name, row in result["rows"].items()]
    return [["", "seconds", "of the library's"], *rows]


def compile_table(result: Result) -> Table:
    """Of `bench.compiled`."""
    head = ["", "seconds", "of the call as it is", "in products", "first call, seconds", "kept, GiB", "departure"]
    rows = [
        [
            name,
            f"{row['median']:.2f}",
            f"{row['ratio']:.2f}",
            f"{row['products']:.0%}",
            f"{row['first']:.0f}",
            "" if row["saved"] is None else f"{row['saved'] / GIB:.2f}",
            f"{row['departure']:.0e}" if row["departure"] else "",
        ]
        for name, row in result["rows"].items()
    ]
    return [head, *rows]


def memory_table(result: Result) -> Table:
    """Of `bench.memory`."""
    head = ["schedule", "steps", "checkpoints", "precision", "counted", "GiB"]
    rows = [
        [
            row["schedule"],
            str(row["steps"]),
            "steps and blocks" if row["blocks"] else "steps",
            "bfloat16 autocast" if row["autocast"] else "float32",
            "with decoder and CLIP" if row["whole"] else "the chain",
            f"{row['peak'] / GIB:.2f}",
        ]
        for row in result["rows"]
    ]
    return [head, *rows]


def schedules_table(result: Result) -> Table:
    """Of `bench.schedules`."""
    rows = result["rows"]
    flops = rows["plain"]["flops"]
    return [
        ["", "U-Net calls", "backward passes", "both, of plain", "operations, of plain", "seconds", "of plain"],
        *(
            [
                name,
                str(row["calls"]),
                str(row["backward"]),
                f"{(row['calls'] + row['backward']) / rows['plain']['calls']:.1f}",
                f"{row['flops'] / flops:.1f}",
                f"{row['median']:.2f}",
                f"{row['ratio']:.1f}",
            ]
            for name, row in rows.items()
        ),
    ]


def cost_table(result: Result) -> Table:
    """Of `bench.cost`."""
    head = ["", "steps", "pixels", "objects", "batch", "TFLOP", "GB moved", "operations", "seconds", "the model says"]
    rows = []
    for name, part in (("call", result["calls"]), ("image", result["images"])):
        for row in part["rows"]:
            what = f"{name}, {row['schedule']}" if "schedule" in row else name
            rows.append(
                [
                    what,
                    str(row.get("steps", "")),
                    str(row["pixels"]),
                    str(row["objects"]),
                    str(row["batch"]),
                    f"{row['flops'] / 1e12:.3f}",
                    f"{row['bytes'] / GB:.1f}",
                    str(row["operations"]),
                    f"{row['median']:.2f}",
                    f"{row['model']:.2f}",
                ]
            )
    return [head, *rows]


def startup_table(result: Result) -> Table:
    """Of `bench.startup`."""
    head = ["", "seconds", "of the processor", "peak memory, of the weights", "without interpreter and libraries"]
    timed = {f"`{script} --help`": row for script, row in result["help"].items()}
    timed["emoji image, to the end of the first step"] = result["first denoising step"]
    rows = [[name, f"{row['seconds']:.2f}", f"{row['cpu']:.2f}", "", ""] for name, row in timed.items()]
    for suffix, row in result["loading"].items():
        rows.append(
            [
                f"loading SD v1, `{suffix}`",
                f"{row['seconds']:.2f}",
                f"{row['cpu']:.2f}",
                f"{row['ratio']:.2f}",
                f"{row['beyond']:.2f}",
            ]
        )
    return [head, *rows]


TABLES: dict[str, Callable[[Result], Table]] = {
    "calls": calls_table,
    "gradient": calls_table,
    "compile": compile_table,
    "memory": memory_table,
    "schedules": schedules_table,
    "cost": cost_table,
    "startup": startup_table,
}
