"""A prompt as the predictor understands it: its objects, and what it states of them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from layout_predictor.inference.clauses import state
from layout_predictor.inference.expressions import (
    BACKDROPS,
    MEASURES,
    NO_THINGS,
    NUMBERS,
    Expression,
    find_expressions,
    plain,
)
from layout_predictor.inference.facts import Facts, Item
from layout_predictor.inference.nouns import LONGEST, category_of
from layout_predictor.inference.objects import FoundObject, Group, Mention, find_groups, found_object, singulars
from layout_predictor.inference.prompt import clean
from layout_predictor.inference.reading import Phrase, Reading, is_attribute, read
from layout_predictor.inference.solve import Fact
from ldm.relations import with_article

_BE = frozenset(["is", "are", "was", "were", "be", "been", "being"])
_MOST = 8  # of a noun that are objects of their own
_MOST_OBJECTS = 16


@dataclass(frozen=True)
class Understood:
    """Objects and facts of a prompt: `text` is what was read of it, spans of `objects` are its characters.

    `notes` has a line for everything that was not taken as it stands.
    """

    text: str
    objects: tuple[FoundObject, ...]
    facts: tuple[Fact, ...]
    copies: tuple[tuple[int, ...], ...]  # the objects that are one noun of the sentence, in groups
    notes: tuple[str, ...]


def understand(sentence: str, *, all_nouns: bool = False) -> Understood:
    """Read a prompt. With `all_nouns` every noun is an object, not only those in a fact and COCO's."""
    prompt = clean(sentence)
    expressions = find_expressions(prompt.text)
    reading, tails = _with_portions(_open(read(_quiet(prompt.text)), expressions))
    groups, pronouns = find_groups(reading, all_nouns=True)
    groups = _same_again(groups, prompt.text)
    groups = [[_whole(mention, prompt.text, reading, tails) for mention in group] for group in groups]
    items = _items(reading, groups, pronouns, expressions)
    facts = state(items)
    kept, notes = [], list(prompt.notes)
    counted = {n for n, group in enumerate(groups) if _said(group[0], prompt.text, expressions)}
    stated = counted | {thing for fact in facts.facts for thing in fact.objects} - {-1}
    for number, group in enumerate(groups):
        if _counts(group, number, facts, stated, all_nouns):
            kept.append(number)
        elif number not in facts.denied and group[0].name not in NO_THINGS | BACKDROPS:
            notes.append(f'no object for "{group[0].text}": it is none of COCO\'s, and nothing places it')
    return _expanded(prompt.text, groups, pronouns, kept, facts, expressions, notes)


def facts_between(read: Understood, heads: Sequence[tuple[int, int]]) -> list[Fact]:
    """The facts of objects that are known by the characters of their head nouns in the prompt, by their numbers."""
    numbers: dict[int, int] = {}
    for number, (start, _) in enumerate(heads):
        for place, item in enumerate(read.objects):
            if any(first <= start < last for first, last in item.mentions):
                numbers.setdefault(place, number)
                break
    known = [fact for fact in read.facts if all(place in numbers for place in fact.objects)]
    return [replace(fact, objects=tuple(numbers[place] for place in fact.objects)) for fact in known]


def renderings(text: str, objects: Sequence[FoundObject]) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """The text with the marked spans, then ever shorter ones for a model that does not take it: the clauses with
    objects, a list of the phrases, and one of the names."""
    yield text, [item.marked for item in objects]
    spans: dict[tuple[int, int], tuple[int, int]] = {}
    kept, length = [], 0
    for clause in re.finditer(r"[^.,;:!?]+[.,;:!?]*\s*", text):
        inside = {item.marked for item in objects if clause.start() <= item.marked[0] < clause.end()}
        if inside:
            spans |= {span: (span[0] - clause.start() + length, span[1] - clause.start() + length) for span in inside}
            kept.append(clause[0])
            length += len(clause[0])
    yield "".join(kept), [spans.get(item.marked, (0, 1)) for item in objects]
    for words in ([item.phrase for item in objects], [item.name for item in objects]):
        starts = itertools.accumulate((len(word) + 2 for word in words), initial=0)
        lasts = [
            (start + len(word) - len(word.split()[-1]), start + len(word))
            for start, word in zip(starts, words, strict=False)
        ]
        yield ", ".join(words), lasts


def _quiet(text: str) -> str:
    """The text with words in capitals in lower case, as spaCy knows them."""
    return re.sub(r"\b[A-Z]{2,}\b", lambda match: match[0].lower(), text)


def _open(reading: Reading, expressions: Sequence[Expression]) -> Reading:
    """The reading without the words of expressions in its phrases, and with names that only so come to light."""
    texts = [word.text for word in reading.words]
    closed = [any(e.start < word.end and word.start < e.end for e in expressions) for word in reading.words]
    joints = [
        any(e.start == word.start and e.label in ("conj", "comma") for e in expressions) for word in reading.words
    ]
    for i in range(1, len(texts) - 1):  # "a red and blue ball" is one
        closed[i] &= not (
            joints[i] and is_attribute(texts[i - 1], proper=True) and is_attribute(texts[i + 1], proper=True)
        )
    phrases: list[Phrase] = []
    heads = {head: first for first, head in reading.phrases}
    for first, head in reading.phrases:
        if first == head and category_of(texts[head : head + 1]) is None:
            behind = heads.get(first - 1)
            if behind is not None and category_of(texts[behind:first]) or texts[first - 1] in _BE:
                continue  # "a bird | soars", "is | parking"
        verb = texts[head].endswith("s") and head - first > 1 and closed[min(head + 1, len(texts) - 1)]
        if verb and category_of(texts[first : head + 1]) is None and category_of(texts[first:head]):
            head -= 1  # "an oven floats above a bed"
        runs = [list(run) for shut, run in itertools.groupby(range(first, head + 1), lambda i: closed[i]) if not shut]
        if runs and (runs[-1][-1] == head or category_of(texts[runs[-1][0] : runs[-1][-1] + 1])):
            phrases.append((runs[-1][0], runs[-1][-1]))
    for first, head in sorted(_names(texts, closed, phrases)):
        phrases = [phrase for phrase in phrases if phrase[1] < first or head < phrase[0]] + [(first, head)]
    return replace(reading, phrases=tuple(sorted(phrases, key=lambda phrase: phrase[1])))


def _names(texts: Sequence[str], closed: Sequence[bool], phrases: Sequence[Phrase]) -> Iterable[Phrase]:
    """Categories that are not in a phrase: behind a determiner or where something begins, and before no noun."""
    taken = {i for first, head in phrases for i in range(first, head + 1)}
    at = 0
    while at < len(texts):
        ends = [end for end in range(min(len(texts), at + LONGEST), at, -1) if not any(closed[at:end])]
        end = next((end for end in ends if (name := category_of(texts[at:end])) and name[1] == end - at), None)
        if texts[at] in ("a", "an", "the") and not closed[at] and not taken & {at, at + 1}:
            # What follows a determiner is a noun, whatever the parser says: "above a painting".
            run = itertools.takewhile(
                lambda i: not closed[i] and texts[i].isalpha() and i not in taken and texts[i] not in _BE,
                range(at + 1, len(texts)),
            )
            inside = list(run)[:4]
            last = inside[-1] if inside else at
            if (
                inside
                and len(inside) < 4
                and last + 1 not in taken
                and texts[last] not in NO_THINGS
                and not any(category_of(texts[i : i + 1]) for i in inside)
            ):
                yield (at, last)
                at = last + 1
                continue
        if end is None or taken & set(range(at, end)) or (end < len(texts) and end in taken and not closed[end]):
            at += 1
            continue
        first = at
        while first > 0 and not closed[first - 1] and first - 1 not in taken and is_attribute(texts[first - 1]):
            first -= 1
        begins = first < at or first == 0 or closed[first - 1] or not texts[first - 1][0].isalnum()
        ends_there = end == len(texts) or closed[end] or not texts[end][0].isalnum() or texts[end] in ("there", "is")
        if begins and (ends_there or first < at):
            yield (first, end - 1)
        at = end


def _with_portions(reading: Reading) -> tuple[Reading, dict[int, int]]:
    """ "A slice of pizza" and names like "the Statue of Liberty" as one phrase.

    Returns the reading, and the last word of phrases that go on behind their head: "a glass | of milk".
    """
    phrases, tails = list(reading.phrases), {}
    words = reading.words
    for one, other in itertools.pairwise(reading.phrases):
        if other[0] != one[1] + 2 or words[one[1] + 1].text != "of" or one not in phrases:
            continue
        texts = [word.text for word in words[one[0] : one[1] + 1]]
        whole, part = category_of(texts), category_of([word.text for word in words[other[0] : other[1] + 1]])
        name = reading.sentence[words[one[1]].start].isupper() and reading.sentence[words[other[0]].start].isupper()
        if texts[-1] not in MEASURES and not name and not singulars(texts[-1]):
            continue
        thing = part is not None and part[0] not in BACKDROPS
        if whole and thing and not name:
            continue  # a bowl and the oranges in it
        phrases.remove(other)
        if thing and not whole and not name:
            phrases[phrases.index(one)] = (one[0], other[1])
        else:
            tails[one[1]] = other[1]
    return replace(reading, phrases=tuple(phrases)), tails


def _same_again(groups: Sequence[Group], text: str) -> list[Group]:
    """Groups joined where a clause takes up the end of the one before: "left of a dog, a dog is left of a bus"."""
    order = sorted((mention for group in groups for mention in group), key=lambda mention: mention.head)
    joined = list(groups)
    for one, other in itertools.pairwise(order):
        between = text[one.span[1] : other.span[0]].removesuffix(" ".join(other.words[:-1]) + " ")
        following = re.match(r"\s*(?:is|are|left|right|above|below|on|to)\b", text[other.span[1] :])
        first = next(group for group in joined if one in group)
        second = next(group for group in joined if other in group)
        taken_up = (
            one is not order[0]
            and one.words == other.words
            and following
            and between.strip() in (",", ".", ", and", "and")
        )
        if taken_up and first is not second:
            first += second
            joined = [group for group in joined if group is not second]
    return joined


def _whole(mention: Mention, text: str, reading: Reading, tails: dict[int, int]) -> Mention:
    start = reading.words[max(0, mention.first)].start
    if mention.head in tails:
        return replace(mention, text=text[start : reading.words[tails[mention.head]].end])
    same = mention.text.lower() == text[start : mention.span[1]].lower()
    return replace(mention, text=text[start : mention.span[1]]) if same else mention


def _items(
    reading: Reading, groups: Sequence[Group], pronouns: dict[int, list[tuple[int, int]]], found: Sequence[Expression]
) -> list[Item]:
    """Nouns, pronouns, expressions, marks and other words in their order."""
    meant = {span[0]: number for number, spans in pronouns.items() for span in spans}
    items: list[Item] = []
    taken: set[int] = set()
    ends: dict[int, str] = {}
    for number, group in enumerate(groups):
        for mention in group:
            words = reading.words[mention.first : mention.head + 1]
            bare = words[0].text not in ("a", "an", "the", "one", "another") and words[0].text not in NUMBERS
            backdrop = mention.name in BACKDROPS
            medium = mention.name in NO_THINGS and mention.first == 0  # "collage, left a cat"
            label = "word" if medium else "noun"
            if mention.name in NO_THINGS and words[0].text in PRONOUNS:  # "above her head"
                label, number = "pronoun", meant.get(words[0].start, number)
            items.append(Item(label, words[0].start, number, bare=bare, backdrop=backdrop))
            taken |= {word.start for word in words}
            if mention.text.lower().endswith(words[-1].text):  # not "a glass | of milk", which is whole
                ends[words[-1].end] = words[-1].text
    for expression in found:
        items.append(Item(expression.label, expression.start, expression=expression))
    for word in reading.words:
        inside = next((e for e in found if e.start <= word.start < e.end), None)
        if word.text in PRONOUNS and word.start not in taken and (inside is None or inside.label == "its"):
            items.append(Item("pronoun", inside.end - 1 if inside else word.start, meant.get(word.start)))
        elif word.start not in taken and inside is None:
            filled = word.text == "of" and ends.get(word.start - 1, "") in MEASURES  # "a bowl of oranges"
            items.append(Item("contains" if filled else "word", word.start))
    return sorted(items, key=lambda item: item.start)


PRONOUNS = frozenset(["it", "its", "they", "them", "their", "he", "him", "his", "she", "her"])


def _counts(group: Group, number: int, facts: Facts, stated: set[int], all_nouns: bool) -> bool:
    """Whether a noun is an object: COCO's, and what stands in a fact; a backdrop only where a direction places it."""
    name = group[0].name  # a category, or the noun
    if group[0].words[0] in ("its", "their") and category_of(group[0].words) is None:
        return False
    if number in facts.denied or name in NO_THINGS or len(name) < 3 and category_of([name]) is None:
        return False
    if name in BACKDROPS:
        return number in facts.directed
    return all_nouns or number in stated or category_of(group[0].words) is not None


def _expanded(
    text: str,
    groups: Sequence[Group],
    pronouns: dict[int, list[tuple[int, int]]],
    kept: Sequence[int],
    stated: Facts,
    expressions: Sequence[Expression],
    notes: list[str],
) -> Understood:
    """The objects as many as the sentence counts, and the facts over them."""
    objects: list[FoundObject] = []
    places: dict[int, list[int]] = {}
    for number in kept:
        if len(objects) >= _MOST_OBJECTS:
            notes.append(f'no object for "{groups[number][0].text}": {_MOST_OBJECTS} are the most')
            continue
        item = found_object(groups[number], pronouns.get(number, ()))
        word = groups[number][0].words[-1]
        plural_of = singulars(word) or [word[:-1]] * (word.endswith("s") and category_of([word[:-1]]) is not None)
        single = plural_of or [word]  # "two sheep"
        count = max(_count(groups[number][0], text, expressions), stated.copies.get(number, 1) if plural_of else 1)
        if count > 1:
            words = [w for w in item.phrase.split()[:-1] if w.lower() not in {*NUMBERS, "the", "of", "these", "those"}]
            words = [w for w in words if not w.isdigit()]
            item = replace(item, phrase=with_article(" ".join((*words, single[0]))))
            if item.name == word and category_of(groups[number][0].words) is None:
                item = replace(item, name=single[0])
        places[number] = list(range(len(objects), len(objects) + count))
        objects += [item] * count
    facts = [fact for group in stated.facts for fact in _copied(group, places)]
    copies = tuple(tuple(some) for some in places.values() if len(some) > 1)
    return Understood(text, tuple(objects), tuple(dict.fromkeys(facts)), copies, tuple(dict.fromkeys(notes)))


def _count(mention: Mention, text: str, expressions: Sequence[Expression]) -> int:
    """How many a mention says there are; 1 where it says nothing, or more than can be placed."""
    return next((count for count in _said(mention, text, expressions) if count <= _MOST), 1)


def _said(mention: Mention, text: str, expressions: Sequence[Expression]) -> list[int]:
    words = [*mention.words[:-1]]
    start = mention.span[1] - len(mention.text)
    before = [e for e in expressions if e.label == "count" and e.end <= start + 1 and start - e.end <= 2]
    words += [word for e in before for word in plain(e.text).split()]
    words += re.findall(r"(\w+) $", text[:start].lower())
    numbers = (int(word) if word.isdigit() else NUMBERS.get(word, 0) for word in words)
    return [number for number in numbers if 0 < number < 1000][:1]


def _copied(fact: Fact, places: dict[int, list[int]]) -> list[Fact]:
    """A fact over nouns as facts over objects."""
    if any(number not in places for number in fact.objects):
        return []
    some = [places[number] for number in fact.objects]
    if fact.kind == "line":
        return [replace(fact, objects=tuple(itertools.chain(*some)))]
    if fact.kind == "between":
        others = list(itertools.chain(*some[1:]))
        return [replace(fact, objects=(one, *others[:2])) for one in some[0]] if len(others) > 1 else []
    if fact.kind == "around":
        around = zip(some[0], ("left of", "right of", "above", "below"), strict=False)
        return [Fact(kind, (one, some[1][0])) for one, kind in around]
    kind = "near" if fact.kind == "inside" and max(map(len, some)) > 1 else fact.kind
    if kind == "near":
        some = [objects[:2] for objects in some]
    return [replace(fact, kind=kind, objects=objects) for objects in itertools.product(*some)]
