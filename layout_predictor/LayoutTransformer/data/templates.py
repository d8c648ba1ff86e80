"""Sentence patterns of the grammar.

Slots in braces, filled by `story.Story`:

    {A}            a noun phrase for role A (a determiner and attributes, or "the ..." once it was mentioned)
    {A.be} {A.have} {A.sit}   verbs that agree with A; {A.sit} is a random verb of posture or motion
    {A.they} {A.it} {A.its}   pronouns
    {r} {r1} ...   a relation that wants a noun phrase after it;  {r.bare} one that does not
    {r.A}          the relation to A, as a pronoun or a noun phrase: "to its left", "above the bus"
    {r.alone}      a place in the picture: "on the left side"
    {r.verb.A}     a verb that says the relation and agrees with A: "towers over"
    {part} {part?} a participle, always or sometimes; {adv?} an adverb; {place?} a place that says nothing
    {idle.A}       a verb phrase for A that says nothing;  {pic} "of the picture" or nothing
    {see} {agent} {put}   "you can see", "someone", "placed"

Each pattern comes with what it states: "ArB" for "A r B". Weights are counts.
"""

from __future__ import annotations

from typing import NamedTuple

from layout_predictor.LayoutTransformer.data.wordlists import phrases, words


class Pattern(NamedTuple):
    """A pattern, what it states, and how often it is drawn."""

    text: str
    states: str = "ArB"
    weight: int = 2
    only: str = ""  # "side", "vertical", or "apart" (two relations on different axes)


# The first clause: brings in its roles.
OPENERS = [
    Pattern("{A} {A.be} {adv?} {part?} {r} {B}", weight=30),
    Pattern("{A} {A.be} {adv?} {part} {r} {B}", weight=40),
    Pattern("{A} {A.sit} {adv?} {r} {B}", weight=22),
    Pattern("{r} {B} {A.be} {A}", weight=5),
    Pattern("{r} {B} {A.sit} {A}", weight=7),
    Pattern("{r} {B} , {A} {A.be} {part}", weight=4),
    Pattern("{r} {B} , there {A.be} {A}", weight=4),
    Pattern("{r} {B} {A.be} {part} {A}", weight=3),
    Pattern("{part} {r} {B} {A.be} {A}", weight=3),
    Pattern("there {A.be} {A} {part?} {r} {B}", weight=8),
    Pattern("{B} {B.have} {A} {part?} {r.B}", weight=7),
    Pattern("{B} {B.be} {part} {place?} , with {A} {part?} {r.B}", weight=18),
    Pattern("{B} {B.sit} {place?} , with {A} {part?} {r.B}", weight=14),
    Pattern("{B} with {A} {part?} {r.B}", weight=6),
    Pattern("with {A} {part?} {r.B} , {B} {B.sit} {place?}", weight=4),
    Pattern("{B} {idle.B} , with {A} {part?} {r.B}", weight=6),
    Pattern("{B} {idle.B} while {A} {A.sit} {r.B}", weight=6),
    Pattern("{B} {idle.B} and {A} {A.be} {part?} {r.B}", weight=5),
    Pattern("{see} {A} {part?} {r} {B}", weight=10),
    Pattern("{A} can be seen {r} {B}", weight=3),
    Pattern("{agent} {put} {A} {r} {B}", weight=7),
    Pattern("{A} {r} {B}", weight=14),
    Pattern("{A} {part} {r} {B}", weight=12),
    Pattern("{A} {r} {B} {idle.A}", weight=5),
    Pattern("{A} , {part} {r} {B} , {idle.A}", weight=4),
    Pattern("{A} , which {A.be} {part?} {r} {B} , {idle.A}", weight=3),
    Pattern("{A} that {A.be} {part?} {r} {B} {idle.A}", weight=3),
    Pattern("{A} and {B} {both} side by side , with {A} {r} {B}", weight=5),
    Pattern("{A} and {B} {both} together , with {A} {part?} {r} {B}", weight=5),
    Pattern("{A} and {B} {both} together , {B} {r.A}", weight=3, states="BrA"),
    Pattern("{A} {A.be} {r.alone} {pic} and {B} {B.be} {r-.alone}", weight=5),
    Pattern("{A} {r.alone} {pic} and {B} {r-.alone}", weight=5),
    Pattern("{A} {r.alone} , {B} {r-.alone}", weight=3),
    Pattern("{r.alone} {pic} {A.be} {A} and {r-.alone} {B.be} {B}", weight=3),
    Pattern("{r.alone} , {A} , {r-.alone} , {B}", weight=2),
    Pattern("{A} {A.be} {r.alone} {pic} , while {B} {B.be} {part?} {r-.alone}", weight=3),
    Pattern("{A} {r.verb.A} {B}", weight=8, only="vertical"),
    Pattern("{see} {A} , and {r.A} {B.be} {B}", weight=3, states="BrA"),
    Pattern("{see} {A} with {B} {part?} {r.A}", weight=5, states="BrA"),
    Pattern("{A} {A.be} {part} so that {B} {B.be} {r.A}", weight=3, states="BrA"),
    Pattern("look {r} {B} and you will find {A}", weight=2),
    Pattern("{r} {B} you can find {A}", weight=2),
    Pattern("to the {side} of {B} {A.be} {A} {part}", weight=3, only="side"),
    Pattern("{A} {pass} {B} on {B.its} {side}", weight=1, only="side"),
    Pattern("{A} {A.be} in the {middle} , with {B} {part?} {r.A}", weight=5, states="BrA"),
    Pattern("on {B} 's {side} {A.be} {A}", weight=2, only="side"),
    Pattern("{A} {A.be} to {B} 's {side}", weight=3, only="side"),
    Pattern("{A} , with {B} {r.bare}", weight=3, states="BrA"),
    Pattern("{A} {A.be} {part} {place?} , with {B} {part?} {r.bare}", weight=5, states="BrA"),
    Pattern("{A} {idle.A} , and {B} {B.be} {part?} {r.bare}", weight=3, states="BrA"),
    Pattern("{A} {A.be} {part?} {r1} and {r2} {B}", states="Ar1B Ar2B", weight=4, only="apart"),
    Pattern("{A} {A.be} {part?} {r1} {B} and {r2.B}", states="Ar1B Ar2B", weight=2, only="apart"),
    # three roles
    Pattern("{A} {A.be} {part?} {r1} {B} and {r2} {C}", states="Ar1B Ar2C", weight=16),
    Pattern("{A} {A.be} {part?} {r1} {B} , and {r2} {C}", states="Ar1B Ar2C", weight=8),
    Pattern("{A} {A.sit} {r1} {B} and {r2} {C}", states="Ar1B Ar2C", weight=6),
    Pattern("{A} {A.be} {part?} {r1} {B} but {r2} {C}", states="Ar1B Ar2C", weight=3),
    Pattern("{A} and {B} are {part?} {r} {C}", states="ArC BrC", weight=8),
    Pattern("both {A} and {B} {both} {r} {C}", states="ArC BrC", weight=3),
    Pattern("{r} {C} {both} {A} and {B}", states="ArC BrC", weight=2),
    Pattern("{A} {A.be} {part?} {r} {B} and {C}", states="ArB ArC", weight=5),
    Pattern("{A} {A.be} {part?} {r1} {B} , which {B.be} {part?} {r2} {C}", states="Ar1B Br2C", weight=14),
    Pattern("{A} {A.sit} {r1} {B} that {B.be} {part?} {r2} {C}", states="Ar1B Br2C", weight=7),
    Pattern("{A} , {part?} {r1} {B} , {A.be} {r2} {C}", states="Ar1B Ar2C", weight=3),
    Pattern("{A} , which {A.be} {part?} {r1} {B} , {A.be} {part?} {r2} {C}", states="Ar1B Ar2C", weight=4),
    Pattern("{A} {r1} {B} {A.be} {part?} {r2} {C}", states="Ar1B Ar2C", weight=4),
    Pattern("{A} {A.be} between {B} {b.A} and {C} {c.A}", states="BbA CcA", weight=5),
    Pattern("{A} {A.be} between {B} on the {bside} and {C} on the {cside}", states="BbA CcA", weight=4),
    Pattern("{A} {A.be} flanked by {B} on the {bside} and {C} on the {cside}", states="BbA CcA", weight=4),
    Pattern("{A} {A.have} {B} {b.A} and {C} {c.A}", states="BbA CcA", weight=6),
    Pattern("{A} {A.sit} {place?} , with {B} {b.A} and {C} {c.A}", states="BbA CcA", weight=8),
    Pattern("{A} {A.sit} {place?} , with {B} {r1.A} and {C} {r2.A}", states="Br1A Cr2A", weight=10),
    Pattern("{A} {A.be} {part} with {B} {r1.A} and {C} {r2.A}", states="Br1A Cr2A", weight=8),
    Pattern("{A} {A.be} {part} {r1} {B} , with {C} {part?} {r2} {B}", states="Ar1B Cr2B", weight=8),
    Pattern("{agent} {put} {A} {r1} {B} and {C} {r2.A}", states="Ar1B Cr2A", weight=2),
    Pattern("{A} {A.be} {part?} {r} both {B} and {C}", states="ArB ArC", weight=4),
    Pattern("{A} {A.be} {part?} between {B} and {C}", states="BlA CgA", weight=4),
    Pattern("{A} {A.be} sandwiched between {B} and {C}", states="BlA CgA", weight=1),
    Pattern("{A} {A.be} in the {middle} , with {B} {part?} {r1.A} and {C} {r2.A}", states="Br1A Cr2A", weight=5),
    Pattern("{A} {A.be} {part?} {place?} , with {B} {r1.A} and {C} {r2.bare}", states="Br1A Cr2A", weight=5),
    Pattern("{A} {A.be} {part} {r1} {B} and {C} {A.be} {r2.A}", states="Ar1B Cr2A", weight=2),
    # four roles
    Pattern("{A} {A.be} {part?} {r1} {B} , {r2} {C} , and {r3} {D}", states="Ar1B Ar2C Ar3D", weight=4),
    Pattern("{A} {A.be} {part?} {r1} {B} and {r2} {C} , with {D} {r3.A}", states="Ar1B Ar2C Dr3A", weight=3),
    Pattern("{A} {A.sit} {place?} , with {B} {r1.A} , {C} {r2.A} and {D} {r3.A}", "Br1A Cr2A Dr3A", weight=4),
    Pattern("{A} {A.be} {r1} {B} , while {C} {C.be} {part?} {r2} {D}", "Ar1B Cr2D", weight=6),
    Pattern("{A} {A.sit} {r1} {B} and {C} {C.sit} {r2} {D}", "Ar1B Cr2D", weight=3),
    Pattern("{A} {A.be} {part?} {r1} {B} , and {C} {C.be} {part?} {r2} {D}", "Ar1B Cr2D", weight=5),
    # nothing stated
    Pattern("{A} {A.be} {part} {place}", states="", weight=7),
    Pattern("{A} {idle.A}", states="", weight=5),
    Pattern("{see} {A}", states="", weight=4),
    Pattern("{A} and {B}", states="", weight=5),
    Pattern("{A} and {B} {both} {place}", states="", weight=6),
    Pattern("{A} , {B} and {C} {place?}", states="", weight=5),
    Pattern("{A} {A.be} {part} next to {B}", states="", weight=4),
    Pattern("{A} {A.be} in front of {B}", states="", weight=3),
    Pattern("{A} {A.sit} beside {B}", states="", weight=3),
]
# With a person P who holds or wears something; `states` as above.
PERSON_OPENERS = [
    Pattern("{P} {hold} {A} in {P.its} {side} hand", "ArP", 4, "side"),
    Pattern("{P} {P.be} holding {A} in {P.its} {side} hand", "ArP", 4, "side"),
    Pattern("{P} {P.be} {part?} {place} , holding {A} {r.P}", "ArP", 2),
    Pattern("{P} {hold} {A}", "", 4),
    Pattern("{P} {hold} {A} and {B}", "", 3),
    Pattern("{P} {P.be} holding {A} in {P.its} hand", "", 4),
    Pattern("{P} {hold} {A} {r} {B}", "ArB", 10),
    Pattern("{P} {put} {A} {r} {B}", "ArB", 6),
    Pattern("{P} {P.be} looking at {A} {part?} {r} {B}", "ArB", 3),
    Pattern("{P} {wear} {A}", "", 4),
    Pattern("{P} {wear} {A} and {P.have} {B} {part?} {r.P}", "BrP", 4),
    Pattern("{P} {wear} {A} and {hold} {B} {r.P}", "BrP", 3),
    Pattern("{P} {P.be} playing with {A} , throwing it {r} {B}", "ArB", 3),
    Pattern("{P} {P.be} standing on {A}", "PaA", 2),
    Pattern("{P} {P.be} riding {A}", "", 2),
    Pattern("{P} {hold} {A} above {P.its} head", "AaP", 3),
    Pattern("{P} {hold} {A} over {P.its} head", "AaP", 2),
    Pattern("{P} {P.be} {part?} with {A} at {P.its} feet", "AuP", 3),
    Pattern("{P} {P.be} {part?} with {A} under {P.its} feet", "AuP", 2),
    Pattern("{P} {P.be} {part?} {place?} , {A} {r.P}", "ArP", 3),
    Pattern("{P} {P.be} holding {A} {r.P}", "ArP", 3),
    Pattern("{P} {hold} {A} {r1.P} , which {A.be} {part?} {r2} {B}", "Ar1P Ar2B", 3),
    Pattern("{P} {P.be} holding {A} , with {B} {r1.P}", "Br1P", 3),
    Pattern("{P} {P.be} in front of {A} , with {B} {part?} {r.P}", "BrP", 4),
    Pattern("{P} {P.be} in front of {A} , with {B} {part?} {r} {A}", "BrA", 3),
    Pattern("{P} {P.be} {part?} between {A} {b.P} and {B} {c.P}", "AbP BcP", 5),
    Pattern("{P} {P.be} sitting on {A}", "PaA", 1),
    Pattern("{P} {P.be} lying on {A}", "PaA", 1),
]
# Later clauses: N is new, O an earlier object, S the last subject, L the object named last.
FOLLOWERS = [
    Pattern(", with {N} {part?} {r.O}", "NrO", 30),
    Pattern(", while {N} {N.be} {part} {r.O}", "NrO", 26),
    Pattern(", while {N} {N.sit} {r.O}", "NrO", 14),
    Pattern(", and {N} {N.be} {part?} {r.O}", "NrO", 18),
    Pattern("and {N} {r.O}", "NrO", 14),
    Pattern("and {N} {part} {r.O}", "NrO", 8),
    Pattern(", {N} {r.O}", "NrO", 5),
    Pattern("; {N} {N.be} {part?} {r.O}", "NrO", 3),
    Pattern(". {N} {N.be} {part?} {r.O}", "NrO", 22),
    Pattern(". {N} {N.sit} {r.O}", "NrO", 8),
    Pattern(". {r.O} {N.be} {N}", "NrO", 7),
    Pattern(". {r.O} {N.sit} {N}", "NrO", 5),
    Pattern(". {r.O} , {N} {idle.N}", "NrO", 3),
    Pattern(". there {N.be} {N} {part?} {r.O}", "NrO", 6),
    Pattern(", and there {N.be} {N} {r.O}", "NrO", 4),
    Pattern(". {O} {O.be} {part?} {r} {N}", "OrN", 14),
    Pattern(". {O} {O.be} also {part?} {r} {N}", "OrN", 6),
    Pattern(", and {O} {O.be} {part?} {r} {N}", "OrN", 10),
    Pattern(", while {O} {O.be} {part?} {r} {N}", "OrN", 8),
    Pattern(", with {O} {part?} {r} {N}", "OrN", 8),
    Pattern(". {S.they} {S.be} {part?} {r} {N}", "SrN", 5),
    Pattern(", and {S.they} {S.be} {part?} {r} {N}", "SrN", 4),
    Pattern(", and {r} {N}", "SrN", 6),
    Pattern(", and also {r} {N}", "SrN", 3),
    Pattern(", which {L.be} {part?} {r} {N}", "LrN", 14),
    Pattern("that {L.be} {part?} {r} {N}", "LrN", 4),
    Pattern(", with {N} {r.bare}", "NrS", 8),
    Pattern("and {N} {r.bare}", "NrS", 5),
    Pattern(". {N} {N.be} {part?} {r.bare}", "NrS", 2),
    Pattern(", under which {N} {N.sit}", "NuL", 2),
    Pattern(", above which {N} {N.sit}", "NaL", 2),
    Pattern(", beneath which {N.be} {N}", "NuL", 2),
    Pattern(", to the {side} of which {N} {N.sit}", "NrL", 3, "side"),
    Pattern(", to the {side} of which {N.be} {N}", "NrL", 2, "side"),
    Pattern(". {agent} {put} {N} {r.O}", "NrO", 3),
    Pattern(". {N} {r.verb.N} {O}", "NrO", 3, "vertical"),
]
# Two new objects, N and M.
PAIRED_FOLLOWERS = [
    Pattern(", with {N} {part?} {r1.O} and {M} {r2.O}", "Nr1O Mr2O", 10),
    Pattern(", with {N} {part?} {r1.O} and {M} {part?} {r2.N}", "Nr1O Mr2N", 8),
    Pattern(", with {N} {r1.O} and {M} {r2.bare}", "Nr1O Mr2O", 5),
    Pattern(", {N} {r1.O} and {M} {r2.O}", "Nr1O Mr2O", 3),
    Pattern(". {N} {N.be} {part?} {r1} {O} , and {M} {M.be} {part?} {r2.O}", "Nr1O Mr2O", 6),
    Pattern(". {N} {N.be} {part?} {r1.O} , while {M} {M.be} {part?} {r2} {N}", "Nr1O Mr2N", 6),
    Pattern(". {N} {N.be} {part?} {r1} {M}", "Nr1M", 8),
    Pattern(", while {N} {N.be} {part?} {r1} {M}", "Nr1M", 8),
    Pattern(", with {N} {part?} {r1} {M}", "Nr1M", 6),
    Pattern(". {N} and {M} are {part?} {r} {O}", "NrO MrO", 3),
]
# One new object N, related to two earlier ones O and Q.
DOUBLE_FOLLOWERS = [
    Pattern(", while {N} {N.be} {part?} {r1} {O} and {r2} {Q}", "Nr1O Nr2Q", 8),
    Pattern(". {N} {N.be} {part?} {r1} {O} and {r2} {Q}", "Nr1O Nr2Q", 8),
    Pattern(", with {N} {part?} {r1} {O} and {r2} {Q}", "Nr1O Nr2Q", 8),
    Pattern(". {N} {N.be} {part?} {r} both {O} and {Q}", "NrO NrQ", 2),
    Pattern(". {O} {O.be} {part?} {r1} {N} and {r2} {Q}", "Or1N Or2Q", 5),
    Pattern(", which {L.be} {part?} {r1} {O} and {r2} {N}", "Lr1O Lr2N", 5),
]
# Later clauses about objects that were all mentioned before: O and Q.
REPEATS = [
    Pattern("and {O} {part?} {r} {Q}", "OrQ", 5),
    Pattern(". {O} {O.be} also {part?} {r} {Q}", "OrQ", 5),
    Pattern(", and {O} {O.be} also {r} {Q}", "OrQ", 4),
    Pattern(". {O} {O.be} {part?} {r} {Q}", "OrQ", 10),
    Pattern(", and {O} {O.be} {part?} {r} {Q}", "OrQ", 8),
    Pattern(", with {O} {part?} {r} {Q}", "OrQ", 8),
    Pattern(", while {O} {O.be} also {r} {Q}", "OrQ", 4),
    Pattern(". {O} {O.sit} {r} {Q}", "OrQ", 4),
]
# New objects without a relation.
EXTRAS = [
    Pattern("and {N} {near}", "", 12),
    Pattern(", with {N} {near}", "", 14),
    Pattern(". {N} {N.be} {near}", "", 14),
    Pattern(". {N} {N.sit} {near}", "", 6),
    Pattern(", and {N} {N.be} {near}", "", 6),
    Pattern(", while {N} {idle.N}", "", 5),
    Pattern(", while {N} {N.be} {near}", "", 6),
    Pattern(". {N} {idle.N}", "", 4),
]
PAIRED_EXTRAS = [
    Pattern("and {N} and {M} {near}", "", 4),
    Pattern(", with {N} and {M} {near}", "", 6),
    Pattern(". {N} and {M} are {near}", "", 5),
    Pattern(", while {N} and {M} are {near}", "", 5),
    Pattern(", {N} , and {M}", "", 3),
]
SEE = phrases(
    "you can see; we see; I see; one can see; the photo shows; the picture shows; this is a photo of; a "
    "photo of; a picture of; an image of; imagine; in the picture , there is; the image shows; in this "
    "scene , there is; a drawing of; notice; a painting of; he noticed; she saw; they found"
)
AGENTS = ["someone", "he", "she", "I", "we", "they", "somebody"]
PUT = phrases(
    "placed; put; set; left; positioned; hung; laid; saw; found; noticed; parked; dropped; kept; mounted; "
    "moved; carefully placed; had placed; arranged; spotted"
)
HOLD = ["held", "was holding", "carried", "is holding", "holds", "was carrying", "had", "is carrying"]
WEAR = ["wore", "was wearing", "is wearing", "wears", "was dressed in"]
ADVERBS = words(
    "directly carefully neatly quietly also just right now currently clearly slightly safely perfectly still"
)
