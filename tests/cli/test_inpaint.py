"""`scripts/inpaint.py`: by a model conditioned on the masked image, and by a text-to-image model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.errors import UserError
from ldm.generation.inpaint import find_pairs, masked_condition, pad_to_multiple, read_pair
from tests import tiny_world
from tests.scripts_under_test import concat, hybrid, refusal, run, text_flags, tiny_config, write_image, write_model
from tests.unit.test_watermark import needs_watermark


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    config, ckpt = write_model(tmp_path_factory.mktemp("concat"), tiny_config(concat))
    return ["--config", str(config), "--ckpt", str(ckpt), "--device", "cpu"]


def write_pair(folder: Path, name: str, width: int = 32, height: int = 32) -> None:
    """An image and a mask that is white in its right half."""
    folder.mkdir(exist_ok=True)
    write_image(folder / f"{name}.png", width, height)
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 255
    Image.fromarray(mask).save(folder / f"{name}_mask.png")


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), int)


def test_only_the_masked_place_is_painted(model: list[str], tmp_path: Path) -> None:
    write_pair(tmp_path / "in", "a")
    write_pair(tmp_path / "in", "a_again")
    write_pair(tmp_path / "in", "b", 50, 40)  # no multiple of what the model needs
    run("inpaint", *model, "--indir", tmp_path / "in", "--outdir", tmp_path / "out", "--steps", "2")
    for name, width in (("a", 32), ("b", 50)):
        before, after = pixels(tmp_path / "in" / f"{name}.png"), pixels(tmp_path / "out" / f"{name}.png")
        assert before.shape == after.shape
        assert abs(before - after)[:, : width // 2].max() <= 1
        assert abs(before - after)[:, width // 2 :].mean() > 3
    first, second = (pixels(tmp_path / "out" / f"{name}.png") for name in ("a", "a_again"))
    assert (first != second).any()  # each has noise of its own


def test_a_text_to_image_model_inpaints_too(world: tiny_world.TinyWorld, tmp_path: Path) -> None:
    write_pair(tmp_path / "in", "a")
    flags = ["--indir", tmp_path / "in", "--outdir", tmp_path / "out", "--steps", "2", "--prompt", "a cat"]
    run("inpaint", *text_flags(world), *flags)
    before, after = pixels(tmp_path / "in" / "a.png"), pixels(tmp_path / "out" / "a.png")
    assert abs(before - after)[:, :16].max() <= 1 and abs(before - after)[:, 16:].mean() > 3


def test_results_do_not_go_over_the_images(model: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_pair(tmp_path / "in", "a")
    before = (tmp_path / "in" / "a.png").read_bytes()
    assert "would overwrite" in refusal(
        capfd, "inpaint", *model, "--indir", tmp_path / "in", "--outdir", tmp_path / "in"
    )
    assert (tmp_path / "in" / "a.png").read_bytes() == before
    Image.new("L", (32, 32), 1).save(tmp_path / "in" / "a_mask.png")
    assert "paints nothing" in refusal(capfd, "inpaint", *model, "--indir", tmp_path / "in", "--outdir", tmp_path / "o")


def test_a_model_of_text_and_masked_image(
    world: tiny_world.TinyWorld, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    named = tiny_config(hybrid)  # as the published config names it
    named["model"]["target"] = "ldm.models.diffusion.ddpm.LatentInpaintDiffusion"
    named["model"]["params"]["finetune_keys"] = None
    config, ckpt = write_model(tmp_path / "model", named)
    model = ["--config", config, "--ckpt", ckpt, "--device", "cpu"]
    write_pair(tmp_path / "in", "a")
    painted = []
    for prompt in ("a cat", "a dog"):
        flags = ["--indir", tmp_path / "in", "--outdir", tmp_path / prompt, "--steps", "2", "--prompt", prompt]
        run("inpaint", *model, *flags)
        painted.append(pixels(tmp_path / prompt / "a.png"))
    before = pixels(tmp_path / "in" / "a.png")
    assert abs(before - painted[0])[:, :16].max() <= 1 and abs(before - painted[0])[:, 16:].mean() > 3
    assert (painted[0] != painted[1]).any()  # the text counts
    words = ["--prompt", "a cat", "--outdir", tmp_path / "out"]
    for script, more in (
        ("txt2img", []),
        ("txt2img-refine", ["--preset", "fixed"]),
        ("img2img", ["--init-img", tmp_path / "in" / "a.png"]),
    ):
        assert "scripts/inpaint.py" in refusal(capfd, script, *model, *words, *more)


@needs_watermark
def test_the_image_is_marked_where_asked_for_only(model: list[str], tmp_path: Path) -> None:
    write_pair(tmp_path / "in", "a", 256, 256)
    for name, words in (("plain", []), ("marked", ["--watermark"])):
        flags = ["--indir", tmp_path / "in", "--outdir", tmp_path / name, "--steps", "1", *words]
        run("inpaint", *model, *flags)
    before, plain, marked = (pixels(tmp_path / name / "a.png") for name in ("in", "plain", "marked"))
    assert abs(before - plain)[:, :128].max() <= 1
    assert 0 < abs(plain - marked)[:, :128].mean() < 4


def test_the_published_condition() -> None:
    class Model:
        @staticmethod
        def get_learned_conditioning(image: torch.Tensor) -> torch.Tensor:
            return image[:, :, ::4, ::4]

    image, mask = torch.full((1, 3, 8, 8), 0.5), torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    condition = masked_condition(Model, image, mask)
    assert condition.shape == (1, 4, 2, 2)
    assert condition[0, :3, 0, 0].tolist() == [0.5] * 3 and condition[0, :3, 0, 1].tolist() == [-1.0] * 3
    assert condition[0, 3, 0].tolist() == [-1.0, 1.0]


def test_padding() -> None:
    assert pad_to_multiple(torch.zeros(1, 3, 40, 64), 32).shape == (1, 3, 64, 64)


def test_mistakes_end_in_one_sentence(model: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def said(folder: Path) -> str:
        return refusal(capfd, "inpaint", *model, "--indir", folder, "--outdir", tmp_path / "out")

    empty, sizes, alone, broken = (tmp_path / name for name in ("empty", "sizes", "alone", "broken"))
    empty.mkdir()
    assert "holds no mask" in said(empty)
    assert "is not a folder" in said(tmp_path / "none")
    write_pair(sizes, "a")
    write_image(sizes / "a.png", 64, 32)
    assert "is 32x32 but its image is 64x32" in said(sizes)
    write_pair(alone, "a")
    (alone / "a.png").unlink()
    assert "has no image beside it" in said(alone)
    write_pair(broken, "a")
    (broken / "a_mask.png").write_bytes(b"no image")
    assert "not an image" in said(broken)
    assert "is not a folder" in said(broken / "a.png")
    assert not (tmp_path / "out").exists()


def test_images_that_are_painted_from_are_not_overwritten(
    model: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_pair(tmp_path / "in", "a")
    before = (tmp_path / "in" / "a.png").read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").hardlink_to(tmp_path / "in" / "a.png")
    for out in (tmp_path / "in", tmp_path / "in" / ".." / "in", tmp_path / "link", tmp_path / "out"):
        said = refusal(capfd, "inpaint", *model, "--indir", tmp_path / "in", "--outdir", out, "--steps", "1")
        assert "would overwrite" in said
    assert (tmp_path / "in" / "a.png").read_bytes() == before


def test_images_and_masks_are_read_as_they_look(tmp_path: Path) -> None:
    image = Image.open(write_image(tmp_path / "a.png", 32, 16))
    turned = image.getexif()
    turned[0x0112] = 6  # the camera lay on its side
    image.save(tmp_path / "a.png", exif=turned)
    strokes = np.zeros((32, 16, 4), np.uint8)
    strokes[:, :8, 3] = 255  # black on nothing
    Image.fromarray(strokes).save(tmp_path / "a_mask.png")
    pixels, mask = read_pair(tmp_path / "a.png", tmp_path / "a_mask.png")
    assert pixels.shape == (1, 3, 32, 16)
    assert mask[0, 0, :, :8].min() == 1 and mask[0, 0, :, 8:].max() == 0
    Image.fromarray(np.ones((32, 16), np.uint8)).save(tmp_path / "a_mask.png")
    with pytest.raises(UserError, match="paints nothing"):
        read_pair(tmp_path / "a.png", tmp_path / "a_mask.png")


def test_pairs_are_found_by_name(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_pair(tmp_path / "in", name)
    pairs = find_pairs(tmp_path / "in")
    assert [image.name for image, _ in pairs] == ["a.png", "b.png"]
    image, mask = read_pair(*pairs[0])
    assert image.shape == (1, 3, 32, 32) and mask.unique().tolist() == [0.0, 1.0]
