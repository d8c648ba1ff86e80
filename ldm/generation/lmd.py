"""Layouts of LLM-grounded Diffusion (Lian et al., 2023, arXiv 2305.13655), as its language models answer."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from ldm.errors import UserError

SIDE = 512  # of the layouts, in pixels
_LARGEST = 3.0  # a layout is not enlarged more


@dataclass(frozen=True)
class Answer:
    """A language model's layout: phrases with x, y, width and height in 512 x 512, and what is around and not there."""

    boxes: tuple[tuple[str, tuple[int, int, int, int]], ...]
    background: str
    negative: str


def read_answer(text: str) -> Answer:
    """The layout of an answer, with boxes that lie in the image as the original puts them there.

    Raises:
        UserError: it has not one background or more than one negative prompt, or its boxes can't be read.
    """
    listed, *rest = text.split("Background prompt:")
    if len(rest) != 1 or rest[0].count("Negative prompt:") > 1:
        raise UserError(f"'{text[:60]}' is no layout; it needs one 'Background prompt:' and at most one negative")
    background, _, negative = (part.strip() for part in rest[0].partition("Negative prompt:"))
    listed = listed.strip().removeprefix("Objects:").strip()
    try:
        items = [] if listed.lower() == "no objects" else ast.literal_eval(listed)
        boxes = [(str(name), tuple(float(value) for value in box)) for name, box in items]
        if any(len(box) != 4 for _, box in boxes):
            raise ValueError("a box has four numbers")
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise UserError(f"the boxes '{listed[:60]}' can't be read; write [('a cat', [x, y, width, height])]") from None
    fitted = in_image([(name.rstrip("."), box) for name, box in boxes])
    return Answer(tuple(fitted), background, "" if negative == "None" else negative)


def in_image(boxes: list[tuple[str, tuple[float, ...]]]) -> list[tuple[str, tuple[int, int, int, int]]]:
    """Without boxes that are empty, of the whole image or outside; all of them scaled if one leaves the image."""
    left = [
        (name, (x, y, w, h))
        for name, (x, y, w, h) in boxes
        if w > 0 and h > 0 and not (w >= SIDE and h >= SIDE) and x <= SIDE and y <= SIDE
    ]
    scale, dx, dy = 1.0, 0.0, 0.0
    if any(x < 0 or y < 0 or x + w > SIDE or y + h > SIDE for _, (x, y, w, h) in left):
        x0, y0 = (min(box[axis] for _, box in left) for axis in (0, 1))
        x1, y1 = (max(box[axis] + box[axis + 2] for _, box in left) for axis in (0, 1))
        scale = min(SIDE / (x1 - x0), SIDE / (y1 - y0), _LARGEST)
        dx, dy = -x0 * scale, -y0 * scale if y0 < 0 else 0.0
        if y1 * scale + dy >= SIDE:
            dy -= y1 * scale - SIDE
    return [
        (name, (round(x * scale + dx), round(y * scale + dy), round(w * scale), round(h * scale)))
        for name, (x, y, w, h) in left
    ]
