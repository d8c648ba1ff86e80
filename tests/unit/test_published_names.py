"""The names of the originals: each stands where it stood, with its arguments by name, order and default.

`tests/golden/published_names.tsv` has those that public projects import, and all of the modules of `WHOLE`. What is
left out or differs stands in docs/compatibility.md with its reason, and nothing stands there in vain.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.golden_data import ROOT, SPEC_FOLDER

TABLE = ROOT / "tests" / "golden" / "published_names.tsv"
WHOLE = ("ldm.util", "ldm.models.diffusion.", "ldm.models.autoencoder", "ldm.modules.attention", "ldm.modules.ema")
WHOLE += ("ldm.modules.diffusionmodules.", "ldm.modules.encoders.modules", "ldm.modules.distributions")
NOT_OURS = "'cuda' if torch.cuda.is_available() else 'cpu'"


def published() -> dict[str, str]:
    """Arguments of every function and method by its dotted name."""
    return dict(line.split("\t") for line in TABLE.read_text(encoding="utf-8").splitlines())


def left_out() -> set[str]:
    """The names in the first column of the table of docs/compatibility.md."""
    text = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", text.partition("<!-- names -->")[2].partition("<!-- names -->")[0], re.M)
    return {name for row in rows for name in re.findall(r"`([\w.]+)`", row)}


def find(name: str) -> Any:
    """What a dotted name means; AttributeError where there is nothing."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise AttributeError(name)


def value(node: ast.expr) -> Any:
    """The default that a node writes, lists and tuples alike."""
    found = [] if ast.unparse(node) == "list()" else eval(ast.unparse(node))
    return tuple(found) if isinstance(found, list) else found


def differences(arguments: str, function: Callable[..., Any]) -> Iterator[str]:
    """How a signature differs from published arguments; more keywords, and defaults where there were none, may be."""
    given = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    node = ast.parse(f"def f({arguments}): pass").body[0]
    assert isinstance(node, ast.FunctionDef)
    wanted = node.args
    positional = [p for p in given if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    defaults = [*[None] * (len(wanted.args) - len(wanted.defaults)), *wanted.defaults]
    for place, (argument, default) in enumerate(zip(wanted.args, defaults, strict=True)):
        ours = positional[place] if place < len(positional) else None
        if ours is None or ours.name != argument.arg:
            yield f"argument {place} is {ours.name if ours else 'missing'}, not {argument.arg}"
            return
        yield from other_default(ours, default)
    by_name = {p.name: p for p in given}
    for argument, default in zip(wanted.kwonlyargs, wanted.kw_defaults, strict=True):
        if argument.arg not in by_name:
            yield f"{argument.arg} is missing"
        else:
            yield from other_default(by_name[argument.arg], default)
    more = [p.name for p in positional[len(wanted.args) :] if p.default is p.empty]
    if more and wanted.kwarg is None:
        yield f"{', '.join(more)} must be given"


def other_default(ours: inspect.Parameter, default: ast.expr | None) -> Iterator[str]:
    """Whether a parameter's default differs."""
    found = tuple(ours.default) if isinstance(ours.default, list) else ours.default
    if default is not None and found != (NOT_OURS if ast.unparse(default) == NOT_OURS else value(default)):
        yield f"{ours.name} is {found!r} by default, not {ast.unparse(default)}"


def misfit(name: str, arguments: str) -> str:
    """What is wrong with a name, or nothing."""
    try:
        found = find(name)
    except AttributeError:
        return "missing"
    return "; ".join(differences(arguments, found)) if callable(found) else "no function or class"


@pytest.mark.parametrize("module", sorted({".".join(name.split(".")[:3]) for name in published()}))
def test_names_and_arguments(module: str) -> None:
    known = left_out()
    names = {name: arguments for name, arguments in published().items() if name.startswith(module)}
    wrong = {name: reason for name, arguments in names.items() if (reason := misfit(name, arguments))}
    assert {name: reason for name, reason in wrong.items() if name not in known} == {}


def test_what_is_left_out_is_left_out() -> None:
    names = published()
    assert {name for name in left_out() if name not in names or not misfit(name, names[name])} == set()


def test_the_table_is_the_listing() -> None:
    listing = SPEC_FOLDER / "api" / "compvis.jsonl"
    if not listing.exists():
        pytest.skip("the listing of the published names is not beside this checkout")
    expected = {}
    for entry in map(json.loads, listing.read_text(encoding="utf-8").splitlines()):
        name = f"{entry['module']}.{entry['name']}"
        if entry["imported_by"] or entry["module"].startswith(WHOLE):
            own = {name: entry["args"]} if entry["kind"] == "function" else entry["methods"]
            expected |= own if entry["kind"] == "function" else {f"{name}.{k}": v for k, v in own.items()}
    assert published() == expected
