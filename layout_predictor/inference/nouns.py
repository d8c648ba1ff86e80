"""Which category a noun phrase names: our own table first, WordNet's synonyms where NLTK has its corpus."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from layout_predictor.LayoutTransformer.data.categories import STUFF, THINGS, match_category, spoken_name
from layout_predictor.LayoutTransformer.data.wordlists import word_file

_KINDS = set(word_file("reading")["drawable"].split())
LONGEST = 3  # words of a category's name or synonym


def category_of(words: Sequence[str]) -> tuple[str, int] | None:
    """The category that a phrase's last words name, and how many words name it; None for no category.

    Whole words in lower case are compared: "cathedral" is no cat, and an orange cat is no orange.
    """
    found = match_category(words)
    if found is not None:
        return spoken_name(found[0]), found[1]
    net, synonyms = wordnet(), wordnet_synonyms()
    for count in range(min(LONGEST, len(words)), 0, -1) if net else ():
        term = "_".join(words[-count:])
        category = synonyms.get(term) or synonyms.get(net.morphy(term, net.NOUN) or "")
        if category is not None:
            return category, count
    return None


@lru_cache(maxsize=1)
def wordnet() -> Any:
    """NLTK's WordNet reader, or None where the library or its corpus is not installed."""
    try:
        reader = importlib.import_module("nltk.corpus").wordnet
        reader.ensure_loaded()
    except (ImportError, LookupError):
        return None
    return reader


@lru_cache(maxsize=1)
def wordnet_synonyms() -> dict[str, str]:
    """WordNet's terms ("motor_vehicle") to category names; empty without WordNet.

    A term counts when the category is its commonest sense: "lumber" is a name of baseball bats too, but rarely
    means one. Categories themselves are terms, so that WordNet's irregular plurals find them.
    """
    net = wordnet()
    table: dict[str, str] = {}
    if net is None:
        return table
    for category in map(spoken_name, (*THINGS, *STUFF)):
        term = category.replace(" ", "_")
        table.setdefault(term, category)
        senses = [sense for sense in net.synsets(term, net.NOUN) if sense.lexname() in _KINDS]
        for name in senses[0].lemma_names() if senses else ():
            commonest = net.synsets(name, net.NOUN)
            if commonest and commonest[0] == senses[0]:
                table.setdefault(name.lower(), category)
    return table
