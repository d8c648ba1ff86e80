"""Scores on hand-made detections, with the counts worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ldm.evaluation.prompts import RULE_CENTERS
from ldm.evaluation.scoring import Ratio, match, paired_bootstrap, per_prompt, relation_holds, score_image, summarize
from ldm.models.detector import Detection

LEFT, RIGHT = RULE_CENTERS["left"]


def test_relations_by_centers() -> None:
    assert relation_holds((0.2, 0.9), (0.3, 0.1), "left")
    assert not relation_holds((0.3, 0.9), (0.2, 0.1), "left")
    assert relation_holds((0.3, 0.9), (0.2, 0.1), "right")
    assert relation_holds((0.5, 0.1), (0.1, 0.2), "above")
    assert relation_holds((0.5, 0.3), (0.1, 0.2), "below")
    assert not relation_holds((0.5, 0.5), (0.5, 0.5), "below")


def score(*detections: Detection) -> Any:
    return score_image(detections, ("cat", "dog"), "left", (LEFT, RIGHT))


def test_both_in_their_discs() -> None:
    made = score(Detection("cat", 0.9, 0.3, 0.5), Detection("dog", 0.8, 0.7, 0.6))
    assert made.found == (True, True) and made.in_disc == (True, True)
    assert made.relation_right is True and made.both_and_right and made.extra == 0


def test_exchanged_objects_are_wrong_and_miss() -> None:
    made = score(Detection("cat", 0.9, 0.73, 0.5), Detection("dog", 0.8, 0.27, 0.5))
    assert made.found == (True, True) and made.in_disc == (False, False)
    assert made.relation_right is False and not made.both_and_right


def test_a_missing_object_leaves_the_relation_open() -> None:
    made = score(Detection("cat", 0.9, 0.27, 0.69), Detection("bus", 0.9, 0.7, 0.5))
    assert made.found == (True, False) and made.in_disc == (True, False)
    assert made.relation_right is None and not made.both_and_right and made.extra == 1


def test_of_duplicates_the_surest_decides_and_any_may_hit() -> None:
    cats = (Detection("cat", 0.5, 0.27, 0.5), Detection("cat", 0.9, 0.9, 0.5))
    made = score(*cats, Detection("dog", 0.8, 0.6, 0.5))
    assert made.in_disc == (True, True) and made.relation_right is False and made.extra == 1


def test_a_disc_ends_at_a_fifth_of_the_side() -> None:
    assert score(Detection("cat", 1, 0.27, 0.69)).in_disc == (True, False)
    assert score(Detection("cat", 1, 0.27, 0.71)).in_disc == (False, False)
    assert score(Detection("dog", 1, 0.73 - 0.15, 0.5 + 0.15)).in_disc == (False, False)  # 0.212 away


def test_summary_counts() -> None:
    scores = [
        score(Detection("cat", 0.9, 0.3, 0.5), Detection("dog", 0.8, 0.7, 0.6)),
        score(Detection("cat", 0.9, 0.73, 0.5), Detection("dog", 0.8, 0.27, 0.5)),
        score(Detection("cat", 0.9, 0.27, 0.5)),
        score(),
    ]
    assert summarize(scores) == {
        "object_recall": Ratio(5, 8),
        "both_present": Ratio(2, 4),
        "relation_given_both": Ratio(1, 2),
        "both_and_right": Ratio(1, 4),
        "disc_hits": Ratio(3, 8),
    }
    assert per_prompt(scores)["object_recall"].tolist() == [1, 1, 0.5, 0]
    assert per_prompt(scores)["disc_hits"].tolist() == [1, 0, 0.5, 0]
    assert Ratio(0, 0).value is None


def test_paired_bootstrap() -> None:
    same = paired_bootstrap(np.ones(20), np.zeros(20))
    assert (same.mean, same.low, same.high) == (1, 1, 1)
    rng = np.random.default_rng(1)
    values, baseline = rng.integers(0, 2, 400).astype(float), rng.integers(0, 2, 400).astype(float)
    interval = paired_bootstrap(values, baseline)
    assert interval.low < interval.mean < interval.high
    deviation = (values - baseline).std() / np.sqrt(400)
    assert interval.high - interval.mean == pytest.approx(1.96 * deviation, rel=0.1)
    assert interval == paired_bootstrap(values, baseline)
    with pytest.raises(ValueError, match="paired"):
        paired_bootstrap(np.ones(3), np.ones(4))


def test_matching_detections_with_truth() -> None:
    truth = [("cat", 0.2, 0.2), ("cat", 0.3, 0.2), ("dog", 0.8, 0.8)]
    found = [
        Detection("cat", 0.9, 0.21, 0.2),
        Detection("cat", 0.8, 0.22, 0.2),  # the nearest is taken: gets the second cat
        Detection("dog", 0.7, 0.8, 0.5),  # too far
        Detection("bus", 0.6, 0.8, 0.8),  # wrong category
    ]
    made = match(found, truth)
    assert (made.matched, made.detected, made.present) == (2, 4, 3)
    assert sorted(made.distances) == pytest.approx([0.01, 0.08])
    both = made + match([], [("bus", 0.1, 0.1)])
    assert both.precision == Ratio(2, 4) and both.recall == Ratio(2, 4)
    assert both.to_json()["center_error_px"] == pytest.approx(0.045 * 64)
