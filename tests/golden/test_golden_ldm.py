"""Every golden case of `ldm/` is asked for by some test."""

from __future__ import annotations

import json

import pytest

from tests.golden_data import GOLDEN_FOLDERS, ROOT


def test_every_case_is_tested() -> None:
    index = GOLDEN_FOLDERS[-1] / "ldm" / "index.json"
    if not index.exists():
        pytest.skip("the golden vectors are not beside this checkout")
    cases = json.loads(index.read_text())["cases"]
    tests = "\n".join(p.read_text() for p in (ROOT / "tests").rglob("test_*.py") if p.name != "test_golden_ldm.py")
    # The four pools of one class, and the U-Nets, are parameters of one test each.
    names = {case: f'"ldm/{case}"' for case in cases}
    names |= {case: f'"{case.removeprefix("encoder_unet_")}"' for case in cases if case.startswith("encoder_unet_")}
    names |= {case: f'"{case}"' for case in cases if case.startswith("unet_")}
    assert [case for case, text in names.items() if text not in tests] == []
