"""Shapes of regions: which share of each cell of a grid they cover. Coordinates are fractions of the image's sides.

A disc follows the published rule instead (`ldm.spacetime.control.disc_mask`); it is no shape of this file.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ldm.errors import UserError

Floats = NDArray[np.float64]
Bounds = tuple[float, float, float, float]  # left, top, right, bottom
Point = tuple[float, float]
_CORNERS = 256  # of the polygon that stands for an ellipse


class Shape(Protocol):
    """A region of an image."""

    @property
    def bounds(self) -> Bounds:
        """The smallest box around it, within the image."""

    def coverage(self, h: int, w: int) -> Floats:
        """(h, w): the share of each cell that it covers, so that their sum is its area times h * w."""

    def to_json(self) -> dict[str, Any]:
        """Its entry in a layout file."""


@dataclass(frozen=True)
class Box:
    """A rectangle. UserError if it is empty or not within the image."""

    left: float
    top: float
    right: float
    bottom: float

    def __post_init__(self) -> None:
        _check_inside(self.bounds)
        if not (self.left < self.right and self.top < self.bottom):
            raise UserError("must be [left, top, right, bottom] with left < right and top < bottom")

    @property
    def bounds(self) -> Bounds:
        """See `Shape`."""
        return self.left, self.top, self.right, self.bottom

    def coverage(self, h: int, w: int) -> Floats:
        """See `Shape`; the product of two overlaps."""
        rows, columns = _shares(self.top, self.bottom, h), _shares(self.left, self.right, w)
        return np.outer(rows, columns)

    def to_json(self) -> dict[str, Any]:
        """See `Shape`."""
        return {"box": list(self.bounds)}


@dataclass(frozen=True)
class Polygon:
    """The inside of a closed line through three or more points. UserError if that is not within the image or empty."""

    points: tuple[Point, ...]

    def __post_init__(self) -> None:
        _check_inside(tuple(itertools.chain.from_iterable(self.points)))
        if len(set(self.points)) < 3 or self.coverage(64, 64).max() < 1e-9:
            raise UserError("must be a list of three or more points [x, y] that do not lie on one line")

    @property
    def bounds(self) -> Bounds:
        """See `Shape`."""
        xs, ys = zip(*self.points, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def coverage(self, h: int, w: int) -> Floats:
        """See `Shape`; exact, but that a part which the line goes around twice counts as covered once."""
        return _polygon_coverage(self.points, h, w)

    def to_json(self) -> dict[str, Any]:
        """See `Shape`."""
        return {"polygon": [list(point) for point in self.points]}


@dataclass(frozen=True)
class Ellipse:
    """An ellipse around (x, y) with half its width and height; what lies outside the image is cut off."""

    x: float
    y: float
    rx: float
    ry: float

    def __post_init__(self) -> None:
        _check_inside((self.x, self.y))
        if not (0 < self.rx <= 1 and 0 < self.ry <= 1):
            raise UserError("must be [x, y, rx, ry] with rx and ry, half its width and height, above 0 and at most 1")

    @property
    def bounds(self) -> Bounds:
        """See `Shape`."""
        left, right = max(self.x - self.rx, 0.0), min(self.x + self.rx, 1.0)
        return left, max(self.y - self.ry, 0.0), right, min(self.y + self.ry, 1.0)

    def coverage(self, h: int, w: int) -> Floats:
        """See `Shape`; of a polygon of as large an area, off by less than 1e-4 of it."""
        turn = 2 * math.pi / _CORNERS
        scale = math.sqrt(turn / math.sin(turn))
        angles = [turn * k for k in range(_CORNERS)]
        rx, ry = self.rx * scale, self.ry * scale
        return _polygon_coverage([(self.x + rx * math.cos(a), self.y + ry * math.sin(a)) for a in angles], h, w)

    def to_json(self) -> dict[str, Any]:
        """See `Shape`."""
        return {"ellipse": [self.x, self.y, self.rx, self.ry]}


@dataclass(frozen=True, eq=False)
class Mask:
    """A painted region: weights (H, W) from 0 to 1 over the whole image, and the file that they are kept in."""

    weights: Floats = field(repr=False)
    path: str = ""

    def __post_init__(self) -> None:
        values = self.weights
        if values.ndim != 2 or not values.size or not (values.min() >= 0 and values.max() <= 1):
            raise UserError("must be weights from 0 to 1 in rows and columns")
        if values.max() == 0:
            raise UserError("paints nothing: it is black throughout; draw the region in white on black")

    @property
    def bounds(self) -> Bounds:
        """See `Shape`."""
        (top, bottom), (left, right) = (
            (found[0] / len(painted), (found[-1] + 1) / len(painted))
            for painted in (self.weights.any(axis) for axis in (1, 0))
            for found in (np.flatnonzero(painted),)
        )
        return float(left), float(top), float(right), float(bottom)

    def coverage(self, h: int, w: int) -> Floats:
        """See `Shape`; the mean weight of each cell."""
        rows, columns = (
            _shares(edges[:-1, None], edges[1:, None], cells)  # (pixels, cells)
            for edges, cells in ((_edges(self.weights.shape[0]), h), (_edges(self.weights.shape[1]), w))
        )
        return (rows.T @ self.weights @ columns).clip(0, 1)

    def to_json(self) -> dict[str, Any]:
        """See `Shape`."""
        return {"mask": self.path}


def center_of(bounds: Bounds) -> Point:
    """The middle of a box."""
    return (bounds[0] + bounds[2]) / 2, (bounds[1] + bounds[3]) / 2


def _check_inside(values: Sequence[float]) -> None:
    if not all(0 <= value <= 1 for value in values):
        raise UserError("must have coordinates from 0 to 1, fractions of the image's width and height")


def _edges(count: int) -> Floats:
    """(count + 1,) edges of as many equal cells from 0 to 1."""
    return np.arange(count + 1) / count


def _shares(low: Any, high: Any, count: int) -> Floats:
    """(..., count): which share of each of `count` cells lies between low and high (..., 1)."""
    edges = _edges(count)
    return (np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1])).clip(0) * count


def _polygon_coverage(points: Sequence[Point], h: int, w: int) -> Floats:
    """(h, w) shares: differences of the areas that lie left of and above each corner of the grid.

    That area is the sum over the edges of the polygon of what lies left of them: an edge from (x0, y0) to (x1, y1)
    with x(t) = x0 + t (x1 - x0) adds the integral of min(x(t), X) dy over its part above Y.
    """
    columns, rows = _edges(w), _edges(h)[:, None]  # X (w + 1,), Y (h + 1, 1)
    area = np.zeros((h + 1, w + 1))
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        if y0 == y1:
            continue
        if y0 < y1:
            end = ((rows - y0) / (y1 - y0)).clip(0, 1)  # of t, (h + 1, 1); from t = 0 on
            start = np.zeros_like(end)
        else:
            start = ((rows - y0) / (y1 - y0)).clip(0, 1)
            end = np.ones_like(start)
        area += (y1 - y0) * (_capped(x0, x1, columns, end) - _capped(x0, x1, columns, start))
    cells = np.abs(np.diff(np.diff(area, axis=0), axis=1) * (h * w)).clip(0, 1)
    return np.where(cells < 1e-9, 0.0, cells)  # what rounding leaves outside


def _capped(x0: float, x1: float, limit: Floats, t: Floats) -> Floats:
    """The integral from 0 to t of min(x0 + s (x1 - x0), limit) ds, for limits (w + 1,) and t (h + 1, 1)."""
    slope = x1 - x0
    if slope == 0:
        return np.minimum(x0, limit) * t
    crossing = ((limit - x0) / slope).clip(0, 1)  # of s, where the edge meets the limit
    first, second = np.minimum(t, crossing), np.maximum(t, crossing) - crossing  # lengths before and after it
    rising = x0 * first + slope * first**2 / 2
    falling = x0 * second + slope * (t.clip(crossing) ** 2 - crossing**2) / 2
    return rising + limit * second if slope > 0 else limit * first + falling
