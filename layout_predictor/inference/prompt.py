"""The one reading of a prompt before any model: markup and invisible characters go, line ends end clauses."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache

from layout_predictor.LayoutTransformer.data.wordlists import word_file

MOST = 2000  # characters that are read: many times what a text encoder takes, in about a second
_FILE = word_file("prompt")
_EDITS = [(re.compile(pattern), replacement) for pattern, replacement in _FILE["edits"]]


@dataclass(frozen=True)
class Prompt:
    """A cleaned prompt: `text`, and the character of the original that each of its characters stands for."""

    text: str
    origins: tuple[int, ...]
    notes: tuple[str, ...] = ()  # words that were read as others

    def original(self, span: tuple[int, int]) -> tuple[int, int]:
        """The characters of the original prompt behind a span of the text."""
        return self.origins[span[0]], self.origins[span[1] - 1] + 1


def clean(sentence: str) -> Prompt:
    """The prompt without markup of web UIs, quotes, tags and what stands behind "Negative prompt:"."""
    characters: list[tuple[str, int]] = []
    for at, character in enumerate(sentence[:MOST].replace("\r\n", " \n").replace("\r", "\n")):
        kind = unicodedata.category(character)
        if kind in ("Cf", "Mn", "Cs", "Co", "Cn") and not unicodedata.combining(character):
            continue  # invisible
        plain = "\n" if character in "\n\u2028\u2029" else " " if kind in ("Cc", "So", "Sk") else character
        characters += [(part, at) for part in unicodedata.normalize("NFKC", plain)]
    for pattern, replacement in _EDITS:
        characters = _edited(characters, pattern, replacement)
    notes = [f"only the first {MOST} of {len(sentence)} characters are read"] if len(sentence) > MOST else []
    for match in reversed(list(re.finditer(r"[A-Za-z]+", "".join(part for part, _ in characters)))):
        meant = _misspellings().get(match[0].lower())
        if meant:
            at = characters[match.start()][1]
            characters[match.start() : match.end()] = [(part, at) for part in meant]
            notes.append(f'"{match[0]}" is read as "{meant}"')
    return Prompt("".join(part for part, _ in characters), tuple(at for _, at in characters), tuple(notes[::-1]))


def _edited(characters: list[tuple[str, int]], pattern: re.Pattern[str], text: str) -> list[tuple[str, int]]:
    edited, last = [], 0
    for match in pattern.finditer("".join(part for part, _ in characters)):
        edited += characters[last : match.start()]
        if text.startswith("\\1"):
            edited += characters[match.start(1) : match.end(1)]
        at = characters[match.start()][1] if match.start() < len(characters) else 0
        edited += [(part, at) for part in text.removeprefix("\\1")]
        last = match.end()
    return edited + characters[last:]


@cache
def _misspellings() -> dict[str, str]:
    words = _FILE["relation_words"].split()
    table = {}
    for word in words:
        for i in range(len(word)):
            table[word[:i] + word[i] + word[i:]] = word
            table[word[:i] + word[i + 1 :]] = word
            table[word[:i] + word[i + 1 : i + 2] + word[i] + word[i + 2 :]] = word
    known = {*words, *_FILE["no_misspelling"].split()}
    return {wrong: word for wrong, word in table.items() if wrong not in known}
