"""Prompt files of the paper's evaluation: blocks, one sentence a line, pickles, and JSON lines.

    Objects: cat, dog                       A cat to the left of a dog.
    Relation: cat left of dog               A red bus above two cars.
    Sentence: A cat to the left of a dog.

    {"prompt": "A red bus above two cars.", "objects": ["red bus", {"name": "car", "count": 2}],
     "relations": [["red bus", "above", "car"]]}

A pickle holds sentences, mappings with the keys of a JSON line, or the published records [sentence, words, indices
of the objects' words, [[i, j, relation], ...], phrases]. Where a file does not name the objects they are read from the
sentence. Every complaint names the line or the record.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from layout_predictor.inference.objects import find_objects
from layout_predictor.LayoutTransformer.data.categories import singular
from layout_predictor.LayoutTransformer.data.records import read_records
from ldm.evaluation.prompts.prompt import COLORS, EvalObject, EvalPrompt, EvalRelation
from ldm.evaluation.prompts.words import relation_of, stated_relations
from ldm.files import parse_json
from ldm.relations import with_article
from ldm.util import UserError

_NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
_ARTICLES = {"a", "an", "the", "one"}
_FIELD = re.compile(r"^\s*(?:\d+[.)]\s*)?(objects?|relations?|sentences?)\s*:\s*(.*)$", re.IGNORECASE)
_SEPARATOR = re.compile(r"^\s*(?:\d+[.)]?|[-=#*_]{2,})?\s*$")
_OTHER_FORMATS = {".csv", ".tsv", ".html", ".xml", ".yaml", ".yml", ".parquet", ".xlsx"}
_MARKUP = re.compile(r"(<[!?/a-z])|\d+ *[,;\t]|[^\t]*\t|[^\"]*\",\"", re.IGNORECASE)  # a tag, or a table's row
_TEXT_KEYS = ("prompt", "sentence", "caption", "text")


def read_prompt_file(path: str | Path) -> list[EvalPrompt]:
    """All prompts of a file, in order; its format is told by its suffix, that of a text by its first line.

    Raises:
        UserError: missing or empty file, or one of another format; the sentence names the line or the record.
    """
    path = Path(path)
    if path.suffix in (".pkl", ".pickle"):
        prompts = [_from_record(record, where) for where, record in _pickled(path)]
    elif path.suffix in (".jsonl", ".json"):
        prompts = [_from_record(record, where) for where, record in json_lines(path)]
    elif path.suffix.lower() in _OTHER_FORMATS:
        raise UserError(
            f"{path}: prompts are not read from *{path.suffix}; write one sentence a line into a *.txt, or JSON lines "
            "into a *.jsonl"
        )
    else:
        lines = text_lines(path)
        first = next((line for line in lines if not _SEPARATOR.match(line)), "")
        prompts = list(_from_blocks(lines, path) if _FIELD.match(first) else _from_sentences(lines, path))
    if not prompts:
        raise UserError(f"the prompt file {path} holds no prompt; write one sentence a line")
    return prompts


# -------------------------------------------------------------------------------------------------- reading


def text_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file. UserError where it can't be read as such."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"the prompt file {path} cannot be read: {error.strerror}") from None
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: this is not UTF-8 text; a pickle must be named *.pkl") from None


def text_of_lines(lines: Iterable[str], path: Path) -> Iterator[tuple[str, str]]:
    """Lines of a file without the white space around them, each behind its place; empty ones are left out."""
    for number, line in enumerate(lines, start=1):
        if text := line.strip():
            yield f"{path}, line {number}", text


def _pickled(path: Path) -> Iterator[tuple[str, Any]]:
    """Records of a pickle through the unpickler that builds plain containers only."""
    if path.suffix == ".pickle":
        raise UserError(f"{path}: rename it to *.pkl, by which pickles are told")
    return read_records(path)


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Records of JSON lines; of one JSON list as well."""
    lines = text_lines(path)
    if "".join(lines).lstrip().startswith("["):
        try:
            records = parse_json("\n".join(lines))
        except ValueError as error:
            raise UserError(f"{path} is not valid JSON ({error})") from None
        yield from ((f"{path}, record {number}", record) for number, record in enumerate(records, start=1))
        return
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                yield where, parse_json(line)
            except ValueError as error:
                raise UserError(f"{where}: not valid JSON ({error}); write one object a line") from None


def _from_sentences(lines: Sequence[str], path: Path) -> Iterator[EvalPrompt]:
    for where, text in text_of_lines(lines, path):
        if _FIELD.match(text):
            raise UserError(f"{where}: '{text[:40]}' belongs to a file of blocks, but the file begins with sentences")
        if text[0] in "{[":
            raise UserError(f"{where}: this looks like JSON; name the file *.jsonl")
        if found := _MARKUP.match(text):
            raise UserError(f"{where}: '{text[:40]}' looks like {'markup' if found[1] else 'a table'}, not a sentence")
        if not re.search(r"[^\W\d_]", text):
            raise UserError(f"{where}: '{text[:40]}' is no sentence")
        yield from_sentence(text)


def _from_blocks(lines: Sequence[str], path: Path) -> Iterator[EvalPrompt]:
    """Blocks of Objects, Relation and Sentence, which end with the next block, a blank line or a number."""
    block: dict[str, str] = {}
    start = 0
    for number, line in enumerate([*lines, ""], start=1):
        found = _FIELD.match(line)
        if found is None and not _SEPARATOR.match(line):
            raise UserError(
                f"{path}, line {number}: '{line.strip()[:40]}' is none of 'Objects: ...', 'Relation: ...', "
                "'Sentence: ...'"
            )
        key = found[1].lower().rstrip("s") if found else None
        if block and (key is None or key in block):
            yield _from_block(block, f"{path}, line {start}")
            block = {}
        if found and key:
            start = start if block else number
            block[key] = found[2].strip()


def _from_block(block: Mapping[str, str], where: str) -> EvalPrompt:
    if not block.get("sentence"):
        raise UserError(f"{where}: the block that begins here has no 'Sentence: ...'")
    objects = [part for part in re.split(r"[,;]| and ", block.get("object", "")) if part.strip()]
    relations = [part for part in re.split(r"[;]|,(?!\s*$)", block.get("relation", "")) if part.strip()]
    return _build(block["sentence"], objects, relations, where)


# ------------------------------------------------------------------------------------------------- building


def from_sentence(text: str) -> EvalPrompt:
    """A bare sentence: its objects by the noun finder of the layout predictor, directions by their words."""
    found = find_objects(text)
    objects = tuple(
        replace(parse_object(item.phrase, item.phrase), name=item.name.lower(), phrase=item.phrase) for item in found
    )
    stated = stated_relations(text, [item.mentions or (item.marked,) for item in found])
    return EvalPrompt(text, objects, tuple(EvalRelation(*relation) for relation in stated))


def parse_object(words: Any, where: str) -> EvalObject:
    """ "a red car", "two dogs" or {"name", "color", "count", "phrase"}. UserError for anything else."""
    if isinstance(words, Mapping):
        if not isinstance(words.get("name"), str):
            raise UserError(f'{where}: an object needs a "name", as in {{"name": "car", "count": 2}}')
        parsed = parse_object(words["name"], where)
        count, color = words.get("count", parsed.count), words.get("colour", words.get("color", parsed.color))
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise UserError(f"{where}: the count of '{parsed.name}' must be a whole number from 1, not {count!r}")
        if color is not None and color not in COLORS:
            raise UserError(f"{where}: the color {color!r} is not one of {', '.join(COLORS)}")
        return EvalObject(parsed.name, str(words.get("phrase", parsed.phrase)), count, color)
    if not isinstance(words, str) or not words.strip():
        raise UserError(f"{where}: {str(words)[:40]!r} is not the name of an object")
    rest, count, color = words.strip().rstrip(".").lower().split(), 1, None
    phrase = words.strip().rstrip(".")
    if rest[0] in _ARTICLES and len(rest) > 1:
        rest = rest[1:]
    elif rest[0] in _NUMBERS and len(rest) > 1:
        count, rest = _NUMBERS[rest[0]], rest[1:]
        rest[-1] = singular(rest[-1])
    else:
        phrase = with_article(phrase)
    if rest[0] in COLORS and len(rest) > 1:
        color, rest = rest[0], rest[1:]
    return EvalObject(" ".join(rest), phrase, count, color)


def _from_record(record: Any, where: str) -> EvalPrompt:
    """A prompt of a decoded record; see the head of this file for the forms."""
    if isinstance(record, str):
        if not record.strip():
            raise UserError(f"{where}: the sentence is empty")
        return from_sentence(record.strip())
    if isinstance(record, Sequence) and record and isinstance(record[0], str):
        return _from_published(record, where)
    if isinstance(record, Sequence) and len(record) == 2 and isinstance(record[1], (Mapping, list, tuple, str)):
        return _from_record(record[1], where)  # (key, value) of a pickled dict
    if not isinstance(record, Mapping):
        raise UserError(f"{where} is a {type(record).__name__}, not a sentence or an object with a 'prompt'")
    text = next((record[key] for key in _TEXT_KEYS if isinstance(record.get(key), str)), None)
    if text is None or not text.strip():
        raise UserError(f"{where} has no 'prompt' (or 'sentence', 'caption') with a text")
    if {"subj", "obj", "relation"} <= set(record):  # VSR (Liu et al., 2023): a caption with subject and object
        return _build(text, [record["subj"], record["obj"]], [record["relation"]], where)
    objects = record.get("objects")
    if objects is None:
        return from_sentence(text.strip())
    relations = record.get("relations", record.get("relation", []))
    relations = [relations] if isinstance(relations, str) else relations
    if not isinstance(objects, (list, tuple)) or not isinstance(relations, (list, tuple)):
        raise UserError(f"{where}: 'objects' and 'relations' must be lists")
    return _build(text, objects, relations, where)


def _from_published(record: Sequence[Any], where: str) -> EvalPrompt:
    """[sentence, words, indices, [[i, j, relation], ...], phrases], (key, value), or a sentence and something else."""
    if len(record) == 2 and isinstance(record[1], (Mapping, str)):
        return _from_record(record[1], where)
    if len(record) < 4 or not all(isinstance(part, (list, tuple)) for part in record[1:4]):
        return from_sentence(record[0].strip())
    text, words, indices, stated = record[:4]
    try:
        names = [str(words[index]).strip(" .,") for index in indices]
        at = {index: number for number, index in enumerate(indices)}
        relations = [[at[i], relation, at[j]] for i, j, relation in stated]
    except (IndexError, KeyError, TypeError, ValueError):
        raise UserError(f"{where}: its indices of words do not fit its words") from None
    return _build(text, names, relations, where)


def _build(text: str, objects: Sequence[Any], relations: Sequence[Any], where: str) -> EvalPrompt:
    parsed = tuple(parse_object(item, where) for item in objects)
    if not parsed:
        return from_sentence(text.strip())
    stated = [_relation(relation, parsed, where) for relation in relations]
    judged = tuple(entry for entry in stated if isinstance(entry, EvalRelation))
    unjudged = tuple(entry for entry in stated if isinstance(entry, str))
    return EvalPrompt(text.strip(), parsed, judged, unjudged)


def _relation(relation: Any, objects: Sequence[EvalObject], where: str) -> EvalRelation | str:
    """One relation: [first, words, second] with names or numbers, "cat left of dog", or the words of two objects."""
    if isinstance(relation, (list, tuple)) and len(relation) == 3:
        words = str(relation[1])
        first, second = (_number_of(part, objects, where) for part in (relation[0], relation[2]))
    elif isinstance(relation, str):
        words = relation
        places = sorted(
            (match.start(), number)
            for number, item in enumerate(objects)
            for match in [re.search(rf"\b{re.escape(item.name)}", relation.lower())]
            if match
        )
        first, second = (places[0][1], places[1][1]) if len(places) >= 2 else (0, 1)
    else:
        raise UserError(f'{where}: {str(relation)[:60]!r} is no relation; write ["cat", "left of", "dog"]')
    stated = relation_of(words)
    if stated is None:
        return words.strip()
    if len(objects) < 2 or first == second:
        raise UserError(f"{where}: the relation '{words.strip()}' needs two objects")
    return EvalRelation(first, stated, second)


def _number_of(part: Any, objects: Sequence[EvalObject], where: str) -> int:
    if isinstance(part, int) and not isinstance(part, bool) and 0 <= part < len(objects):
        return part
    if isinstance(part, str):
        name = parse_object(part, where).name
        for number, item in enumerate(objects):
            if item.name == name:
                return number
    known = ", ".join(item.name for item in objects)
    raise UserError(f"{where}: a relation names {part!r}, which is not among its objects ({known})")
