"""The edge between a command and its user: what the command line may say, and one line for whatever is raised."""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from ldm.errors import UserError

LENGTH = 400  # characters of a sentence
SMALLER = "make the batch or the images smaller"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
MEMORY = re.compile(r"out of memory|can.?.?t allocate memory|not enough memory|shared memory|\bshm\b", re.I)
# torch tells the error of a loader's worker with the traceback in the message.
WORKER = re.compile(r"Caught \w+ in DataLoader worker process.*\n([\w.]+): (.*)", re.S)


def one_line(text: str, limit: int = LENGTH) -> str:
    """`text` without line breaks and control characters, cut in the middle to about `limit` characters."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]} ... {text[-half:]}"


def reason(error: BaseException) -> str:
    """What a library says of an error: its first line, or its name where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def sentence(error: BaseException, smaller: str = SMALLER) -> str:
    """What to tell a user of an error, in one line; `smaller` says what takes less memory."""
    text = str(error)
    kind = type(error).__name__
    if found := WORKER.search(text):
        kind, text = found[1].rpartition(".")[2], found[2]
    if isinstance(error, UserError) and kind == "UserError":
        return one_line(text)
    if isinstance(error, MemoryError) or MEMORY.search(text) or getattr(error, "errno", None) == errno.ENOMEM:
        asked = re.search(r"tried to allocate ([\d.]+ \w+)", text, re.I)
        size = asked[1] if asked else ""
        if size.endswith(" bytes"):
            size = f"{int(size.split()[0]) / 2**30:.1f} GiB"
        return f"there is too little memory{size and f' to allocate {size}'}; {smaller}"
    if "DataLoader worker" in text and "exited" in text or "is killed by signal" in text:
        return one_line(f"{text}; a loader's process ended, perhaps for want of memory: lower data.params.num_workers")
    if isinstance(error, BrokenPipeError):
        return "the program that read the output has ended, so the rest was not written"
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        more = "; free some space or choose another folder" if error.errno in FULL else ""
        return one_line(f"{where}{error.strerror}{more}")
    if isinstance(error, UnicodeError):
        return one_line(f"a text is not UTF-8: {text}; save it as UTF-8")
    if type(error).__module__.startswith("omegaconf"):
        return one_line(f"the config is not as it should be: {reason(error)}")
    if isinstance(error, RecursionError):
        return "a file or config is nested too deeply to be read"
    if isinstance(error, ImportError):
        return one_line(f"{text}; install what is missing, see environment.yaml")
    return f"{one_line(f'{kind}: {text}')} (LDM_TRACEBACK=1 shows where)"


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record))


def log_lines(level: int, form: str = "%(message)s", **more: Any) -> None:
    """Log to stderr from `level` on, one line a message."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines(form, **more))
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("torch").setLevel(max(level, logging.WARNING))  # it counts its caches at the end


class Parser(argparse.ArgumentParser):
    """Tells a mistake on the command line in one line."""

    def error(self, message: str) -> NoReturn:
        """End with the exit code 2."""
        self.exit(2, f"error: {one_line(message)} (--help lists all flags)\n")


def whole(least: int, most: int) -> Callable[[str], int]:
    """An argparse type: whole numbers from `least` to `most`."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,20}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}, not {text:.40}")
        return int(text)

    return parse


def number(least: float, most: float) -> Callable[[str], float]:
    """An argparse type: numbers from `least` to `most`."""

    def parse(text: str) -> float:
        with contextlib.suppress(ValueError):
            if text.isascii() and "_" not in text and least <= (value := float(text)) <= most:
                return value
        raise argparse.ArgumentTypeError(f"must be a number from {least:g} to {most:g}, not {text:.40}")

    return parse


def text(given: str) -> str:
    """An argparse type: words that can be written as UTF-8."""
    if any("\ud800" <= c <= "\udfff" for c in given):
        raise argparse.ArgumentTypeError("must be text in UTF-8")
    return given


COUNT = whole(1, 1_000_000)
THREADS = whole(1, 1024)
SEED = whole(0, 2**63 - 1)
STEPS = whole(1, 1000)
PIXELS = whole(1, 32768)
GUIDANCE = number(-1000, 1000)
FRACTION = number(0, 1)
RATE = number(1e-30, 1000)  # of learning


def run(
    action: Callable[[], object],
    interrupted: Callable[[], str] = lambda: "interrupted",
    tell: bool = True,
    smaller: str = SMALLER,
) -> int:
    """Run a command; the exit code is 0, 2 after an error, told in one line, 130 for Ctrl-C, or what it exits with.

    Args:
        action: the command, which prints its own results.
        interrupted: what to say after Ctrl-C; asked then.
        tell: write the line; of the processes of a run only the first needs to.
        smaller: what to do where memory ends.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8
    _limit_memory()
    try:
        try:
            action()
            code = 0
        except SystemExit as stop:  # of the parser
            code = stop.code if isinstance(stop.code, int) else 1
        _flush()
    except KeyboardInterrupt:
        with _deaf():
            told = "interrupted"
            with contextlib.suppress(Exception):  # too early to say more
                told = interrupted()
            return _end(told, 130, tell)
    except Exception as error:
        if os.environ.get("LDM_TRACEBACK"):
            traceback.print_exc()
        return _end(f"error: {sentence(error, smaller)}", 2, tell)
    return code


def _limit_memory() -> None:
    """Let the process ask for no more than there is: an error then, where the system would kill it without a word.

    Not beside a GPU, whose drivers reserve more than they take.
    """
    if any(os.path.exists(path) for path in ("/dev/nvidiactl", "/dev/kfd")):
        return
    with contextlib.suppress(ImportError, OSError, ValueError, AttributeError):
        import resource

        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):
                there = min(there, int(Path(path).read_text()))
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        least = min((value for value in (soft, hard) if value >= 0), default=there)
        resource.setrlimit(resource.RLIMIT_DATA, (min(there, least), hard))


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Without a second Ctrl-C, while the first one is answered."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _end(text: str, code: int, tell: bool) -> int:
    try:
        _flush()
    except (OSError, ValueError):  # or the interpreter would tell at its end that the pipe is closed
        sys.stdout = None  # type: ignore[assignment]
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        if tell:
            print(one_line(text), file=sys.stderr, flush=True)
    except OSError:  # nobody listens there either
        sys.stderr = None  # type: ignore[assignment]
    return code
