"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm import boundary
from ldm.errors import UserError

if TYPE_CHECKING:
    import torch


def read_yaml(path: Path) -> Any:
    """The content of one of the project's own YAML files."""
    import yaml

    return yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def refuse_own_input(target: Path, source: str | Path | None, flag: str) -> None:
    """Refuse to write over the file that `flag` names. Raises UserError."""
    if source is not None and target.exists() and Path(source).exists() and target.samefile(source):
        raise UserError(f"{target} is the file of {flag} and would be lost; write to another one")


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that becomes `path` if the block succeeds and vanishes if not.

    The temporary name keeps the suffix, since writers choose the format by it.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".tmp-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as err:
        raise UserError(f"{path.parent} cannot be written: {err.strerror}; choose another output folder") from err
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes the file private to its owner; give it the permissions a plain open() would have.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as err:
        reason = err.strerror or err
        raise UserError(f"{path} cannot be written: {reason}; free some space or choose another folder") from err
    finally:
        temporary.unlink(missing_ok=True)


def save_safetensors(
    path: str | Path, state: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors as safetensors, atomically; names that share memory get a copy each, as the format needs.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    own = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    end = 0  # of the memory that the tensors so far lie in
    for name in sorted(own, key=lambda name: own[name].data_ptr()):
        start, size = own[name].data_ptr(), own[name].nbytes
        if start < end:
            own[name] = own[name].clone()
        end = max(end, start + size)
    with atomic_write(path) as temporary:
        try:
            save_file(own, temporary, dict(metadata or {}))
        except SafetensorError as err:
            raise UserError(f"{path} cannot be written: {err}; free some space or choose another folder") from err


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises OSError, or ValueError as `parse_json` does."""
    return parse_json(path.read_text(encoding="utf-8-sig"))


def parse_json(text: str) -> Any:
    """The content of a JSON text. ValueError where it is none, or no program could use a number or text in it."""
    try:
        content = json.loads(text, parse_constant=_finite, parse_float=_finite, parse_int=_whole)
        if "\\ud" in text.lower():
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text else ""
        raise ValueError(f"{error.msg}: {line}column {error.colno}") from None
    except UnicodeEncodeError:
        raise ValueError("a text in it has half a character") from None
    return content


def read_kept(path: Path) -> dict[str, Any]:
    """The JSON object of a file that can be made again; empty where it is missing or damaged."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text:.40} is no finite number")
    return value


def _whole(text: str) -> int:
    _finite(text)  # of so many digits that it is none as a float
    return int(text)


def write_text(path: str | Path, text: str) -> None:
    """Write a text as UTF-8, all of it or nothing. Raises UserError as `atomic_write` does."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any, indent: int = 1) -> None:
    """Write indented JSON, whole or not at all. UserError as of `atomic_write`, and for numbers that are not finite."""
    write_text(path, _json(path, content, indent=indent))


def write_json_lines(path: str | Path, lines: Iterable[Any]) -> None:
    """Write JSON Lines, all of them or nothing. Raises UserError as `write_json` does."""
    write_text(path, "".join(_json(path, line, separators=(",", ":")) for line in lines))


def _json(path: str | Path, content: Any, **layout: Any) -> str:
    try:
        return json.dumps(content, ensure_ascii=False, allow_nan=False, **layout) + "\n"
    except ValueError as err:
        raise UserError(f"{path} is not written: it would hold numbers that are infinite or none at all") from err


def save_torch(path: str | Path, state: Mapping[str, Any], keep: Path | None = None) -> None:
    """Write a checkpoint with `torch.save`, atomically and down to the disk.

    Args:
        path: written whole or not at all.
        state: what `torch.load` can read with ``weights_only=True``.
        keep: where the checkpoint that was at `path` stays.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    import torch

    path = Path(path)
    with atomic_write(path) as temporary:
        try:
            with temporary.open("wb") as handle:
                torch.save(dict(state), handle)
                handle.flush()
                os.fsync(handle.fileno())
        except RuntimeError as err:  # torch's own writer says so of a full disk
            reason = boundary.reason(err)
            raise UserError(f"{path} cannot be written: {reason}; free some space or choose another folder") from err
        if keep is not None and zipfile.is_zipfile(path):  # a damaged one must not replace the last good one
            _keep(path, keep)


def _keep(path: Path, kept: Path) -> None:
    """Let `kept` be the file at `path`, which stays there: at no moment is neither of them whole."""
    link = path.with_name(f".tmp-{kept.name}")
    try:
        link.unlink(missing_ok=True)
        os.link(path, link)
        os.replace(link, kept)
        link.unlink(missing_ok=True)  # where both names were one file already
    except OSError:  # a disk without links
        os.replace(path, kept)
