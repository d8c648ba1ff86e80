"""GenEval (Ghosh et al., NeurIPS 2023, arXiv 2310.11513): does an image show what its prompt's clauses demand?

The rules are those of the published evaluator, its defects included; `CORRECTED` mends them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ldm.evaluation.benchmarks.boxes import Detection, by_score, iou, suppress
from ldm.evaluation.score.metrics import GENEVAL_MARGIN, geneval_relations


@dataclass(frozen=True)
class Options:
    """Constants of the evaluator; the defaults are the published ones.

    Attributes:
        threshold, counting_threshold: a box counts if its score is above; the second for the tag "counting".
        max_objects: boxes of a class that are looked at.
        max_overlap: IoU from which a less sure box of the same class is a duplicate; 1 keeps all.
        position_threshold: margin as a share of the two boxes' summed sides.
        whole: whether the direction is what the margin leaves, by its own length and not by that of the whole offset.
    """

    threshold: float = 0.3
    counting_threshold: float = 0.9
    max_objects: int = 16
    max_overlap: float = 1.0
    position_threshold: float = GENEVAL_MARGIN
    whole: bool = False


PUBLISHED = Options()
# Duplicate boxes don't count, and boxes that are clearly apart always have a relation.
CORRECTED = Options(max_overlap=0.9, whole=True)


@dataclass(frozen=True)
class Fault:
    """A clause that an image fails: `kind` is "count", "color", "position", "no_target" or "exclude"."""

    kind: str
    name: str
    need: int = 0
    found: int = 0


def keep(detections: Sequence[Detection], tag: str, options: Options = PUBLISHED) -> dict[str, list[int]]:
    """By class the numbers of the detections that count, the surest first."""
    limit = options.counting_threshold if tag == "counting" else options.threshold
    kept: dict[str, list[int]] = {}
    for index in by_score(detections):
        if detections[index].score > limit and len(kept.get(detections[index].name, ())) < options.max_objects:
            kept.setdefault(detections[index].name, []).append(index)
    if options.max_overlap == 1:
        return kept

    def drops(first: int, second: int) -> bool:
        return iou(detections[first].box, detections[second].box, 1) >= options.max_overlap

    return {name: suppress(order, drops) for name, order in kept.items()}


def judge(
    detections: Sequence[Detection], metadata: Mapping[str, Any], options: Options = PUBLISHED
) -> tuple[Fault, ...]:
    """What is wrong with an image, in the order of the clauses; nothing if it is correct.

    Args:
        metadata: a line of the prompt file, with "tag", "include" and maybe "exclude".
    """
    kept = {
        name: [detections[index] for index in order]
        for name, order in keep(detections, metadata["tag"], options).items()
    }
    faults: list[Fault] = []
    passed: list[Sequence[Detection] | None] = []  # what each clause was met by
    for clause in metadata.get("include", ()):
        name, need = clause["class"], clause["count"]
        found = kept.get(name, [])
        fault = None
        looked_at = found[:need]
        if len(found) < need:
            fault = Fault("count", name, need, len(found))
        elif "color" in clause and (right := sum(one.color == clause["color"] for one in looked_at)) < need:
            fault = Fault("color", name, need, right)
        elif "position" in clause:
            relation, target = clause["position"]
            others = passed[target] if target < len(passed) else None
            if others is None:
                fault = Fault("no_target", name)
            elif any(
                relation not in geneval_relations(one.box, other.box, options.position_threshold, options.whole)
                for one in looked_at
                for other in others
            ):
                fault = Fault("position", name)
        if fault:
            faults.append(fault)
        passed.append(None if fault else looked_at)
    for clause in metadata.get("exclude", ()):
        name, below = clause["class"], clause["count"]
        if len(kept.get(name, ())) >= below:
            faults.append(Fault("exclude", name, below, len(kept[name])))
    return tuple(faults)
