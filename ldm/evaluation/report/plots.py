"""Parts of the report that are drawn: images with boxes and discs, and curves, as SVG inside the page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ldm.generation.images import COLORS

_WIDTH, _HEIGHT = 360, 170  # of a plot
_LEFT, _BOTTOM, _TOP = 44, 30, 10  # of a plot's frame


def image_svg(
    path: Path,
    size: tuple[int, int],
    names: Sequence[str],
    boxes: Sequence[Mapping[str, Any]],
    layout: Mapping[str, Any],
    radius: float | None,
) -> str:
    """An image with the detected boxes and, where `radius` is given, the discs of its layout.

    Args:
        size: width and height in pixels.
        names: of the prompt's objects; an object's box and disc have the same color.
        boxes: see :class:`ldm.evaluation.metrics.Box`.
        layout: see :class:`ldm.spacetime.layout.Layout`.
    """
    wide, high = 100.0, 100.0 * size[1] / size[0]
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    parts = [
        f'<svg class="image" viewBox="0 0 {wide:g} {high:g}" role="img">',
        f'<image href="data:image/png;base64,{data}" width="{wide:g}" height="{high:g}"/>',
    ]
    for number, item in enumerate(layout.get("objects", ()) if radius else ()):
        color = COLORS[number % len(COLORS)]
        parts.append(
            f'<ellipse class="disc" cx="{item["x"] * wide:.2f}" cy="{item["y"] * high:.2f}" '
            f'rx="{(radius or 0) * wide:.2f}" ry="{(radius or 0) * high:.2f}" stroke="{color}"/>'
        )
    for box in boxes:
        color = COLORS[names.index(box["name"]) % len(COLORS)] if box["name"] in names else "#000000"
        x, y = box["left"] * wide, box["top"] * high
        parts.append(
            f'<g class="box"><rect x="{x:.2f}" y="{y:.2f}" width="{(box["right"] - box["left"]) * wide:.2f}" '
            f'height="{(box["bottom"] - box["top"]) * high:.2f}" stroke="{color}"/>'
            f'<text x="{max(x, 0) + 1:.2f}" y="{max(y, 0) + 6:.2f}" fill="{color}">'
            f"{escape(box['name'])} {box['score']:.2f}</text></g>"
        )
    return "".join(parts) + "</svg>"


def curves_svg(curves: Mapping[str, Sequence[float]], title: str, x_label: str) -> str:
    """Curves over their index as a small plot with a legend; curves of one value are drawn as a level."""
    values = [value for curve in curves.values() for value in curve]
    if not values:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0
    longest = max(len(curve) for curve in curves.values())
    right, floor = _WIDTH - 8, _HEIGHT - _BOTTOM

    def point(index: int, value: float) -> str:
        x = _LEFT + (right - _LEFT) * index / max(1, longest - 1)
        return f"{x:.1f},{floor - (floor - _TOP) * (value - low) / span:.1f}"

    under = floor + 12
    parts = [
        f'<figure><figcaption>{escape(title)}</figcaption><svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}">',
        f'<path class="axis" d="M{_LEFT} {_TOP}V{floor}H{right}"/>',
        f'<text x="{_LEFT - 4}" y="{_TOP + 8}" text-anchor="end">{high:.3g}</text>',
        f'<text x="{_LEFT - 4}" y="{floor}" text-anchor="end">{low:.3g}</text>',
        f'<text x="{_LEFT}" y="{under}">1</text><text x="{right}" y="{under}" text-anchor="end">{longest}</text>',
        f'<text x="{(_LEFT + right) / 2}" y="{under}" text-anchor="middle">{escape(x_label)}</text>',
    ]
    legend = []
    for number, (name, curve) in enumerate(curves.items()):
        color = COLORS[number % len(COLORS)]
        shown = list(curve) if len(curve) > 1 else [curve[0]] * longest if curve else []
        points = " ".join(point(index, value) for index, value in enumerate(shown))
        parts.append(f'<polyline points="{points}" stroke="{color}"/>')
        legend.append(f'<span style="color:{color}">&#9644; {escape(name)}</span>')
    return "".join(parts) + f'</svg><div class="legend">{" ".join(legend)}</div></figure>'


def mean_curve(curves: Sequence[Sequence[float]]) -> list[float]:
    """The mean of curves by index; a short one counts as far as it goes."""
    longest = max((len(curve) for curve in curves), default=0)
    columns = [[curve[index] for curve in curves if index < len(curve)] for index in range(longest)]
    return [sum(column) / len(column) for column in columns]
