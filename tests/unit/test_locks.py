"""A folder has one writer, and a file's number one owner, whatever processes are killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ldm.errors import UserError
from ldm.locks import LOCK, hold, reserve, share
from tests.golden_data import ROOT

HOLDER = """
import sys, time
from ldm.locks import hold
with hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""
COUNTER = """
import sys
from pathlib import Path
from ldm.files import atomic_write
from ldm.locks import reserve
for _ in range(40):
    with reserve(sys.argv[1], "{:05d}.png") as path, atomic_write(path) as temporary:
        temporary.write_text(sys.argv[2])
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_one_process_holds_a_folder_until_it_is_killed(tmp_path: Path) -> None:
    other = start(HOLDER, str(tmp_path))
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process is writing into"), hold(tmp_path):
            pass
    finally:
        other.kill()
        other.wait()
    with hold(tmp_path), hold(tmp_path):  # one process may hold it twice
        pass


def test_what_killed_runs_left_is_removed_but_not_that_of_a_held_folder_inside(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "inner" / "a").mkdir(parents=True)
    (tmp_path / "inner" / LOCK).touch()
    left = [tmp_path / ".tmp-a.png", tmp_path / "checkpoints" / ".tmp-b.ckpt"]
    kept = [tmp_path / "inner" / ".tmp-c", tmp_path / "inner" / "a" / ".tmp-d", tmp_path / "checkpoints" / "last.ckpt"]
    for path in (*left, *kept):
        path.touch()
    with hold(tmp_path):
        assert [path.exists() for path in (*left, *kept)] == [False, False, True, True, True]
        left[0].touch()
        with hold(tmp_path):
            assert left[0].exists()  # a file of this very run


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(30, "Read-only file system")])
def test_a_folder_that_cannot_be_locked(error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with pytest.raises(UserError, match=f"{tmp_path.name}.* cannot be written"), hold(tmp_path):
        pass


def test_two_processes_never_get_one_number(tmp_path: Path) -> None:
    both = [start(COUNTER, str(tmp_path), name) for name in "ab"]
    assert [process.wait() for process in both] == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{n:05d}.png" for n in range(80)]
    texts = [path.read_text() for path in tmp_path.iterdir()]
    assert texts.count("a") == texts.count("b") == 40


def test_numbers_go_on_after_the_highest_and_a_failed_one_is_free_again(tmp_path: Path) -> None:
    for name in ("grid-0007.png", "grid-0003.png", "grid-x.png", "a-0009.png"):
        (tmp_path / name).touch()
    with pytest.raises(RuntimeError), reserve(tmp_path, "grid-{:04d}.png"):
        raise RuntimeError
    with reserve(tmp_path, "grid-{:04d}.png") as one, reserve(tmp_path, "grid-{:04d}.png") as two:
        assert (one.name, two.name) == ("grid-0008.png", "grid-0009.png")
    (tmp_path / ".tmp-grid-0008.png").touch()  # of a killed process
    with reserve(tmp_path, "grid-{:04d}.png") as path:
        assert path.name == "grid-0009.png"
    with hold(tmp_path), reserve(tmp_path, "grid-{:04d}.png") as path:
        assert path.name == "grid-0008.png"
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"), reserve(tmp_path / "file", "{}.png"):
        pass


def test_a_folder_that_several_share(tmp_path: Path) -> None:
    left = tmp_path / "samples" / ".tmp-00000.png"
    left.parent.mkdir()
    left.touch()
    with share(tmp_path):
        assert not left.exists()  # nobody else was at work
        left.touch()
        with share(tmp_path):
            assert left.exists()
            with pytest.raises(UserError, match="another process is writing"), hold(tmp_path):
                pass
    assert not (tmp_path / ".lock").exists()
    with hold(tmp_path), pytest.raises(UserError, match="another process is writing"), share(tmp_path):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"), share(tmp_path / "file"):
        pass
