"""Shapes of regions: the share of each cell that they cover, on grids of any size, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ldm.errors import UserError
from ldm.spacetime.shapes import Box, Ellipse, Mask, Polygon, Shape

GRIDS = [(1, 1), (2, 3), (5, 8), (8, 8), (16, 12), (64, 40)]
STAR = tuple((0.5 + 0.4 * math.sin(4 * math.pi * k / 5), 0.5 - 0.4 * math.cos(4 * math.pi * k / 5)) for k in range(5))
INNER = 0.4 * math.cos(2 * math.pi / 5) / math.cos(math.pi / 5)  # radius of the star's inner corners
SHAPES: dict[str, tuple[Shape, float]] = {  # with their areas
    "box": (Box(0.1, 0.2, 0.55, 0.9), 0.45 * 0.7),
    "box beyond the image": (Box(-0.5, 0.5, 0.25, 1.5), 0.25 * 0.5),
    "whole image": (Box(0, 0, 1, 1), 1),
    "ellipse": (Ellipse(0.5, 0.4, 0.3, 0.2), math.pi * 0.06),
    "half an ellipse": (Ellipse(0.5, 1.0, 0.3, 0.2), math.pi * 0.03),
    "quarter of an ellipse": (Ellipse(0, 0, 0.3, 0.2), math.pi * 0.015),
    "triangle": (Polygon(((0.4, 1), (0.6, 1), (0.5, 0.6))), 0.04),
    "triangle beyond the image": (Polygon(((-1, 0), (1, 0), (1, 2))), 0.5 + 0.5),
    "the other way around": (Polygon(((0.5, 0.6), (0.6, 1), (0.4, 1))), 0.04),
    "hollow": (Polygon(((0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.5, 0.2), (0.1, 0.9))), 0.64 - 0.5 * 0.8 * 0.7),
    "crossed": (Polygon(((0.1, 0.1), (0.5, 0.5), (0.5, 0.1), (0.1, 0.5))), 0.08),
    "star": (Polygon(STAR), 5 * 0.4 * INNER * math.sin(math.pi / 5)),
    "mask": (Mask(np.linspace(0, 1, 7 * 5).reshape(7, 5)), 0.5),
}
EVERY = pytest.mark.parametrize("name", SHAPES)


@EVERY
@pytest.mark.parametrize(("h", "w"), GRIDS)
def test_the_sum_over_a_grid_is_the_area(name: str, h: int, w: int) -> None:
    shape, area = SHAPES[name]
    cells = shape.coverage(h, w)
    assert cells.shape == (h, w)
    assert cells.min() >= 0 and cells.max() <= 1
    assert cells.mean() == pytest.approx(area, rel=1e-3)


@EVERY
def test_a_coarse_grid_holds_the_means_of_a_fine_one(name: str) -> None:
    shape, _ = SHAPES[name]
    fine, coarse = shape.coverage(48, 36), shape.coverage(8, 6)
    assert np.allclose(fine.reshape(8, 6, 6, 6).mean((1, 3)), coarse, atol=2e-3)


@EVERY
def test_bounds_hold_all_that_is_covered(name: str) -> None:
    shape, _ = SHAPES[name]
    left, top, right, bottom = shape.bounds
    rows, columns = (np.flatnonzero(shape.coverage(200, 200).any(axis)) for axis in (1, 0))
    assert (columns[0] / 200, rows[0] / 200) == pytest.approx((left, top), abs=0.006)
    assert ((columns[-1] + 1) / 200, (rows[-1] + 1) / 200) == pytest.approx((right, bottom), abs=0.006)


def test_a_box_is_exact() -> None:
    assert np.allclose(Box(0.25, 0, 0.75, 0.25).coverage(2, 2), [[0.25, 0.25], [0, 0]], atol=1e-15)
    assert np.array_equal(Box(0, 0, 1, 1).coverage(5, 7), np.ones((5, 7)))
    corners = ((0.1, 0.2), (0.55, 0.2), (0.55, 0.9), (0.1, 0.9))
    assert np.allclose(Polygon(corners).coverage(9, 7), Box(0.1, 0.2, 0.55, 0.9).coverage(9, 7), atol=1e-12)


@pytest.mark.parametrize(
    "small",
    [Box(0.3, 0.6, 0.33, 0.63), Ellipse(0.3, 0.6, 0.015, 0.015), Polygon(((0.3, 0.6), (0.33, 0.6), (0.3, 0.63)))],
)
def test_a_small_region_acts_on_a_small_grid(small: Shape) -> None:
    assert small.coverage(8, 8).max() > 0.01


def test_a_mask_is_averaged_on_any_grid() -> None:
    mask = Mask(np.array([[0.0, 1.0], [0.5, 0.25]]))
    assert np.array_equal(mask.coverage(2, 2), mask.weights)
    assert np.allclose(mask.coverage(4, 2), [[0, 1], [0, 1], [0.5, 0.25], [0.5, 0.25]])
    assert np.allclose(mask.coverage(1, 1), [[0.4375]])
    assert np.allclose(mask.coverage(3, 1)[1], [(0.5 + 0.375) / 2])
    assert mask.bounds == (0, 0, 1, 1)
    assert Mask(np.array([[0.0, 0, 0, 0], [0, 0, 0.1, 0]])).bounds == (0.5, 0.5, 0.75, 1)


NAN = float("nan")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Box(0.5, 0, 0.5, 1), "left < right"),
        (lambda: Box(0, 0.6, 1, 0.5), "top < bottom"),
        (lambda: Box(10, 20, 200, 300), "fractions of the image's"),
        (lambda: Box(0, NAN, 1, 1), "fractions of the image's"),
        (lambda: Box(1, 0, 1.5, 1), "outside the image"),
        (lambda: Ellipse(0.5, 0.5, 0, 0.1), "above 0"),
        (lambda: Ellipse(-0.5, 0.5, 0.1, 0.1), "outside the image"),
        (lambda: Ellipse(-0.09, -0.09, 0.1, 0.1), "no area within"),
        (lambda: Ellipse(0.5, 0.5, NAN, 0.1), "fractions of the image's"),
        (lambda: Polygon(()), "three or more"),
        (lambda: Polygon(((0, 0), (1, 1), (0, 0))), "three or more different"),
        (lambda: Polygon(((0, 0), (0.5, 0.5), (1, 1))), "one line"),
        (lambda: Polygon(((0, 0), (NAN, 0.5), (1, 1))), "fractions of the image's"),
        (lambda: Polygon(((1.2, 0), (1.5, 0.5), (1.2, 1))), "outside the image"),
        (lambda: Mask(np.zeros((4, 4))), "paints nothing"),
        (lambda: Mask(np.full((2, 2), 1.5)), "from 0 to 1"),
        (lambda: Mask(np.full((2, 2), NAN)), "from 0 to 1"),
        (lambda: Mask(np.ones((0, 3))), "from 0 to 1"),
        (lambda: Mask(np.ones((2, 3, 3))), "from 0 to 1"),
    ],
)
def test_what_is_no_region_is_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()
