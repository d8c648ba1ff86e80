"""Centers that satisfy what a sentence states, by the least change of those that were predicted."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from layout_predictor.inference.separate import HIGH, LOW, push
from ldm.relations import AXIS_SIGN
from ldm.spacetime.control import RADIUS

Center = tuple[float, float]
GAP = RADIUS + 0.02  # between two objects on the axis of a stated relation, where there is room
# How far apart on an axis: an object and what is inside it, behind it, and on it.
_TOUCH, _ALIGNED, _ON = 0.06, 0.12, 0.2
_NEAR = 0.3
_ROUNDS = 300
_PARTS = {"left": (0, LOW, 0.3), "right": (0, 0.7, HIGH), "top": (1, LOW, 0.3), "bottom": (1, 0.7, HIGH)}
_MIDDLE = (0.42, 0.58)


@dataclass(frozen=True)
class Fact:
    """What a sentence states of objects, by their numbers.

    kind: one of RELATIONS, "inside", "on", "front" (a in front of b), "near", "between" (a between b and c),
    "line" (a, b, ... in this order to the right or down; `sides` has the first and last side), or "at" (`sides`).
    """

    kind: str
    objects: tuple[int, ...]
    sides: tuple[str, ...] = ()
    soft: bool = False  # an earlier reading that a later, more explicit one replaces


def describe(fact: Fact, phrases: Sequence[str]) -> str:
    """A fact in words."""
    first, *others = (phrases[number] for number in fact.objects)
    return " ".join((first, fact.kind, " and ".join((*others, *fact.sides))))


@dataclass(frozen=True)
class _Bound:
    """center[a] - center[b] >= gap on an axis; None for 0."""

    axis: int
    a: int | None
    b: int | None
    gap: float

    def lack(self, centers: Sequence[Sequence[float]]) -> float:
        a = 0.0 if self.a is None else centers[self.a][self.axis]
        b = 0.0 if self.b is None else centers[self.b][self.axis]
        return self.gap - (a - b)

    def project(self, centers: list[list[float]]) -> None:
        lack = self.lack(centers)
        if lack <= 0:
            return
        share = lack / ((self.a is not None) + (self.b is not None))
        if self.a is not None:
            centers[self.a][self.axis] += share
        if self.b is not None:
            centers[self.b][self.axis] -= share


def solve(centers: Sequence[Center], facts: Sequence[Fact]) -> tuple[list[Center], list[Fact]]:
    """Centers apart from each other that keep to the facts, and the facts that could not be met."""
    moved = [list(center) for center in centers]
    first = [fact for fact in facts if fact.kind != "between"]
    if len(first) < len(facts):  # between others whose places have to be known first
        _settle(moved, first, [bound for fact in first for bound in _bounds(fact, moved)])
    bounds = {fact: _bounds(fact, moved) for fact in facts}
    _settle(moved, facts, [bound for some in bounds.values() for bound in some])
    unmet = [fact for fact, some in bounds.items() if any(bound.lack(moved) > 0.1 for bound in some)]
    return [(x, y) for x, y in moved], unmet


def _settle(centers: list[list[float]], facts: Sequence[Fact], bounds: list[_Bound]) -> None:
    _exchange(centers, [bound for bound in bounds if bound.gap > 0 or None in (bound.a, bound.b)])
    joined = {
        frozenset(pair)
        for fact in facts
        if fact.kind in ("inside", "line")
        for pair in itertools.combinations(fact.objects, 2)
    }
    pairs = [pair for pair in itertools.combinations(range(len(centers)), 2) if frozenset(pair) not in joined]
    for _ in range(_ROUNDS):
        before = [list(center) for center in centers]
        for bound in bounds:
            bound.project(centers)
        for a, b in pairs:
            push(centers[a], centers[b], RADIUS)
        for center in centers:
            center[:] = [min(max(value, LOW), HIGH) for value in center]
        if all(
            abs(x - y) < 1e-6 for old, new in zip(before, centers, strict=True) for x, y in zip(old, new, strict=True)
        ):
            break


def _exchange(centers: list[list[float]], bounds: list[_Bound]) -> None:
    """Exchange the centers of two objects, or their places on one axis, while that makes the facts truer."""

    def lack() -> float:
        return sum(max(0.0, bound.lack(centers)) for bound in bounds)

    worst = lack()
    improved = worst > 0
    while improved:
        improved = False
        for (a, b), axis in itertools.product(itertools.combinations(range(len(centers)), 2), (0, 1)):
            centers[a][axis], centers[b][axis] = centers[b][axis], centers[a][axis]
            now = lack()
            if now < worst - 0.05:
                worst, improved = now, True
            else:
                centers[a][axis], centers[b][axis] = centers[b][axis], centers[a][axis]


def _bounds(fact: Fact, centers: Sequence[Sequence[float]]) -> list[_Bound]:
    """The fact as bounds on single axes."""
    some = fact.objects
    a, b = some[0], some[-1]
    if fact.kind in AXIS_SIGN:
        axis, sign = AXIS_SIGN[fact.kind]
        a, b = (a, b) if sign > 0 else (b, a)
        return [_Bound(axis, a, b, GAP)]
    if fact.kind == "at":
        return _places(some[0], fact.sides)
    if fact.kind == "inside":
        return _close(0, a, b, _TOUCH) + _close(1, a, b, _TOUCH)
    if fact.kind == "on":
        return [_Bound(1, b, a, GAP), *_close(0, a, b, _ON)]
    if fact.kind == "front":
        return [_Bound(1, a, b, RADIUS), *_close(1, a, b, RADIUS + 0.02), *_close(0, a, b, _ALIGNED)]
    if fact.kind == "near":
        return _close(0, a, b, _NEAR * 0.7) + _close(1, a, b, _NEAR * 0.7)
    if fact.kind == "between":
        c = b
        b = some[1]
        axis = int(abs(centers[b][1] - centers[c][1]) > abs(centers[b][0] - centers[c][0]))
        low, high = (b, c) if centers[b][axis] <= centers[c][axis] else (c, b)
        return [
            _Bound(axis, a, low, GAP),
            _Bound(axis, high, a, GAP),
            *_close(1 - axis, a, low, 0.1),
            *_close(1 - axis, a, high, 0.1),
        ]
    axis = int(fact.sides[0] in ("top", "bottom"))
    if fact.sides[0] in ("right", "bottom"):
        some = some[::-1]
    gap = min(GAP, (HIGH - LOW) / max(1, len(some) - 1))
    steps = [_Bound(axis, b, a, gap) for a, b in itertools.pairwise(some)]
    return steps + [bound for a, b in itertools.combinations(some, 2) for bound in _close(1 - axis, a, b, 0.05)]


def _places(a: int, sides: Sequence[str]) -> list[_Bound]:
    spans = [_PARTS[side] for side in sides if side in _PARTS]
    named = {axis for axis, _, _ in spans}
    if "center" in sides:
        spans += [(axis, *_MIDDLE) for axis in (0, 1) if axis not in named]
    return [bound for axis, low, high in spans for bound in (_Bound(axis, a, None, low), _Bound(axis, None, a, -high))]


def _close(axis: int, a: int, b: int, distance: float) -> list[_Bound]:
    return [_Bound(axis, a, b, -distance), _Bound(axis, b, a, -distance)]
