"""Folders that one process owns or several share, and file numbers that two processes never share."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ldm.errors import UserError

logger = logging.getLogger(__name__)

LOCK = ".lock"
UNFINISHED = re.compile(r"\.tmp-\d+")  # a `whole_folder`
LEFTOVERS = (".tmp-*", "*/.tmp-*", "*/*/.tmp-*")  # what is half-written, where its process was killed


@contextlib.contextmanager
def hold(folder: str | Path) -> Iterator[Path]:
    """Keep `folder`, made where it is missing, for this process while the block runs.

    The lock goes with the process, however that ends; a block may hold its folder again. Half-written files of
    killed runs are removed.

    Raises:
        UserError: another process holds it, or it cannot be written.
    """
    folder = Path(folder)
    with taken(folder / LOCK, _busy(folder), again=True) as first:
        if first:
            remove_leftovers(folder)
        yield folder


@contextlib.contextmanager
def share(folder: str | Path) -> Iterator[Path]:
    """Write into `folder`, made where it is missing, beside others that share it, but not beside one that holds it.

    Who comes first removes the half-written files of killed runs. See `reserve` for files that have numbers.

    Raises:
        UserError: another process holds it, or it cannot be written.
    """
    folder = Path(folder)
    try:
        import fcntl
    except ImportError:  # Windows
        yield folder
        return
    handle = None
    for wait in (0.1, 0.2, 0.4, 0.8, 0):  # somebody may be removing leftovers, or the lock
        handle = _shared(folder, fcntl)
        if handle is not None or not wait:
            break
        time.sleep(wait)
    if handle is None:
        raise UserError(_busy(folder))
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # the last to leave takes the lock along
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (folder / LOCK).unlink()
        os.close(handle)


def _shared(folder: Path, fcntl: Any) -> int | None:
    """The open lock file of a folder, for others to share; None where it cannot be had now."""
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Reading suffices for a lock: the file may be another user's, in a folder that both write.
        handle = os.open(path, os.O_RDONLY | os.O_CREAT, 0o666)
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_leftovers(folder)
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), path.stat()):
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        _no_locks(folder)
        return handle
    os.close(handle)
    return None


@contextlib.contextmanager
def taken(path: Path, busy: str, *, again: bool = False, timeout: float = 0) -> Iterator[bool]:
    """Have the lock of a file, whose folder is made where it is missing; yields whether it was not had before.

    Args:
        busy: what to tell where another process has it.
        again: whether a block of this process that has it may take it again.
        timeout: seconds to wait for it.

    Raises:
        UserError: `busy`, or it cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(path), is_singleton=again)
        lock.acquire(timeout=timeout)
    except Timeout:
        raise UserError(busy) from None
    except NotImplementedError:
        _no_locks(path.parent)
        yield False
        return
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    try:
        yield lock.lock_counter == 1
    finally:
        lock.release()


def _no_locks(folder: Path) -> None:
    logger.warning("%s is on a network disk without locks: start no second run in it", folder)


def _busy(folder: Path) -> str:
    return f"another process is writing into {folder}; wait until it ends, or choose another folder"


def _unwritable(folder: Path, error: OSError) -> UserError:
    if isinstance(error, PermissionError):
        return UserError(f"{folder} is used by {_owner(folder / LOCK)} and cannot be written; choose another folder")
    return UserError(f"{folder} cannot be written: {error.strerror or error}; choose another folder")


def _owner(path: Path) -> str:
    with contextlib.suppress(OSError, KeyError, ImportError, NotImplementedError):
        import pwd

        there = path if path.exists() else path.parent
        if (user := there.stat().st_uid) != os.getuid():
            return f"another user ({pwd.getpwuid(user).pw_name})"
    return "another user or process"


def remove_leftovers(folder: Path) -> None:
    """Remove what killed runs left half-written, but not in folders inside that have an owner of their own."""
    for path in (path for pattern in LEFTOVERS for path in folder.glob(pattern)):
        between = path.relative_to(folder).parents
        if not any((folder / inner / LOCK).exists() for inner in between if inner != Path(".")):
            if UNFINISHED.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):
                path.unlink()


@contextlib.contextmanager
def reserve(folder: str | Path, pattern: str, beside: Path | None = None) -> Iterator[Path]:
    """Yield the path after the highest number in `folder` for the block to write; no other process gets it meanwhile.

    Where the block writes nothing, the number is free again. So is that of a process that was killed, once its mark
    is removed by the next `hold` or `share`.

    Args:
        folder: made where it is missing.
        pattern: of the file's name, with its number, such as ``"{:05d}.png"``.
        beside: a folder whose entries take the numbers that are their names.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = Path(folder)
    before, number, after = re.split(r"(\{.*?\})", pattern)
    known = re.compile(re.escape(before) + r"(\d+)" + re.escape(after))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        numbers = [int(found[1]) for name in os.listdir(folder) if (found := known.fullmatch(name))]
        if beside is not None and beside.is_dir():
            numbers += [int(name) for name in os.listdir(beside) if name.isdecimal()]
        mark, path = _claim(folder, before + number + after, max(numbers, default=-1) + 1)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}; choose another output folder") from error
    try:
        yield path
    finally:
        mark.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that becomes `path`, which is not there or empty, if the block succeeds.

    Raises:
        UserError: it cannot be written.
    """
    unfinished = path.with_name(f".tmp-{uuid.uuid4().int}")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        if path.exists():
            path.rmdir()
        os.rename(unfinished, path)
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


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
