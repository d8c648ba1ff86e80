"""The objects of a sentence: noun phrases that name a COCO or COCO-stuff category, and what else refers to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from layout_predictor.inference.nouns import category_of
from layout_predictor.inference.prompt import MOST
from layout_predictor.inference.reading import Reading, Word, read
from layout_predictor.LayoutTransformer.data.categories import plural
from layout_predictor.LayoutTransformer.data.wordlists import phrases, word_file
from ldm.relations import with_article

_WORDS = {key: set(line.split()) for key, line in word_file("reading").items() if isinstance(line, str)}
_OTHER, _DEFINITE, _TWO, _NOT_NOUNS = (_WORDS[key] for key in ("other", "definite", "two", "not_nouns"))
_BOUNDARY, _CLAUSE = _WORDS["boundary"], _WORDS["clause"]
_SINGULAR, _PLURAL, _PERSONAL = (_WORDS[key] for key in ("singular", "plural", "personal"))
_ENDINGS = [(many, one) for many, _, one in (pair.partition("/") for pair in phrases(word_file("reading")["endings"]))]

Span = tuple[int, int]


@dataclass(frozen=True)
class FoundObject:
    """An object of a sentence; spans are characters (start, end)."""

    phrase: str  # as written, in its fullest mention
    name: str  # category or noun
    marked: Span  # the mention whose position the model is asked for, the last one that is no pronoun
    mentions: tuple[Span, ...] = ()  # the head noun of every mention, and pronouns that can mean nothing else


@dataclass(frozen=True)
class Mention:
    words: tuple[str, ...]  # in lower case
    head: int  # index of the head noun among the sentence's words
    span: Span  # characters of the head noun
    text: str
    name: str

    @property
    def first(self) -> int:
        return self.head - len(self.words) + 1

    @property
    def modifiers(self) -> set[str]:
        return set(self.words[:-1]) - _DEFINITE - {"a", "an"}


Group = list[Mention]


def find_objects(sentence: str, *, all_nouns: bool = False) -> list[FoundObject]:
    """Objects in the order of their first mention; with `all_nouns` every noun phrase counts.

    Two phrases are the same object when the later one is definite ("the dog"), adds no attribute, and does not
    stand against the earlier one in the same clause: "the dog to the left of the dog" has two dogs. "One" and "the
    other" are two objects named before, or the two of "two dogs"; "another" alone is one more of the last kind.
    """
    reading = read(sentence[:MOST])
    groups, pronouns = find_groups(reading, all_nouns=all_nouns)
    return [found_object(group, pronouns.get(number, ())) for number, group in enumerate(groups)]


def find_groups(reading: Reading, *, all_nouns: bool) -> tuple[list[Group], dict[int, list[Span]]]:
    """The mentions of each object of a sentence, and its pronouns by the object's number."""
    mentions = _mentions(reading, all_nouns)
    groups: list[Group] = []
    for mention in mentions:
        same = (group for group in reversed(groups) if _same_object(group, mention, mentions, reading.words))
        group = next(same, None)
        if group is None:
            groups.append([mention])
        else:
            group.append(mention)
    groups = _nounless(groups, reading)
    return groups, _resolve_pronouns(groups, reading.words)


def found_object(group: Group, pronouns: Sequence[Span] = ()) -> FoundObject:
    """The object of these mentions. The fullest is the best description; the last one is the model's usual mark."""
    fullest = max(group, key=lambda mention: len(mention.words))
    spans = sorted({*(mention.span for mention in group), *pronouns})
    return FoundObject(fullest.text, group[0].name, group[-1].span, tuple(spans))


def _mentions(reading: Reading, all_nouns: bool) -> list[Mention]:
    """The phrases that name a category, or one of the objects before them."""
    found: list[Mention] = []
    known: dict[str, str] = {}  # names of the objects by their head nouns
    for first, head in reading.phrases:
        words = tuple(word.text for word in reading.words[first : head + 1])
        category = category_of(words)
        if category is not None:
            name = category[0]
        elif words[0] in _DEFINITE and words[-1] in known:
            name = known[words[-1]]  # "the glove", after a baseball glove
        elif all_nouns and words[-1] not in _NOT_NOUNS:
            name = words[-1]
        else:
            continue
        known[words[-1]] = name
        start, last = reading.words[first], reading.words[head]
        found.append(Mention(words, head, (last.start, last.end), reading.sentence[start.start : last.end], name))
    return found


def _same_object(group: Group, mention: Mention, mentions: list[Mention], words: tuple[Word, ...]) -> bool:
    first, last = group[0], group[-1]
    if mention.words[-1] != first.words[-1] or mention.words[0] not in _DEFINITE or _OTHER & set(mention.words):
        return False
    if not mention.modifiers <= set().union(*(m.modifiers for m in group)):
        return False
    between = any(last.head < other.head < mention.head for other in mentions)
    boundary = any(word.text in _BOUNDARY for word in words[last.head + 1 : mention.first])
    return between or boundary


def _nounless(groups: list[Group], reading: Reading) -> list[Group]:
    """Add what "one", "the other", "another", "the former" and "the latter" mean."""
    covered = {i for group in groups for mention in group for i in range(mention.first, mention.head + 1)}
    covered |= {i for first, head in reading.phrases if head > first for i in range(first, head)}
    texts = [word.text for word in reading.words]
    free = {text: i for i, text in reversed(list(enumerate(texts))) if i not in covered}
    one, other = free.get("one"), free.get("other")
    if one is not None and other is not None and one < other and texts[other - 1] == "the":
        groups = _one_and_other(groups, reading, one, other)
    described = [i for i in range(2, len(texts)) if texts[i] == "one" and texts[i - 2] == "the" and i not in covered]
    before = [group for group in groups if described and group[-1].head < described[0]]
    if len(described) == 2 and before and _is_pair(before[-1][0], reading):  # "the black one is left of the white one"
        pair = before[-1][0]
        named = [(i, with_article(f"{texts[i - 1]} {singulars(pair.words[-1])[0]}")) for i in described]
        where = groups.index(before[-1])
        twins = [[_bare_mention(reading, i, pair, phrase=phrase)] for i, phrase in named]
        groups = [*groups[:where], *twins, *groups[where + 1 :]]
    for word, place in (("former", 0), ("latter", 1)):
        at = free.get(word)
        before = [] if at is None else [group for group in groups if group[0].head < at][-2:]
        if at is not None and len(before) == 2:
            before[place].append(_bare_mention(reading, at, before[place][0]))
    another = free.get("another")
    if another is not None and (before := [group for group in groups if group[0].head < another]):
        model = before[-1][0]
        mention = _bare_mention(reading, another, model, phrase=f"another {model.words[-1]}")
        groups.insert(groups.index(before[-1]) + 1, [mention])
    return groups


def _bare_mention(reading: Reading, at: int, model: Mention, phrase: str | None = None) -> Mention:
    """A mention of the thing of `model` by a single word; `phrase` where it is an object of its own."""
    word = reading.words[at]
    return Mention((word.text,), at, (word.start, word.end), phrase or word.text, model.name)


def _one_and_other(groups: list[Group], reading: Reading, one: int, other: int) -> list[Group]:
    before = [group for group in groups if group[-1].head < one]
    if before and _is_pair(before[-1][0], reading):
        pair = before[-1][0]
        singular = singulars(pair.words[-1])[0]
        attributes = [word for word in pair.words[:-1] if word not in _TWO | _DEFINITE | {"of"}]
        described = " ".join((*attributes, singular))
        phrase = with_article(described)
        at = groups.index(before[-1])
        twins = [[_bare_mention(reading, i, pair, phrase=phrase)] for i in (one, other)]
        return [*groups[:at], *twins, *groups[at + 1 :]]
    if len(before) >= 2:
        for place, at in ((-2, one), (-1, other)):
            before[place].append(_bare_mention(reading, at, before[place][0]))
    return groups


def _is_pair(mention: Mention, reading: Reading) -> bool:
    """Whether a phrase says that there are two of its noun: "two cats", "a pair of dogs"."""
    before = {word.text for word in reading.words[max(0, mention.first - 2) : mention.first]}
    return bool(_TWO & (set(mention.words) | before)) and bool(singulars(mention.words[-1]))


def singulars(word: str) -> list[str]:
    """What the noun could be the plural of."""
    guesses = [word.removesuffix(many) + one for many, one in _ENDINGS if word.endswith(many)]
    return [guess for guess in guesses if guess and plural(guess) == word]


def _resolve_pronouns(groups: list[Group], words: tuple[Word, ...]) -> dict[int, list[Span]]:
    """Pronouns that only one object fits, by the object's number; others are left to the model.

    A pronoun does not mean what its own phrase is about: in "with a cat beneath it" it is not the cat.
    """
    resolved: dict[int, list[Span]] = {}
    for at, word in enumerate(words):
        if word.text not in _SINGULAR | _PLURAL | _PERSONAL:
            continue
        heads = [(mention.head, n) for n, group in enumerate(groups) for mention in group if mention.head < at]
        candidates = {n for _, n in heads if _agrees(word.text, groups[n][0])}
        if heads:
            nearest, about = max(heads)
            if not any(other.text in _CLAUSE for other in words[nearest + 1 : at]) and len(candidates) > 1:
                candidates.discard(about)
        if len(candidates) == 1:
            resolved.setdefault(candidates.pop(), []).append((word.start, word.end))
    return resolved


def _agrees(pronoun: str, mention: Mention) -> bool:
    person = mention.name == "person"
    many = bool(singulars(mention.words[-1])) and mention.words[-1] not in ("bus", "glass")
    if pronoun in _SINGULAR:
        return not many and not person
    return person or (many and pronoun in _PLURAL)
