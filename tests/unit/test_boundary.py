"""The edge between commands and users: numbers of flags, exit codes, one line for everything that can be raised."""

from __future__ import annotations

import argparse
import errno
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

import main
from bench.__main__ import main as bench
from layout_predictor import make_tokenizer, train
from layout_predictor.inference import evaluate, inference_coco
from layout_predictor.tools import parse_captions
from ldm import boundary
from ldm.errors import UserError
from ldm.generation.pipeline import pick_device
from tests.golden_data import ROOT
from tests.scripts_under_test import load_script

SCRIPTS = [path.stem for path in sorted((ROOT / "scripts").glob("*.py"))]
COMMANDS: list[Callable[[list[str]], int]] = [main.main, bench, train.main, make_tokenizer.main]
COMMANDS += [evaluate.main, inference_coco.main, parse_captions.main]
NO_NUMBERS = ["nan", "inf", "-inf", "1e999", str(10**30), str(-(10**30)), "x", "", "0x10", "1" * 5000]


def test_every_number_on_a_command_line_has_a_range(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[Any, Any]] = []
    add = argparse._ActionsContainer.add_argument

    def spy(self: Any, *names: Any, **more: Any) -> Any:
        seen.append((names, more.get("type")))
        return add(self, *names, **more)

    monkeypatch.setattr(argparse._ActionsContainer, "add_argument", spy)
    for command in [*COMMANDS, *(load_script(name).main for name in SCRIPTS)]:
        assert command(["--help"]) == 0
    assert "usage" in capsys.readouterr().out
    assert [names for names, kind in seen if kind in (int, float)] == []
    numbers = {kind: names for names, kind in seen if getattr(kind, "__module__", "") == "ldm.boundary"}
    numbers.pop(boundary.text)
    assert len(numbers) > 9
    for kind, names in numbers.items():
        for wrong in NO_NUMBERS:
            with pytest.raises(argparse.ArgumentTypeError) as told:
                kind(wrong)
            assert len(str(told.value)) < 200, names


def test_ranges_hold_their_ends() -> None:
    assert [boundary.whole(-1, 3)(text) for text in ("-1", "+3", "0")] == [-1, 3, 0]
    assert boundary.number(0, 1)("1e-3") == 0.001
    assert boundary.SEED(str(2**63 - 1)) == 2**63 - 1
    for kind, wrong in ((boundary.whole(-1, 3), "4"), (boundary.number(0, 1), "1.0001"), (boundary.RATE, "0")):
        with pytest.raises(argparse.ArgumentTypeError, match="from"):
            kind(wrong)
    assert boundary.text("一只猫") == "一只猫"
    with pytest.raises(argparse.ArgumentTypeError, match="UTF-8"):
        boundary.text("cat \udcff")


def raising(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UserError("give\n\n a\x1b[31m file\u2028"), "error: give a [31m file"),
        (UserError("x" * 10**6), f"error: {'x' * 193}"),
        (MemoryError(), "error: there is too little memory; use less"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 ..."), "20.00 GiB; use less"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2147483648 bytes."),
            "too little memory to allocate 2.0 GiB; use less",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), "a.png: No space left on device; free some space"),
        (PermissionError(errno.EACCES, "Permission denied", "b"), "error: b: Permission denied"),
        (RecursionError("maximum"), "nested too deeply"),
        (ModuleNotFoundError("No module named 'scann'"), "No module named 'scann'; install what is missing"),
        (BrokenPipeError(), "has ended, so the rest was not written"),
        (ZeroDivisionError("division\nby zero"), "ZeroDivisionError: division by zero (LDM_TRACEBACK=1 shows where)"),
        (
            RuntimeError("Caught ValueError in DataLoader worker process 0.\nTraceback:\n  line 3\nValueError: no\n"),
            "error: ValueError: no",
        ),
    ],
)
def test_everything_raised_is_one_line(error: BaseException, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert boundary.run(raising(error), smaller="use less") == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1 and len(said) < 500


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert boundary.run(lambda: print("done")) == 0
    assert boundary.run(raising(SystemExit(3))) == 3
    assert boundary.run(raising(KeyboardInterrupt()), lambda: "stopped; go on") == 130
    assert capsys.readouterr().err == "stopped; go on\n"
    before = signal.getsignal(signal.SIGINT)
    assert boundary.run(raising(KeyboardInterrupt()), raising(ValueError())) == 130  # type: ignore[arg-type]
    assert capsys.readouterr().err == "interrupted\n"
    assert signal.getsignal(signal.SIGINT) == before


def test_the_traceback_is_there_for_who_asks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LDM_TRACEBACK", "1")
    assert boundary.run(raising(ZeroDivisionError())) == 2
    assert "Traceback" in capsys.readouterr().err


def test_outputs_that_take_less_than_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", narrow)
    assert boundary.run(lambda: print("一只猫")) == 0
    narrow.seek(0)
    assert narrow.read() == "\\u4e00\\u53ea\\u732b\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full device")
@pytest.mark.parametrize("where", ["/dev/full", "pipe"])
def test_outputs_that_take_nothing(where: str) -> None:
    """Nothing but the one line, also at the interpreter's end."""
    script = "import sys; from ldm import boundary; sys.exit(boundary.run(lambda: print('x' * 100)))"
    command = [sys.executable, "-c", script]
    if where == "pipe":
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        os.close(write)
    else:
        with open(where, "w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_devices_without_values() -> None:
    for name in ("meta", "abacus", "cuda:99", "", "x" * 1000):
        with pytest.raises(UserError, match="--device cpu"):
            pick_device(name)
