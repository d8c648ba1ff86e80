"""What tests of several folders share."""

from __future__ import annotations

import pytest

from tests import tiny_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> tiny_world.TinyWorld:
    """A small world with random weights, as files."""
    return tiny_world.build(tmp_path_factory.mktemp("world"))
