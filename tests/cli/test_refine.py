"""From a prompt to files, end to end: a tiny random world, and the embedded model where it is in place."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.generation import pipeline as pipelines
from ldm.generation.generate import batches, generate, make_preset, read_layout
from ldm.generation.settings import SCHEDULES, GenerateSettings
from ldm.spacetime.layout import Layout
from ldm.util import UserError
from tests import tiny_world

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "txt2img-refine.py"
EMBEDDED = [ROOT / p for p in (pipelines.EMOJI_CONFIG, pipelines.EMOJI_CKPT, pipelines.EMOJI_CLIP)]


def load_script() -> ModuleType:
    """The script as a module; its name has a hyphen."""
    spec = importlib.util.spec_from_file_location("txt2img_refine", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tiny_world.TinyWorld:
    return tiny_world.build(tmp_path_factory.mktemp("world"))


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
    ("schedule", "sampler"),
    [*((schedule, "plms") for schedule in SCHEDULES), ("per-step", "ddim"), ("iccv-2023", "dpm_solver")],
)
def test_every_schedule_with_every_sampler(settings: GenerateSettings, schedule: str, sampler: str) -> None:
    rounds = None if schedule == "per-step" else 2
    [made] = generate(replace(settings, schedule=schedule, sampler=sampler, rounds=rounds, baseline=True))
    assert made.image.shape == (32, 32, 3) and made.baseline is not None
    assert not np.array_equal(made.image, made.baseline)
    assert made.weights is not None and made.weights.shape == (4, 2) and np.isfinite(made.weights).all()
    assert set(made.losses) >= {"total", "global", "local", "local_0", "local_1"}


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


def test_overrides_reach_the_schedule(settings: GenerateSettings) -> None:
    preset = make_preset(replace(settings, inner_steps=3, learning_rate=0.5))
    assert (preset.inner_steps, preset.learning_rate) == (3, 0.5)
    assert make_preset(replace(settings, schedule="iccv-2023", rounds=2)).rounds == 2
    assert make_preset(replace(settings, schedule="iccv-2023", blend="conditional")).blend == "conditional"
    with pytest.raises(UserError, match="blend 'both' is unknown; choose conditional or unconditional"):
        list(generate(replace(settings, blend="both")))


def test_step_images_end_in_the_image(settings: GenerateSettings) -> None:
    [made] = generate(replace(settings, save_steps=True, schedule="april-2023", rounds=2))
    assert len(made.steps) == 4
    assert np.abs(made.steps[-1].astype(int) - made.image).max() <= 2  # the last step adds almost nothing


def test_packed_weights_give_the_same_image(settings: GenerateSettings) -> None:
    [plain], [packed] = (generate(replace(settings, pack_weights=on)) for on in (False, True))
    assert np.abs(packed.image.astype(int) - plain.image).max() <= 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_blocks_give_the_same_image(settings: GenerateSettings) -> None:
    [plain], [compiled] = (generate(replace(settings, compile=on)) for on in (False, True))
    torch.compiler.reset()
    assert np.abs(compiled.image.astype(int) - plain.image).max() <= 1


def test_block_checkpointing_and_autocast_run(settings: GenerateSettings) -> None:
    [plain] = generate(settings)
    [checkpointed] = generate(replace(settings, block_checkpointing=True))
    assert np.abs(plain.image.astype(int) - checkpointed.image).max() <= 1
    [mixed] = generate(replace(settings, precision="autocast", steps=2))
    assert mixed.image.shape == plain.image.shape


def test_precision_opens_autocast_where_asked(world: tiny_world.TinyWorld) -> None:
    choice = pipelines.ModelChoice(world.config, world.ckpt, embedded=False)
    pipeline = pipelines.load_pipeline(choice, device="cpu")
    for name, mixed in (("full", False), ("autocast", True)):
        with pipeline.precision(name):
            assert torch.is_autocast_enabled("cpu") == mixed
        assert not torch.is_autocast_enabled("cpu")


def test_seeds_and_numbers_of_batches(settings: GenerateSettings) -> None:
    twice = replace(settings, prompts=("a", "b"), samples=2, iterations=2)
    assert [(p, n, s) for p, n, s in batches(twice)] == [
        ("a", [0, 1], [42, 43]),
        ("b", [2, 3], [44, 45]),
        ("a", [4, 5], [46, 47]),
        ("b", [6, 7], [48, 49]),
    ]
    assert all(s == [42, 43] for _, _, s in batches(replace(twice, fixed_code=True)))


# ------------------------------------------------------------------------------------------ what is said


def test_no_object_means_plain_sampling(
    settings: GenerateSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "none.json").write_text('{"objects": []}')
    with caplog.at_level(logging.WARNING):
        [made] = generate(replace(settings, layout=tmp_path / "none.json", outdir=tmp_path / "out"))
    assert "No object found" in caplog.text and "plain sampling" in caplog.text
    assert made.weights is None and set(made.files) == {"image", "settings"}


def test_objects_the_embedded_model_never_saw(world: tiny_world.TinyWorld) -> None:
    loaded = pipelines.load_pipeline(pipelines.ModelChoice(world.config, world.ckpt, embedded=False), device="cpu")
    layout = Layout.from_json(tiny_world.LAYOUT)
    assert loaded.unknown_objects(layout) == []
    assert replace(loaded, categories=("cat", "bus")).unknown_objects(layout) == ["dog"]


def test_the_model_that_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipelines, "ROOT", tmp_path)
    nothing = pipelines.choose_model()
    assert nothing.embedded and nothing.notice and "sd-v1-4.ckpt" in nothing.notice and "\n" not in nothing.notice
    for path in (pipelines.SD_CONFIG, pipelines.SD_CKPT, pipelines.EMOJI_CONFIG, pipelines.EMOJI_CKPT):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert pipelines.choose_model() == pipelines.ModelChoice(pipelines.SD_CONFIG, pipelines.SD_CKPT, False)
    own = tmp_path / "own.ckpt"
    own.touch()
    assert pipelines.choose_model(ckpt=own).config == pipelines.SD_CONFIG
    assert pipelines.choose_model(ckpt=pipelines.EMOJI_CKPT).embedded
    assert pipelines.choose_model(config=pipelines.EMOJI_CONFIG).ckpt == pipelines.EMOJI_CKPT


# ------------------------------------------------------------------------------------------- the script


def test_script_writes_everything(
    world: tiny_world.TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flags = ["--plms", "--prompt", "a cat to the left of a dog", "--ddim_steps", "4", "--outdir", str(out)]
    flags += ["--baseline", "--save-steps", "--n_iter", "2", "--scale", "3"]
    assert load_script().main([*flags, *world.flags()]) == 0
    said = capsys.readouterr()
    printed = dict(line.split(": ", 1) for line in said.out.splitlines())
    assert set(printed) == {
        "image",
        "baseline",
        "layout",
        "comparison",
        "weights",
        "losses",
        "steps",
        "settings",
        "grid",
    }
    assert all(Path(path).exists() for path in printed.values())
    assert "per-step schedule" in said.err and "loss" in said.err  # the bar
    record = json.loads((out / "details/00000/settings.json").read_text())
    assert record["command"].startswith("python scripts/txt2img-refine.py --plms")
    assert record["schedule"]["learning_rate"] > 0 and len(record["weights"]) == 4
    with Image.open(out / "samples" / "00001.png") as image:
        assert "Seed: 43, Size: 32x32" in image.info["parameters"]
    assert not list(out.rglob(".tmp-*"))


def test_a_image_can_be_made_again_from_its_record(
    world: tiny_world.TinyWorld, settings: GenerateSettings, tmp_path: Path
) -> None:
    first = generate(replace(settings, outdir=tmp_path, samples=2))[1]
    path = first.files["settings"]
    record = json.loads(path.read_text())
    assert read_layout(path) == first.layout
    [again] = generate(replace(settings, layout=path, seed=record["settings"]["seed"]))
    assert np.abs(again.image.astype(int) - first.image).max() <= 1


def test_skip_flags(world: tiny_world.TinyWorld, tmp_path: Path) -> None:
    flags = ["--prompt", "a cat", "--ddim_steps", "2", "--n_samples", "2", "--outdir", str(tmp_path / "a")]
    assert load_script().main([*flags, "--skip_save", *world.flags()]) == 0
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["grid-0000.png"]


def test_prompts_from_a_file_and_from_the_layout(world: tiny_world.TinyWorld, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat and a dog\n\n  a dog \n")
    out = tmp_path / "out"
    common = ["--ddim_steps", "2", "--outdir", str(out), *world.flags()]
    assert load_script().main(["--from-file", str(tmp_path / "prompts.txt"), *common]) == 0
    assert load_script().main(common) == 0
    made = [json.loads((out / f"details/{i:05d}/settings.json").read_text())["prompt"] for i in range(3)]
    assert made == ["a cat and a dog", "a dog", tiny_world.LAYOUT["prompt"]]


def test_help_is_quick_and_complete() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Seconds of processor time, which the load of the machine does not change.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1
    flags = (
        "--prompt --outdir --skip_grid --skip_save --ddim_steps --plms --dpm_solver --fixed_code --ddim_eta "
        "--n_iter --H --W --C --f --n_samples --n_rows --scale --from-file --config --ckpt --seed --precision "
        "--schedule --layout --baseline --save-steps"
    )
    assert [flag for flag in flags.split() if not re.search(rf"{flag}\b", done.stdout)] == []


# --------------------------------------------------------------------------------- the real model


@pytest.mark.skipif(not all(p.exists() for p in EMBEDDED), reason="the embedded model's files are not in place")
def test_embedded_model_from_prompt_to_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = "The motorcycle is parking to the right of a bus."
    flags = ["--config", str(EMBEDDED[0]), "--plms", "--baseline", "--ddim_steps", "8", "--outdir", str(tmp_path)]
    assert load_script().main([*flags, "--prompt", prompt]) == 0
    record = json.loads((tmp_path / "details/00000/settings.json").read_text())
    places = {thing["name"]: thing["x"] for thing in record["layout"]["objects"]}
    assert places["motorcycle"] > places["bus"]
    assert record["model"]["embedded"]
    with Image.open(tmp_path / "samples/00000.png") as image:
        assert image.size == (64, 64)
        assert "CFG scale: 5.0" in image.info["parameters"]
