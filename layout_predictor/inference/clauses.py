"""A prompt's facts, by a reading of its nouns, expressions and marks from left to right.

The reader knows who is spoken of (the subjects of the clause), which relations wait for their second object, and what
was said before its noun: "on the left", "above the bus (there is)".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from layout_predictor.inference.expressions import TOWARD
from layout_predictor.inference.facts import Facts, Item, Sides
from ldm.relations import ABOVE, BELOW, OPPOSITE

_RELATIONS = {"above": ABOVE, "below": BELOW} | {
    name: name for name in ("on", "inside", "front", "behind", "near", "contains", "held", "around", "either")
}
_HAS = {"contains", "held"}
_TURNED = {**OPPOSITE, "front": "behind", "behind": "front"}
_OPPOSED = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
_ENDS = ("end", "stop", "stop1")
_JOINTS = ("comma", "conj")


def state(items: Sequence[Item]) -> Facts:
    """The facts that the items state."""
    reader = _Reader(items)
    for at, item in enumerate(items):
        reader.at = at
        relation = _RELATIONS.get(item.label)
        if relation:
            reader.on_relation((relation,))
        else:
            getattr(reader, f"on_{item.label}", reader.on_other)(item)
    return reader.finish()


class _Reader:
    def __init__(self, items: Sequence[Item]) -> None:
        self.items, self.at, self.facts = items, 0, Facts()
        self.known: list[int] = []  # objects in the order of their first mention
        self.clause: list[int] = []  # those of the clause
        self.subjects: list[int] = []
        self.last: int | None = None  # the noun just before
        self.front: list[tuple[str, tuple[int, ...], Sides]] = []  # said before its noun: relation, objects, place
        self.waiting: list[str] = []  # relations without their object
        self.whose: list[int] = []  # and their subjects; none where that is to come
        self.said: set[str] = set()  # the relations just before
        self.owner: int | None = None  # whose "its" is after "with", where only that was named before
        self.leading = False  # whether the sentence begins with "with"
        self.pending: list[tuple[int, str]] = []  # relations to an owner that is to come
        self.referent: int | None = None  # of the last "it"
        self.between: list[int] | None = None  # its subject and the two others, as far as they were read
        self.between_first = False  # whether the subject is to come
        self.line: Sides | None = None  # an order that was announced
        self.members: list[int] = []  # what stands in it
        self.places_first = False  # "left: a cat, right: a dog"
        self.placed: dict[int, Sides] = {}
        self.depths: dict[str, int] = {}
        self.denying = self.negated = self.skipping = False

    # ---------------------------------------------------------------------------------------------- looking around

    def _item(self, step: int, skip: Sequence[str] = ()) -> Item | None:
        """The next item (step 1), the one behind it (2), or the one before (-1), not counting labels to skip."""
        others = self.items[self.at + step :] if step > 0 else self.items[: self.at][::-1]
        return next((item for item in others if item.label not in skip), None)

    def _label(self, step: int, skip: Sequence[str] = ("word",)) -> str:
        item = self._item(step, skip)
        return item.label if item else "end"

    def _subjects_meant(self) -> list[int]:
        """The subjects that what follows is said of: all of a list with "and", else the last."""
        first = self.subjects[0] if self.subjects else None
        for item in reversed(self.items[: self.at]):
            if item.label == "conj":
                return self.subjects
            if item.label == "noun" and item.thing == first:
                break
        return self.subjects[-1:]

    # ---------------------------------------------------------------------------------------------- nouns

    def on_noun(self, item: Item) -> None:
        thing, before = item.thing, self._label(-1)
        if thing is None or self.skipping:
            self.skipping = False
            return
        if self.denying and self._denies(item):
            self.facts.denied.add(thing)
            return
        self.denying = False
        if thing not in self.known:
            self.known.append(thing)
        self.clause += [thing] * (thing not in self.clause)
        if self.pending and before == "comma":
            for other, name in self.pending:
                self.facts.add(name, other, thing)
            self.pending, self.leading, self.subjects = [], False, []
        if self.between is not None:
            self._more_between(thing)
        elif self.waiting:
            self._complete(thing)
        else:
            listed = bool(self.subjects) and before in _JOINTS
            more = listed and self._label(-1, ("word", "count", *_JOINTS)) == "noun" and self.last in self.subjects
            self.subjects = [*self.subjects, thing] if more and not self._explicit_front() else [thing]
            self._apply_front(soft=listed or not self._explicit_front())
        if self.line is not None:
            self.members.append(thing)
        previous = self._item(-1)
        if not (previous and previous.label == "contains" and not previous.expression):  # "a bowl | of oranges"
            self.last = thing

    def _explicit_front(self) -> bool:
        return bool(self.front) and not (self.subjects and self._label(-1) in _JOINTS)

    def _denies(self, item: Item) -> bool:
        before = self._item(-1, ("word",))
        if before is None or before.label in ("neg", "instead") or before.text == "or":
            return True
        return before.label in _JOINTS and item.bare

    def on_pronoun(self, item: Item) -> None:
        if self.between is not None:
            self._close_between()
            return
        if not self.waiting:
            if item.thing is not None and self._label(-1) in (*_ENDS, *_JOINTS):
                self.subjects = [item.thing]
            return
        thing = None if self.leading else item.thing if item.thing is not None else self.owner
        if thing is None and not self.whose:
            thing = self.referent  # "left of it a cat, right of it a dog"
        if thing is not None:
            self.referent = thing
            self._complete(thing)
        elif self.leading:
            self.pending += [(subject, name) for subject in self.whose for name in self.waiting]
        self.waiting, self.whose = [], []

    def _apply_front(self, soft: bool) -> None:
        thing = self.subjects[-1]
        for name, others, sides in self.front:
            if sides:
                self.placed.setdefault(thing, sides)
            if sides or name == "between" or not soft:
                self.facts.add(name, thing, *others, sides=sides, soft=soft)
        self.front = [entry for entry in self.front if entry[2]]

    # ---------------------------------------------------------------------------------------------- relations

    def on_relation(self, names: Sequence[str]) -> None:
        has, before, following = bool(_HAS & set(names)), self._label(-1), self._label(1, ())
        if has and not self.subjects:
            return  # "the left half contains"
        if self.negated:
            names, self.negated = [_TURNED[name] for name in names if name in _TURNED], False
        if self.waiting and before not in ("noun", "pronoun"):
            self.waiting += names  # "above and to the left of"
            return
        if following in (*_ENDS, "comma") or (following == "conj" and self._label(2) in ("noun", "neg")):
            for name in names if self.owner is not None and self.subjects else ():  # "with a cat inside"
                self.facts.add(name, self.subjects[-1], self.owner or 0)
            return
        self.waiting = list(names)
        behind = self.last is not None and self.last not in self.subjects and not has
        again = set(names) <= self.said and before == "noun"  # "stacked on a box stacked on a car"
        if before in _JOINTS and self._label(2) in ("noun", "count"):
            self.subjects, self.whose = [], []  # "and left of it a dog"
        elif before == "which" and self.last is not None:
            self.subjects = self.whose = [self.last]
        elif behind and (again or self._label(-1, ()) == "noun") and self.last is not None:
            self.whose = [self.last]
        else:
            self.whose = self._subjects_meant()

    def _complete(self, thing: int) -> None:
        if self._label(1) in ("its", "none"):  # "in front of a tv to its left"
            self.waiting = [name for name in self.waiting if name in OPPOSITE]
        if "held" in self.waiting and self._label(1) in {*_RELATIONS, "sidesof"} - {"held", "inside"}:
            self.waiting.remove("held")  # "holds an umbrella above her head"
        if self.waiting == ["either"]:  # "a cat and a dog on either side of a bus"
            self.facts.add("between", thing, *self.whose)
        elif not self.whose:
            self.front += [(name, (thing,), ()) for name in self.waiting if name not in _HAS]
        else:
            for subject in self.whose:
                for name in self.waiting:
                    self.facts.add(name, subject, thing)
        self.said = set(self.waiting)
        self.waiting, self.whose = [], []

    def on_sidesof(self, item: Item) -> None:
        names = [TOWARD[side] for side in item.sides if side != "center" or len(item.sides) == 1]
        following = self._item(1, ("word",))
        if item.label == "sidesof" and following and following.backdrop and " side" in item.text:
            self.on_place(item)  # "on the right side of the road"
            self.skipping = True
        else:
            self.on_relation(["on"] if item.sides == ("top",) and "top of" in item.text else names)

    on_its = on_sidesof

    def on_ofowner(self, item: Item) -> None:
        """ "To the dog's left": the noun just before is no subject but what the place is relative to."""
        if self.last is None:
            return
        names = [TOWARD[side] for side in item.sides]
        subjects = [subject for subject in self.subjects if subject != self.last]
        if not subjects and self._label(1, ()) in (*_ENDS, "comma"):
            subjects = [known for known in self.known if known != self.last]
        if subjects:
            for name in names:
                self.facts.add(name, subjects[-1], self.last)
        else:
            self.front += [(name, (self.last,), ()) for name in names]
        self.subjects = subjects[-1:]

    # ---------------------------------------------------------------------------------------------- places

    def on_place(self, item: Item) -> None:
        sides = item.sides
        if self.negated:
            sides, self.negated = tuple(_OPPOSED.get(side, side) for side in sides), False
        following = self._item(1)
        colon = following is not None and following.text == ":"
        skip = ("word", "contains", *(("stop1",) if colon else ()))
        after = self._item(1, skip)
        if after is not None and after.label == "with" and after.text in ("has", "have", "had"):
            after = self._item(1, (*skip, "with"))
        noun_follows = after is not None and after.label in ("noun", "count", "style", "neg")
        placed = any(subject in self.placed for subject in self.subjects)
        joint = self._label(-1) in (*_JOINTS, *_ENDS)
        if not self.subjects or (
            noun_follows and (placed and (joint or self.places_first) or joint and self.places_first)
        ):
            self.places_first = self.places_first or not self.known
            self.front = [("at", (), sides)]
            self.subjects, self.waiting = [], []
            return
        owner = self.owner if "center" not in sides and " of " not in item.text else None
        meant = self.subjects[-1:] if self.waiting else self._subjects_meant()
        if placed and self.last is not None and self.last not in self.subjects:
            meant = [self.last]  # "a cat (left) next to a dog (right)"
        for thing in meant:
            if owner is not None and owner not in self.subjects:
                for side in sides:
                    self.facts.add(TOWARD[side], thing, owner)
            else:
                self.facts.add("at", thing, sides=sides)
                self.placed[thing] = sides

    on_bare = on_place

    def on_otherside(self, item: Item) -> None:
        """ "On one side" and "on the other": the left, where nothing else is said, and opposite to what came last."""
        before = list(self.placed.values())[-1] if self.placed else ("left",)
        if re.search("other|opposite", item.text):
            self.on_place(replace(item, stated=tuple(_OPPOSED.get(side, side) for side in before)))
        elif self._label(1) != "place":
            self.on_place(replace(item, stated=("left",)))

    def on_foreground(self, item: Item) -> None:
        following = self._item(1, ("word", "stop1"))
        first = following is not None and following.label == "noun" and self._label(-1) in (*_ENDS, "comma")
        thing = following.thing if following and first else self.subjects[-1] if self.subjects else None
        if thing is not None:
            self.depths[item.label] = thing

    on_background = on_foreground

    # ---------------------------------------------------------------------------------------------- between, order

    def on_between(self, item: Item) -> None:
        self.between, self.between_first = self.subjects[-1:], not self.subjects
        if self._label(1) in (*_ENDS, *_JOINTS):
            self._close_between()

    def _more_between(self, thing: int) -> None:
        assert self.between is not None
        self.between += [thing] * (thing not in self.between)
        if len(self.between) == (2 if self.between_first else 3):
            self._close_between()

    def _close_between(self) -> None:
        """The end of "between": two nouns, or one of several things, or what was named before."""
        if self.between is None:
            return
        between, self.between = self.between, None
        if self.between_first:
            self.front.append(("between", tuple(between or self.known[-2:]), ()))
        elif others := between[1:] or [known for known in self.known if known not in between][-2:]:
            self.facts.add("between", between[0], *others)

    def on_order(self, item: Item) -> None:
        sides = {"row": ("left", "right"), "column": ("top", "bottom")}.get(item.label, item.sides)
        if len(sides) == 1:  # "starting from the left"
            sides += (_OPPOSED.get(sides[0], ""),)
        if self.subjects:
            self.facts.add("line", *(self.subjects if len(self.subjects) > 1 else self.clause), sides=sides)
        else:
            self.line, self.members = sides, []

    on_row = on_column = on_order

    # ---------------------------------------------------------------------------------------------- other words

    def on_neg(self, item: Item) -> None:
        following = self._label(1, ("word", "count"))
        self.denying = following == "noun"
        self.negated = not self.denying and following not in (*_ENDS, "comma")

    on_instead = on_neg

    def on_only(self, item: Item) -> None:
        self.denying = False

    def on_with(self, item: Item) -> None:
        if self.subjects:
            self.owner = self.subjects[-1] if len(self.known) == 1 else None
            self.front, self.waiting = [], []
        else:
            self.leading = item.start == 0

    def on_stop(self, item: Item) -> None:
        """The end of a clause."""
        self._close_between()
        if self.line is not None and self.members:
            self.facts.add("line", *self.members, sides=self.line)
            self.line = None
        self.subjects, self.waiting, self.whose, self.front, self.clause = [], [], [], [], []
        self.denying = self.negated = False
        if item.label == "stop1":
            self.owner = None

    def on_stop1(self, item: Item) -> None:
        if item.text != ":" or self._label(-1, ()) in ("noun", "pronoun", "word"):
            self.on_stop(item)  # else "left: a cat"

    def on_comma(self, item: Item) -> None:
        if not self.whose:
            self.waiting = []

    def on_other(self, item: Item) -> None:
        """Words that say nothing."""

    def finish(self) -> Facts:
        """The facts, at the end of the prompt."""
        self.on_stop(Item("stop1", 0))
        if len(self.depths) == 2:
            self.facts.add("front", self.depths["foreground"], self.depths["background"])
        return self.facts
