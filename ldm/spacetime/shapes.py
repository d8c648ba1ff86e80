"""Shapes of regions: which share of each cell of a grid they cover. Coordinates are fractions of the image's sides.

A shape may reach beyond the image, by as much as the image's side; that part is cut off. A disc
follows the published rule instead (`ldm.spacetime.control.disc_mask`); it is no shape of this file.
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
    """A rectangle. UserError if nothing of it lies in the image."""

    left: float
    top: float
    right: float
    bottom: float

    def __post_init__(self) -> None:
        _check_near((self.left, self.top, self.right, self.bottom))
        if not (self.left < self.right and self.top < self.bottom):
            raise UserError("must be [left, top, right, bottom] with left < right and top < bottom")
        _check_seen(self.bounds)

    @property
    def bounds(self) -> Bounds:
        """See `Shape`."""
        return cut(self.left, self.top, self.right, self.bottom)

    def coverage(self, h: int, w: int) -> Floats:
        """See `Shape`; the product of two overlaps."""
        rows, columns = _shares(self.top, self.bottom, h), _shares(self.left, self.right, w)
        return np.outer(rows, columns)

    def to_json(self) -> dict[str, Any]:
        """See `Shape`."""
        return {"box": [self.left, self.top, self.right, self.bottom]}


@dataclass(frozen=True)
class Polygon:
    """What a closed line through three or more points goes around. UserError if nothing of it lies in the image."""

    points: tuple[Point, ...]

    def __post_init__(self) -> None:
        _check_near(tuple(itertools.chain.from_iterable(self.points)))
        if len(set(self.points)) < 3:
            raise UserError("must be a list of three or more different points [x, y]")
        _check_seen(self.bounds)
        if not self.coverage(1, 1).any():
            raise UserError("has no area within the image; its points must not lie on one line")

    @property
    def bounds(self) -> Bounds:
        """See `Shape`."""
        xs, ys = zip(*self.points, strict=True)
        return cut(min(xs), min(ys), max(xs), max(ys))

    def coverage(self, h: int, w: int) -> Floats:
        """See `Shape`; a part that the line goes around twice is covered once."""
        return _polygon_coverage(self.points, h, w)

    def to_json(self) -> dict[str, Any]:
        """See `Shape`."""
        return {"polygon": [list(point) for point in self.points]}


@dataclass(frozen=True)
class Ellipse:
    """An ellipse around (x, y) with half its width and height. UserError if nothing of it lies in the image."""

    x: float
    y: float
    rx: float
    ry: float

    def __post_init__(self) -> None:
        _check_near((self.x, self.y, self.rx, self.ry))
        if not (self.rx > 0 and self.ry > 0):
            raise UserError("must be [x, y, rx, ry] with rx and ry, half its width and height, above 0")
        _check_seen(self.bounds)
        if not self.coverage(1, 1).any():
            raise UserError("has no area within the image")

    @property
    def bounds(self) -> Bounds:
        """See `Shape`."""
        return cut(self.x - self.rx, self.y - self.ry, self.x + self.rx, self.y + self.ry)

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
    """A painted region: weights (H, W) from 0 to 1 over the whole image.

    Raises:
        UserError: weights out of that range, or none above 0.
    """

    weights: Floats = field(repr=False)
    path: str = ""  # of the file that they are kept in, as a layout names it; empty for one that was not read

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
            for painted in (np.atleast_1d(self.weights.any(axis)) for axis in (1, 0))
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


def cut(left: float, top: float, right: float, bottom: float) -> Bounds:
    """The part of a box within the image."""
    return max(left, 0.0), max(top, 0.0), min(right, 1.0), min(bottom, 1.0)


def _check_near(values: Sequence[float]) -> None:
    if not all(-1 <= value <= 2 for value in values):
        raise UserError(
            "must have coordinates from 0 to 1, fractions of the image's width and height (-1 to 2 at most)"
        )


def _check_seen(bounds: Bounds) -> None:
    """Of the part within the image."""
    if not (bounds[0] < bounds[2] and bounds[1] < bounds[3]):
        raise UserError("lies outside the image, whose sides go from 0 to 1")


def _edges(count: int) -> Floats:
    """(count + 1,) edges of as many equal cells from 0 to 1."""
    return np.arange(count + 1) / count


def _shares(low: Any, high: Any, count: int) -> Floats:
    """(..., count): which share of each of `count` cells lies between low and high (..., 1)."""
    cells = np.arange(count)
    return (np.minimum(high * count, cells + 1) - np.maximum(low * count, cells)).clip(0, 1)


def _polygon_coverage(points: Sequence[Point], h: int, w: int) -> Floats:
    """(h, w) shares of what a closed line goes around, however it crosses itself (nonzero winding).

    Lines of scanning, exact along x, lie halfway between any two of: the corners, and at least 16 cuts of each row of
    cells. Where edges are straight from cut to cut that is exact in y as well.
    """
    ends = np.asarray(points, dtype=np.float64)
    (x0, y0), (x1, y1) = ends.T, np.roll(ends, -1, axis=0).T  # edges, each (n,)
    cuts = np.union1d(np.linspace(0, 1, max(16, -(-256 // h)) * h + 1), y0.clip(0, 1))
    y, thick = (cuts[1:] + cuts[:-1]) / 2, np.diff(cuts)  # of R lines
    met = (y0 <= y[:, None]) != (y1 <= y[:, None])  # (R, n)
    rise = np.where(y1 == y0, 1.0, y1 - y0)  # a level edge is met by none
    x = np.where(met, x0 + (y[:, None] - y0) / rise * (x1 - x0), np.inf)
    order = x.argsort(axis=1)[:, : int(met.sum(axis=1).max())]  # K crossings, from left to right
    x = np.take_along_axis(x, order, axis=1)  # (R, K)
    winding = np.take_along_axis(met * np.sign(rise), order, axis=1).cumsum(axis=1)
    left, right, inside = x[:, :-1], x[:, 1:], winding[:, :-1] != 0  # (R, K - 1)
    # How much of each line lies inside and left of each edge of the grid: (R, w + 1).
    reach = [np.where(inside, np.minimum(right, edge) - np.minimum(left, edge), 0).sum(axis=1) for edge in _edges(w)]
    cells = np.zeros((h, w))
    np.add.at(cells, (y * h).astype(int), np.diff(np.stack(reach, axis=1), axis=1) * w * (thick * h)[:, None])
    return np.where(cells < 1e-9, 0.0, cells.clip(0, 1))  # what rounding leaves outside
