"""Nothing that a kill leaves is half, and the next run goes on from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kills import COMMANDS, Command, kill_and_go_on
from tests.tiny_world import TinyWorld


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_killed_at_random_moments(command: Command, world: TinyWorld, tmp_path: Path) -> None:
    kill_and_go_on(command, tmp_path, world, kills=4)
