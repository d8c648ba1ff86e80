"""What the pages name exists: commands, their flags, the targets of links. Their prose is not tested."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest

from ldm.evaluation.report.markdown import replace_blocks
from ldm.files import read_json
from ldm.generation.layouts import read_layout
from ldm.paths import ROOT
from tests.reliability import PAGE, RESULTS, tables

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "models/emoji/README.md"]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def test_the_page_of_reliability_is_that_of_its_results() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert replace_blocks(text, tables(read_json(RESULTS))) == text


def commands(page: Path) -> list[list[str]]:
    """The words of every `make` and `python` command in the code blocks of a page."""
    blocks = re.findall(r"^```\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith(("make ", "python "))]


def help_of(script: str, *words: str) -> str:
    command = [sys.executable, str(ROOT / script), *words, "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@each_page
def test_commands_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for first, name, *words in commands(page):
        if first == "make":
            assert name in targets
        elif name.endswith(".py"):
            told = help_of(name, *takewhile(lambda word: not word.startswith("-"), words))
            assert [word for word in words if word.startswith("--") and word not in told] == [], f"{name} {words}"


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_first_commands_of_the_readme() -> None:
    assert [words[:2] for words in commands(ROOT / "README.md")][:2] == [["make", "demo"], ["make", "test"]]


def test_flags_of_the_usage_page_exist() -> None:
    table = (ROOT / "docs/usage.md").read_text(encoding="utf-8").split("### Presets")[0]
    known = help_of("scripts/txt2img-refine.py")
    assert [flag for flag in re.findall(r"`(--\w[\w-]*)", table) if flag not in known] == []


def test_examples_are_read() -> None:
    assert len(read_layout(ROOT / "data/example_layout.json").objects) == 2
    prompts = (ROOT / "data/example_prompts.txt").read_text(encoding="utf-8").splitlines()
    assert len(prompts) == 5 and all(prompts)
