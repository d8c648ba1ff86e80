"""Layouts for a file of sentences: one JSON line each, resumable, in one piece."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from layout_predictor.inference.predictor import Predictor
from ldm.files import parse_json
from ldm.util import UserError

logger = logging.getLogger(__name__)


def read_sentences(path: str | Path) -> list[str]:
    """The sentences of a text file, one a line; empty lines are skipped. UserError when there is none."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"the file of sentences {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"the file of sentences {path} is not UTF-8 text") from None
    sentences = [line.strip() for line in text.splitlines() if line.strip()]
    if not sentences:
        raise UserError(f"the file of sentences {path} is empty; write one sentence a line")
    return sentences


def predict_file(
    sentences: list[str],
    out: str | Path,
    predictor: Predictor,
    *,
    settings: dict[str, Any],
    identity: str = "",
    progress: Callable[[int], Any] = lambda count: None,
) -> Counter[str]:
    """Write the layout of each sentence to `out` as JSON lines; return how many ended how.

    Lines go to a file beside `out` that becomes `out` when it is complete. A run that was stopped goes on where it
    was when sentences, settings and `identity` (of the weights) are the same.

    Args:
        settings: keyword arguments of `Predictor.predict`.
        progress: called with the number of sentences that were done since its last call.

    Returns:
        Counts of "layouts", "empty" ones, "failed" sentences (their line has the "error"), and "resumed" ones.
    """
    out = Path(out)
    key = hashlib.sha256(json.dumps([sentences, settings, identity]).encode()).hexdigest()[:12]
    part = out.with_name(f".{out.name}.{key}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lines = part.read_text(encoding="utf-8", errors="ignore").splitlines(True) if part.is_file() else []
        lines = [line for line in lines if line.endswith("\n")]  # the last one may have been cut off
        records = [parse_json(line) for line in lines]
        counts = Counter(_kind(record) for record in records) + Counter(resumed=len(records))
        part.write_text("".join(lines), encoding="utf-8")
        with part.open("a", encoding="utf-8") as file:
            progress(len(records))
            for sentence in sentences[len(records) :]:
                record = _record(sentence, predictor, settings)
                counts[_kind(record)] += 1
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                file.flush()
                progress(1)
        os.replace(part, out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}; choose another file") from None
    except (ValueError, AttributeError):
        raise UserError(f"{part}, of a run that was stopped, is damaged; remove it") from None
    return counts


def _record(sentence: str, predictor: Predictor, settings: dict[str, Any]) -> dict[str, Any]:
    try:
        prediction = predictor.predict(sentence, **settings)
    except UserError as error:
        logger.warning("%s: %s", sentence[:60], error)
        return {"prompt": sentence, "error": str(error)}
    for note in prediction.notes:
        logger.warning("%s: %s", sentence[:60], note)
    return prediction.layout.to_json()


def _kind(record: dict[str, Any]) -> str:
    return "failed" if "error" in record else "layouts" if record["objects"] else "empty"
