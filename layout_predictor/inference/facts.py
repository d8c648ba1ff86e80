"""What a prompt states of its objects: a reading of expressions and nouns from left to right.

At every noun, expression and mark the reader knows who is spoken of (the subjects of the clause), which relations
wait for their second object, and what was said before its noun: "on the left", "above the bus (there is)".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from layout_predictor.inference.expressions import TOWARD, Expression
from layout_predictor.inference.solve import Fact
from ldm.relations import ABOVE, BELOW, OPPOSITE

_RELATIONS = {"above": (ABOVE,), "below": (BELOW,), "on": ("on",), "inside": ("inside",), "front": ("front",)}
_RELATIONS |= {
    "behind": ("behind",),
    "near": ("near",),
    "contains": ("contains",),
    "held": ("held",),
    "around": ("around",), "either": ("either",),
}
_TURNED = {**OPPOSITE, "front": "behind", "behind": "front"}
_OPPOSED = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
_UPDOWN = {"up": "top", "above": "top", "overhead": "top", "down": "bottom", "below": "bottom"}


@dataclass(frozen=True)
class Item:
    """A noun ("noun", its object), a pronoun ("pronoun"), an expression (its label), a mark, or another "word"."""

    label: str
    start: int
    thing: int | None = None
    expression: Expression | None = None
    bare: bool = False  # a noun without a determiner
    backdrop: bool = False  # a noun for where a scene is
    stated: tuple[str, ...] = ()  # sides in the place of the expression's own

    @property
    def sides(self) -> tuple[str, ...]:
        return self.stated or (self.expression.sides if self.expression else ())


@dataclass
class Facts:
    """The facts of a prompt over its objects, and which objects it denies."""

    facts: list[Fact] = field(default_factory=list)
    denied: set[int] = field(default_factory=set)
    copies: dict[int, int] = field(default_factory=dict)  # at least so many
    directed: set[int] = field(default_factory=set)  # objects in a fact that gives backdrops a place

    def add(self, kind: str, *objects: int, sides: tuple[str, ...] = (), soft: bool = False) -> None:
        """Add a fact, unless it is of one object with itself; an explicit one replaces an earlier soft one."""
        if len(set(objects)) < len(objects):
            return
        if kind == "behind":
            kind, objects = "front", objects[::-1]
        if kind in ("contains", "held"):
            kind, objects = "inside", objects[::-1]
        same = [fact for fact in self.facts if fact.kind == kind == "at" and fact.objects == objects]
        for fact in same if not soft else ():
            if fact.soft:
                self.facts.remove(fact)
        if soft and same:
            return
        self.facts.append(Fact(kind, objects, sides, soft))


def state(items: list[Item]) -> Facts:
    """The facts that the items state."""
    reader = _Reader(items)
    for at, item in enumerate(items):
        reader.at = at
        getattr(reader, f"on_{item.label}", reader.on_other)(item)
    reader.end()
    return reader.result


class _Reader:
    def __init__(self, items: list[Item]) -> None:
        self.items, self.at, self.result = items, 0, Facts()
        self.subjects: list[int] = []  # who is spoken of
        self.owner: int | None = None  # what "with" belongs to
        self.leading = False  # whether the sentence begins with "with"
        self.alone = False  # whether only that was named before
        self.last: int | None = None  # the noun just before
        self.front: list[
            tuple[str, tuple[int, ...], tuple[str, ...]]
        ] = []  # said before its noun: a place, or relation and object
        self.said: set[str] = set()  # the relations just before
        self.pending: list[tuple[int, str]] = []  # relations to an owner that is to come
        self.referent: int | None = None  # of the last "it"
        self.waiting: list[str] = []  # relations without their object
        self.waiting_for: list[int] = []  # whose they are
        self.between: list[int] | None = None  # its subject and the two others, as far as they were read
        self.between_first = False
        self.line: tuple[str, ...] | None = None  # an order that was announced
        self.members: list[int] = []
        self.places_first = False
        self.placed: dict[int, tuple[str, ...]] = {}
        self.denying = self.negated = self.skipping = False
        self.known: list[int] = []  # objects in the order of their first mention
        self.depths: dict[str, int] = {}

    # ------------------------------------------------------------------ looking around

    def _next(self, skip: tuple[str, ...] = ("word",), start: int | None = None) -> Item | None:
        start = self.at + 1 if start is None else start
        return next((item for item in self.items[start:] if item.label not in skip), None)

    def _before(self, skip: tuple[str, ...] = ("word",)) -> Item | None:
        return next((item for item in reversed(self.items[: self.at]) if item.label not in skip), None)

    def _label(self, item: Item | None) -> str:
        return item.label if item else "end"

    # ------------------------------------------------------------------ nouns

    def on_noun(self, item: Item) -> None:
        thing = item.thing
        assert thing is not None
        before = self._label(self._before())
        if self.skipping:
            self.skipping = False
            return
        if self.denying:
            if before in ("neg", "instead") or self._or() or (before in ("conj", "comma") and item.bare):
                self.result.denied.add(thing)
                return
            self.denying = False
        if thing not in self.known:
            self.known.append(thing)
        if self.pending and before == "comma":
            for other, name in self.pending:
                self._relate(other, name, thing)
            self.pending, self.leading, self.subjects = [], False, []
        if self.between is not None and len(self.between) < 3:
            self._more_between(thing)
        elif self.waiting:
            self._complete(thing)
        elif self.front and (not self.subjects or before not in ("conj", "comma")):
            self.subjects = [thing]
            self._apply_front(soft=False)
        elif self.subjects and before in ("conj", "comma") and self._lists():
            self.subjects = [*self.subjects, thing]
            self._apply_front(soft=True)
        else:
            self.subjects = [thing]
            self._apply_front(soft=True)
        if self.line is not None:
            self.members.append(thing)
        portion = before == "contains" and self.items[self.at - 1].expression is None  # "a bowl of oranges" is a bowl
        self.last = self.last if portion else thing

    def _or(self) -> bool:
        before = self._before()
        return before is not None and before.expression is not None and before.expression.text == "or"

    def _lists(self) -> bool:
        """Whether the noun before the comma or "and" is a subject, so that this one is one more."""
        nouns = [item.thing for item in self.items[: self.at] if item.label == "noun"]
        marks = 0
        for item in reversed(self.items[: self.at]):
            if item.label == "noun":
                break
            marks += item.label not in ("conj", "comma", "word", "count")
        return bool(nouns) and nouns[-1] in self.subjects and not marks

    def on_pronoun(self, item: Item) -> None:
        if not self.waiting and self.between is None:
            if item.thing is not None and self._label(self._before()) in ("end", "stop", "stop1", "conj", "comma"):
                self.subjects = [item.thing]
            return
        thing = None if self.leading else item.thing if item.thing is not None else self._owner()
        if self.between is not None:
            self._close_between()
            return
        if thing is None and not self.waiting_for:
            thing = self.referent  # "left of it a cat, right of it a dog"
        if thing is not None:
            self.referent = thing
            self._complete(thing)
        elif self.leading:
            self.pending += [(subject, name) for subject in self.waiting_for for name in self.waiting]
        self.waiting, self.waiting_for = [], []

    def _owner(self) -> int | None:
        """What "it" means in "with a cat beside it", where only one thing was named before."""
        return self.owner if self.alone else None

    # ------------------------------------------------------------------ relations

    def on_relation(self, names: tuple[str, ...]) -> None:
        following = self.items[self.at + 1] if self.at + 1 < len(self.items) else None
        before = self._before()
        if not self.subjects and {"contains", "held"} & set(names):
            return  # "the left half contains"
        if self.negated:
            names, self.negated = tuple(_TURNED.get(name, "") for name in names), False
        if self.waiting and self._label(before) not in ("noun", "pronoun"):
            self.waiting += names  # "above and to the left of"
            return
        if self._label(following) in ("end", "stop1", "stop", "comma", "conj") and not (
            self._label(following) == "conj" and self._label(self._next(start=self.at + 2)) not in ("noun", "neg")
        ):
            self._bare(names)
            return
        self.waiting = list(names)
        after = self._next(start=self.at + 2)  # behind the relation's object
        if self._label(before) in ("comma", "conj") and self._label(after) in ("noun", "count"):
            self.subjects, self.waiting_for = [], []  # "and left of it a dog"
            return
        again = set(names) <= self.said and self._label(before) == "noun"  # "stacked on a box stacked on a car"
        direct = again or (self.at > 0 and self.items[self.at - 1].label == "noun")
        if self.front and self._label(before) == "conj" and not self.subjects:
            self.waiting_for = []
        elif self._label(before) == "which" and self.last is not None:
            self.waiting_for = [self.last]
            self.subjects = [self.last]
        elif (
            direct
            and self.last is not None
            and self.last not in self.subjects
            and not {"contains", "held"} & set(names)
        ):
            self.waiting_for = [self.last]
        else:
            self.waiting_for = self._subjects()

    def _subjects(self) -> list[int]:
        """The subjects that what follows is said of: all of a list with "and", else the last."""
        joined = any(item.label == "conj" for item in self.items[: self.at] if item.start > self._start_of_list())
        return self.subjects if joined else self.subjects[-1:]

    def _start_of_list(self) -> int:
        first = self.subjects[0] if self.subjects else None
        starts = [item.start for item in self.items[: self.at] if item.label == "noun" and item.thing == first]
        return starts[-1] if starts else 0

    def _bare(self, names: tuple[str, ...]) -> None:
        """A relation whose other object is left unsaid."""
        owner = self._owner()
        for thing in self.subjects[-1:]:
            if owner is not None:
                for name in names:
                    self._relate(thing, name, owner)

    def _complete(self, thing: int) -> None:
        if self._label(self._next()) in ("its", "none"):  # "in front of a tv to its left"
            self.waiting = [name for name in self.waiting if name in OPPOSITE]
        if not self.waiting_for:
            self.front += [(name, (thing,), ()) for name in self.waiting if name not in ("contains", "held")]
        if self.waiting == ["either"]:  # "a cat and a dog on either side of a bus"
            self.result.add("between", thing, *self.waiting_for)
            self.waiting = []
        for subject in self.waiting_for:
            for name in self.waiting:
                self._relate(subject, name, thing)
        self.said = set(self.waiting)
        self.waiting, self.waiting_for = [], []

    def _relate(self, a: int, name: str, b: int) -> None:
        if name == "around":
            self.result.copies[b] = 4
            self.result.add("around", b, a)
        elif name:
            self.result.add(name, a, b)
        if name in OPPOSITE:
            self.result.directed |= {a, b}

    def _apply_front(self, soft: bool) -> None:
        thing = self.subjects[-1]
        for name, others, sides in self.front:
            if sides:
                self.result.add("at", thing, sides=sides, soft=soft)
                self.result.directed.add(thing)
                self.placed.setdefault(thing, sides)
            elif name == "between":
                self.result.add(name, thing, *others)
            elif not soft:
                self._relate(thing, name, *others)
        self.front = [entry for entry in self.front if entry[2]]

    # ------------------------------------------------------------------ expressions

    def on_sidesof(self, item: Item) -> None:
        names = tuple(TOWARD[side] for side in item.sides)
        following = self._next()
        backdrop = following is not None and following.backdrop and item.label == "sidesof"
        if backdrop and item.expression and " side" in item.expression.text:
            self.on_place(item)  # "on the right side of the road"
            self.skipping = True
            return
        if item.sides == ("top",) and item.expression and "top of" in item.expression.text:
            names = ("on",)
        self.on_relation(names if len(names) < 2 or "inside" not in names else tuple(n for n in names if n != "inside"))

    on_its = on_sidesof

    def on_ofowner(self, item: Item) -> None:
        """ "To the dog's left": the noun just before is no subject but what the place is relative to."""
        if self.last is None:
            return
        thing = self.last
        names = [TOWARD[side] for side in item.sides]
        subjects = [subject for subject in self.subjects if subject != thing]
        if not subjects:
            earlier = [known for known in self.known if known != thing]
            before = [i for i in self.items[: self.at] if i.label == "noun"]
            subjects = (
                earlier[-1:] if len(before) > 1 and self._label(self._next(())) in ("end", "stop1", "comma") else []
            )
        if subjects:
            for name in names:
                self._relate(subjects[-1], name, thing)
            self.subjects = subjects
        else:
            self.front += [(name, (thing,), ()) for name in names]
            self.subjects = []

    def on_place(self, item: Item) -> None:
        sides = item.sides
        if item.expression and item.expression.text in _UPDOWN:
            sides = (_UPDOWN[item.expression.text],)
        if self.negated:
            sides, self.negated = tuple(_OPPOSED.get(side, side) for side in sides), False
        before = self._before()
        following = self._label(self._next(("word", "stop1") if self._colon() else ("word",)))
        noun_follows = following in ("noun", "count", "style", "neg")
        if not self.subjects:
            first = True
        elif self._label(before) in ("comma", "conj", "stop", "stop1") and noun_follows:
            first = self.places_first or any(subject in self.placed for subject in self.subjects)
        else:
            first = noun_follows and self.places_first and any(subject in self.placed for subject in self.subjects)
        if first:
            self.places_first = self.places_first or not self.known
            self.front = [("at", (), sides)]
            self.subjects, self.waiting = [], []
            return
        owner = self._owner()
        of_owner = owner is not None and owner not in self.subjects and "center" not in sides
        of_owner = of_owner and not (item.expression and " of " in item.expression.text)
        for thing in self._subjects() if self.waiting == [] else self.subjects[-1:]:
            if of_owner and owner is not None:
                for side in sides:
                    self._relate(thing, TOWARD[side], owner)
            else:
                self.result.add("at", thing, sides=sides)
                self.placed[thing] = sides
                self.result.directed.add(thing)

    on_bare = on_place

    def on_otherside(self, item: Item) -> None:
        """ "On one side" and "on the other": the left, where nothing else is said, and opposite to what came last."""
        before = list(self.placed.values())[-1:] or [("left",)]
        turned = tuple(_OPPOSED.get(side, side) for side in before[0])
        other = item.expression is not None and re.search("other|opposite", item.expression.text)
        if other or self._label(self._next()) != "place":
            self.on_place(replace(item, stated=turned if other else ("left",)))

    def _colon(self) -> bool:
        following = self.items[self.at + 1] if self.at + 1 < len(self.items) else None
        return following is not None and following.expression is not None and following.expression.text == ":"

    def _depth(self, item: Item) -> None:
        noun_follows = self._label(self._next(("word", "stop1"))) == "noun"
        before = self._label(self._before())
        if not self.subjects or (before in ("comma", "stop1", "end") and noun_follows):
            following = self._next(("word", "stop1"))
            thing = following.thing if following and following.label == "noun" else None
        else:
            thing = self.subjects[-1]
        if thing is not None:
            self.depths[item.label] = thing

    on_foreground = on_background = _depth

    def on_between(self, item: Item) -> None:
        self.between = self.subjects[-1:]
        self.between_first = not self.between
        if self._label(self._next()) in ("end", "stop1", "comma", "conj"):
            self._close_between()

    def _more_between(self, *things: int) -> None:
        assert self.between is not None
        self.between += [thing for thing in things if thing not in self.between]
        if len(self.between) == (2 if self.between_first else 3):
            self._close_between()

    def _close_between(self) -> None:
        """The end of "between": two nouns, or one of several things, or what was named before."""
        if self.between is None:
            return
        between, self.between = self.between, None
        if self.between_first:
            self.front.append(("between", tuple(between or self.known[-2:]), ()))
            return
        others = between[1:] or [known for known in self.known if known not in between][-2:]
        if others:
            self.result.add("between", between[0], *others)

    def on_order(self, item: Item) -> None:
        sides = item.sides
        if len(sides) == 2:
            self._line(sides)

    def on_row(self, item: Item) -> None:
        self._line(("left", "right"))

    def on_column(self, item: Item) -> None:
        self._line(("top", "bottom"))

    def _line(self, sides: tuple[str, ...]) -> None:
        if self.subjects:
            self.result.add("line", *self.subjects, sides=sides)
        else:
            self.line, self.members = sides, []

    def _end_line(self) -> None:
        if self.line is not None and self.members:
            self.result.add("line", *self.members, sides=self.line)
            self.line = None

    def on_neg(self, item: Item) -> None:
        following = self._label(self._next(("word", "count")))
        self.denying = following == "noun"
        self.negated = not self.denying and following not in ("end", "stop", "stop1", "comma")

    def on_instead(self, item: Item) -> None:
        self.on_neg(Item("neg", item.start))

    def on_only(self, item: Item) -> None:
        self.denying = False

    def on_with(self, item: Item) -> None:
        if not self.subjects:
            self.leading = item.start == 0
            return
        self.owner, self.alone = self.subjects[-1], len(self.known) == 1
        self.front, self.waiting = [], []

    def on_stop(self, item: Item) -> None:
        self._close_between()
        self._end_line()
        self.subjects, self.waiting, self.waiting_for, self.front, self.between = [], [], [], [], None
        self.denying = self.negated = False
        if item.label == "stop1":
            self.owner = None

    def on_stop1(self, item: Item) -> None:
        before = self.items[self.at - 1] if self.at else None
        colon = item.expression is not None and item.expression.text == ":"
        if colon and (before is None or self._label(before) not in ("noun", "pronoun", "word")):
            return  # "left: a cat"
        self.on_stop(item)

    def on_comma(self, item: Item) -> None:
        if self.waiting_for == [] and self.waiting:
            self.waiting = []

    def on_other(self, item: Item) -> None:
        names = _RELATIONS.get(item.label)
        if names:
            self.on_relation(names)

    def end(self) -> None:
        self._close_between()
        self._end_line()
        if len(self.depths) == 2:
            self.result.add("front", self.depths["foreground"], self.depths["background"])
