"""From a prompt to files, end to end: a tiny random world, and the embedded model where it is in place."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ldm import paths
from ldm.categories import NAMES
from ldm.cli.refine import build_parser
from ldm.errors import UserError
from ldm.generation import pipeline as pipelines
from ldm.generation import record
from ldm.generation.draw import draw
from ldm.generation.generate import batches, generate, make_preset
from ldm.generation.layouts import read_layout
from ldm.generation.naming import unnamed_objects
from ldm.generation.settings import PRESET_NAMES, GenerateSettings, Sampling, fit_to_model
from ldm.spacetime.layout import Layout
from ldm.spacetime.presets import PRESETS
from tests import tiny_world
from tests.golden_data import ROOT
from tests.scripts_under_test import load_script, run

EMBEDDED = [ROOT / p for p in (paths.EMOJI_CONFIG, paths.EMOJI_CKPT, paths.EMOJI_CLIP)]


@pytest.fixture
def settings(world: tiny_world.TinyWorld) -> GenerateSettings:
    return GenerateSettings(
        prompts=("a cat to the left of a dog",),
        config=world.config,
        ckpt=world.ckpt,
        clip=str(world.clip),
        layout=world.layout,
        device="cpu",
        sampler="plms",
        steps=4,
        scale=3.0,
    )


# --------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize(
    ("preset", "sampler"),
    [*((name, "plms") for name in PRESET_NAMES), ("per-step", "ddim"), ("iccv-2023", "dpm_solver")],
)
def test_every_preset_with_every_sampler(settings: GenerateSettings, preset: str, sampler: str) -> None:
    rounds = 2 if preset.endswith("2023") else None
    [made] = generate(replace(settings, preset=preset, sampler=sampler, rounds=rounds, baseline=True))
    assert made.image.shape == (32, 32, 3) and made.baseline is not None
    assert not np.array_equal(made.image, made.baseline)
    assert made.weights is not None and made.weights.shape == (4, 2) and np.isfinite(made.weights).all()
    assert set(made.losses) == (set() if preset == "fixed" else {"total", "global", "local", "local_0", "local_1"})


def test_the_documented_import() -> None:
    from ldm.spacetime import generate as documented

    assert documented.generate is generate and documented.GenerateSettings is GenerateSettings


def test_same_seed_same_image_whatever_the_batch(settings: GenerateSettings) -> None:
    together = generate(replace(settings, samples=2, baseline=True))
    apart = [generate(replace(settings, seed=42 + i, baseline=True))[0] for i in range(2)]
    for one, other in zip(together, apart, strict=True):
        assert one.seed == other.seed and one.weights is not None and other.weights is not None
        assert np.abs(one.image.astype(int) - other.image).max() <= 1
        assert one.weights == pytest.approx(other.weights, abs=1e-3)
    assert not np.array_equal(together[0].image, together[1].image)


def test_noise_of_ddim_is_the_images_own(settings: GenerateSettings) -> None:
    noisy = replace(settings, sampler="ddim", eta=1.0, steps=3)
    [_, second] = generate(replace(noisy, samples=2))
    [alone] = generate(replace(noisy, seed=43))
    assert np.abs(second.image.astype(int) - alone.image).max() <= 1


def test_rectangles_and_any_step_count(settings: GenerateSettings) -> None:
    [made] = generate(replace(settings, height=32, width=96, steps=3, baseline=True))
    assert made.image.shape == (32, 96, 3) and made.weights is not None
    assert len(made.weights) >= 3  # the published discretisation may take a step more


def test_weights_in_a_layout_are_where_the_optimization_starts(settings: GenerateSettings, tmp_path: Path) -> None:
    layout = json.loads(json.dumps(tiny_world.LAYOUT))
    layout["objects"][0]["weight"] = 7.0
    (tmp_path / "layout.json").write_text(json.dumps(layout))
    [made] = generate(replace(settings, layout=tmp_path / "layout.json", learning_rate=1e-4))
    assert made.weights is not None and made.weights[0, 0] == pytest.approx(7.0, abs=0.1)


@pytest.mark.parametrize("preset", [None, *PRESET_NAMES])
def test_progress(settings: GenerateSettings, preset: str | None) -> None:
    told: list[tuple[str, float, float]] = []
    changed = replace(settings, preset=preset, rounds=2 if preset in ("iccv-2023", "april-2023") else None)
    generate(changed, lambda what, done, total, losses: told.append((what, done, total)))
    stages = [what for what, done, total in told if (done, total) == (0, 0)]
    assert stages == [f"loading {settings.ckpt}", *(["loading CLIP"] if preset not in (None, "fixed") else [])]
    [total] = {total for _, _, total in told if total}
    parts = [done for _, done, total in told if total]
    assert parts[0] == 0 and parts == sorted(parts) and parts.index(total) == len(parts) - 1
    if preset in ("iccv-2023", "april-2023"):  # two rounds of 4 steps, there and back, and the decoding
        assert len(parts) == 1 + 2 * (4 + 4) + 1


def test_what_is_missing_is_told_before_the_model_is_loaded(
    settings: GenerateSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pipelines, "load_pipeline", lambda *_, **__: pytest.fail("too early"))
    with pytest.raises(UserError, match="no CLIP at"):
        generate(replace(settings, clip=str(tmp_path / "none.pt")))
    with pytest.raises(UserError, match="none.safetensors does not exist"):
        generate(replace(settings, layout=None, predictor=tmp_path / "none.safetensors"))


def test_overrides_reach_the_preset(settings: GenerateSettings) -> None:
    changed = make_preset(replace(settings, inner_steps=3, learning_rate=0.5))
    assert changed == replace(PRESETS["per-step"], inner_steps=3, learning_rate=0.5)
    changed = make_preset(replace(settings, preset="iccv-2023", rounds=2, blend="conditional"))
    assert changed == replace(PRESETS["iccv-2023"], rounds=2, blend="conditional")
    with pytest.raises(UserError, match="blend 'both' is unknown; choose conditional or unconditional"):
        generate(replace(settings, blend="both"))


@pytest.fixture(scope="module")
def loaded(world: tiny_world.TinyWorld) -> pipelines.Pipeline:
    choice = pipelines.ModelChoice(world.config, world.ckpt, embedded=False)
    return pipelines.load_pipeline(choice, device="cpu", clip=world.clip)


@pytest.mark.parametrize("name", [None, *PRESET_NAMES])
def test_a_batch_of_prompts_and_layouts_is_its_images_one_by_one(loaded: pipelines.Pipeline, name: str | None) -> None:
    two = Layout.from_json(tiny_world.LAYOUT)
    layouts, prompts = [two, Layout(()), Layout(two.objects[1:])], ["a cat and a dog", "nothing", "a dog"]
    preset = None if name is None else replace(PRESETS[name], rounds=1, release=0.5)
    sampling = Sampling(sampler="plms", steps=4, scale=3.0, keep_activations=name == "iccv-2023")
    states: list[dict[str, Any]] = []
    together = draw(loaded, prompts, layouts, [5, 6, 7], preset, sampling, states.append)
    assert [(s["done"], s["total"]) for s in states] == [(i, 4) for i in range(1, 5)]
    for i, made in enumerate(together):
        [alone] = draw(loaded, prompts[i : i + 1], layouts[i : i + 1], [5 + i], preset, sampling)
        assert (made.prompt, made.seed, made.layout) == (prompts[i], 5 + i, layouts[i])
        assert np.abs(made.image.astype(int) - alone.image).max() <= 1
        if preset is None:
            assert made.weights is None and not made.losses
            continue
        count = len(layouts[i].objects)
        assert made.weights is not None and made.weights.shape == (4, count)
        assert {name for name in made.losses if name.startswith("local_")} <= {f"local_{k}" for k in range(count)}
        if name == "fixed":
            assert made.weights[:2].all() and not made.weights[2:].any()
        if alone.weights is not None:
            assert made.weights == pytest.approx(alone.weights, abs=1e-3)


def test_step_images_end_in_the_image(settings: GenerateSettings) -> None:
    [made] = generate(replace(settings, save_steps=True, preset="april-2023", rounds=2))
    assert len(made.steps) == 4
    assert np.abs(made.steps[-1].astype(int) - made.image).max() <= 2  # the last step adds almost nothing


def test_round_images_end_in_the_image(settings: GenerateSettings, tmp_path: Path) -> None:
    [made] = generate(replace(settings, save_rounds=True, preset="iccv-2023", rounds=3, outdir=tmp_path))
    saved = [np.asarray(Image.open(made.files["rounds"] / f"final{number}.png")) for number in range(3)]
    assert np.array_equal(saved[2], made.image) and not np.array_equal(saved[0], saved[2])
    [alone] = generate(replace(settings, save_rounds=True, preset="iccv-2023", rounds=1))
    assert np.array_equal(saved[0], alone.rounds[0])


def test_packed_weights_give_the_same_image(settings: GenerateSettings) -> None:
    [plain], [packed] = (generate(replace(settings, pack_weights=on)) for on in (False, True))
    assert np.abs(packed.image.astype(int) - plain.image).max() <= 1


def test_block_checkpointing_and_autocast_run(settings: GenerateSettings) -> None:
    [plain] = generate(settings)
    [checkpointed] = generate(replace(settings, block_checkpointing=True))
    assert np.abs(plain.image.astype(int) - checkpointed.image).max() <= 1
    [mixed] = generate(replace(settings, precision="autocast", steps=2))
    assert mixed.image.shape == plain.image.shape


def test_precision_opens_autocast_where_asked(loaded: pipelines.Pipeline) -> None:
    for name, mixed in (("full", False), ("autocast", True)):
        with pipelines.precision(loaded.device, name):
            assert torch.is_autocast_enabled("cpu") == mixed
        assert not torch.is_autocast_enabled("cpu")
    usual_model = {"factor": 8, "channels": 4, "image_size": 512, "guidance_scale": 7.5}
    for device, usual in (("cpu", "full"), ("cuda", "autocast"), ("mps", "full")):
        elsewhere: Any = SimpleNamespace(**usual_model, device=torch.device(device))
        assert fit_to_model(Sampling(), elsewhere).precision == usual
        assert fit_to_model(Sampling(precision="full"), elsewhere).precision == "full"


def test_seeds_and_numbers_of_batches(settings: GenerateSettings) -> None:
    twice = replace(settings, prompts=("a", "b"), samples=2, iterations=2)
    rows = [(["a", "a"], [42, 43]), (["b", "b"], [44, 45]), (["a", "a"], [46, 47]), (["b", "b"], [48, 49])]
    assert list(batches(twice)) == rows
    shared = replace(twice, prompts=("a", "b", "c"), grouped=True, iterations=1)
    assert list(batches(shared)) == [(["a", "b"], [42, 43]), (["c"], [44])]
    assert all(seeds == [42, 43] for _, seeds in batches(replace(twice, fixed_code=True)))


# ------------------------------------------------------------------------------------------ what is said


def test_no_object_means_plain_sampling(
    settings: GenerateSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "none.json").write_text('{"objects": []}')
    with caplog.at_level(logging.WARNING):
        [made] = generate(replace(settings, layout=tmp_path / "none.json", outdir=tmp_path / "out"))
    assert "No object found" in caplog.text and "plain sampling" in caplog.text
    assert made.weights is None and set(made.files) == {"image", "settings"}


def test_objects_the_embedded_model_never_saw(loaded: pipelines.Pipeline) -> None:
    layout = Layout.from_json(tiny_world.LAYOUT)
    assert loaded.unknown_objects(layout) == []
    assert replace(loaded, categories=("cat", "bus")).unknown_objects(layout) == ["dog"]


def test_the_model_that_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    nothing = pipelines.choose_model()
    assert nothing.embedded and nothing.notice and "sd-v1-4.ckpt" in nothing.notice and "\n" not in nothing.notice
    for path in (paths.SD_CONFIG, paths.SD_CKPT, paths.EMOJI_CONFIG, paths.EMOJI_CKPT):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"PK\x03\x04")
    assert pipelines.choose_model() == pipelines.ModelChoice(paths.SD_CONFIG, paths.SD_CKPT, False)
    own = tmp_path / "own.ckpt"
    own.write_bytes(b"PK\x03\x04")
    assert pipelines.choose_model(ckpt=own).config == paths.SD_CONFIG
    assert pipelines.choose_model(ckpt=paths.EMOJI_CKPT).embedded
    assert pipelines.choose_model(config=paths.EMOJI_CONFIG).ckpt == paths.EMOJI_CKPT


# ------------------------------------------------------------------------------------- what is told, and stopped


def test_objects_and_layouts_that_are_not_as_the_user_may_think(
    loaded: pipelines.Pipeline, settings: GenerateSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    example = json.loads((ROOT / "data" / "example_layout.json").read_text())
    (tmp_path / "bom.json").write_text("\ufeff" + json.dumps(example))
    layout = read_layout(tmp_path / "bom.json")
    embedded = replace(loaded, categories=NAMES)
    assert [embedded.unknown_objects(known) for known in (layout, Layout.from_json(tiny_world.LAYOUT))] == [[], []]
    for own, prompt in {
        "A kitten, left of a puppy, oil painting": [],
        "a horse above a boat": ["A cat", "a dog"],
    }.items():
        assert unnamed_objects(layout, own) == prompt

    def told(**changes: Any) -> str:
        caplog.clear()
        generate(replace(settings, steps=1, inner_steps=None, **changes), pipeline=embedded)
        return caplog.text

    plain = told(preset=None, layout=None, prompts=("a wizard riding a dragon",), iterations=2)
    assert plain.count("never saw: wizard, dragon. It knows: motorcycle,") == 1
    assert told(layout=tmp_path / "bom.json", prompts=(layout.prompt,)) == ""
    assert "does not name what is in the layout: A cat, a dog." in told(
        layout=tmp_path / "bom.json", prompts=("a horse above a boat",)
    )
    assert "--all-nouns does nothing with a layout by hand" in told(all_nouns=True)


def test_constants_that_a_preset_does_not_use_are_told(
    settings: GenerateSettings, caplog: pytest.LogCaptureFixture
) -> None:
    make_preset(replace(settings, preset="april-2023", inner_steps=5, rounds=2, learning_rate=0.1))
    assert [entry.message for entry in caplog.records] == ["--inner-steps does nothing with the preset april-2023."]
    caplog.clear()
    make_preset(replace(settings, preset="fixed", learning_rate=0.1, blend="conditional"))
    assert [entry.message for entry in caplog.records] == ["--lr does nothing with the preset fixed."]


@pytest.mark.parametrize(
    ("part", "preset"), [("U-Net", None), ("decoder", None), ("CLIP", "per-step"), ("CLIP", "iccv-2023")]
)
def test_values_that_are_not_finite_stop_the_run(
    part: str, preset: str | None, settings: GenerateSettings, world: tiny_world.TinyWorld, tmp_path: Path
) -> None:
    pipeline = pipelines.load_pipeline(pipelines.choose_model(world.config, world.ckpt), device="cpu", clip=world.clip)
    module = {
        "U-Net": pipeline.model.model,
        "decoder": pipeline.model.first_stage_model.decoder,
        "CLIP": pipeline.clip.model,
    }[part]
    with torch.no_grad():
        next(module.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="no numbers"):
        generate(replace(settings, preset=preset, outdir=tmp_path / "out", rounds=2), pipeline=pipeline)
    assert not list((tmp_path / "out").iterdir())


def test_images_are_told_as_they_are_made(
    world: tiny_world.TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save = record.images.save_png

    def interrupted(path: Path, *more: Any) -> Path:
        if path.name == "00001.png":
            raise KeyboardInterrupt
        return save(path, *more)

    monkeypatch.setattr(record.images, "save_png", interrupted)
    flags = ["--prompt", "a cat and a dog", "--ddim_steps", "1", "--n_iter", "3", "--outdir", tmp_path, *world.flags()]
    assert load_script("txt2img-refine").main([str(flag) for flag in flags]) == 130
    told = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert told["image"] == str(tmp_path / "samples" / "00000.png") and "grid" not in told
    there = {path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*") if path.is_file()}
    assert there == {("samples", "00000.png"), ("details", "00000")}


# ------------------------------------------------------------------------------------------- the script


def test_script_writes_everything(
    world: tiny_world.TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flags = ["--plms", "--prompt", "a cat to the left of a dog", "--ddim_steps", "4", "--outdir", out]
    flags += [
        "--baseline",
        "--save-steps",
        "--n_iter",
        "2",
        "--scale",
        "3",
        "--schedule",
        "per-step",
    ]  # --preset's alias
    run("txt2img-refine", *flags, *world.flags())
    said = capsys.readouterr()
    printed = dict(line.split(": ", 1) for line in said.out.splitlines())
    assert " ".join(sorted(set(printed))) == ("baseline comparison grid image layout losses settings steps weights")
    assert all(Path(path).exists() for path in printed.values())
    assert "per-step preset" in said.err and "loss" in said.err  # the bar
    record = json.loads((out / "details/00000/settings.json").read_text())
    assert record["command"].startswith("python scripts/txt2img-refine.py --plms")
    assert record["schedule"]["learning_rate"] > 0 and len(record["weights"]) == 4
    with Image.open(out / "samples" / "00001.png") as image:
        assert "Seed: 43, Size: 32x32" in image.info["parameters"]
    assert not list(out.rglob(".tmp-*"))


def test_an_image_can_be_made_again_from_its_record(
    world: tiny_world.TinyWorld, settings: GenerateSettings, tmp_path: Path
) -> None:
    first = generate(replace(settings, outdir=tmp_path, samples=2))[1]
    path = first.files["settings"]
    record = json.loads(path.read_text())
    assert read_layout(path) == first.layout
    [again] = generate(replace(settings, layout=path, seed=record["settings"]["seed"]))
    assert np.abs(again.image.astype(int) - first.image).max() <= 1


def test_skip_flags(world: tiny_world.TinyWorld, tmp_path: Path) -> None:
    flags = ["--prompt", "a cat", "--ddim_steps", "2", "--n_samples", "2", "--outdir", tmp_path / "a"]
    run("txt2img-refine", *flags, "--skip_save", *world.flags())
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["grid-0000.png"]


def test_prompts_from_a_file_and_from_the_layout(world: tiny_world.TinyWorld, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat and a dog\n\n  a dog \n")
    out = tmp_path / "out"
    common = ["--ddim_steps", "2", "--outdir", out, *world.flags()]
    run("txt2img-refine", "--from-file", tmp_path / "prompts.txt", *common)
    run("txt2img-refine", *common)
    made = [json.loads((out / f"details/{i:05d}/settings.json").read_text())["prompt"] for i in range(3)]
    assert made == ["a cat and a dog", "a dog", tiny_world.LAYOUT["prompt"]]


def test_help_names_every_flag() -> None:
    flags = (
        "--prompt --outdir --skip_grid --skip_save --ddim_steps --plms --dpm_solver --fixed_code --ddim_eta "
        "--n_iter --H --W --C --f --n_samples --n_rows --scale --from-file --config --ckpt --seed --precision "
        "--preset --schedule --layout --baseline --save-steps --save-rounds"
    )
    said = build_parser().format_help()
    assert [flag for flag in flags.split() if not re.search(rf"{flag}\b", said)] == []


# --------------------------------------------------------------------------------- the real model


@pytest.mark.skipif(not all(p.exists() for p in EMBEDDED), reason="the embedded model's files are not in place")
def test_embedded_model_from_prompt_to_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = "The motorcycle is parking to the right of a bus."
    flags = ["--config", str(EMBEDDED[0]), "--plms", "--baseline", "--ddim_steps", "8", "--outdir", str(tmp_path)]
    run("txt2img-refine", *flags, "--prompt", prompt)
    record = json.loads((tmp_path / "details/00000/settings.json").read_text())
    places = {thing["name"]: thing["x"] for thing in record["layout"]["objects"]}
    assert places["motorcycle"] > places["bus"]
    assert record["model"]["embedded"]
    with Image.open(tmp_path / "samples/00000.png") as image:
        assert image.size == (128, 128)
        assert "CFG scale: 5.0" in image.info["parameters"]
