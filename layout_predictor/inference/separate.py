"""Keeping centers apart: objects closer than the disc radius would share their pixels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ldm.spacetime.control import RADIUS

LOW, HIGH = 0.05, 0.95
_ROUNDS = 100


def separate(centers: Sequence[tuple[float, float]], distance: float = RADIUS) -> list[tuple[float, float]]:
    """Centers (x, y) inside the image, no two closer than `distance` where there is room.

    Two that are too close are moved apart by equal parts along the axis on which they already differ more
    (the earlier one to the left on a tie), so their order on that axis, hence a stated relation, is kept. The
    result depends on the input alone.
    """
    moved = [[min(max(value, LOW), HIGH) for value in center] for center in centers]
    for _ in range(_ROUNDS):
        pushed = [push(a, b, distance) for a, b in itertools.combinations(moved, 2)]
        if not any(pushed):
            break
    return [(x, y) for x, y in moved]


def push(a: list[float], b: list[float], distance: float) -> bool:
    """Move two centers apart in place; whether they had to be."""
    offset = [b[0] - a[0], b[1] - a[1]]
    if offset[0] ** 2 + offset[1] ** 2 >= (distance - 1e-9) ** 2:
        return False
    axis = 0 if abs(offset[0]) >= abs(offset[1]) else 1
    wanted = (distance**2 - offset[1 - axis] ** 2) ** 0.5
    low, high = (a, b) if offset[axis] >= 0 else (b, a)
    middle = (low[axis] + high[axis]) / 2
    middle = min(max(middle, LOW + wanted / 2), HIGH - wanted / 2)
    low[axis], high[axis] = middle - wanted / 2, middle + wanted / 2
    return True


def spread(centers: Sequence[tuple[float, float]], groups: Sequence[Sequence[int]]) -> list[tuple[float, float]]:
    """The centers with the objects of each group, which were predicted at one place, in rows around it."""
    moved = list(centers)
    for group in groups:
        columns = len(group) if len(group) < 4 else (len(group) + 1) // 2
        rows = -(-len(group) // columns)
        step = RADIUS + 0.02
        x, y = centers[group[0]]
        x, y = (min(max(v, LOW + step * (n - 1) / 2), HIGH - step * (n - 1) / 2) for v, n in ((x, columns), (y, rows)))
        for number, a in enumerate(group):
            row, column = divmod(number, columns)
            moved[a] = (x + step * (column - (columns - 1) / 2), y + step * (row - (rows - 1) / 2))
    return moved
