"""The edge between a command and its user: whatever is raised becomes one line on stderr and an exit code."""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from ldm.errors import UserError

LENGTH = 400  # characters of a sentence
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
MEMORY = re.compile(r"out of memory|can.?.?t allocate memory|not enough memory|shared memory|\bshm\b", re.I)
# torch tells the error of a loader's worker with the traceback in the message.
WORKER = re.compile(r"Caught \w+ in DataLoader worker process.*\n([\w.]+): (.*)", re.S)


def one_line(text: str, limit: int = LENGTH) -> str:
    """`text` without line breaks and control characters, cut in the middle to about `limit` characters."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]} ... {text[-half:]}"


def sentence(error: BaseException) -> str:
    """What to tell a user of an error, in one line."""
    text = str(error)
    kind = type(error).__name__
    if found := WORKER.search(text):
        kind, text = found[1].rpartition(".")[2], found[2]
    if isinstance(error, UserError) and kind == "UserError":
        return one_line(text)
    if isinstance(error, MemoryError) or MEMORY.search(text) or getattr(error, "errno", None) == errno.ENOMEM:
        detail = f" ({one_line(text, 160)})" if text else ""
        return f"there is too little memory{detail}; make the batch or the images smaller, or use fewer workers"
    if "DataLoader worker" in text and "exited" in text or "is killed by signal" in text:
        return one_line(f"{text}; a loader's process ended, perhaps for want of memory: lower data.params.num_workers")
    if isinstance(error, BrokenPipeError):
        return "the program that read the output has ended, so the rest was not written"
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        more = "; free some space or choose another folder" if error.errno in FULL else ""
        return one_line(f"{where}{error.strerror}{more}")
    if isinstance(error, RecursionError):
        return "a file or config is nested too deeply to be read"
    if isinstance(error, ImportError):
        return one_line(f"{text}; install what is missing, see environment.yaml")
    return f"{one_line(f'{kind}: {text}')} (LDM_TRACEBACK=1 shows where)"


class Parser(argparse.ArgumentParser):
    """Tells a mistake on the command line in one line."""

    def error(self, message: str) -> NoReturn:
        """End with the exit code 2."""
        self.exit(2, f"error: {one_line(message)} (--help lists all flags)\n")


def run(action: Callable[[], object], interrupted: Callable[[], str] = lambda: "interrupted", tell: bool = True) -> int:
    """Run a command; the exit code is 0, 2 after an error, told in one line, or 130 for Ctrl-C.

    Args:
        action: the command, which prints its own results.
        interrupted: what to say after Ctrl-C; asked then.
        tell: write the line; of the processes of a run only the first needs to.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8
    try:
        action()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _end(interrupted(), 130, tell)
    except Exception as error:
        if isinstance(error, BrokenPipeError):
            _close_output()
        if os.environ.get("LDM_TRACEBACK"):
            traceback.print_exc()
        return _end(f"error: {sentence(error)}", 2, tell)
    return 0


def _end(text: str, code: int, tell: bool) -> int:
    try:
        if tell:
            print(text, file=sys.stderr, flush=True)
    except OSError:  # nobody listens there either
        sys.stderr = None  # type: ignore[assignment]
    return code


def _close_output() -> None:
    """Keep the interpreter from telling at its end that the pipe is closed."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        sys.stdout = None  # type: ignore[assignment]
