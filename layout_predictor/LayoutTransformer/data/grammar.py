"""Random sentences with objects, stated relations and centers that satisfy them.

A story starts with an opening clause and goes on with clauses that add objects, relate them to earlier ones
by name or by pronoun, or only fill. A pronoun that could mean several objects states its relation to all of
them: whichever the reader has in mind, the layout is then right.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import numpy as np

from layout_predictor.LayoutTransformer.data import lexicon
from layout_predictor.LayoutTransformer.data.sample import Sample
from layout_predictor.LayoutTransformer.data.scene import place
from layout_predictor.LayoutTransformer.data.story import Pattern, Story, read_patterns
from layout_predictor.LayoutTransformer.data.wordlists import word_file
from ldm.relations import ABOVE, AXIS_SIGN, BELOW, HORIZONTAL, LEFT, OPPOSITE, RELATIONS, RIGHT, VERTICAL

_MENTION_LAST = 0.5  # how often the last mention of an object is the one that is marked for sure; else any
_SKIP_UNSTATED = 0.6  # sentences without a relation teach little
_UNMARKED = 0.15  # how often one noun phrase of a story is not marked as an object
_FIRST_VERB = re.compile(r"\{([A-D])\.(?:be|sit|have)\}")
_FIXED_RELATIONS = {"a": ABOVE, "u": BELOW, "l": LEFT, "g": RIGHT}  # how `states` spells a given relation


_PATTERNS = {kind: read_patterns(lines) for kind, lines in word_file("patterns").items()}
_OPENERS = {n: [p for p in _PATTERNS["openers"] if len(p.roles) == n] for n in (1, 2, 3, 4)}
_SIMPLE = [p for p in _OPENERS[2] if p.text.endswith("{r} {B}") and p.roles == ["A", "B"]]
_PERSON = {n: [p for p in _PATTERNS["person_openers"] if len(p.roles) == n] for n in (2, 3)}


def _draw(rng: random.Random, patterns: Sequence[Pattern]) -> Pattern:
    return rng.choices(patterns, weights=[pattern.weight for pattern in patterns])[0]


def _relations_for(pattern: Pattern, rng: random.Random) -> dict[str, str]:
    """A relation for every relation slot of a pattern."""
    names = ("r", "r1", "r2", "r3", "b", "c")
    chosen = {name: rng.choice(RELATIONS) for name in names} | _FIXED_RELATIONS
    chosen["b"] = rng.choice(RELATIONS if "{b.A}" in pattern.text else HORIZONTAL)
    chosen["c"] = OPPOSITE[chosen["b"]]
    if pattern.only == "side":
        chosen["r"] = rng.choice(HORIZONTAL)
    elif pattern.only == "vertical":
        chosen["r"] = rng.choice(VERTICAL)
    elif pattern.only == "level":
        chosen["r1"], chosen["r2"] = rng.choice(VERTICAL), rng.choice(HORIZONTAL)
    elif pattern.only == "apart":
        while AXIS_SIGN[chosen["r1"]][0] == AXIS_SIGN[chosen["r2"]][0]:
            chosen["r2"] = rng.choice(RELATIONS)
    return chosen


def _try(story: Story, pattern: Pattern, roles: dict[str, int]) -> bool:
    """Say `pattern` with random relations, if what it states fits what was stated before."""
    return any(story.tell(pattern, roles, _relations_for(pattern, story.rng)) for _ in range(4))


def _open(story: Story, count: int) -> None:
    """The first clause, with up to three objects of `count`."""
    rng = story.rng
    size = min(count, rng.choices((1, 2, 3, 4), weights=(12, 56, 24, 8))[0])
    if size in _PERSON and rng.random() < 0.26:
        person = story.new_thing(person=True)
        roles = {"P": person, "A": story.new_thing()}
        pattern = _draw(rng, _PERSON[size])
        if size == 3:
            roles["B"] = story.new_thing()
        if _try(story, pattern, roles):
            story.subject = person
            return
    while len(story.things) < size:
        if size == 2 == count and len(story.things) == 1 and rng.random() < 0.08:
            story.twin_of(0)
        else:
            story.new_thing()
    pattern = _draw(rng, _OPENERS[size])
    order = list(range(size))
    rng.shuffle(order)
    while not (_prepare(story, pattern, count) and _try(story, pattern, dict(zip("ABCD", order, strict=False)))):
        pattern = _draw(rng, _OPENERS[size])
    # The grammatical subject is the role that has the first verb: "To the left of B stands A" is about A.
    verb = _FIRST_VERB.search(pattern.text)
    story.subject = order["ABCD".index(verb.group(1))] if verb else story.mentioned[0]


def _prepare(story: Story, pattern: Pattern, count: int) -> bool:
    """Make the two objects of "two cats" alike; False where the story has other objects, too."""
    twins = ".two}" in pattern.text
    if twins and count == 2:
        story.make_twins()
    return not twins or count == 2


def _follow(story: Story, left: int) -> None:
    """A later clause that relates a new object to an earlier one, or two earlier ones to each other."""
    rng = story.rng
    old = [i for i in story.mentioned if story.things[i].unique] or story.mentioned[:1]
    if len(old) >= 2 and rng.random() < 0.14:
        _follow_old(story)
        return
    if (left >= 2 and rng.random() < 0.25) or (len(old) >= 2 and rng.random() < 0.15):
        _follow_two(story, old, paired=left >= 2)
        return
    other = story.subject if rng.random() < 0.4 else story.last if rng.random() < 0.4 else rng.choice(old)
    roles = {"O": other, "S": story.subject, "L": story.last}
    models = [i for i in old if i not in roles.values() and story.things[i].unique]
    new = story.twin_of(rng.choice(models)) if models and rng.random() < 0.08 else story.new_thing()
    roles["N"] = new
    for _ in range(5):
        pattern = _draw(rng, _PATTERNS["followers"])
        if _try(story, pattern, roles):
            if pattern.text.startswith((".", ";")):
                story.subject = new if "{N} {N" in pattern.text else other
            return
    twin = story.things.pop()
    for thing in story.things:
        thing.unique |= thing.noun == twin.noun


def _follow_two(story: Story, old: list[int], *, paired: bool) -> None:
    """A later clause with two new objects, or with one that is related to two earlier ones."""
    rng = story.rng
    before = len(story.things)
    roles = {"N": story.new_thing(), "O": rng.choice(old), "L": story.last}
    pattern = _draw(rng, _PATTERNS["paired_followers"])
    if paired:
        roles["M"] = story.new_thing()
    else:
        roles["Q"] = rng.choice([i for i in old if i != roles["O"]])
        pattern = _draw(rng, _PATTERNS["double_followers"])
    if not _try(story, pattern, roles):
        del story.things[before:]


def _extra(story: Story, left: int) -> None:
    """Objects without a relation."""
    rng = story.rng
    roles = {"N": story.new_thing(), "O": rng.choice(story.mentioned)}
    kind = "extras"
    if left >= 2 and rng.random() < 0.5:
        roles["M"] = story.new_thing()
        kind = "paired_extras"
    pattern = _draw(rng, _PATTERNS[kind])
    _try(story, pattern._replace(text=pattern.text.replace("{near}", rng.choice(lexicon.PHRASES["near"]))), roles)


def tell_simply(rng: random.Random) -> Story:
    """One clause that relates two objects: what training starts with.

    Who is left is the exclusive or of word and order, which is found only after a long plateau. With "left of" and
    "above" more frequent, the order alone tells something.
    """
    story = Story(rng)
    roles = {"A": story.new_thing(), "B": story.new_thing()}
    relation = rng.choice((LEFT, ABOVE)) if rng.random() < 0.6 else rng.choice(RELATIONS)
    story.tell(_draw(rng, _SIMPLE), roles, {"r": relation})
    if rng.random() < 0.88:
        story.say(".")
    return story


def tell(rng: random.Random) -> Story:
    """A whole story of one to five objects."""
    story = Story(rng)
    count = rng.choices((1, 2, 3, 4, 5), weights=(4, 32, 30, 19, 15))[0]
    if rng.random() < 0.04:
        story.say_words(rng.choice(lexicon.PHRASES["places"]))
        story.say(",")
    _open(story, count)
    if rng.random() < 0.1:
        story.say_words(", " + lexicon.tail(rng))
    extra_rate = rng.choice((0.1, 0.35, 0.6))
    for _ in range(10):
        left = count - len(story.things)
        if left <= 0:
            break
        if rng.random() < extra_rate:
            _extra(story, left)
        else:
            _follow(story, left)
    if rng.random() < 0.15 and len(story.things) > 1:
        _follow_old(story)
    _close(story)
    return story


def _follow_old(story: Story) -> None:
    old = [i for i in story.mentioned if story.things[i].unique]
    if len(old) >= 2:
        one, other = story.rng.sample(old, 2)
        for _ in range(3):  # new ground is commoner than a second relation of the same two
            if any(set(edge[::2]) == {one, other} for edge in story.edges):
                one, other = story.rng.sample(old, 2)
        _try(story, _draw(story.rng, _PATTERNS["repeats"]), {"O": one, "Q": other})


def _close(story: Story) -> None:
    rng = story.rng
    draw = rng.random()
    if draw < 0.22:
        story.say_words(", " + lexicon.tail(rng))
    elif draw < 0.3:
        story.say_words(rng.choice(lexicon.PHRASES["places"]))
    elif draw < 0.34:
        thing = rng.choice(story.things)
        story.say_words(f", {thing.pronouns[2]} {lexicon.made_up_word(rng)} {lexicon.tail(rng)}")
    elif draw < 0.37:
        story.say_words(f". The {lexicon.made_up_word(rng)} {lexicon.idle(rng, False)}")
    if rng.random() < 0.88:
        story.say(".")


def generate(seed: int, index: int, *, simple: bool = False) -> Sample:
    """Sentence number `index` of the endless series `seed`; with `simple` a single clause about two objects."""
    for attempt in range(100):
        rng = random.Random(f"{seed}/{index}/{attempt}")
        story = tell_simply(rng) if simple else tell(rng)
        draws = np.random.default_rng(rng.getrandbits(64))
        # Number objects in the order in which they are first mentioned: the layout's left-to-right default.
        order = {thing: number for number, thing in enumerate(story.mentioned)}
        edges = tuple(sorted((order[a], relation, order[b]) for a, relation, b in story.edges))
        regions = tuple(sorted((order[i], region) for i, region in story.regions))
        centers = place(len(order), edges, regions, draws)
        if centers is None or (not edges and rng.random() < _SKIP_UNSTATED):
            continue
        things = [story.things[i] for i in story.mentioned]
        marked = [thing.spans[-1] if rng.random() < _MENTION_LAST else rng.choice(thing.spans) for thing in things]
        sample = Sample(story.text, tuple(marked), edges, centers, tuple(thing.noun.name for thing in things))
        return _unmark(rng, sample) if rng.random() < _UNMARKED else sample
    raise RuntimeError(f"the grammar found no layout for sentence {index}")


def _unmark(rng: random.Random, sample: Sample) -> Sample:
    """The sample without one of its objects, which stays in the text: not every noun is an object."""
    assert sample.centers is not None
    if len(sample.spans) < 3:
        return sample
    gone = rng.randrange(len(sample.spans))
    kept = [i for i in range(len(sample.spans)) if i != gone]
    return Sample(
        sample.text,
        tuple(sample.spans[i] for i in kept),
        tuple((kept.index(a), relation, kept.index(b)) for a, relation, b in sample.relations if gone not in (a, b)),
        sample.centers[kept],
        tuple(sample.names[i] for i in kept),
    )
