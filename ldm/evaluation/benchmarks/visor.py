"""VISOR on SR2D (Gokhale et al., 2022, arXiv 2212.10015): its 31,680 prompts by their rule, and its judgment."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from ldm.evaluation.benchmarks.boxes import Detection
from ldm.relations import ABOVE, BELOW, LEFT, RIGHT, satisfied, with_article

PROMPTS = 31_680
TEXTS_SHA256 = "6432763f3b42fccba557e5344655588b3a6670d3dab2c8eebcc664e657074187"  # of all texts, joined by newlines
RELATIONS = {"to the left of": LEFT, "to the right of": RIGHT, "above": ABOVE, "below": BELOW}
THRESHOLD = 0.1  # a box counts if its score is above


def make_entries(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The entries of the benchmark's file, made of the names of things; COCO's 80 in their order make the original."""
    pairs = (
        (first, relation, second)
        for pair in itertools.combinations(names, 2)
        for relation in (*RELATIONS, "and")
        for first, second in (pair, pair[::-1])
    )
    singles = ((name, "single", None) for name in names)
    return (make_entry(number, *stated) for number, stated in enumerate(itertools.chain(pairs, singles)))


def make_entry(number: int, first: str, relation: str, second: str | None = None) -> dict[str, Any]:
    """An entry of the benchmark's file, of two things in a relation or of one."""
    text = with_article(first) if second is None else f"{with_article(first)} {relation} {with_article(second)}"
    return {
        "unique_id": number,
        "num_objects": 1 if second is None else 2,
        "obj_1_attributes": [first],
        "obj_2_attributes": [second],
        "rel_type": relation,
        "text": text,
    }


def judge(
    detections: Sequence[Detection],
    objects: tuple[str, str | None],
    relation: str,
    surest: bool = False,
    limit: float = THRESHOLD,
) -> tuple[int, int]:
    """How many of the objects' names are detected, and 1 if the relation holds, else 0.

    Published: any pair of a box of the first and one of the second may fulfill the relation, so further boxes help.

    Args:
        detections: named by the objects.
        surest: corrected rule: the surest box of each decides.
        limit: a box counts if its score is above.
    """
    first, second = (
        sorted((found for found in detections if found.name == name and found.score > limit), key=lambda f: -f.score)
        for name in objects
    )
    if surest:
        first, second = first[:1], second[:1]
    fulfilled = relation in RELATIONS and any(
        satisfied(RELATIONS[relation], one.center, other.center) for one in first for other in second
    )
    return bool(first) + bool(second), int(fulfilled)
