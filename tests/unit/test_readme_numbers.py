"""The numbers in the README, the model card and docs/evidence.md are those of the result files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ldm.evaluation.evidence import Record, from_word
from ldm.evaluation.evidence_tables import evidence_blocks
from ldm.evaluation.report import NAMES, markdown
from ldm.evaluation.scoring import ImageScore, paired_bootstrap, per_prompt, summarize

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
PAGES = [ROOT / name for name in ("README.md", "docs/performance.md", "docs/evidence.md", "models/emoji/README.md")]
ELSEWHERE = {(439, 480)}  # of a layout predictor that is not shipped


def result(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def ratios(content: Any) -> Iterator[tuple[int, int]]:
    """All (hits, total) of a result, at any depth."""
    if isinstance(content, dict):
        if {"hits", "total"} <= set(content):
            yield int(content["hits"]), int(content["total"])
        if {"right", "stated"} <= set(content):  # of the layout predictor
            yield int(content["right"]), int(content["stated"])
        content = list(content.values())
    for item in content if isinstance(content, list) else ():
        yield from ratios(item)


def known_ratios() -> set[tuple[int, int]]:
    return {ratio for path in RESULTS.glob("*.json") for ratio in ratios(json.loads(path.read_text(encoding="utf-8")))}


def readme_tables() -> list[list[str]]:
    """Tables of the README and of docs/performance.md that compare methods, as lists of lines."""
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/performance.md")]
    tables: list[list[str]] = []
    table: list[str] = []
    for line in [*"\n\n".join(texts).splitlines(), ""]:
        if line.startswith("|"):
            table.append(line)
        elif table:
            tables.append(table)
            table = []
    return [table for table in tables if "object recall" in table[0]]


def squeezed(line: str) -> str:
    return re.sub(r"\s+", " ", line)


def test_tables_are_those_of_the_files() -> None:
    """Every row is a generated row, and all rows of one table come from one file."""
    files = [
        path.stem
        for path in RESULTS.glob("*.json")
        if isinstance(rows := result(path.stem).get("rows"), list) and "object_recall" in rows[0]
    ]
    generated = {name: [squeezed(line) for line in markdown(result(name), readme=True).splitlines()] for name in files}
    tables = readme_tables()
    assert len(tables) >= 2
    for table in tables:
        rows = [squeezed(line) for line in table]
        fitting = [name for name, lines in generated.items() if set(rows) <= set(lines)]
        lacking = [row for row in rows if not any(row in lines for lines in generated.values())]
        assert fitting, f"no file has all rows of this table; no file at all has {lacking}"


def test_the_table_of_the_reporting_prompts_is_complete() -> None:
    lines = [squeezed(line) for line in markdown(result("table-report"), readme=True).splitlines()]
    readme = {squeezed(line) for table in readme_tables() for line in table}
    named = {name for name in NAMES.values() if any(line.startswith(f"| {name} |") for line in lines)}
    assert named and all(line in readme for line in lines if any(line.startswith(f"| {name} |") for name in named))


def test_the_table_of_the_truncated_gradient() -> None:
    lines = markdown(result("table-gradient-steps"), readme=True).strip()
    assert lines in (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["table-report", "table-choose", "table-gradient-steps"])
def test_counts_and_intervals_follow_from_the_images(name: str) -> None:
    """Every row's counts and differences, computed again from its scores of single images."""
    rows = result(name)["rows"]
    scores = [
        [ImageScore(tuple(p["found"]), tuple(p["in_disc"]), p["relation_right"], p["extra"]) for p in row["images"]]
        for row in rows
    ]
    plain = per_prompt(scores[0])
    for row, own in zip(rows, scores, strict=True):
        for column, ratio in summarize(own).items():
            assert row[column] == ratio.to_json()
        stated = row.get("against_base", {})
        for column, values in per_prompt(own).items() if stated else ():
            found = paired_bootstrap(values, plain[column])
            assert (found.mean, found.low, found.high) == pytest.approx(tuple(stated[column].values()), abs=1e-12)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_ratios_in_the_prose_are_in_a_file(page: Path) -> None:
    text = re.sub(r"\s+", " ", page.read_text(encoding="utf-8"))
    stated = {
        (int(a.replace(",", "")), int(b.replace(",", "")))
        for a, b in re.findall(r"\b(\d[\d,]*) of (?:the |its )?(\d[\d,]*)\b", text)
    }
    stated |= {(int(a), int(b)) for a, b in re.findall(r"(?<![\d./])(\d+)/(\d+)(?![\d/])", text)}
    assert stated <= known_ratios() | ELSEWHERE


def test_shares_and_counts_in_the_prose() -> None:
    prose = re.sub(r"\s+", " ", (ROOT / "README.md").read_text(encoding="utf-8"))
    report = result("table-report")
    rows = {row["method"]: row for row in report["rows"]}
    for ours, plain in re.findall(r"in (\d+)% of the images, the plain model in (\d+)%", prose):
        assert int(ours) == round(100 * rows["per-step"]["both_and_right"]["value"])
        assert int(plain) == round(100 * rows["base"]["both_and_right"]["value"])
    for count in re.findall(r"embedded model: (\d+) prompts that no choice", prose):
        assert int(count) == report["settings"]["count"] == len(report["prompts"])
    for count in re.findall(r"(\d+) generated images labeled by eye", prose):
        assert int(count) == result("calibration")["images"]


def test_counts_without_and_with_close_ups() -> None:
    prose = re.sub(r"\s+", " ", (ROOT / "README.md").read_text(encoding="utf-8"))
    without, with_them = result("without-close-ups"), result("table-choose")
    count = len(without["prompts"])
    assert with_them["prompts"][:count] == without["prompts"]
    pattern = (
        r"On (\d+) choosing prompts, without them .* with them \(the first (\d+) of .*\): plain model (\d+) and "
        r"(\d+) both present and right, the fixed weight of 1 (\d+) and (\d+)\."
    )
    [stated] = re.findall(pattern, prose)
    right = [
        sum(bool(image["relation_right"]) for image in row["images"][:count])
        for method in ("base", "fixed:weight=1,blend=unconditional")
        for content in (without, with_them)
        for row in content["rows"]
        if row["method"] == method
    ]
    assert [int(number) for number in stated] == [count, count, *right]


def test_numbers_of_the_model_card() -> None:
    card = re.sub(r"\s+", " ", (ROOT / "models" / "emoji" / "README.md").read_text(encoding="utf-8"))
    detector = result("detector")
    pattern = r"(\d+) fresh scenes: precision and recall \d+ of \d+, center error ([\d.]+) px"
    for count, error in re.findall(pattern, card):
        assert int(count) == detector["scenes"] and float(error) == round(detector["clean"]["center_error_px"], 2)
    total = result("single")["recall"]
    assert f"single-object recall {total['hits']} of {total['total']}" in card


# ------------------------------------------------------------------------------------------------ the evidence


def test_the_page_of_the_evidence_is_up_to_date() -> None:
    for name, block in evidence_blocks(result("evidence")).items():
        page = ROOT / ("README.md" if name == "summary" else "docs/evidence.md")
        made = f"<!-- {name} -->\n{block}\n<!-- end {name} -->"
        assert made in page.read_text(encoding="utf-8"), f"run evaluate.py evidence --page {page} ({name})"


def test_the_table_of_the_evidence_follows_from_the_words() -> None:
    content = result("evidence")
    counted: dict[str, list[int]] = {}
    by_style: dict[str, dict[str, dict[str, dict[str, int]]]] = {}
    for name in content["prompts"]:
        found = result(f"evidence-{name}")
        record = Record(RESULTS / f"evidence-{name}.json", found["settings"], content["prompts"][name])
        assert content["settings"][name] == found["settings"]
        for method, images in record.facts().items():
            sums = counted.setdefault(method, [0, 0, 0])
            for facts in images.values():
                sums[0] += 1
                sums[1] += sum(facts.found)
                sums[2] += sum(relation.right for relation in facts.relations)
            there = [digit for shown in images.values() for digit in shown.found]
            right = [relation.right for shown in images.values() for relation in shown.relations]
            shares = {
                ratio: {"hits": sum(values), "total": len(values)}
                for ratio, values in (("object_recall", there), ("relation", right))
            }
            by_style.setdefault(method, {})[name] = shares
    assert content["styles"] == by_style
    assert set(counted) == {row["method"] for row in content["rows"]}
    for row in content["rows"]:
        entry = row["ratios"]
        assert counted[row["method"]] == [row["images"], entry["object_recall"]["hits"], entry["relation"]["hits"]]


@pytest.mark.parametrize("page", ["README.md", "docs/evidence.md"])
def test_what_the_pages_say_of_the_gradient_steps(page: str) -> None:
    prose = re.sub(r"\s+", " ", (ROOT / page).read_text(encoding="utf-8"))
    [row] = [row for row in result("evidence")["rows"] if row["method"] == "fixed:weight=1,blend=unconditional"]
    found = row["against_second"]["differences"]["relation"]
    pattern = r"without them the share of right relations is lower by ([\d.]+) \(([\d.]+) to ([\d.]+), p ([\d.]+),"
    [stated] = re.findall(pattern, prose)
    assert stated == tuple(f"{value:.3f}" for value in (-found["value"], -found["high"], -found["low"], found["p"]))


def test_words_that_are_none() -> None:
    for word in ("", "2:1::-:-", "1:1:4:-:-", "1:1::-"):
        with pytest.raises(ValueError):
            from_word(word)
