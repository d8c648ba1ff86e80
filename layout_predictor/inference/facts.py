"""What the reader of clauses works on, and what comes out: items in, facts over objects out."""

from __future__ import annotations

from dataclasses import dataclass, field

from layout_predictor.inference.expressions import Expression
from layout_predictor.inference.solve import Fact
from ldm.relations import OPPOSITE

Sides = tuple[str, ...]


@dataclass(frozen=True)
class Item:
    """A "noun" or "pronoun" and the object it means, an expression or mark by its label, or another "word"."""

    label: str
    start: int
    thing: int | None = None
    expression: Expression | None = None
    bare: bool = False  # a noun without a determiner
    backdrop: bool = False  # a noun for where a scene is
    stated: Sides = ()  # sides in the place of the expression's own

    @property
    def text(self) -> str:
        return self.expression.text if self.expression else ""

    @property
    def sides(self) -> Sides:
        return self.stated or (self.expression.sides if self.expression else ())


@dataclass
class Facts:
    """The facts of a prompt over its objects.

    Attributes:
        denied: objects that are not to be there.
        copies: objects that are so many at least, where their noun is a plural.
        directed: objects that have a place or direction; a backdrop without one is no object.
    """

    facts: list[Fact] = field(default_factory=list)
    denied: set[int] = field(default_factory=set)
    copies: dict[int, int] = field(default_factory=dict)
    directed: set[int] = field(default_factory=set)

    def add(self, kind: str, *objects: int, sides: Sides = (), soft: bool = False) -> None:
        """Add a fact, unless it is of one object with itself; an explicit place replaces an earlier soft one."""
        if len(set(objects)) < len(objects):
            return
        if kind == "around":
            self.copies[objects[1]] = 4
        if kind in ("behind", "contains", "held", "around"):
            objects = objects[::-1]
        kind = {"behind": "front", "contains": "inside", "held": "inside"}.get(kind, kind)
        if kind == "at" or kind in OPPOSITE:
            self.directed |= set(objects)
        same = [fact for fact in self.facts if fact.kind == kind == "at" and fact.objects == objects]
        if soft and same:
            return
        self.facts = [fact for fact in self.facts if not (fact in same and fact.soft)]
        self.facts.append(Fact(kind, objects, sides, soft))
