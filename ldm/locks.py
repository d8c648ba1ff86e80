"""Folders that one process owns, and file numbers that two processes never share."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ldm.errors import UserError

logger = logging.getLogger(__name__)

LOCK, OTHER = ".lock", "choose another folder"
LEFTOVERS = (".tmp-*", "*/.tmp-*", "*/*/.tmp-*")  # what `ldm.files.atomic_write` leaves where it is killed


@contextlib.contextmanager
def hold(folder: str | Path) -> Iterator[Path]:
    """Keep `folder`, made where it is missing, for this process while the block runs.

    The lock goes with the process, however that ends; a block may hold its folder again. Half-written files of
    killed runs are removed.

    Raises:
        UserError: another process holds it, or it cannot be written.
    """
    from filelock import FileLock, Timeout

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(folder / LOCK), is_singleton=True)
        again = lock.is_locked
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"another process is writing into {folder}; wait for its end, or {OTHER}") from None
    except PermissionError as error:
        raise UserError(f"{folder} is used by {_owner(folder / LOCK)} and cannot be written; {OTHER}") from error
    except NotImplementedError:  # a network disk without locks
        logger.warning("%s is on a disk without locks: start no second run in it", folder)
        yield folder
        return
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}; {OTHER}") from error
    try:
        if not again:
            _remove_leftovers(folder)
        yield folder
    finally:
        lock.release()


@contextlib.contextmanager
def share(folder: str | Path) -> Iterator[Path]:
    """Use `folder`, made where it is missing, beside other processes that share it, while the block runs.

    Half-written files of killed runs are removed where nobody else is at work, and the last to leave takes the lock
    along. Systems without `flock` have none.

    Raises:
        UserError: a process holds it for itself, or it cannot be written.
    """
    folder = Path(folder)
    try:
        import fcntl
    except ImportError:
        yield folder
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _open_shared(folder / LOCK, fcntl)
    except BlockingIOError:
        raise UserError(f"another process is writing into {folder}; wait for its end, or {OTHER}") from None
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}; {OTHER}") from error
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (folder / LOCK).unlink()
        os.close(handle)


def _open_shared(path: Path, fcntl: Any) -> int:
    """An open lock file with a shared lock; what killed runs left is removed by whoever comes when nobody is there."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove_leftovers(path.parent)
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                return handle  # and not of a file that the last one to leave has just removed
        except OSError:
            os.close(handle)
            raise
        os.close(handle)


def _owner(path: Path) -> str:
    with contextlib.suppress(OSError, KeyError, ImportError, NotImplementedError):
        import pwd

        there = path if path.exists() else path.parent
        if (user := there.stat().st_uid) != os.getuid():
            return f"another user ({pwd.getpwuid(user).pw_name})"
    return "another user or process"


def _remove_leftovers(folder: Path) -> None:
    """Remove half-written files, but not those of folders inside that have an owner of their own."""
    for path in (path for pattern in LEFTOVERS for path in folder.glob(pattern)):
        between = path.relative_to(folder).parents
        if not any((folder / inner / LOCK).exists() for inner in between if inner != Path(".")):
            with contextlib.suppress(OSError):
                path.unlink()


@contextlib.contextmanager
def reserve(folder: str | Path, pattern: str) -> Iterator[Path]:
    """Yield the path after the highest number in `folder` for the block to write; no other process gets it meanwhile.

    Where the block writes nothing, the number is free again. So is that of a process that was killed, once its mark
    is removed by the next `hold`.

    Args:
        folder: made where it is missing.
        pattern: of the file's name, with its number, such as ``"{:05d}.png"``.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = Path(folder)
    before, number, after = re.split(r"(\{.*?\})", pattern)
    known = re.compile(re.escape(before) + r"(\d+)" + re.escape(after))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = [int(found[1]) for name in os.listdir(folder) if (found := known.fullmatch(name))]
        mark, path = _claim(folder, before + number + after, max(taken, default=-1) + 1)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}; choose another output folder") from error
    try:
        yield path
    finally:
        mark.unlink(missing_ok=True)


def _claim(folder: Path, pattern: str, number: int) -> tuple[Path, Path]:
    """The mark and the path of the first number from `number` on that is neither marked nor written."""
    while True:
        path = folder / pattern.format(number)
        mark = path.with_name(f".tmp-{path.name}")
        number += 1
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            continue
        if not path.exists():  # it may have been written, and its mark removed, since the folder was listed
            return mark, path
        mark.unlink(missing_ok=True)
