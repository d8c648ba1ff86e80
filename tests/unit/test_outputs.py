"""The files of a run: what they hold, and that they appear whole or not at all."""

from __future__ import annotations

import gc
import hashlib
import json
import multiprocessing
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.errors import UserError
from ldm.files import parse_json, read_json, write_json, write_json_lines
from ldm.generation import images as outputs
from ldm.generation import lettering
from ldm.generation.layouts import read_layout
from ldm.generation.record import Outcome, Recorder
from ldm.generation.settings import GenerateSettings
from ldm.locks import share
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.spacetime.presets import PRESETS
from ldm.spacetime.shapes import Box, Ellipse, Mask, Polygon, Shape

LAYOUT = Layout((LayoutObject("The motorcycle", 0.75, 0.5), LayoutObject("a bus", 0.25, 0.4, name="bus")))
PROMPT = "The motorcycle is parking to the right of a bus."


def image(height: int = 64, width: int = 64, seed: int = 0) -> outputs.ImageArray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_pixels_are_rounded_and_cut_to_bytes() -> None:
    values = [-0.5, 0.0, 0.5 / 255 - 1e-4, 0.5 / 255 + 1e-4, 0.5, 1.0, 7.0]
    expected = [0, 0, 0, 1, 128, 255, 255]
    made = outputs.to_images(torch.tensor(values).expand(2, 3, 1, -1))  # (B, 3, H, W)
    assert len(made) == 2 and made[0].shape == (1, 7, 3) and made[0].dtype == np.uint8
    assert made[1][0, :, 2].tolist() == expected


# ------------------------------------------------------------------------------------------- parameters


def read_as_web_ui(text: str) -> tuple[str, str, dict[str, str]]:
    """A reader written from the format: prompt, negative prompt, and the fields of the last line."""
    *lines, last = text.split("\n")
    fields = {
        key: json.loads(value) if value.startswith('"') else value
        for key, value in re.findall(r'\s*(\w[\w \-/]*):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', last)
    }
    split = next((i for i, line in enumerate(lines) if line.startswith("Negative prompt: ")), len(lines))
    negative = "\n".join(lines[split:]).removeprefix("Negative prompt: ")
    return "\n".join(lines[:split]), negative, fields


def test_parameters_text_is_what_web_uis_read() -> None:
    fields = {"Steps": 50, "Sampler": "PLMS", "CFG scale": 7.5, "Seed": 42, "Size": "512x512", "Model": "sd-v1-4"}
    text = outputs.parameters_text(PROMPT, fields, negative_prompt="blur")
    assert text == (
        "The motorcycle is parking to the right of a bus.\nNegative prompt: blur\n"
        "Steps: 50, Sampler: PLMS, CFG scale: 7.5, Seed: 42, Size: 512x512, Model: sd-v1-4"
    )
    assert read_as_web_ui(text) == (PROMPT, "blur", {k: str(v) for k, v in fields.items()})


def test_values_with_separators_are_quoted_and_none_is_left_out() -> None:
    value = 'a "red" cat, left: yes'
    text = outputs.parameters_text("a cat", {"Steps": 5, "Layout": value, "Eta": None})
    assert "Eta" not in text and "Negative prompt" not in text
    assert read_as_web_ui(text) == ("a cat", "", {"Steps": "5", "Layout": value})


def test_values_that_are_no_numbers_make_no_image() -> None:
    for value in (float("nan"), float("inf")):
        images = torch.zeros(2, 3, 4, 4)
        images[1, 0, 0, 0] = value
        with pytest.raises(UserError, match="no numbers"):
            outputs.to_images(images)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells what a process holds")
def test_memory_of_plots_is_flat(tmp_path: Path) -> None:
    gc.collect()
    gc.disable()  # what only the collector frees is there for long
    try:
        held = []
        for count in (3, 20):
            for _ in range(count):
                outputs.plot_losses(tmp_path / "a.png", {"global": [1.0, 2.0]})
            held.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    finally:
        gc.enable()
    assert held[1] - held[0] < 20 * 5e5, f"{(held[1] - held[0]) / 2e7:.2f} MB a plot"


@pytest.mark.parametrize("prompt", ["a cat", "two\nlines", "eine Bäckerei 猫 \U0001f68c"])
def test_png_carries_the_parameters_and_the_pixels(tmp_path: Path, prompt: str) -> None:
    pixels = image()
    path = outputs.save_png(tmp_path / "a" / "b.png", pixels, outputs.parameters_text(prompt, {"Steps": 3}))
    with Image.open(path) as file:
        assert file.info["parameters"] == f"{' '.join(prompt.split())}\nSteps: 3"
        assert np.array_equal(np.asarray(file), pixels)


# --------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize(("side", "shown"), [((64, 64), (384, 384)), ((64, 96), (576, 384)), ((512, 512), (512, 512))])
def test_small_images_are_enlarged_by_a_whole_factor(side: tuple[int, int], shown: tuple[int, int]) -> None:
    assert outputs.enlarge(image(*side)).size == shown


def test_layout_is_drawn_at_its_places_only() -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    drawn = np.asarray(outputs.draw_layout(grey, LAYOUT)).astype(int)
    changed = np.abs(drawn - 128).sum(-1) > 0
    ys, xs = np.mgrid[: drawn.shape[0], : drawn.shape[1]] / drawn.shape[0]
    for thing in LAYOUT.objects:
        inside = (xs - thing.x) ** 2 + (ys - thing.y) ** 2 < 0.19**2
        assert changed[inside].all()
    margin = 0.05  # of the labels, which may be wider than a disc
    far = np.ones_like(changed)
    for thing in LAYOUT.objects:
        far &= (np.abs(xs - thing.x) > 0.2 + margin) | (np.abs(ys - thing.y) > 0.2 + margin)
    assert not changed[far].any()


@pytest.mark.parametrize(
    "shape", [Box(0.1, 0.2, 0.5, 0.9), Ellipse(0.6, 0.5, 0.3, 0.2), Polygon(((0.1, 0.1), (0.9, 0.2), (0.3, 0.8)))]
)
@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
def test_every_shape_is_drawn_where_it_is(shape: Shape, size: tuple[int, int]) -> None:
    grey = np.full((*size, 3), 128, np.uint8)
    drawn = np.asarray(outputs.draw_layout(grey, Layout((LayoutObject.shaped("a", shape),)))).astype(int)
    changed, inside = np.abs(drawn - 128).sum(-1) > 0, shape.coverage(*drawn.shape[:2])
    assert changed[inside == 1].all()
    assert not changed[: drawn.shape[0] // 3][inside[: drawn.shape[0] // 3] == 0].any()  # the label is further down


def test_the_masks_of_a_layout_are_recorded(recorder: Recorder) -> None:
    weights = np.arange(12).reshape(3, 4) / 255 * 20
    for path in ("", "of/the/user.png"):
        thing = LayoutObject.shaped("the sky", Mask(weights, path))
        made = outcome()
        made = replace(made, layout=Layout((LAYOUT.objects[0], thing), negative_prompt="rain"), files={})
        recorder.write(made)
        again = read_layout(made.files["settings"])
        assert again.negative_prompt == "rain" and again.objects[0] == LAYOUT.objects[0]
        shape = again.objects[1].shape
        assert isinstance(shape, Mask) and np.allclose(shape.weights, weights)
        with Image.open(made.files["image"]) as image:
            _, negative, fields = read_as_web_ui(image.info["parameters"])
        assert negative == "rain" and "the sky (mask 0.000 0.000 1.000 1.000)" in fields["Spacetime layout"]


def test_labels_stay_inside_the_image() -> None:
    corners = Layout(tuple(LayoutObject("a very long name of an object", x, y) for x in (0, 1) for y in (0, 1)))
    assert outputs.draw_layout(image(), corners).size == (384, 384)


def test_comparison_sheet_shows_every_panel() -> None:
    panels = {"plain model": image(seed=1), "with the method": image(seed=2)}
    sheet = outputs.comparison_sheet(panels, PROMPT)
    assert sheet.width > 2 * 384 and sheet.height > 384
    pixels = np.asarray(sheet)
    for shown in panels.values():
        panel = np.asarray(outputs.enlarge(shown))
        top = sheet.height - 12 - 384
        found = [x for x in range(sheet.width - 383) if np.array_equal(pixels[top, x : x + 384], panel[0])]
        assert len(found) == 1


def test_long_titles_are_wrapped() -> None:
    short = outputs.comparison_sheet({"a": image()}, "a cat")
    long = outputs.comparison_sheet({"a": image()}, "a cat and a dog " * 20)
    assert long.width == short.width and long.height > short.height + 50


@pytest.mark.parametrize(("count", "columns", "shape"), [(1, 0, (68, 68)), (3, 2, (134, 134)), (6, 3, (134, 200))])
def test_grid(count: int, columns: int, shape: tuple[int, int]) -> None:
    shown = [image(seed=i) for i in range(count)]
    sheet = outputs.grid(shown, columns)
    assert sheet.shape == (*shape, 3)
    assert np.array_equal(sheet[2:66, 2:66], shown[0])


def test_plots_are_images(tmp_path: Path) -> None:
    weights = outputs.plot_weights(tmp_path / "w.png", np.random.rand(10, 2), ["a", "b"])
    losses = outputs.plot_losses(tmp_path / "l.png", {"total": [3.0, 2.0], "global": [0.8, 0.7]})
    for path in (weights, losses):
        with Image.open(path) as image:
            assert image.size == (768, 432) and len(set(image.convert("L").getdata())) > 10


def test_file_hash(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"weights" * 10)
    assert outputs.file_hash(tmp_path / "x") == hashlib.sha256(b"weights" * 10).hexdigest()


# -------------------------------------------------------------------------------------------- the folder


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    settings = GenerateSettings((PROMPT,), outdir=tmp_path, sampler="plms", height=64, width=64, scale=5.0)
    model = {"ckpt": "models/emoji/model.safetensors", "ckpt_sha256": "ab" * 32, "embedded": True}
    return Recorder(tmp_path, settings, PRESETS["per-step"], model)


def outcome(index: int = 0) -> Outcome:
    return Outcome(
        index=index,
        seed=42 + index,
        prompt=PROMPT,
        layout=LAYOUT,
        image=image(seed=index),
        baseline=image(seed=9),
        weights=np.full((50, 2), 0.5),
        losses={"total": [3.0, 2.5], "global": [0.8, 0.7], "local": [0.4, 0.3], "local_0": [0.2, 0.1]},
        steps=[image(), image()],
    )


def test_every_file_is_written_and_named(recorder: Recorder, tmp_path: Path) -> None:
    made = outcome()
    recorder.write(made)
    names = {kind: str(path.relative_to(tmp_path)) for kind, path in made.files.items()}
    assert names == {
        "image": "samples/00000.png",
        "baseline": "details/00000/baseline.png",
        "layout": "details/00000/layout.png",
        "comparison": "details/00000/comparison.png",
        "weights": "details/00000/weights.png",
        "losses": "details/00000/losses.png",
        "steps": "details/00000/steps",
        "settings": "details/00000/settings.json",
    }
    assert all(path.exists() for path in made.files.values())
    assert sorted(p.name for p in made.files["steps"].iterdir()) == ["001.png", "002.png"]
    assert not list(tmp_path.rglob(".tmp-*"))


def test_record_holds_what_it_takes_to_make_it_again(recorder: Recorder) -> None:
    made = outcome(index=3)
    recorder.write(made)
    record = json.loads(made.files["settings"].read_text())
    assert record["seed"] == 45 and record["settings"]["seed"] == 45 and record["settings"]["steps"] == 50
    assert Layout.from_json(record["layout"]) == LAYOUT
    assert np.array_equal(record["weights"], np.full((50, 2), 0.5))
    assert record["model"]["ckpt_sha256"] == "ab" * 32 and "torch" in record["versions"]
    assert record["schedule"]["name"] == "per-step"


def test_plain_and_refined_images_say_so(recorder: Recorder) -> None:
    made = outcome()
    recorder.write(made)
    with Image.open(made.files["image"]) as image:
        _, _, refined = read_as_web_ui(image.info["parameters"])
    with Image.open(made.files["baseline"]) as image:
        _, _, plain = read_as_web_ui(image.info["parameters"])
    assert refined["Spacetime schedule"] == "per-step" and "Spacetime schedule" not in plain
    assert refined["Seed"] == "42" and refined["Model hash"] == "ababababab" and refined["Model"] == "emoji"


def test_a_second_run_goes_on_counting(recorder: Recorder, tmp_path: Path) -> None:
    recorder.write(outcome(0))
    recorder.write(outcome(1))
    again = Recorder(tmp_path, recorder.settings, recorder.preset, recorder.model)
    made = outcome(0)
    again.write(made)
    assert made.files["image"].name == "00002.png"


def test_grid_only_for_several_images(recorder: Recorder, tmp_path: Path) -> None:
    for count, files in ((1, {}), (2, {"grid": tmp_path / "grid-0000.png"}), (2, {"grid": tmp_path / "grid-0001.png"})):
        made = [outcome(i) for i in range(count)]
        recorder.write_grid(made)
        assert made[-1].files == files


def test_an_outcome_without_objects_has_fewer_files(recorder: Recorder) -> None:
    made = replace(outcome(), layout=Layout(()), weights=None, losses={}, baseline=None, steps=[], files={})
    recorder.write(made)
    assert set(made.files) == {"image", "settings"}


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Image.Image, target: Path, **_: object) -> None:
        target.write_bytes(b"half an image")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        outputs.save_png(tmp_path / "a.png", image())
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        outputs.save_png(tmp_path / "file" / "a.png", image())


def test_two_runs_at_once_keep_all_images_with_their_details(recorder: Recorder, tmp_path: Path) -> None:
    def write(first: int) -> None:
        with share(tmp_path):
            for i in range(4):
                made = replace(outcome(i), seed=first + i, steps=[], losses={}, weights=None, baseline=None)
                recorder.write(made)
            recorder.write_grid([outcome(), outcome()])

    processes = [multiprocessing.get_context("fork").Process(target=write, args=(n,)) for n in (100, 200)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    seeds = []
    for number in range(8):
        settings = json.loads((tmp_path / f"details/{number:05d}/settings.json").read_text())
        with Image.open(tmp_path / f"samples/{number:05d}.png") as file:
            seeds.append(int(read_as_web_ui(file.info["parameters"])[2]["Seed"]))
        assert settings["seed"] == seeds[-1] and settings["files"]["image"].endswith(f"{number:05d}.png")
    assert sorted(seeds) == [*range(100, 104), *range(200, 204)]
    assert sorted(path.name for path in tmp_path.glob("grid*")) == ["grid-0000.png", "grid-0001.png"]
    assert not list(tmp_path.rglob(".tmp-*"))


def test_what_killed_runs_left_does_not_count(recorder: Recorder, tmp_path: Path) -> None:
    recorder.write(outcome())
    for path in ("samples/.tmp-00001.png", "details/.tmp-00001/steps/001.png", "details/.tmp-00001/.tmp-x.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "details/00004").mkdir()  # of an image that the user moved away
    with share(tmp_path):
        assert not list(tmp_path.rglob(".tmp-*"))
        recorder.write(made := outcome())
        assert made.files["image"].name == "00005.png"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\v", "\x1c", "\x85", "\u2028"])
def test_no_text_forges_a_field(end: str) -> None:
    for prompt in (f"a cat{end}Negative prompt: a dog{end}Steps: 1, Seed: 1", "Negative prompt: a dog"):
        text = outputs.parameters_text(prompt, {"Steps": 5, "Layout": f"a{end}Seed: 3", "Seed": 2}, f"x{end}Steps: 9")
        read, negative, fields = read_as_web_ui(text)
        assert len(text.splitlines()) == 3 and (fields["Steps"], fields["Seed"]) == ("5", "2")
        assert "a dog" in read and not read.startswith("Negative") and negative == "x Steps: 9"


def test_names_of_any_script_are_drawn_as_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "FONTS", ())
    words = {"一只猫": r"\u4e00\u53ea\u732b", "ねこ": "neko", "a 🐱\ufe0f": "a [cat face]", "ein Bär": "ein Bar"}
    for word, drawn in words.items():
        assert lettering.lettering(word, 20)[0] == drawn
    layout = Layout(tuple(LayoutObject(word, 0.5, 0.5) for word in (*words, "$x^$", "_a", "b" * 500)))
    outputs.draw_layout(image(), layout)
    outputs.comparison_sheet({"a": image()}, "猫" * 1000)
    names = [thing.phrase for thing in layout.objects]
    outputs.plot_weights(tmp_path / "w.png", np.random.rand(3, len(names)), names)
    monkeypatch.undo()
    assert lettering.lettering("кот", 20)[0] == "кот"


def test_files_are_what_their_names_say(tmp_path: Path) -> None:
    for name, kind in (("a.png", "PNG"), ("a.jpg", "JPEG"), ("a.JPEG", "JPEG")):
        with Image.open(outputs.save_image(tmp_path / name, Image.fromarray(image()))) as file:
            assert file.format == kind
    with pytest.raises(UserError, match="let it end in .png"):
        outputs.save_image(tmp_path / "a.gif", Image.fromarray(image()))


def test_json_that_no_program_could_use_is_refused() -> None:
    assert parse_json('{"a": [1, -2.5, "\\ud83d\\ude00 \\\\udc00"]}') == {"a": [1, -2.5, "😀 \\udc00"]}
    for text in ("1" * 400, "1" * 5000, '["\\uD800"]', "[" * 100_000, "{'a': 1}", "", "nan", "[-Infinity]"):
        with pytest.raises(ValueError):
            parse_json(text)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_json_holds_finite_numbers_only(number: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="infinite or none at all"):
        write_json(tmp_path / "a.json", {"loss": [float(number.replace("Infinity", "inf"))]})
    with pytest.raises(UserError, match="infinite or none at all"):
        write_json_lines(tmp_path / "a.json", [{"loss": float(number.replace("Infinity", "inf"))}])
    assert not list(tmp_path.iterdir())
    (tmp_path / "a.json").write_text(f"[{number}]")
    with pytest.raises(ValueError, match="no finite number"):
        read_json(tmp_path / "a.json")
