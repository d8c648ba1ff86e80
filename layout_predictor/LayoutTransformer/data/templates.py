"""Sentence patterns of the grammar.

Slots in braces, filled by `story.Story`:

    {A}            a noun phrase for role A (a determiner and attributes, or "the ..." once it was mentioned)
    {A.be} {A.have} {A.sit}   verbs that agree with A; {A.sit} is a random verb of posture or motion
    {A.they} {A.it} {A.its}   pronouns;  {A.one} {A.other} {A.former} {A.latter}   mentions without the noun
    {A.two}        "two" and the plural of a noun that A and its twin share
    {r} {r1} ...   a relation that wants a noun phrase after it;  {r.bare} one that does not
    {r.A}          the relation to A, as a pronoun or a noun phrase: "to its left", "above the bus"
    {r.alone}      a place in the picture: "on the left side"
    {r.there}      the same words without that meaning, after "next to the bus"
    {r.further}    beyond what was named last in that direction: "even further to the left"
    {r.verb.A}     a verb that says the relation and agrees with A: "towers over"
    {part} {part?} a participle, always or sometimes; {adv?} an adverb; {place?} a place that says nothing
    {idle.A}       a verb phrase for A that says nothing;  {pic} "of the picture" or nothing
    {up} {down}    a height in the picture, over and under what else is named
    {see} {agent} {put}   "you can see", "someone", "placed";  {act} what a person does

Each pattern comes with what it states: "ArB" for "A r B". Relations have the keys r, r1, r2, r3 (any), b and c
(opposites, on the sides where no {b.A} is said), and a, u, l, g (above, below, left of, right of). Weights are
counts. `regions` says which part of the picture a role is in: "Al Aa" is A at the upper left.
"""

from __future__ import annotations

from typing import NamedTuple

from layout_predictor.LayoutTransformer.data.wordlists import phrases, words


class Pattern(NamedTuple):
    """A pattern, what it states, and how often it is drawn."""

    text: str
    states: str = "ArB"
    weight: int = 2
    only: str = ""  # "side", "vertical", "apart" (two relations on different axes), or "level" (vertical, then side)
    regions: str = ""


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
    Pattern("{A} {A.be} {part?} {r1} and {r2} {B}", states="Ar1B Ar2B", weight=2, only="apart"),
    Pattern("{A} {A.be} {part?} {r1} {B} and {r2.B}", states="Ar1B Ar2B", weight=1, only="apart"),
    Pattern("{A} and {B} {both} {place?} , {A.one} {r} {B.other}", weight=3),
    Pattern("{A} and {B} {both} {place?} , the {A.former} {part?} {r} the {B.latter}", weight=2),
    Pattern("{A} and {B} , the {B.latter} {part} {r.A}", states="BrA", weight=2),
    Pattern("{see} {A} and {B} , {A.one} {r.alone} and {B.other} {r-.alone}", weight=2),
    Pattern("{A} {A.be} {part?} {r.alone} , with {B} {r-.A}", weight=4),
    Pattern("{A} {A.be} {part?} {r.alone} , with {B} {part?} {r-.bare}", weight=2),
    Pattern("{A} {A.be} {r.alone} {pic} and {B} {B.be} on the other side", weight=2, only="side"),
    Pattern("in the {middle} {A.be} {A} , with {B} {part?} {r.A}", states="BrA", weight=3),
    Pattern("{A} {A.be} next to {B} , {part?} {r.B}", weight=2),
    Pattern("{A} {A.be} {part} beside {B} , to {B.its} {side}", weight=2, only="side"),
    Pattern("{A} and {B} {both} side by side , {A} {r.alone} and {B} {r-.alone}", weight=2, only="side"),
    Pattern("{A} {A.be} {part} next to {B} that {B.be} {part} {place}", states="", weight=1),
    Pattern("{A} {A.be} closer to the top than {B}", states="AaB", weight=1),
    Pattern("{A} , with {B} {b.bare} and {C} {c.bare}", states="BbA CcA", weight=2),
    Pattern("{A} {A.sit} {place?} , with {B} {b.bare} and {C} {part?} {c.bare}", states="BbA CcA", weight=3),
    Pattern("{A} in the {upper} left corner and {B} in the {lower} right corner", "AlB AaB", 2, "", "Al Aa Bg Bu"),
    Pattern("{A} {A.be} in the {upper} right corner , {B} in the {lower} left", "AgB AaB", 2, "", "Ag Aa Bl Bu"),
    Pattern("in the {lower} left corner {A.be} {A} , in the {upper} right {B}", "AlB AuB", 1, "", "Al Au Bg Ba"),
    Pattern("{A} {A.be} in the {upper} left and {B} in the {upper} right corner {pic}", "AlB", 1, "", "Al Aa Bg Ba"),
    Pattern("{A} {A.be} in the {lower} right corner and {B} in the {lower} left", "AgB", 1, "", "Ag Au Bl Bu"),
    Pattern("{A.two} , {A.one} {r} {B.other}", weight=3),
    Pattern("there are {A.two} {place?} . {A.one} {A.be} {part?} {r} {B.other}", weight=3),
    Pattern("{A.two} {place?} , {A.one} {r.alone} and {B.other} {r-.alone}", weight=2),
    Pattern("there are {A.two} . {A.one} {A.be} {r.alone} {pic} and {B.other} {B.be} {r-.alone}", weight=2),
    Pattern("{r} {B} , {A} {idle.A}", weight=4),
    Pattern("{r} {B} , {A} {A.sit}", weight=3),
    Pattern("what {A.sit} {r} {B} is {A}", weight=2),
    Pattern("{A} is what {A.sit} {r} {B}", weight=1),
    Pattern("nobody noticed {A} {part?} {r} {B}", weight=2),
    Pattern("nobody noticed {A} that {A.sit} {r} {B}", weight=2),
    Pattern("put {A} {r} {B}", weight=3),
    Pattern("{A} goes {r} {B}", weight=2),
    Pattern("having {put} {A} {r} {B} , {agent} left", weight=1),
    Pattern("{agent} {put} {A} where it belongs , {r} {B}", weight=2),
    Pattern("{A} had to go somewhere , namely {r} {B}", weight=1),
    Pattern("{A} and {B} {both} side by side , {A} being the one {r.alone}", weight=2, only="side"),
    Pattern("{A} and {B} {both} together , {B} being the one {r-.alone}", weight=2),
    Pattern("it is {A} that {A.be} {r.alone} , not {B}", weight=2),
    Pattern("{A} , not {B} , {A.be} {r.alone}", weight=1),
    Pattern("{A} follows {B} : {A} {A.be} {r.alone} , {B} {r-.alone}", weight=2, only="side"),
    Pattern("{r.alone} there {A.be} {A} , and {r-.alone} {B} {B.sit}", weight=4),
    Pattern("{up} there {A.be} {A} , and {down} {B.sit} {B}", "AaB", weight=3),
    Pattern("{up} {A.sit} {A} , and {down} {B} {B.sit}", "AaB", weight=3),
    Pattern("{down} there {A.be} {A} , {up} {B}", "AuB", weight=3),
    Pattern("{A} {A.sit} {up} , while {B} {B.sit} {down}", "AaB", weight=3),
    Pattern("{A} {A.be} {part?} {r} {B} , so {B} {B.be} {r-.bare}", weight=2),
    Pattern("{B} {B.be} {part} {place?} , and next to {B.it} , {r.there} , {A.be} {A}", weight=3, only="side"),
    Pattern("right next to {B} , on {B.its} {side} side , {A.be} {A}", weight=3, only="side"),
    # three roles
    Pattern("{A} {A.be} {part?} {r} {B} , with {C} {part?} {r.further}", states="ArB CrA CrB", weight=4),
    Pattern("{A} {A.be} {part?} {r} {B} and {C} {C.be} {r.further}", states="ArB CrA CrB", weight=2),
    Pattern("{A} {A.sit} {place?} , with {B} {part?} {r.A} , and {C} {part} {r.further}", "BrA CrB CrA", weight=4),
    Pattern("from left to right , {A} , {B} and {C} {place?}", states="AlB BlC", weight=2),
    Pattern("{A} , {B} , and {C} {both} in a row , from left to right", states="AlB BlC", weight=1),
    Pattern("from top to bottom , {A} , {B} and {C}", states="AaB BaC", weight=1),
    Pattern("{A} {r.alone} , {B} in the {middle} and {C} {r-.alone}", "ArB BrC ArC", 3, "", "Ar Cr-"),
    Pattern("{A} , {B} , and {C} {both} in a line , with {A} {r} {B}", states="ArB", weight=2),
    Pattern("{A} , {B} , and {C} {both} {place} , with {B} {part?} {r} {C}", states="BrC", weight=4),
    Pattern("{A} {A.be} between {B} and {C} , with {B} {part?} {r.A}", states="BrA", weight=3),
    Pattern("{A} {A.sit} between {B} and {C} , with {B} {part?} {r} {C}", states="BrC", weight=2),
    Pattern("{A} {A.be} between {B} {r1.A} and {C} {r2.A}", states="Br1A Cr2A", weight=5),
    Pattern("{A} {A.be} surrounded by {B} {r1.A} and {C} {r2.A}", states="Br1A Cr2A", weight=3),
    Pattern("{A} {A.sit} {place?} , with {B} {r.A} and {C} {r.A} as well", states="BrA CrA", weight=2),
    Pattern("{A} and {B} {both} overshadowed by {C} , which {C.be} {part?} {r} both", states="CrA CrB", weight=1),
    Pattern("{A} {A.be} {part?} {r1} {B} and {B} {B.be} {r2} {C}", states="Ar1B Br2C", weight=4),
    Pattern("{A} {A.sit} {r1} {B} , and {C} {r2.A}", states="Ar1B Cr2A", weight=3),
    Pattern("{A} {A.be} {part?} {r1} {B} , which {B.have} {C} {r2.B}", states="Ar1B Cr2B", weight=2),
    Pattern("{A} , {part} {r1} {B} , {A.have} {C} {part?} {r2.A}", states="Ar1B Cr2A", weight=2),
    Pattern("{A} {A.be} {part?} {r1} {B} while {C} {C.sit} {r2.A}", states="Ar1B Cr2A", weight=4),
    Pattern("{A} {A.be} next to {B} that {B.be} {part?} {r} {C}", states="BrC", weight=3),
    Pattern("{A} {A.be} {part?} {r1} {B} that {B.be} {part?} {r2} {C}", states="Ar1B Br2C", weight=4),
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
    Pattern("{A} {A.be} {part?} {r1} {B} , which {B.be} {r2} {C} , while {A} {A.be} {r3} {C}", "Ar1B Br2C Ar3C", 4),
    Pattern("{A} {A.be} {r1} {B} and {B} {B.be} {r2} {C} , while {A} {A.be} {r3} {C}", "Ar1B Br2C Ar3C", weight=3),
    Pattern("between {B} on the {bside} and {C} on the {cside} {A.sit} {A}", "BbA CcA", weight=3),
    Pattern("between {B} on the {bside} and {C} on the {cside} , {A} {A.be} {part}", "BbA CcA", weight=3),
    Pattern("between {B} and {C} {A.sit} {A}", "BlA CgA", weight=2),
    Pattern("{r1} {B} {A.sit} {A} ; {r2.B} {C.sit} {C}", "Ar1B Cr2B", weight=4),
    Pattern("{r1} {B} , {A} {idle.A} ; {r2.B} , {C} {idle.C}", "Ar1B Cr2B", weight=3),
    Pattern("{A} {A.be} in the {middle} , {B} {r1.A} and {C} {r2.A}", "Br1A Cr2A", weight=3),
    Pattern("{A} in the {middle} , {B} {r1} {A.it} and {C} {r2} {A.it}", "Br1A Cr2A", weight=2),
    Pattern("having {put} {A} {r1} {B} , {agent} {put} {C} {r2} {A}", "Ar1B Cr2A", weight=2),
    Pattern("put {A} {r1} {B} and {C} {r2.A}", "Ar1B Cr2A", weight=2),
    Pattern("if you stand in front of {A} , {B} is on your {bside} and {C} on your {cside}", "BbA CcA", weight=1),
    Pattern("if you look at {A} , you see {B} {r1.A} and {C} {r2.A}", "Br1A Cr2A", weight=2),
    Pattern("you have {A} {part?} {r1} {B} , and beside them , {r2.there} , {C}", "Ar1B Cr2A Cr2B", 2, "level"),
    # four roles
    Pattern("{A} {A.be} {part?} {r1} {B} , {r2} {C} , and {r3} {D}", states="Ar1B Ar2C Ar3D", weight=4),
    Pattern("{A} {A.be} {part?} {r1} {B} and {r2} {C} , with {D} {r3.A}", states="Ar1B Ar2C Dr3A", weight=3),
    Pattern("{A} {A.sit} {place?} , with {B} {r1.A} , {C} {r2.A} and {D} {r3.A}", "Br1A Cr2A Dr3A", weight=4),
    Pattern("{A} {A.be} {r1} {B} , while {C} {C.be} {part?} {r2} {D}", "Ar1B Cr2D", weight=6),
    Pattern("{A} {A.sit} {r1} {B} and {C} {C.sit} {r2} {D}", "Ar1B Cr2D", weight=3),
    Pattern("{A} {A.be} {part?} {r1} {B} , and {C} {C.be} {part?} {r2} {D}", "Ar1B Cr2D", weight=5),
    Pattern("{A} {A.be} {part?} {r1} {B} , {r2} {C} , and {r3} {D}", "Ar1B Ar2C Ar3D", weight=3),
    Pattern("{A} {A.be} {part?} {r1} {B} and {r2} {C} , while {D} {D.sit} {r3} {C}", "Ar1B Ar2C Dr3C", weight=3),
    Pattern("{A} {A.be} {r1} {B} , while {C} {C.be} {r2} {A} and {D} {D.be} {r3} {C}", "Ar1B Cr2A Dr3C", weight=4),
    Pattern("{A} {A.be} {r1} {B} , while {C} {C.be} {r2} {D} and {A} {A.be} {r3} {C}", "Ar1B Cr2D Ar3C", weight=3),
    Pattern("{A} {A.be} {r1} {B} , and {C} {C.be} {r2} {D} and {r3} {A}", "Ar1B Cr2D Cr3A", weight=3),
    Pattern("{A} {A.be} surrounded by {B} {r1.A} , {C} {r2.A} , and {D} {r3.A}", "Br1A Cr2A Dr3A", weight=2),
    Pattern("{A} {A.sit} {place?} , with {B} {r1.A} , {C} {part?} {r2.A} , and {D} {r3.A}", "Br1A Cr2A Dr3A", weight=3),
    # nothing stated
    Pattern("{A} {A.be} {r.alone} {pic}", states="", weight=5, regions="Ar"),
    Pattern("{A} {r.alone} {pic}", states="", weight=2, regions="Ar"),
    Pattern("{A} {A.be} in the {upper} left corner {pic}", states="", weight=1, regions="Al Aa"),
    Pattern("{A} {A.be} in the {lower} right corner {pic}", states="", weight=1, regions="Ag Au"),
    Pattern("{A} {A.be} in the {upper} right corner {pic}", states="", weight=1, regions="Ag Aa"),
    Pattern("{A} {A.be} in the {lower} left corner {pic}", states="", weight=1, regions="Al Au"),
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
    Pattern("{P} {P.be} seated on {A} , which {A.be} {part?} {r1} {B}", "PaA Ar1B", 3),
    Pattern("{P} {P.be} {act} {A} {part?} {r.P}", "ArP", 8),
    Pattern("{P} {P.be} {act} {A} , which {A.be} {part?} {r.P}", "ArP", 4),
    Pattern("{P} {P.be} {act} {A} , with {B} {part?} {r} {A}", "BrA", 6),
    Pattern("{P} {P.be} {act} {A} , with {B} {part?} {r.P}", "BrP", 8),
    Pattern("{P} {P.be} {act} {A} , while {B} {B.be} {part?} {r.P}", "BrP", 8),
    Pattern("{P} {P.be} {act} {A} and {B} , while {B} {B.be} {r.P}", "BrP", 2),
    Pattern("{P} {P.be} surrounded by {A} {part?} {r} {B}", "ArB", 3),
    Pattern("{P} {P.be} between {A} {r1.P} and {B} {r2.P}", "Ar1P Br2P", 6),
    Pattern("{P} {P.sit} {place?} , with {A} {r1.P} and {B} {r2.P}", "Ar1P Br2P", 14),
    Pattern("{P} {P.be} {part?} {place?} with {A} {part?} {r.P}", "ArP", 10),
    Pattern("{P} {P.sit} {r} {A}", "PrA", 10),
    Pattern("{P} {P.sit} {r1} {A} , which {A.be} {part?} {r2} {B}", "Pr1A Ar2B", 5),
    Pattern("{P} {P.sit} {r1} {A} , while {B} {B.be} {part?} {r2} {A}", "Pr1A Br2A", 4),
    Pattern("{P} {P.sit} {r1} {A} , with {B} {part?} {r2.P}", "Pr1A Br2P", 4),
    Pattern("{P} {hold} {A} in one hand and {B} {r.P}", "BrP", 3),
    Pattern("{P} {hold} {A} in {P.its} {side} hand , while {B} {B.be} {part?} {r2.P}", "ArP Br2P", 4, "side"),
    Pattern("{P} {hold} {A} in {P.its} {side} hand and {B} in the other", "ArP", 2, "side"),
    Pattern("{P} {P.have} {A} slung over {P.its} {side} shoulder", "ArP", 2, "side"),
    Pattern("{P} {hold} {A} {r1.P} , which {A.be} {part?} {r2} {B} , while {B} {B.be} {place?} nearby", "Ar1P Ar2B", 1),
    Pattern("{P} {hold} {A} and {B} , the {B.latter} {part?} {r.P}", "BrP", 3),
    Pattern("{P} {hold} {A} and {B} , with {B} {part?} {r} {P}", "BrP", 3),
    Pattern("{P} {look} {A} {part?} {r.P}", "ArP", 4),
    Pattern("{P} {idle.P} . {r.P} , {A} {idle.A}", "ArP", 4),
    Pattern("{P} {idle.P} as {A} {A.sit} {r.P}", "ArP", 3),
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
ACTS = phrases(
    "typing away on; lying on; reaching for; reaching out for; looking at; leaning on; lounging on; pointing at; "
    "seated in front of; standing next to; standing in front of; facing; sitting in front of; sitting at; sitting in; "
    "seated on; seated at; watching; using; playing with; cleaning; talking to; walking with; working at; touching"
)
LOOK = phrases(
    "looked up at; looks at; reached out for; reaches for; stared at; pointed at; walked past; waved at; "
    "stands next to; stood beside; was next to"
)
UP = phrases("high up; up there; far above; up above; up in the air; at the very top; high in the sky; way up")
DOWN = phrases("down below; far below; down there; below that; low down; at the very bottom; on the ground; beneath")
ADVERBS = words(  # they say nothing about the relation
    "directly carefully neatly quietly also just right now currently clearly slightly safely perfectly still tall "
    "securely proudly gracefully firmly lazily contentedly peacefully cautiously patiently gently comfortably"
)
