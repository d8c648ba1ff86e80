"""The notebook runs from its first cell to its last, and is committed without outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ldm.paths import EMOJI_CKPT, ROOT, project_file

CELLS = [cell for cell in json.loads((ROOT / "examples/quickstart.ipynb").read_text())["cells"] if "outputs" in cell]


def test_outputs_are_cleared() -> None:
    assert CELLS and not any(cell["outputs"] or cell["execution_count"] for cell in CELLS)


@pytest.mark.skipif(not project_file(EMOJI_CKPT).exists(), reason="the embedded model is not in place")
def test_cells_run() -> None:
    code = "\n".join("".join(cell["source"]) for cell in CELLS)
    told = code + '\nassert (outcome.image != outcome.baseline).any()\nprint("steps of weights:", len(outcome.weights))'
    env = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert "motorcycle" in done.stdout and "steps of weights: 25" in done.stdout
