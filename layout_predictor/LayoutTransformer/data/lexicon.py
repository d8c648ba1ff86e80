"""Random words of the grammar, from `words/lexicon.yaml` and `words/relations.yaml`."""

from __future__ import annotations

import random
from dataclasses import dataclass

from layout_predictor.LayoutTransformer.data.categories import STUFF_NOUNS, THINGS, regular_plural
from layout_predictor.LayoutTransformer.data.wordlists import phrases, word_file
from ldm.relations import HORIZONTAL, LEFT

_FILE, _SAID = word_file("lexicon"), word_file("relations")
WORDS = {key: text.split() for key, text in _FILE["words"].items()}
PHRASES = {key: phrases(text) for key, text in _FILE["phrases"].items()}
SLOTS = {"place": PHRASES["places"], **{name: phrases(text) for name, text in _FILE["slots"].items()}}

Forms = tuple[str, str, str]  # of a verb: present singular, present plural, past


def _forms(text: str) -> list[Forms]:
    return [(one, many, past) for one, many, past in (verb.split("/") for verb in phrases(text))]


VERBS = _forms(_FILE["verbs"])  # of posture and motion
RELATING = {relation: _forms(text) for relation, text in _SAID["verbs"].items()}  # they say the relation themselves
_SAYINGS = {
    kind: {key: phrases(text) for key, text in _SAID[kind].items()} for kind in ("full", "bare", "further", "alone")
}
_ABOUT_SIDE = phrases(_SAID["about_side"])


@dataclass(frozen=True)
class Noun:
    """A countable thing as it is named; `head` is its last word."""

    head: str
    modifiers: tuple[str, ...] = ()
    plural: bool = False
    mass: bool = False
    person: bool = False

    @property
    def name(self) -> str:
        """Whole name, as it is written after the determiner."""
        return " ".join((*self.modifiers, self.head))


def made_up_word(rng: random.Random) -> str:
    """A pronounceable word that (mostly) means nothing, so that structure has to carry the meaning."""
    count = rng.choice((1, 2, 2, 2, 3))
    return "".join(
        rng.choice(WORDS["onsets"]) + rng.choice(WORDS["vowels"]) + rng.choice(PHRASES["codas"]) for _ in range(count)
    )


def make_noun(rng: random.Random) -> Noun:
    """A random noun: COCO things, COCO stuff, other nouns, or made up (about one in six)."""
    draw = rng.random()
    if draw < 0.11:
        word = "person" if rng.random() < 0.5 else rng.choice(WORDS["people"])
        return Noun(word, person=True)
    if draw < 0.52:
        name = rng.choice(THINGS).split()
    elif draw < 0.58:
        name = [rng.choice(STUFF_NOUNS)]
    elif draw < 0.83:
        name = [rng.choice(WORDS["nouns"])]
    else:
        name = [made_up_word(rng)]
    if len(name) == 1 and rng.random() < 0.08:
        name.insert(0, rng.choice(WORDS["first_parts"]) if rng.random() < 0.7 else made_up_word(rng))
    head = name[-1]
    plural = head in WORDS["always_plural"]
    if not plural and rng.random() < 0.05 and head not in WORDS["mass"]:
        head, plural = regular_plural(head), True
    mass = head in WORDS["mass"] and rng.random() < 0.4
    return Noun(head, tuple(name[:-1]), plural=plural, mass=mass, person=head in WORDS["people"])


def attributes(rng: random.Random) -> tuple[str, ...]:
    """None, one or two attributes."""
    draw = rng.random()
    if draw < 0.5:
        return ()
    pool = WORDS["colors"] if rng.random() < 0.65 else WORDS["attributes"]
    first = made_up_word(rng) if rng.random() < 0.04 else rng.choice(pool)
    if draw < 0.92:
        return (first,)
    second = rng.choice(WORDS["colors"])
    return (first, second) if second != first else (first,)


def tail(rng: random.Random) -> str:
    """A participle clause that says nothing about positions: "creating a stark contrast in the room"."""
    text = f"{rng.choice(WORDS['filler_verbs'])} {rng.choice(('a', 'the', 'its own', 'some'))} "
    if rng.random() < 0.7:
        text += rng.choice(WORDS["filler_adjectives"]) + " "
    text += rng.choice(WORDS["filler_nouns"]) if rng.random() < 0.85 else made_up_word(rng)
    draw = rng.random()
    if draw < 0.25:
        text += f" of {rng.choice(WORDS['filler_nouns'])}"
    elif draw < 0.45:
        text += f" to the {rng.choice(WORDS['filler_nouns'])}"
    elif draw < 0.55:
        text += " between the two"
    elif draw < 0.7:
        text += " " + rng.choice(PHRASES["places"])
    return text


def idle(rng: random.Random, plural: bool) -> str:
    """A verb phrase that says nothing about positions: "looks happy". Plural subjects get a past form."""
    if plural:
        return rng.choice(("waited", "looked " + rng.choice(WORDS["filler_adjectives"]), "shone", "stood out"))
    if rng.random() < 0.3:
        return rng.choice(PHRASES["idle_plain"])
    return rng.choice(PHRASES["idle"]).format(
        adj=rng.choice(WORDS["filler_adjectives"]), noun=rng.choice(WORDS["filler_nouns"])
    )


def side_word(relation: str) -> str:
    """ "left" or "right"."""
    return "left" if relation == LEFT else "right"


def say(rng: random.Random, kind: str, relation: str) -> str:
    """A relation in words.

    Args:
        kind: "full", a preposition that wants a noun phrase after it; "bare", with its object left unsaid; "further",
            beyond what was named last; "alone", a place in the image.
    """
    said = _SAYINGS[kind]
    return rng.choice(said[relation] if relation in said else said["side"]).format(s=side_word(relation))


def about(rng: random.Random, relation: str, it: str, its: str) -> str:
    """The relation to a pronoun: "to its left", "beneath them"."""
    if relation in HORIZONTAL:
        return rng.choice(_ABOUT_SIDE).format(s=side_word(relation), it=it, its=its)
    return f"{say(rng, 'full', relation)} {it}"
