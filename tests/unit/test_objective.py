"""The CLIP objective: resizing, crops, terms, batches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ldm.spacetime.layout import Layout, LayoutObject
from ldm.spacetime.objective import ClipObjective, area_matrix, crop, pixel_bounds, resize_area
from ldm.spacetime.shapes import Ellipse
from tests.golden_data import relative_error, tensor
from tests.tiny_model import NONE, ONE, TWO, TinyBundle, tokenize


def random_image(*shape: int) -> torch.Tensor:
    return tensor(1, "image", shape).sigmoid()


@pytest.mark.parametrize(
    ("height", "width", "repeats", "pools"),
    [
        (512, 512, (7, 7), (16, 16)),  # the published case
        (32, 32, (7, 7), (1, 1)),
        (256, 384, (7, 7), (8, 12)),
        (224, 448, (1, 1), (1, 2)),
    ],
)
def test_whole_image_is_upsampled_then_pooled(
    height: int, width: int, repeats: tuple[int, int], pools: tuple[int, int]
) -> None:
    image = random_image(1, 3, height, width)
    repeated = F.interpolate(image, scale_factor=repeats, mode="nearest")
    assert relative_error(resize_area(image, 224), F.avg_pool2d(repeated, pools)) < 1e-5


def test_area_matrix_averages() -> None:
    for size in (1, 40, 64, 65, 520):
        assert torch.allclose(area_matrix(size, 64).sum(1), torch.ones(64, dtype=torch.float64))
    assert torch.equal(area_matrix(64, 64), torch.eye(64, dtype=torch.float64))


def test_crop_is_the_square_around_the_center_cut_to_the_image() -> None:
    def columns(x: float) -> tuple[int, int]:
        left, _, right, _ = LayoutObject("a cat", x, 0.5).bounds()
        return pixel_bounds(left, right, 512)

    assert columns(0.5) == (153, 358)  # int(512 * 0.3), int(512 * 0.7)
    assert columns(0.05) == (0, 128)
    assert columns(0.97) == (394, 512)
    image = torch.arange(10 * 20).view(1, 1, 10, 20)
    assert torch.equal(crop(image, LayoutObject("a cat", 0.9, 0.5).bounds()), image[..., 3:7, 14:20])


@pytest.mark.parametrize("center", [-1.0, 0.0, 1.0, 1.5])
@pytest.mark.parametrize("size", [1, 2, 8])
def test_crop_is_never_empty(center: float, size: int) -> None:
    left, _, right, _ = LayoutObject("a cat", center, 0.5).bounds()
    low, high = pixel_bounds(left, right, size)
    assert 0 <= low < high <= size


def test_terms() -> None:
    bundle, image = TinyBundle(), random_image(1, 3, 8, 8)
    objective = ClipObjective(bundle, ["a cat and a dog"], [TWO], normalize=False, global_weight=2.0, local_weight=3.0)
    losses = objective(image)
    assert set(losses) == {"global", "local", "local_0", "local_1", "total"}

    def distance(pixels: torch.Tensor, text: str) -> torch.Tensor:
        features = bundle.model.encode_image(pixels)
        return 1 - F.cosine_similarity(features, bundle.model.encode_text(tokenize([text])))

    expected = {"global": distance(F.avg_pool2d(image, 2), "a cat and a dog")}
    for i, (text, x, y) in enumerate([("A photo of a cat", 0.3, 0.4), ("A photo of dog", 0.75, 0.5)]):
        part = F.interpolate(
            crop(image, LayoutObject("", x, y).bounds()), size=(4, 4), mode="bilinear", align_corners=False
        )
        expected[f"local_{i}"] = distance(part, text)
    expected["local"] = expected["local_0"] + expected["local_1"]
    expected["total"] = 2 * expected["global"] + 3 * expected["local"]
    for name, value in expected.items():
        assert torch.allclose(losses[name], value, atol=1e-6), name


def test_the_crop_of_a_shape_is_its_bounding_box_and_its_text_its_prompt() -> None:
    bundle, image = TinyBundle(), random_image(1, 3, 8, 8)
    thing = LayoutObject.shaped("a cat", Ellipse(0.5, 0.25, 0.25, 0.25), prompt="a tiger at night")
    losses = ClipObjective(bundle, ["p"], [Layout((thing,))], normalize=False)(image)
    part = F.interpolate(image[..., 0:4, 2:6], size=(4, 4), mode="bilinear", align_corners=False)
    features = bundle.model.encode_text(tokenize(["a tiger at night"]))
    expected = 1 - F.cosine_similarity(bundle.model.encode_image(part), features)
    assert torch.allclose(losses["local_0"], expected, atol=1e-6)


def test_clip_normalization() -> None:
    bundle, image = TinyBundle(), random_image(1, 3, 8, 8)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (bundle.mean, bundle.std))
    shifted = image * std + mean
    raw = ClipObjective(bundle, ["p"], [TWO], normalize=False)(image)
    normalized = ClipObjective(bundle, ["p"], [TWO], normalize=True)(shifted)
    assert all(torch.allclose(raw[name], normalized[name], atol=1e-5) for name in raw)


def test_batch_equals_singles_whatever_the_number_of_objects() -> None:
    bundle, images, layouts = TinyBundle(), random_image(3, 3, 8, 8), [TWO, NONE, ONE]
    prompts = ["first", "second", "third"]
    together = ClipObjective(bundle, prompts, layouts)(images)
    for b, (prompt, layout) in enumerate(zip(prompts, layouts, strict=True)):
        alone = ClipObjective(bundle, [prompt], [layout])(images[b : b + 1])
        for name in together:
            expected = alone.get(name, torch.zeros(1))  # zero where this image has no such object
            assert torch.allclose(together[name][b], expected[0], atol=1e-5)


def test_only_weighted_terms_have_a_gradient() -> None:
    image = random_image(1, 3, 8, 8).requires_grad_()
    losses = ClipObjective(TinyBundle(), ["p"], [ONE], global_weight=0.0)(image)
    assert losses["total"].requires_grad and not losses["global"].requires_grad
    (grad,) = torch.autograd.grad(losses["total"].sum(), image)
    inside = crop(grad, ONE.objects[0].bounds())
    assert grad.abs().sum() > 0 and torch.allclose(grad.abs().sum(), inside.abs().sum())


def test_no_object_leaves_the_global_term() -> None:
    losses = ClipObjective(TinyBundle(), ["p"], [NONE])(random_image(1, 3, 8, 8))
    assert torch.equal(losses["total"], losses["global"]) and losses["local"].item() == 0


def test_equal_phrases_are_separate_objects() -> None:
    layout = Layout((LayoutObject("a cat", 0.2, 0.2), LayoutObject("a cat", 0.8, 0.8)))
    losses = ClipObjective(TinyBundle(), ["p"], [layout])(random_image(1, 3, 8, 8))
    assert losses["local_0"].item() != losses["local_1"].item()


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="layouts"):
        ClipObjective(TinyBundle(), ["p", "q"], [ONE])
    with pytest.raises(ValueError, match="images"):
        ClipObjective(TinyBundle(), ["p"], [ONE])(random_image(2, 3, 8, 8))


def test_the_loss_is_float32_under_autocast() -> None:
    image = torch.rand(1, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        objective = ClipObjective(TinyBundle(), ["a cat"], [TWO])
        mixed, half = objective(image), objective(image.bfloat16())
    full = ClipObjective(TinyBundle(), ["a cat"], [TWO])(image)
    assert all(torch.equal(mixed[name], full[name]) for name in full)
    assert half["total"].dtype == torch.float32
