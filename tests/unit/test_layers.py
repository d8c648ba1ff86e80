"""Every part of the code has its layer in the contract that lint-imports checks."""

from __future__ import annotations

import re

from ldm.paths import ROOT


def test_every_part_of_ldm_has_a_layer() -> None:
    layers = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("layers = [")[1].split("]")[0]
    named = set(re.findall(r"ldm\.(\w+)", layers))
    parts = [path for path in (ROOT / "ldm").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    assert {path.stem for path in parts} - {"__init__"} <= named
