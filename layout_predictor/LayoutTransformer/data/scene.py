"""Centers for a set of stated relations: one sensible layout, the same for the same relations.

A layout that is a function of what was said can be learned to a small error; a random one among many that
satisfy the sentence cannot, and the mean of many is where objects collide.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ldm.relations import AXIS_SIGN, gap

LOW, HIGH = 0.15, 0.85  # centers stay inside this range
MIN_DISTANCE = 0.25  # between any two centers of a sentence
MIN_GAP = 0.2  # along the axis of a stated relation
JITTER = 0.03

Edge = tuple[int, str, int]  # (a, relation, b): "a relation b"

_GRID = np.linspace(LOW, HIGH, 15)
_CELLS = np.stack(np.meshgrid(_GRID, _GRID, indexing="ij"), axis=-1).reshape(-1, 2)  # (225, 2)
_PULL = 0.3 * ((_CELLS - 0.5) ** 2).sum(-1)  # a little toward the middle
_SWEEPS = 6


class _Costs:
    """What an arrangement costs, for one object at every cell with the others where they are."""

    def __init__(self, count: int, edges: tuple[Edge, ...], regions: tuple[tuple[int, str], ...]) -> None:
        self.count, self.edges, self.regions = count, edges, regions
        related = np.zeros((count, count, 2), dtype=bool)  # on which axes two objects were related
        for a, relation, b in edges:
            related[a, b, AXIS_SIGN[relation][0]] = related[b, a, AXIS_SIGN[relation][0]] = True
        # Said to be beside each other: level; one above the other: in line.
        self.align = 0.8 * (related[..., ::-1] & ~related)  # (count, count, 2)
        # Unless told otherwise, first mentioned is further left.
        self.ordered = 0.25 * ~related[..., 0]  # (count, count)

    def of(self, i: int, centers: np.ndarray) -> np.ndarray:
        """Cost (225,) of object i at every cell."""
        cost = _PULL.copy()
        for a, relation, b in self.edges:
            if i in (a, b):
                axis, sign = AXIS_SIGN[relation]
                gap = (sign if i == a else -sign) * (_CELLS[:, axis] - centers[b if i == a else a, axis])
                cost += 20 * np.maximum(0, 0.36 - gap) ** 2 + 400 * np.maximum(0, 0.24 - gap) ** 2
        for which, region in self.regions:
            if which == i:
                axis, sign = AXIS_SIGN[region]
                cost += 20 * np.maximum(0, 0.25 - sign * (_CELLS[:, axis] - 0.5)) ** 2
        others = np.arange(self.count) != i
        offset = _CELLS[None] - centers[others, None]  # (others, 225, 2)
        square = offset**2
        distance = np.sqrt(square.sum(-1))
        cost += (10 * np.maximum(0, 0.36 - distance) ** 2 + 600 * np.maximum(0, 0.3 - distance) ** 2).sum(0)
        cost += (self.align[i, others, None] * square).sum((0, 2))
        side = np.where(np.arange(self.count) > i, 1.0, -1.0)[others, None]
        return cost + (self.ordered[i, others, None] * np.maximum(0, 0.15 + side * offset[..., 0])).sum(0)


@lru_cache(maxsize=200_000)
def _solve(count: int, edges: tuple[Edge, ...], regions: tuple[tuple[int, str], ...]) -> np.ndarray | None:
    centers = np.full((count, 2), 0.5)
    centers[:, 0] += 0.1 * (np.arange(count) - (count - 1) / 2)
    for a, relation, b in edges * 2:
        axis, sign = AXIS_SIGN[relation]
        if sign * (centers[a, axis] - centers[b, axis]) < MIN_GAP:
            middle = (centers[a, axis] + centers[b, axis]) / 2
            centers[a, axis], centers[b, axis] = middle + sign * 0.15, middle - sign * 0.15
    centers = centers.clip(LOW, HIGH)
    costs = _Costs(count, edges, regions)
    for _ in range(_SWEEPS):
        before = centers.copy()
        for i in range(count):
            centers[i] = _CELLS[costs.of(i, centers).argmin()]
        if np.array_equal(before, centers):
            break
    return centers if satisfies(centers, edges) else None


def satisfies(centers: np.ndarray, edges: tuple[Edge, ...], least: float = MIN_GAP - 1e-6) -> bool:
    """Whether every relation holds by `least` and no two centers are closer than MIN_DISTANCE."""
    if any(gap(relation, centers[a], centers[b]) < least for a, relation, b in edges):
        return False
    distance = np.sqrt(((centers[:, None] - centers[None]) ** 2).sum(-1)) + np.eye(len(centers))
    return bool(distance.min() >= MIN_DISTANCE)


def place(
    count: int, edges: tuple[Edge, ...], regions: tuple[tuple[int, str], ...], rng: np.random.Generator
) -> np.ndarray | None:
    """Centers (count, 2) in (x, y), y down; None when the relations leave no room."""
    solved = _solve(count, edges, regions)
    if solved is None:
        return None
    moved = (solved + rng.uniform(-JITTER, JITTER, solved.shape)).clip(LOW, HIGH)
    return moved if satisfies(moved, edges, least=0.15) else solved
