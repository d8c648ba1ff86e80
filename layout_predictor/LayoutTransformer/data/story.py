"""Filling patterns: noun phrases, agreement, pronouns, and where every mention stands in the text."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from layout_predictor.LayoutTransformer.data import lexicon
from layout_predictor.LayoutTransformer.data.categories import plural
from layout_predictor.LayoutTransformer.data.scene import Edge
from ldm.relations import AXIS_SIGN, HORIZONTAL, OPPOSITE, article

_SLOT = re.compile(r"\{([^}]*)\}")
_NO_SPACE_BEFORE = {",", ".", ";", ":", "'s"}
_MENTIONS = ("one", "other", "former", "latter", "two")
MAX_CHAIN = 4  # objects in a row along one axis that still fit


class Pattern(NamedTuple):
    """A line of `words/patterns.yaml`: a text with slots, what it states, and how often it is drawn."""

    text: str
    states: str = "ArB"
    weight: int = 2
    only: str = ""
    regions: str = ""

    @property
    def roles(self) -> list[str]:
        """The objects that it is about, in alphabetical order."""
        names = (slot.split(".")[0] for slot in _SLOT.findall(self.text))
        return sorted({name for name in names if len(name) == 1 and name.isupper()})

    def statements(self, roles: dict[str, int], relations: dict[str, str]) -> list[tuple[str, Edge]]:
        """The key and the edge of each relation that it states, from "Ar1B Br2C"."""
        items = ((item[0], item[1:-1], item[-1]) for item in self.states.split())
        return [(key, (roles[a], relations[key], roles[b])) for a, key, b in items]


def read_patterns(lines: str) -> list[Pattern]:
    """Patterns, one a line: weight | text | states | only | regions."""
    found = []
    for line in lines.splitlines():
        weight, text, *rest = (cell.strip() for cell in line.split("|"))
        states, only, regions = ("" if cell == "-" else cell for cell in (*rest, *("ArB", "", "")[len(rest) :]))
        found.append(Pattern(text, states, int(weight), only, regions))
    return found


@dataclass
class Thing:
    """An object of the story."""

    noun: lexicon.Noun
    adjectives: tuple[str, ...]
    spans: list[tuple[int, int]] = field(default_factory=list)  # characters of the head noun, one per mention
    unique: bool = True  # no other object has its noun

    @property
    def pronouns(self) -> tuple[str, str, str]:
        """Subject, object, possessive."""
        if self.noun.head in lexicon.WORDS["he"]:
            return ("he", "him", "his")
        if self.noun.head in lexicon.WORDS["she"]:
            return ("she", "her", "her")
        return ("they", "them", "their") if self.noun.plural or self.noun.person else ("it", "it", "its")


class Reference(NamedTuple):
    """Words that leave open which object they mean: "to its left", "below", "they"."""

    key: str | None  # of the relation in the pattern, None for all of its relations
    meant: int  # the object that the pattern has in mind
    candidates: list[int]  # all that a reader could take it for
    bare: bool  # nothing is said where that object could stand ("to the left"), and `meant` is the one that is placed


class Story:
    """A text in the making: what was said, of whom, and where."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.past = rng.random() < 0.5
        self.definite = rng.choice((0.1, 0.5, 0.9))  # how often a new object comes with "the"
        self.pronoun_rate = rng.choice((0.15, 0.5, 0.85))
        self.things: list[Thing] = []
        self.mentioned: list[int] = []
        self.edges: list[Edge] = []
        self.regions: list[tuple[int, str]] = []
        self.text = ""
        self._capital = rng.random() > 0.12
        self._next_capital = self._capital
        self.subject = 0
        self.last = 0
        self.references: list[Reference] = []  # of the pattern that was filled last

    def new_thing(self, *, person: bool = False) -> int:
        """Add an object with a noun that no other has; return its index."""
        noun = lexicon.make_noun(self.rng)
        if person:
            noun = lexicon.Noun(self.rng.choice(("person", "person", *lexicon.WORDS["people"])), person=True)
        taken = {thing.noun.head for thing in self.things}
        while noun.head in taken:
            noun = lexicon.make_noun(self.rng)
        self.things.append(Thing(noun, lexicon.attributes(self.rng)))
        return len(self.things) - 1

    def twin_of(self, index: int) -> int:
        """Add another object with the noun of `index`."""
        self.things[index].unique = False
        self.things.append(replace(self.things[index], spans=[]))
        return len(self.things) - 1

    def make_twins(self) -> None:
        """Replace all objects by two of one noun without attributes, "two cats"."""
        noun = lexicon.make_noun(self.rng)
        while noun.plural or noun.mass:
            noun = lexicon.make_noun(self.rng)
        self.things = [Thing(noun, (), unique=False) for _ in range(2)]

    def _beyond(self, start: int, axis: int, way: int) -> set[int]:
        """Objects that what was stated puts after `start` on `axis` (right, below), or before it where `way` is -1."""
        on_axis = [(a, b, AXIS_SIGN[relation][1]) for a, relation, b in self.edges if AXIS_SIGN[relation][0] == axis]
        steps = [(a, b) if sign * way < 0 else (b, a) for a, b, sign in on_axis]
        found: set[int] = set()
        frontier = [start]
        while frontier:
            node = frontier.pop()
            new = {after for before, after in steps if before == node} - found - {start}
            found |= new
            frontier += new
        return found

    def can_state(self, a: int, relation: str, b: int) -> bool:
        """Whether "a relation b" fits what was stated before, with at most MAX_CHAIN objects in a row."""
        axis, sign = AXIS_SIGN[relation]
        low, high = (a, b) if sign < 0 else (b, a)
        after, before = self._beyond(high, axis, 1), self._beyond(low, axis, -1)
        return a != b and low not in after and len(before) + len(after) + 2 <= MAX_CHAIN

    def state(self, a: int, relation: str, b: int) -> None:
        """Record "a relation b"."""
        if (a, relation, b) not in self.edges:
            self.edges.append((a, relation, b))

    def say(self, text: str) -> tuple[int, int]:
        """Append words; return the characters they take."""
        if not text:
            return len(self.text), len(self.text)
        if self.text and text not in _NO_SPACE_BEFORE:
            self.text += " "
        if self._next_capital and text[0].isalpha():
            text, self._next_capital = text[0].upper() + text[1:], False
        start = len(self.text)
        self.text += text
        if text == ".":
            self._next_capital = self._capital
        return start, len(self.text)

    def noun_phrase(self, index: int) -> None:
        """Mention an object: in full the first time, "the ..." after that."""
        thing, rng = self.things[index], self.rng
        known = index in self.mentioned
        adjectives = list(thing.adjectives)
        if known:
            self.say("the")
            adjectives = adjectives if rng.random() < 0.35 else []
        else:
            self.say(self._determiner(index, adjectives))
            self.mentioned.append(index)
        shortened = known and rng.random() < 0.12  # "the glove" for a baseball glove
        for word in (*adjectives, *(() if shortened else thing.noun.modifiers)):
            self.say(word)
        thing.spans.append(self.say(thing.noun.head))
        self.last = index

    def _determiner(self, index: int, adjectives: list[str]) -> str:
        thing, rng = self.things[index], self.rng
        if not thing.unique and any(self.things[i].noun == thing.noun for i in self.mentioned):
            return rng.choice(("another", "another", "a second", "one more")) if not thing.noun.plural else "other"
        if index and self.text.endswith((",", " and")) and rng.random() < 0.08:
            return ""
        if rng.random() < self.definite:
            return "the"
        if thing.noun.plural or thing.noun.mass:
            return rng.choice(
                ("some", "", "two" if thing.noun.plural else "some", "a pair of" if thing.noun.plural else "")
            )
        if rng.random() < 0.04:
            return rng.choice(("one", "a single", "this", "that", "my", "his", "their", "a piece of", ""))
        return article((*adjectives, thing.noun.name)[0])

    def verb(self, index: int, forms: lexicon.Forms) -> str:
        """The form that agrees with an object in this story's tense."""
        return forms[2] if self.past else forms[1] if self.things[index].noun.plural else forms[0]

    def tell(self, pattern: Pattern, roles: dict[str, int], relations: dict[str, str]) -> bool:
        """Say a pattern and record what it states; False, and nothing, where that does not fit what was said."""
        before = len(self.edges)
        for _, edge in pattern.statements(roles, relations):
            if not self.can_state(*edge):
                del self.edges[before:]
                return False
            self.state(*edge)
        regions = pattern.regions or ("Ar Br-" if "{r.alone}" in pattern.text else "")
        for item in regions.split():
            relation = relations[item[1]]
            self.regions.append((roles[item[0]], OPPOSITE[relation] if item.endswith("-") else relation))
        self._fill(pattern, roles, relations)
        self._share(pattern, roles, relations)
        return True

    def _share(self, pattern: Pattern, roles: dict[str, int], relations: dict[str, str]) -> None:
        """State what was said of a pronoun, or of nothing ("to the left"), of its other possible meanings too."""
        for key, edge in pattern.statements(roles, relations):
            for reference in self.references:
                if reference.key not in (None, key) or reference.meant not in edge[::2]:
                    continue
                first = (edge[0] == reference.meant) != reference.bare  # which end could be another object
                for other in reference.candidates:
                    shared = (other, *edge[1:]) if first else (*edge[:2], other)
                    if other not in edge[::2] and self.can_state(*shared):
                        self.state(*shared)

    def _fill(self, pattern: Pattern, roles: dict[str, int], relations: dict[str, str]) -> None:
        position, self.references = 0, []
        for match in _SLOT.finditer(pattern.text):
            self.say_words(pattern.text[position : match.start()])
            self._slot(match.group(1), roles, relations)
            position = match.end()
        self.say_words(pattern.text[position:])

    def say_words(self, text: str) -> None:
        """Append words separated by blanks."""
        for word in text.split():
            self.say(word)

    def _slot(self, slot: str, roles: dict[str, int], relations: dict[str, str]) -> None:
        name, *rest = slot.rstrip("?").split(".")
        if slot.endswith("?") and self.rng.random() < 0.5:
            return
        if name in roles:
            if rest and rest[0] in _MENTIONS:
                self._mention(roles[name], rest[0])
            elif rest:
                self._about_role(roles[name], rest[0])
            else:
                self.noun_phrase(roles[name])
        elif name.rstrip("-") in relations:
            key = name.rstrip("-")
            relation = OPPOSITE[relations[key]] if name.endswith("-") else relations[key]
            self._relation(relation, rest, roles, key)
        else:
            self.say_words(self._free(name, rest, roles, relations))

    def _mention(self, index: int, what: str) -> None:
        """Mention an object without its noun: "one", "the other", "former"; or both twins: "two cats"."""
        thing = self.things[index]
        if what == "two":
            self.say_words(f"two {plural(thing.noun.name)}")
            return
        if what == "other":
            self.say("the")
        thing.spans.append(self.say(what))
        if index not in self.mentioned:
            self.mentioned.append(index)
        self.last = index

    def _refer(self, key: str | None, meant: int, like: int | None = None) -> None:
        """Note words that could also mean other objects; with `like` only those with its pronouns."""
        others = [i for i in self.mentioned if like is None or self.things[i].pronouns == self.things[like].pronouns]
        self.references.append(Reference(key, meant, others, like is None))

    def _about_role(self, index: int, what: str) -> None:
        they, it, its = self.things[index].pronouns
        if what == "they":
            self._refer(None, index, like=index)
        verb = self.verb(index, self.rng.choice(lexicon.VERBS))
        many = self.things[index].noun.plural or (they == "they" and self.text.endswith(("They", "they")))
        be = ("were" if many else "was") if self.past else ("are" if many else "is")
        have = self.verb(index, ("has", "have", "had"))
        self.say_words({"be": be, "have": have, "sit": verb, "they": they, "it": it, "its": its}[what])

    def _relation(self, relation: str, rest: list[str], roles: dict[str, int], key: str) -> None:
        rng = self.rng
        if not rest:
            self.say_words(lexicon.say(rng, "full", relation))
        elif rest[0] in ("bare", "further", "alone", "there"):
            self.say_words(lexicon.say(rng, rest[0].replace("there", "alone"), relation))
            if rest[0] == "bare":
                self._refer(key, self.last)
        elif rest[0] == "verb":
            self.say_words(self.verb(roles[rest[1]], rng.choice(lexicon.RELATING[relation])))
        else:
            self._relation_to(relation, roles[rest[0]], key)

    def _relation_to(self, relation: str, index: int, key: str) -> None:
        """The relation to an object: to a pronoun if it was mentioned before, or to a noun phrase."""
        thing = self.things[index]
        if index in self.mentioned and (not thing.unique or self.rng.random() < self.pronoun_rate):
            _, it, its = thing.pronouns
            self.say_words(lexicon.about(self.rng, relation, it, its))
            self._refer(key, index, like=index)
            return
        if relation in HORIZONTAL and not thing.noun.plural and self.rng.random() < 0.05:
            self.say(self.rng.choice(("to", "to", "on")))
            self.noun_phrase(index)
            self.say_words(f"'s {lexicon.side_word(relation)}")
            return
        self.say_words(lexicon.say(self.rng, "full", relation))
        self.noun_phrase(index)

    def _free(self, name: str, rest: list[str], roles: dict[str, int], relations: dict[str, str]) -> str:
        rng = self.rng
        if name == "idle":
            return lexicon.idle(rng, self.things[roles[rest[0]]].noun.plural)
        if name.endswith("side"):
            return lexicon.side_word(relations[name[:-4] or "r"])
        word = rng.choice(lexicon.SLOTS[name])
        return f"{word} {rng.choice(lexicon.SLOTS['adv'])}" if name == "part" and rng.random() < 0.08 else word
