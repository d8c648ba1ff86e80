"""What runs on a graphics card, on a fake one: no two devices meet, and no step of a chain waits for the device."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from layout_predictor.inference import load_predictor
from layout_predictor.LayoutTransformer.model import build_model
from layout_predictor.LayoutTransformer.training.losses import layout_loss, position_nll, relation_hinge
from ldm.categories import NAMES
from ldm.evaluation.prompts.prompt import COLORS
from ldm.evaluation.score.clip import bundle_score, classify_color
from ldm.generation.draw import draw
from ldm.generation.pipeline import choose_model, load_pipeline, make_sampler
from ldm.generation.settings import Sampling
from ldm.models.detector import EmojiDetector
from ldm.models.diffusion.classifier import NoisyLatentImageClassifier
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.diffusion.sampling import seeded_generators
from ldm.modules.encoders.openai_clip import load_clip
from ldm.spacetime.control import SpatialControl
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.spacetime.optimize import optimize
from ldm.spacetime.presets import PRESETS, Preset
from ldm.util import instantiate_from_config
from tests import diffusers_folders, tiny_world
from tests.cli.test_inpaint import write_pair
from tests.cli.test_knn import needs_search, retrieval, write_database
from tests.cli.test_sample_diffusion import unconditional
from tests.fake_device import fake_device
from tests.scripts_under_test import concat, hybrid, run, tiny_config, write_image, write_model
from tests.tiny_model import NONE, TinyBundle, TinyDiffusion, chain_inputs, encode
from tests.training_parts import first_stage, target, transformer_unet
from tests.unit.test_autoencoder import KL_LOSS, VQ_LOSS
from tests.unit.test_classifier import run_folder  # noqa: F401
from tests.unit.test_layout_model import TINY

DEVICE = torch.device("cuda:0")
REGIONS = Layout(  # what acts changes from step to step
    (LayoutObject("a cat", 0.3, 0.4, negative_prompt="a dog", end=0.5), LayoutObject("a dog", 0.75, 0.5, start=0.4))
)
SHORT: dict[str, Preset] = {
    "plain": Preset("plain", "fixed", "conditional", 0.0, release=0.0),
    "fixed": replace(PRESETS["fixed"], release=0.7),  # the last of three steps is plain
    "per-step": replace(PRESETS["per-step"], last=1.0, release=0.7),
    "whole chain": replace(PRESETS["iccv-2023"], rounds=1),
}


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        yield


def waits(preset: str, sampler: str, **more: Any) -> list[int]:
    """How often the host waited in each step but the first; two images, one without any object."""
    known: list[int] = []
    with fake_device() as fake:
        model, clip = TinyDiffusion().to(DEVICE), TinyBundle()
        clip.model.to(DEVICE)
        dtype, given = more.pop("dtype", None), {**chain_inputs(2), "S": 2, **more}
        inputs = {name: value.to(DEVICE) if isinstance(value, Tensor) else value for name, value in given.items()}
        control = SpatialControl.build([REGIONS, NONE], lambda texts: encode(texts).to(DEVICE))
        objective = SHORT[preset].objective(clip, ["a", "b"], [REGIONS, NONE])  # type: ignore[arg-type]
        with torch.autocast("cuda", dtype, dtype is not None):
            made = optimize(
                model,
                make_sampler(sampler, model),
                control,
                objective,
                SHORT[preset],
                on_step=lambda state: known.append(len(fake.waits)),
                generator=seeded_generators([1, 2]),
                **inputs,
            )
        assert made.images.device == DEVICE
        assert made.latents.dtype == made.weights.dtype == torch.float32
    return [after - before for before, after in zip(known, known[1:], strict=False)]


@pytest.mark.parametrize(
    ("preset", "sampler", "options"),
    [
        ("plain", "ddim", {"eta": 1.0, "S": 3, "last": 2}),
        ("plain", "plms", {"dtype": torch.float16}),
        ("fixed", "dpm_solver", {"S": 3}),
        ("fixed", "ddim", {"mask": torch.ones(1, 1, 4, 4), "x0": torch.ones(2, 4, 4, 4)}),
        ("per-step", "plms", {"dtype": torch.float16}),
        ("whole chain", "ddim", {"eta": 1.0, "dtype": torch.bfloat16}),
    ],
)
def test_no_step_waits_for_the_device(preset: str, sampler: str, options: dict[str, Any]) -> None:
    found = waits(preset, sampler, **options)
    assert found and not any(found)


def test_tensors_of_two_devices_are_told() -> None:
    with fake_device() as fake, pytest.raises(RuntimeError, match="two devices"):
        torch.ones(3, device="cuda:0") + torch.ones(3)
    assert not fake.waits
    with fake_device() as fake:
        weight = torch.ones(3, device="cuda:0", requires_grad=True)
        loss = (weight * 2).sum()
        assert bool(loss > 0) and float(loss.detach()) == 1.0  # what the device knows reads as one
        assert fake.waits == ["aten::_local_scalar_dense"] * 2
        (gradient,) = torch.autograd.grad(loss, weight)
        assert gradient.shape == (3,) and gradient.device == torch.device("cuda:0")


SCRIPTS = {
    "txt2img-refine": "--ddim_steps 1",
    "img2img": "--ddim_steps 2 --init-img start.png --strength 0.6 --n_samples 1",
    "inpaint": "--steps 2 --indir in",
    "txt2img": "--ddim_steps 1 --plms --n_samples 1 --n_iter 1 --no-safety-checker --no-watermark",
}


@pytest.mark.parametrize("name", [*SCRIPTS][:-1] + [pytest.param("txt2img", marks=pytest.mark.slow)])
def test_scripts(name: str, world: tiny_world.TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_pair(tmp_path / "in", "a")
    write_image(tmp_path / "start.png", 32, 32)
    flags: list[str | Path] = ["--config", world.config, "--ckpt", world.ckpt, "--outdir", "out", "--prompt", "a cat"]
    flags += SCRIPTS[name].split()
    if name == "txt2img-refine":
        flags += ["--clip", world.clip, "--layout", world.layout]
    with fake_device() as fake:
        run(name, *flags, "--device", "cuda:0")
    assert torch.float16 in fake.convolutions and list((tmp_path / "out").rglob("*.png"))


@pytest.mark.slow
def test_script_of_retrieval(world: tiny_world.TinyWorld, tmp_path: Path) -> None:
    if needs_search.args[0]:
        pytest.skip(needs_search.kwargs["reason"])
    config, ckpt = write_model(tmp_path / "model", tiny_config(retrieval))
    named = ["--config", config, "--ckpt", ckpt, "--clip_type", world.clip]
    named += ["--database", write_database(tmp_path / "patches"), "--use_neighbors", "--knn", "2", "--prompt", "a cat"]
    size = ["--H", "32", "--W", "32", "--ddim_steps", "1", "--n_samples", "1", "--n_iter", "1"]
    with fake_device() as fake:
        run("knn2img", *named, *size, "--outdir", tmp_path / "out", "--device", "cuda:0")
    assert fake.convolutions == {torch.float16, torch.float32}  # CLIP is in float32


@pytest.mark.slow
@pytest.mark.parametrize("change", [concat, hybrid])
def test_script_of_inpainting_models(change: Any, tmp_path: Path) -> None:
    config, ckpt = write_model(tmp_path / "model", tiny_config(change))
    write_pair(tmp_path / "in", "a")
    named = ["--config", config, "--ckpt", ckpt, "--indir", tmp_path / "in", "--outdir", tmp_path / "out"]
    with fake_device() as fake:
        run("inpaint", *named, "--steps", "1", "--device", "cuda:0")
    assert fake.convolutions == {torch.float16}


@pytest.mark.slow
@pytest.mark.parametrize("how", [["-c", "2"], ["-v"]])
def test_script_of_unconditional_models(how: list[str], tmp_path: Path) -> None:
    def few(params: dict[str, Any]) -> None:
        unconditional(params)
        params["timesteps"] = 3

    write_model(tmp_path, tiny_config(few))
    with fake_device() as fake:
        run("sample_diffusion", "-r", tmp_path, "-n", "1", "-l", tmp_path, "--device", "cuda:0", *how)
    assert fake.convolutions == {torch.float16}


def test_models_of_diffusers(world: tiny_world.TinyWorld, tmp_path: Path) -> None:
    known: list[int] = []
    layout = Layout((LayoutObject("a cat", 0.3, 0.4), LayoutObject("a dog", 0.75, 0.5)))
    with fake_device() as fake:
        choice = choose_model(model=str(diffusers_folders.build("xl", tmp_path / "xl")))
        pipeline = load_pipeline(choice, device="cuda:0", clip=world.clip)
        draw(
            pipeline,
            ["a cat"],
            [layout],
            [1],
            replace(SHORT["per-step"], last=0.4),
            Sampling(steps=2),
            lambda _: known.append(len(fake.waits)),
        )
    assert len(known) > 1 and known[0] == known[-1]
    assert fake.convolutions == {torch.float16, torch.float32}  # XL's first stage and CLIP are in float32


def trained(model: Any, loss_of: Any) -> None:
    """One step of training on the device, in mixed precision, and one of Adam."""
    with fake_device():
        model.to("cuda:0").train()
        with torch.autocast("cuda", torch.bfloat16):
            loss = loss_of()
        loss.backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert gradients and all(gradient.device == DEVICE for gradient in gradients)
        torch.optim.Adam([parameter for parameter in model.parameters() if parameter.grad is not None]).step()


def there(*shape: int) -> Tensor:
    return torch.zeros(*shape).to("cuda:0")


def test_training_of_a_diffusion_model() -> None:
    classes = target("modules.encoders.modules.ClassEmbedder", embed_dim=8, n_classes=3, key="class_label")
    params = {"first_stage_config": first_stage(), "cond_stage_config": classes, "unet_config": transformer_unet(8)}
    params |= {"cond_stage_key": "class_label", "cond_stage_trainable": True, "conditioning_key": "crossattn"}
    model = LatentDiffusion(**params, channels=4, image_size=8, timesteps=20, use_ema=True)
    batch = {"image": (2, 16, 16, 3), "class_label": (2,)}

    def loss() -> Tensor:
        given = {name: there(*shape) for name, shape in batch.items()}
        made = model.shared_step({**given, "class_label": given["class_label"].long()})[0]
        model.model_ema(model.model)
        return made

    trained(model, loss)


@pytest.mark.parametrize("kind", ["AutoencoderKL", pytest.param("VQModel", marks=pytest.mark.slow)])
def test_training_of_a_first_stage(kind: str) -> None:
    model = instantiate_from_config(first_stage(kind, lossconfig=KL_LOSS if kind == "AutoencoderKL" else VQ_LOSS))

    def loss() -> Tensor:
        images = there(2, 3, 16, 16)
        made, extra = model.reconstruct(images, "train")
        return model.adversarial_loss(images, made, extra, 0, "train")[0]

    trained(model, loss)


def test_training_of_a_classifier(run_folder: Path) -> None:  # noqa: F811
    model = NoisyLatentImageClassifier(run_folder, num_classes=3, pool="attention")
    batch = {"image": (3, 16, 16, 3), "class_label": (3,)}

    def loss() -> Tensor:
        given = {name: there(*shape) for name, shape in batch.items()}
        return model.shared_step({**given, "class_label": given["class_label"].long()})[0]

    trained(model, loss)


def test_training_and_use_of_a_layout_predictor() -> None:
    model = build_model(TINY, seed=0)
    tokens, marked = torch.tensor([[0, 7, 9, 2]]), torch.tensor([[False, True, True, False]])

    def loss() -> Tensor:
        raw = model(tokens.to("cuda:0"), marked.to("cuda:0"))[0]  # (L, 30)
        hinge = relation_hinge(raw[1:2], raw[2:3], torch.tensor([2]).to("cuda:0"))
        return layout_loss(hinge, position_nll(raw, there(4, 2)), batch_size=1)

    trained(model, loss)
    predictor = load_predictor()
    with fake_device():
        predictor.model.to("cuda:0")
        layout = predictor.predict("a cat to the left of a dog").layout
    assert len(layout.objects) == 2


def test_scores_of_a_clip(world: tiny_world.TinyWorld) -> None:
    with fake_device():
        bundle, image = load_clip(world.clip, DEVICE), np.zeros((8, 8, 3), np.uint8)
        assert classify_color(bundle, image, "cat") in COLORS and bundle_score(bundle)(image, "a cat") >= 0


def test_training_and_use_of_a_detector() -> None:
    model, size = EmojiDetector(width=16, dilations=(1,)), (16, 16)
    shapes = {"image": (2, 3, 128, 128), "heat": (2, len(NAMES), *size), "offset": (2, 2, *size), "mask": (2, 1, *size)}
    trained(model, lambda: model.loss({name: there(*shape) for name, shape in shapes.items()}))
    with fake_device():
        found = EmojiDetector(width=16, dilations=(1,)).eval().to("cuda:0").detect(there(1, 3, 8, 8))
    assert {detection.name for detection in found[0]} <= set(NAMES)
