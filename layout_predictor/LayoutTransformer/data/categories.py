"""The 171 COCO and COCO-stuff categories, and the other words that name them (`words/categories.yaml`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from layout_predictor.LayoutTransformer.data.wordlists import phrases, word_file

_FILE = word_file("categories")
THINGS, STUFF = phrases(_FILE["things"]), phrases(_FILE["stuff"])
# Where a scene is rather than what is in it: a phrase that names only one of these is no object.
SETTINGS = frozenset(_FILE["settings"].split())
_IRREGULAR: dict[str, str] = _FILE["irregular_plurals"]


def plural(word: str) -> str:
    """Plural of a noun, or of the last word of a compound."""
    *first, last = word.split()
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif last not in ("men", "women", "children", "people"):
        last = regular_plural(last)
    return " ".join((*first, last))


def regular_plural(word: str) -> str:
    """The plural by the rules of spelling alone."""
    if word.endswith(("s", "sh", "ch", "x", "z")):
        return word + "es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def singular(word: str) -> str:
    """The noun of which `word` is the plural; the word itself where it is none. Names of categories come first."""
    irregular = next((one for one, many in _IRREGULAR.items() if many == word), None)
    endings = (("ies", "y"), ("s", ""), ("es", ""))
    guesses = [word.removesuffix(many) + one for many, one in endings if word.endswith(many)]
    fitting = [guess for guess in guesses if plural(guess) == word and not word.endswith(("ss", "us"))]
    fitting.sort(key=lambda guess: ((guess,) not in word_table(), guess.endswith(("sse", "xe", "che", "she"))))
    return irregular or next(iter(fitting), word)


def spoken_name(category: str) -> str:
    """How a category is said: "wall-brick" is "brick wall", "desk-stuff" is "desk"."""
    base, _, kind = category.partition("-")
    return base if kind in ("", "other", "stuff") else f"{kind} {base}"


STUFF_NOUNS = sorted({name for name in map(spoken_name, STUFF) if name not in SETTINGS and " " not in name})


@lru_cache(maxsize=1)
def word_table() -> dict[tuple[str, ...], str]:
    """Words of a name, synonym or plural, in lower case, to the category."""
    named = [(spoken_name(category), category) for category in (*THINGS, *STUFF)]
    named += [(word, category) for category, line in _FILE["synonyms"].items() for word in phrases(line)]
    table: dict[tuple[str, ...], str] = {}
    misspelled = [(phrase + "s", category) for phrase, category in named if plural(phrase) != phrase + "s"]
    for phrase, category in (*named, *misspelled):  # "knifes" names knives, where it is no other word
        for form in (phrase, plural(phrase)):
            table.setdefault(tuple(form.split()), category)
    return table


def match_category(phrase: Sequence[str]) -> tuple[str, int] | None:
    """The category that the last words of `phrase` (in lower case) name, and how many words name it, or None.

    Whole words are compared: "cathedral" is no cat.
    """
    table = word_table()
    for start in range(len(phrase)):
        category = table.get(tuple(phrase[start:]))
        if category is not None:
            return category, len(phrase) - start
    return None
