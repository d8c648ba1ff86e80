"""Metrics on hand-made boxes: every answer is worked out beside it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ldm.evaluation.plan import targets
from ldm.evaluation.prompts.prompt import COLORS, EvalObject, EvalPrompt, EvalRelation, rule_layout
from ldm.evaluation.score.calibration import Matches, match
from ldm.evaluation.score.clip import bundle_score, classify_color, color_facts, crop_of, open_clip_score
from ldm.evaluation.score.judge import Judges, look
from ldm.evaluation.score.metrics import Box, ImageFacts, counts, geneval_positions, image_facts, visor_n
from ldm.evaluation.score.statistics import compare, estimate
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.util import UserError


def box(name: str, x: float, y: float, side: float = 0.2, score: float = 0.9) -> Box:
    return Box(name, score, x - side / 2, y - side / 2, x + side / 2, y + side / 2)


def prompt(*objects: Any, relations: tuple[tuple[int, str, int], ...] = ()) -> EvalPrompt:
    made = tuple(o if isinstance(o, EvalObject) else EvalObject(o, f"a {o}") for o in objects)
    return EvalPrompt("text", made, tuple(EvalRelation(*relation) for relation in relations))


CAT_LEFT_OF_DOG = prompt("cat", "dog", relations=((0, "left of", 1),))


# ------------------------------------------------------------------------------------------ GenEval's rule


def test_geneval_position_has_a_margin() -> None:
    # Sides 20 px of 100: the margin is 0.1 * (20 + 20) = 4 px. Offset -3 px: nothing is left of it.
    assert geneval_positions(box("a", 0.47, 0.5), box("b", 0.5, 0.5), (100, 100)) == set()
    # Offset -10 px: 6 are left, 6/10 = 0.6 > 0.5.
    assert geneval_positions(box("a", 0.4, 0.5), box("b", 0.5, 0.5), (100, 100)) == {"left of"}
    # Offset -7 px: 3 are left, 3/7 = 0.43 < 0.5: not left yet.
    assert geneval_positions(box("a", 0.43, 0.5), box("b", 0.5, 0.5), (100, 100)) == set()
    # Offset (40, 40) px: 36 of |(40, 40)| = 56.6 along each axis, 0.64: to the right and below.
    assert geneval_positions(box("a", 0.7, 0.7), box("b", 0.3, 0.3), (100, 100)) == {"right of", "below"}
    # Offset (10, 40) px: x 6/41.2 = 0.15, y 36/41.2 = 0.87: below only.
    assert geneval_positions(box("a", 0.4, 0.7), box("b", 0.3, 0.3), (100, 100)) == {"below"}
    # Twice as wide as high: offset (80, 40) px, margins (8, 4): 72/89.4 = 0.81 and 36/89.4 = 0.40.
    assert geneval_positions(box("a", 0.7, 0.7), box("b", 0.3, 0.3), (200, 100)) == {"right of"}


# ---------------------------------------------------------------------------------------------- one image


def test_a_right_image() -> None:
    facts = image_facts([box("cat", 0.3, 0.5), box("dog", 0.7, 0.5)], CAT_LEFT_OF_DOG, (64, 64))
    assert facts == ImageFacts((True, True), (True, True), (True,), (True,), (True,))
    assert facts.all_right and facts.faults == 0
    assert counts(facts) == {
        "object_recall": (2, 2),
        "object_accuracy": (1.0, 1.0),
        "relation_given_both": (1, 1),
        "relation": (1, 1),
        "position_with_margin": (1, 1),
        "disc_hits": (0, 0),
        "count": (2, 2),
        "color": (0, 0),
        "background": (0.0, 0.0),
        "clip_score": (0.0, 0.0),
        "extra_objects": (0.0, 0.0),
    }


def test_a_missing_object_counts_against_the_unconditional_relation_only() -> None:
    facts = image_facts([box("cat", 0.3, 0.5)], CAT_LEFT_OF_DOG, (64, 64))
    shares = counts(facts)
    assert shares["object_recall"] == (1, 2) and shares["object_accuracy"] == (0.0, 1.0)
    assert shares["relation_given_both"] == (0, 0) and shares["relation"] == (0, 1)
    assert facts.faults == 2


def test_centers_may_be_right_without_the_margin() -> None:
    # 1 px of 64 to the left: right by VISOR's centroids, nothing by GenEval's rule.
    facts = image_facts([box("cat", 0.48, 0.5), box("dog", 0.5, 0.5)], CAT_LEFT_OF_DOG, (64, 64))
    assert (facts.both, facts.right, facts.with_margin) == ((True,), (True,), (False,))


def test_the_surest_box_stands_for_its_name() -> None:
    boxes = [box("cat", 0.9, 0.5, score=0.5), box("cat", 0.1, 0.5, score=0.8), box("dog", 0.5, 0.5)]
    facts = image_facts(boxes, CAT_LEFT_OF_DOG, (64, 64))
    assert facts.right == (True,) and facts.counted == (False, True)


def test_two_objects_of_one_name_need_two_boxes() -> None:
    two = prompt("dog", "dog", relations=((0, "above", 1),))
    one = image_facts([box("dog", 0.5, 0.5)], two, (64, 64))
    assert one.found == (True, False) and one.counted == (False, False) and one.both == (False,)
    both = image_facts([box("dog", 0.5, 0.2), box("dog", 0.5, 0.8)], two, (64, 64))
    assert both.found == (True, True) and both.counted == (True, True) and both.right == (True,)
    beside = image_facts([box("dog", 0.2, 0.5), box("dog", 0.8, 0.5)], two, (64, 64))
    assert beside.both == (True,) and beside.right == (False,)


def test_counts() -> None:
    cars = prompt(EvalObject("car", "two cars", 2))
    for number, found, exact in ((1, False, False), (2, True, True), (3, True, False)):
        facts = image_facts([box("car", 0.1 + 0.3 * i, 0.5) for i in range(number)], cars, (64, 64))
        assert (facts.found, facts.counted) == ((found,), (exact,))


LEFT, RIGHT = (0.27, 0.5), (0.73, 0.5)


@pytest.mark.parametrize(
    ("boxes", "hits"),
    [
        ([box("cat", 0.3, 0.5), box("dog", 0.7, 0.6)], (True, True)),
        ([box("cat", *RIGHT), box("dog", *LEFT)], (False, False)),  # exchanged
        ([box("cat", 0.27, 0.69)], (True, False)),  # a disc ends at a fifth of the side
        ([box("cat", 0.27, 0.71)], (False, False)),
        ([box("dog", 0.73 - 0.15, 0.5 + 0.15)], (False, False)),  # 0.212 away
        ([box("cat", *LEFT, score=0.5), box("cat", 0.9, 0.5)], (True, False)),  # any of a name may hit
    ],
)
def test_hits_in_discs(boxes: list[Box], hits: tuple[bool, bool]) -> None:
    facts = image_facts(boxes, CAT_LEFT_OF_DOG, (64, 64), (LEFT, RIGHT))
    assert facts.in_disc == hits and counts(facts)["disc_hits"] == (sum(hits), 2)


def test_targets_fall_back_to_the_rule() -> None:
    rule = [(o.x, o.y) for o in rule_layout(CAT_LEFT_OF_DOG).objects]
    assert targets(CAT_LEFT_OF_DOG, Layout(())) == rule
    only = Layout((LayoutObject("a thing", 0.1, 0.9, name="dog"),))
    assert targets(CAT_LEFT_OF_DOG, only) == [rule[0], (0.1, 0.9)]


def test_further_objects_are_counted_and_not_kept() -> None:
    class Sees:
        name = "all"

        def detect(self, image: Any, names: Any) -> list[Box]:
            assert list(names) == ["cat", "dog", "bus"]
            return [box("cat", 0.3, 0.5), box("cat", 0.4, 0.5, score=0.5), box("bus", 0.5, 0.5)]

    boxes, facts = look(np.zeros((8, 8, 3), np.uint8), CAT_LEFT_OF_DOG, Judges(Sees(), categories=("dog", "bus")))
    assert facts.extra == 2 and counts(facts)["extra_objects"] == (2, 1) and [b.name for b in boxes] == ["cat", "cat"]


def test_facts_as_json() -> None:
    for facts in (
        ImageFacts(),
        ImageFacts((True,), (False,), (True,), (False,), (False,), (True,), (None, True), False, 27.43, 3),
    ):
        assert ImageFacts.from_json(facts.to_json()) == facts
    assert ImageFacts((True, False), extra=0).to_json() == {"found": [True, False], "extra": 0}
    for wrong in ({"found": [1]}, {"found": "11"}, {"fond": [True]}):
        with pytest.raises((TypeError, ValueError)):
            ImageFacts.from_json(wrong)


def test_matching_detections_with_truth() -> None:
    truth = [("cat", 0.2, 0.2), ("cat", 0.3, 0.2), ("dog", 0.8, 0.8)]
    found = [
        box("cat", 0.21, 0.2, score=0.9),
        box("cat", 0.22, 0.2, score=0.8),  # the nearest is taken: gets the second cat
        box("dog", 0.8, 0.5, score=0.7),  # too far
        box("bus", 0.8, 0.8, score=0.6),  # wrong category
    ]
    made = match(found, truth)
    assert (made.matched, made.detected, made.present) == (2, 4, 3)
    assert sorted(made.distances) == pytest.approx([0.01, 0.08])
    both = (made + match([], [("bus", 0.1, 0.1)])).to_json()
    assert both["precision"] == both["recall"] == {"hits": 2, "total": 4, "value": 0.5}
    assert both["center_error_px"] == pytest.approx(0.045 * 128)
    assert Matches(0, 0, 0).to_json()["precision"]["value"] is None


# -------------------------------------------------------------------------------------------- many images


def test_visor() -> None:
    """Two prompts of four images: one right in 3, the other in 1 (and without its objects in 2)."""
    right = ImageFacts((True, True), (True, True), (True,), (True,), (True,))
    wrong = ImageFacts((True, True), (True, True), (True,), (False,), (False,))
    empty = ImageFacts((False, True), (False, True), (False,), (False,), (False,))
    groups = [[right, right, right, wrong], [right, wrong, empty, empty]]
    shares = [counts(facts) for group in groups for facts in group]

    def total(name: str) -> tuple[float, float]:
        return sum(share[name][0] for share in shares), sum(share[name][1] for share in shares)

    assert total("object_accuracy") == (6, 8)  # OA = 6/8
    assert total("relation") == (4, 8)  # VISOR uncond = 4/8
    assert total("relation_given_both") == (4, 6)  # VISOR cond = 4/6
    assert [visor_n(groups, n) for n in (1, 2, 3, 4)] == [(2, 2), (1, 2), (1, 2), (0, 2)]
    assert visor_n([[right]], 2) == (0, 0)  # one image cannot say


def test_intervals() -> None:
    hits, totals = np.array([2.0, 0.0, 2.0, 0.0]), np.full(4, 2.0)
    found = estimate(hits, totals)
    assert (found.hits, found.total, found.value) == (4, 8, 0.5)
    assert found.low is not None and found.high is not None and 0 <= found.low < 0.5 < found.high <= 1
    sure = estimate(totals, totals)
    assert (sure.value, sure.low, sure.high) == (1, 1, 1)
    assert estimate(np.zeros(2), np.zeros(2)).value is None


def test_paired_differences() -> None:
    ones, zeros = np.ones(8), np.zeros(8)
    clear = compare((ones, zeros), (ones, ones))
    # All 8 prompts differ the same way: of 2^8 exchanges 2 are as large, p = 2/256 = 0.008 up to the drawing.
    assert clear is not None and (clear.value, clear.low, clear.high) == (1, 1, 1)
    assert clear.p == pytest.approx(2 / 256, abs=0.006)
    same = compare((ones, ones), (ones, ones))
    assert same is not None and same.value == 0 and same.p == 1
    assert compare((zeros, zeros), (zeros, ones)) is None
    rng = np.random.default_rng(1)
    values, other = (rng.integers(0, 2, 400).astype(float) for _ in range(2))
    found = compare((values, other), (np.ones(400), np.ones(400)), resamples=10_000)
    assert found is not None and found == compare((values, other), (np.ones(400), np.ones(400)), resamples=10_000)
    assert found.high - found.value == pytest.approx(1.96 * (values - other).std() / 20, rel=0.1)
    single = compare((np.array([1.0, 0]), np.array([0.0, 0])), (np.ones(2), np.ones(2)))
    assert single is not None and single.value == 0.5 and single.p == 1  # one prompt differs: nothing can be said


# --------------------------------------------------------------------------------------------------- colors


class PaintedClip:
    """A stand-in for CLIP: an image's vector is its mean color, a text's that of the color it names."""

    PAINT = {"red": (1.0, 0, 0), "green": (0, 1.0, 0), "blue": (0, 0, 1.0), "white": (1.0, 1, 1), "black": (0.01, 0, 0)}

    def parameters(self) -> Any:
        return iter([torch.zeros(1)])

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean((2, 3))

    def encode_text(self, numbers: torch.Tensor) -> torch.Tensor:
        dim = torch.tensor([0.3, -0.9, -0.9])
        return torch.stack([torch.tensor(self.PAINT.get(COLORS[int(n)], dim.tolist())) for n in numbers])


def number_of(texts: list[str]) -> torch.Tensor:
    return torch.tensor(
        [
            next((i for i, c in enumerate(COLORS) if c in text.split()), 1)
            for text in [text.replace("-colored", "") for text in texts]
        ]
    )


PAINTED: Any = SimpleNamespace(
    model=PaintedClip(), tokenize=number_of, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), resolution=4
)


def test_colors_are_read_from_the_crop() -> None:
    image = np.zeros((10, 20, 3), np.uint8)
    image[:, :10], image[:, 10:] = (0, 255, 0), (0, 0, 255)
    left, right = Box("car", 0.9, 0, 0, 0.5, 1), Box("bus", 0.9, 0.5, 0, 1, 1)
    assert crop_of(image, left).shape == (10, 10, 3)
    assert classify_color(PAINTED, crop_of(image, left), "car") == "green"
    demanded = prompt(
        EvalObject("car", "a green car", 1, "green"),
        EvalObject("bus", "a red bus", 1, "red"),
        EvalObject("cat", "a cat"),
        EvalObject("dog", "a red dog", 1, "red"),
    )
    facts = color_facts(PAINTED, image, [left, right], demanded)
    assert facts == (True, False, None, None)  # the bus is blue; no color is demanded of the cat; no dog is there
    judged = ImageFacts((True,) * 4, colors=facts)
    assert counts(judged)["color"] == (1, 2)
    assert crop_of(image, Box("cat", 1, 2, 2, 3, 3)).shape == (1, 1, 3)  # beyond the rim


def test_clip_score_is_the_clamped_cosine() -> None:
    score = bundle_score(PAINTED)
    green = np.full((8, 8, 3), (0, 255, 0), np.uint8)
    assert score(green, "a green thing") == pytest.approx(100)
    assert score(green, "a white thing") == pytest.approx(100 / 3**0.5)  # cos((0, 1, 0), (1, 1, 1))
    assert score(green, "a yellow thing") == 0  # the cosine is negative


def test_clip_score_by_torchmetrics(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torchmetrics")
    folder = tiny_clip(tmp_path, transformers)
    score, told = open_clip_score(str(folder))
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    model = transformers.CLIPModel.from_pretrained(folder)
    processor = transformers.CLIPProcessor.from_pretrained(folder)
    with torch.no_grad():
        inputs = processor(text=["a cat"], images=[torch.from_numpy(image.transpose(2, 0, 1))], return_tensors="pt")
        output = model(**inputs)
        cosine = torch.nn.functional.cosine_similarity(output.image_embeds, output.text_embeds).item()
    assert score(image, "a cat") == pytest.approx(max(100 * cosine, 0), abs=1e-3) and "torchmetrics" in told


def tiny_clip(folder: Path, transformers: Any) -> Path:
    """A random CLIP of transformers with a vocabulary of a few byte pairs, saved."""
    letters = "acot"
    tokens = ["!", *letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[])
    sides = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": 9, "eos_token_id": 10, "pad_token_id": 10}
    config = transformers.CLIPConfig(
        text_config={**sides, **ids, "vocab_size": len(tokens), "max_position_embeddings": 16},
        vision_config={**sides, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    transformers.CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def test_a_clip_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be loaded"):
        open_clip_score(str(tmp_path / "nowhere"))
