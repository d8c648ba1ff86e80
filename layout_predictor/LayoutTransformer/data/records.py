"""Reading annotation records: JSON, JSON lines and pickles of plain containers, each fault by record and field."""

from __future__ import annotations

import math
import pickle
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ldm import files
from ldm.errors import DAMAGED
from ldm.paths import ROOT
from ldm.util import UserError

# Pickles of plain lists and dicts need no name at all; these containers are spelled as calls.
_CONTAINERS = {(module, name) for module in ("builtins", "__builtin__") for name in ("set", "frozenset")}


class PlainUnpickler(pickle.Unpickler):
    """Builds numbers, strings, lists, tuples, dicts and sets, and refuses every class and function."""

    def find_class(self, module: str, name: str) -> Any:
        """A builtin container, or UnpicklingError naming what the file asks for."""
        if (module, name) in _CONTAINERS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def find_file(path: str | Path) -> Path:
    """`path` as given, or, where that does not exist, relative to the project."""
    given = Path(path).expanduser()
    return given if given.is_absolute() or given.exists() else ROOT / given


def read_json(path: str | Path) -> Any:
    """A whole JSON file. UserError when it is missing, truncated or damaged."""
    path = _existing(path)
    try:
        return files.read_json(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is truncated or damaged: it is no JSON ({error}); download it again") from None


def read_records(path: str | Path) -> Iterator[tuple[str, Any]]:
    """Records of a `.jsonl` file or of a pickled list or dict, each with the words that say where it is.

    A dict yields (key, value) pairs.
    """
    path = _existing(path)
    if path.suffix == ".pkl":
        loaded = _read_pickle(path)
        if isinstance(loaded, Mapping):
            yield from ((f"{path}, key {key!r}", (key, value)) for key, value in loaded.items())
        else:
            message = f"{path} holds a {type(loaded).__name__}, not a list or dict of records"
            yield from ((f"{path}, record {number}", record) for number, record in enumerate(rows(loaded, message)))
        return
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                where = f"{path}, line {number}"
                try:
                    record = files.parse_json(line)
                except ValueError as error:
                    raise UserError(f"{where}: not valid JSON ({error}); is the file truncated?") from None
                yield where, record
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} cannot be read as JSON lines: {error}") from None


def _existing(path: str | Path) -> Path:
    found = find_file(path)
    if not found.is_file():
        raise UserError(f"there is no file {path}")
    return found


def _read_pickle(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return PlainUnpickler(file).load()
    except DAMAGED as error:
        if str(error).startswith("it asks for"):
            raise UserError(
                f"{path} is not loaded, since unpickling it could run code ({error}); convert it to JSON lines"
            ) from None
        raise UserError(f"{path} is truncated or damaged ({error}); download it again") from None


def require(record: Any, fields: Iterable[str], where: str) -> None:
    """UserError unless `record` is a mapping with all of `fields`."""
    if not isinstance(record, Mapping):
        raise UserError(f"{where} is a {type(record).__name__}, not an object with fields")
    for field in fields:
        if field not in record:
            raise UserError(f"{where} has no field '{field}'")


def table(data: Any, name: str, fields: Iterable[str], source: str) -> Iterator[tuple[str, Any]]:
    """Where it is, and the record itself, of each record of the list `data[name]`, all of which have `fields`."""
    require(data, (name,), source)
    for number, record in enumerate(rows(data[name], f"{source}: '{name}' is not a list of records")):
        where = f"{source}: record {number} of '{name}'"
        require(record, fields, where)
        yield where, record


def rows(value: Any, message: str, *, least: int = 0, most: float = math.inf) -> Sequence[Any]:
    """`value` as a list of `least` to `most` items; UserError with `message` where it is none."""
    if not isinstance(value, (list, tuple)) or not least <= len(value) <= most:
        raise UserError(message)
    return value


def numbers(value: Any, count: int, where: str) -> list[float]:
    """`value` as `count` finite numbers."""
    message = f"{where} is {str(value)[:60]!r}, not {count} finite numbers"
    if not all(_is_number(item) for item in rows(value, message, least=count, most=count)):
        raise UserError(message)
    return [float(item) for item in value]


def positive(value: Any, where: str) -> float:
    """`value` as a positive number."""
    if not _is_number(value) or value <= 0:
        raise UserError(f"{where} is {str(value)[:60]!r}, not a positive number")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def word_spans(text: str, words: Any, where: str) -> list[tuple[int, int]]:
    """Characters (start, end) of each word of `text`, without blanks; words come in order."""
    if not isinstance(text, str) or not isinstance(words, Sequence) or isinstance(words, str):
        raise UserError(f"{where}: the sentence or its list of words is missing")
    spans, position = [], 0
    for number, word in enumerate(words):
        bare = word.strip() if isinstance(word, str) else None
        start = text.find(bare, position) if bare is not None else -1
        if bare is None or start < 0:
            raise UserError(f"{where}: word {number} ({word!r}) is not in the sentence after the word before it")
        position = start + len(bare)
        spans.append((start, position))
    return spans


def index(value: Any, count: int, what: str, where: str) -> int:
    """`value` as the index of one of `count` things."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < count:
        raise UserError(f"{where}: {value!r} is no index of one of the {count} {what}")
    return value


def word_index(value: Any, spans: Sequence[tuple[int, int]], where: str) -> int:
    """`value` as the index of a word that is not blank."""
    index(value, len(spans), "words", where)
    if spans[value][0] == spans[value][1]:
        raise UserError(f"{where}: word {value} is blank")
    return value
