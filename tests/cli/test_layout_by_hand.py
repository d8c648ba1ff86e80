"""Layouts by hand on the command line: flags, several layouts in a file, the best of several seeds, other scripts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.cli.refine import build_parser
from ldm.errors import UserError
from ldm.generation.draw import draw
from ldm.generation.generate import generate
from ldm.generation.inpaint import InpaintSettings, inpaint
from ldm.generation.pipeline import ModelChoice, load_pipeline
from ldm.generation.settings import PRESET_NAMES, GenerateSettings, Sampling
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.spacetime.presets import PRESETS
from ldm.spacetime.shapes import Box
from tests.scripts_under_test import load_script, refusal, run
from tests.tiny_world import TinyWorld

PROMPT = "a cat to the left of a dog"
PAIR = Layout((LayoutObject.shaped("a cat", Box(0.0, 0.0, 0.5, 1.0)), LayoutObject("a dog", 0.75, 0.5)), PROMPT)


@pytest.fixture
def settings(world: TinyWorld) -> GenerateSettings:
    return GenerateSettings(
        (PROMPT,), config=world.config, ckpt=world.ckpt, clip=str(world.clip), device="cpu", steps=3
    )


def model(world: TinyWorld) -> list[str]:
    return ["--config", str(world.config), "--ckpt", str(world.ckpt), "--device", "cpu"]


def details(folder: Path) -> dict[str, object]:
    return json.loads((folder / "details" / "00000" / "settings.json").read_text())


def test_flags_are_a_layout(world: TinyWorld, tmp_path: Path) -> None:
    flags = ["--box", "a cat", "0", "0", "0.5", "1", "--at", "a dog", "0.75", "0.5", "--ddim_steps", "2"]
    run("txt2img-refine", *model(world), "--prompt", PROMPT, *flags, "--preset", "fixed", "--outdir", tmp_path)
    assert details(tmp_path)["layout"] == {
        "objects": [{"phrase": "a cat", "box": [0, 0, 0.5, 1]}, {"phrase": "a dog", "x": 0.75, "y": 0.5}]
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--box", "a cat", "0.5", "0", "0.5", "1"], "left < right"),
        (["--box", "a cat", "0", "0", "wide", "1"], "needs numbers from 0 to 1"),
        (["--at", "a cat", "1.5", "0"], "must lie between 0 and 1"),
        (["--at", " ", "0.5", "0.5"], "must be a text that is not empty"),
        (["--at", "a cat", "0.5"], "expected 3 arguments"),
        (["--at", "a cat", "0.5", "0.5", "--layout", "x.json"], "exclude each other"),
        (["--layout-id", "3"], "--layout-id chooses"),
        (["--at", "a cat", "0.5", "0.5", "--best_of", "0"], "best_of"),
        (["--best_of", "2", "--noise", "published"], "--best_of draws from several seeds"),
    ],
)
def test_wrong_flags_are_refused(
    world: TinyWorld, tmp_path: Path, capfd: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    words = [*model(world), "--prompt", PROMPT, *flags, "--outdir", tmp_path / "out"]
    assert message in refusal(capfd, "txt2img-refine", *words)


def test_each_prompt_has_its_own_layout(settings: GenerateSettings, tmp_path: Path) -> None:
    path = tmp_path / "cache.json"
    answer = "[('{}', [0, 0, 256, 512])]\nBackground prompt: a park"
    path.write_text(json.dumps({name: [answer.format(name)] for name in ("a cat", "a dog")}))
    made = generate(replace(settings, prompts=("a dog", "a cat"), layout=path, preset="fixed"))
    assert [one.layout.objects[0].phrase for one in made] == ["a dog", "a cat"]
    with pytest.raises(UserError, match="2 layouts and none for this prompt"):
        generate(replace(settings, prompts=("a zebra",), layout=path))
    assert generate(replace(settings, prompts=(), layout=path, layout_id="a cat", preset="fixed"))[0].prompt == "a cat"


def test_the_best_of_several_seeds(settings: GenerateSettings) -> None:
    """All are listed with their losses, and the kept one is the image of its own seed."""
    fixed = replace(settings, objects=PAIR.objects, preset="fixed")
    first, second = generate(replace(fixed, best_of=3, iterations=2))
    assert [one["seed"] for one in first.candidates] == [42, 43, 44]
    assert [one["seed"] for one in second.candidates] == [45, 46, 47]
    best = min(first.candidates, key=lambda one: one["loss"])
    assert first.seed == best["seed"]
    [alone] = generate(replace(fixed, seed=first.seed))
    assert np.abs(first.image.astype(int) - alone.image).max() <= 1


def test_images_to_images_with_a_layout(world: TinyWorld, tmp_path: Path) -> None:
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(tmp_path / "gray.png")
    given = [*model(world), "--prompt", PROMPT, "--init-img", tmp_path / "gray.png", "--ddim_steps", "4"]
    given += ["--n_samples", "1", "--strength", "0.5"]
    boxes = ["--box", "a cat", "0", "0", "0.5", "1"]
    run("img2img", *given, "--outdir", tmp_path / "plain")
    run("img2img", *given, *boxes, "--clip", world.clip, "--outdir", tmp_path / "steered")
    run("img2img", *given, *boxes, "--preset", "fixed", "--outdir", tmp_path / "fixed")
    images = [
        np.asarray(Image.open(tmp_path / name / "samples" / "00000.png")) for name in ("plain", "steered", "fixed")
    ]
    assert not np.array_equal(images[0], images[1]) and not np.array_equal(images[0], images[2])
    weights = np.array(details(tmp_path / "steered")["weights"])
    assert weights.shape == (2, 1) and weights[0, 0] != 1  # two of four steps, and the first one is optimized
    assert np.array_equal(np.array(details(tmp_path / "fixed")["weights"]), [[1], [1]])


@pytest.mark.parametrize("preset", ["fixed", "per-step", "iccv-2023"])
def test_inpainting_with_a_layout(world: TinyWorld, tmp_path: Path, preset: str) -> None:
    pipeline = load_pipeline(ModelChoice(world.config, world.ckpt, False), device="cpu", clip=str(world.clip))
    asked = InpaintSettings(indir=tmp_path, outdir=tmp_path, prompt=PROMPT, steps=3, preset=preset)
    image, mask = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 1, 32, 32)
    mask[..., :16] = 1
    plain = inpaint(pipeline, image, mask, asked)
    steered = inpaint(pipeline, image, mask, asked, layout=PAIR)
    assert torch.allclose(plain[..., 16:], image[..., 16:]) and torch.allclose(steered[..., 16:], image[..., 16:])
    assert not torch.allclose(plain[..., :16], steered[..., :16], atol=1e-4)
    with pytest.raises(UserError, match="must be multiples of"):
        inpaint(pipeline, image[..., :30], mask[..., :30], asked, layout=PAIR)


def test_what_does_not_move_needs_no_clip(world: TinyWorld) -> None:
    pipeline = load_pipeline(ModelChoice(world.config, world.ckpt, False), device="cpu", clip="none.pt")
    held = Layout(tuple(replace(thing, optimize=False, weight=1.0) for thing in PAIR.objects))
    preset = replace(PRESETS["per-step"], release=1.0)
    [made] = draw(pipeline, [PROMPT], [held], [1], preset, Sampling(steps=3))
    assert made.weights is not None and (made.weights == 1).all() and made.losses == {}


REGIONS: dict[str, Any] = {
    "prompt": "a cat to the left of a dog",
    "negative_prompt": "blurry, dark",
    "objects": [
        {"phrase": "a cat", "box": [0, 0.1, 0.6, 0.9], "weight": 1.5, "negative_prompt": "a dog", "name": "cat"},
        {"phrase": "a dog", "ellipse": [0.75, 0.5, 0.25, 0.4], "prompt": "a brown dog", "end": 0.5, "name": "dog"},
        {"phrase": "a cat", "polygon": [[0.4, 1], [0.6, 1], [0.5, 0.6]], "optimize": False},
        {"phrase": "a dog", "mask": "sky.png"},
    ],
}


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_regions_are_drawn_recorded_and_drawn_again(settings: GenerateSettings, tmp_path: Path, preset: str) -> None:
    Image.fromarray(np.arange(0, 252, 12, np.uint8).reshape(3, 7)).save(tmp_path / "sky.png")
    (tmp_path / "layout.json").write_text(json.dumps(REGIONS))
    settings = replace(
        settings,
        steps=4,
        scale=3.0,
        preset=preset,
        rounds=2 if preset.endswith("2023") else None,
        outdir=tmp_path / "out",
    )
    [made] = generate(replace(settings, layout=tmp_path / "layout.json", width=64))
    assert made.weights is not None and made.weights[:2].all() and not made.weights[2:, 1].any()
    (tmp_path / "sky.png").unlink()
    [again] = generate(replace(settings, layout=made.files["settings"], width=64))
    assert np.array_equal(again.image, made.image)
    with Image.open(made.files["image"]) as image:
        _, negative, _ = image.info["parameters"].split("\n")
    assert negative == "Negative prompt: blurry, dark"
    [other] = generate(replace(settings, layout=made.files["settings"], width=64, negative_prompt=""))
    assert not np.array_equal(other.image, made.image)


def test_a_negative_prompt_of_the_settings_comes_before_the_layouts(world: TinyWorld) -> None:
    loaded = load_pipeline(ModelChoice(world.config, world.ckpt, False), device="cpu")
    sampling = Sampling(sampler="plms", steps=3, scale=3.0)

    def image(layout: str | None, given: str | None) -> Any:
        layouts = [Layout((), negative_prompt=layout)]
        [made] = draw(loaded, ["a cat"], layouts, [5], None, replace(sampling, negative_prompt=given))
        return made.image

    assert np.array_equal(image(None, "a dog"), image("a dog", None))
    assert np.array_equal(image("a bus", "a dog"), image("a dog", None))
    assert np.array_equal(image("a dog", ""), image(None, None))
    assert not np.array_equal(image("a dog", None), image(None, None))


def test_a_negative_prompt_without_guidance_is_told(
    settings: GenerateSettings, caplog: pytest.LogCaptureFixture
) -> None:
    generate(replace(settings, preset=None, steps=1, scale=1.0, negative_prompt="a dog"))
    assert "A negative prompt does nothing with --scale 1" in caplog.text


@pytest.mark.parametrize("name", ["txt2img", "txt2img-refine"])
def test_the_scripts_take_a_negative_prompt(world: TinyWorld, tmp_path: Path, name: str) -> None:
    own = ["--no-watermark", "--no-safety-checker", "--n_samples", "1", "--n_iter", "1"]
    flags = ["--layout", str(world.layout), "--clip", str(world.clip), "--preset", "fixed", "--share-overlaps"]
    common = ["--config", str(world.config), "--ckpt", str(world.ckpt), "--device", "cpu", "--ddim_steps", "2"]
    command = [*common, "--prompt", "a cat and a dog", "--outdir", str(tmp_path), "--negative_prompt", "a bus"]
    assert load_script(name).main([*command, *(own if name == "txt2img" else flags)]) == 0
    with Image.open(tmp_path / "samples" / "00000.png") as image:
        assert "\nNegative prompt: a bus\n" in image.info["parameters"]


def test_help_names_the_flags() -> None:
    text = build_parser().format_help()
    assert all(flag in text for flag in ("--box", "--at", "--layout-id", "--best_of", "--negative_prompt"))
