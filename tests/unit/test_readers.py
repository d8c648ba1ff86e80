"""No content of a user's file ends in anything but a result or a sentence; `make fuzz` tries more of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.readers import READERS, Reader, try_reader


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_whatever_is_in_the_file(reader: Reader, tmp_path: Path) -> None:
    counts = try_reader(reader, 30, tmp_path)
    assert counts.total() >= 10
