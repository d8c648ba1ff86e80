"""What a prompt says between its nouns: expressions of places, relations, order, counts (`words/expressions.yaml`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from layout_predictor.inference.nouns import LONGEST, category_of
from layout_predictor.LayoutTransformer.data.categories import SETTINGS
from layout_predictor.LayoutTransformer.data.wordlists import word_file
from ldm.relations import ABOVE, BELOW, LEFT, RIGHT

_FILE = word_file("expressions")
_SIDES = {word: side for side, words in _FILE["sides"].items() for word in words.split()}
NUMBERS: dict[str, int] = _FILE["numbers"]
NO_THINGS, BACKDROPS, MEASURES = (frozenset(_FILE[key].split()) for key in ("no_things", "backdrops", "measures"))
TOWARD = {"left": LEFT, "right": RIGHT, "top": ABOVE, "bottom": BELOW, "center": "inside"}


@dataclass(frozen=True)
class Expression:
    """An expression of a prompt: its label (a key of the file), its characters, and the sides that it names."""

    label: str
    start: int
    end: int
    text: str

    @property
    def sides(self) -> tuple[str, ...]:
        found = (_SIDES.get(word) for word in re.findall(r"\w+", self.text))
        return tuple(dict.fromkeys(side for side in found if side))


@cache
def _pattern() -> re.Pattern[str]:
    macros: dict[str, str] = {}

    def whole(text: str) -> str:
        text = re.sub(r"\|\s+", "|", text)
        return re.sub(r"\{([a-z]+)\}", lambda match: macros[match[1]], text)

    for name, text in _FILE["macros"].items():
        macros[name] = whole(text)
    labels = [f"(?P<{label}>{'|'.join(map(whole, texts))})" for label, texts in _FILE["expressions"].items()]
    return re.compile(rf"(?:(?<!\w)|(?=['’]s))(?:{'|'.join(labels)})(?!\w)|(?P<stop1>[.;!?:])|(?P<comma>,)")


def plain(text: str) -> str:
    """The text in lower case, with blanks for hyphens; of the same length."""
    lower = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
    return re.sub(r"(?<=\w)[-‐‑](?=\w)", " ", lower)


def find_expressions(text: str) -> list[Expression]:
    """The expressions of a cleaned prompt, in order, and its marks (labels "stop1" and "comma")."""
    lower = plain(text)
    found = []
    at = 0
    while match := _pattern().search(lower, at):
        label = match.lastgroup or ""
        if match.end() == match.start() or (label == "bare" and not _alone(lower, match)):
            following = re.compile(r"\w+\W*|\W").match(lower, match.start())
            at = following.end() if following else len(lower)
            continue
        found.append(Expression(label, match.start(), match.end(), match[0]))
        at = match.end()
    return found


def _alone(lower: str, match: re.Match[str]) -> bool:
    """Whether a side at the end of a phrase is a place, not a part of a thing: "a cup top", but "a metal top"."""
    before = re.split(r"[.,;:!?]", lower[: match.start()])[-1].split()
    if not before or len(match[0].split()) > 1 or match[0] in ("up", "down", "left", "right"):
        return True
    name = category_of(before[-LONGEST:])
    return name is not None and name[0] not in SETTINGS or before[-1] in ("is", "are", "and", "on")
