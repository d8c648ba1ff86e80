"""The example files that the README names."""

from __future__ import annotations

from ldm.generation.generate import read_layout
from tests.golden_data import ROOT


def test_examples_are_read() -> None:
    assert len(read_layout(ROOT / "data/example_layout.json").objects) == 2
    prompts = (ROOT / "data/example_prompts.txt").read_text().splitlines()
    assert len(prompts) == 5 and all(prompts)
    readme = (ROOT / "README.md").read_text()
    assert "data/example_layout.json" in readme and "data/example_prompts.txt" in readme
