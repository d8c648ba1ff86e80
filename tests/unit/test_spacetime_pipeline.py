"""The pipelines of diffusers with the method, and that library's schedulers: judged by its own pipelines."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from ldm.backends.diffusers import SpaceTimePipeline
from ldm.errors import UserError
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.spacetime.presets import PRESETS
from ldm.spacetime.shapes import Box
from tests import diffusers_folders
from tests.tiny_world import TinyWorld

KINDS = ("sd1", "sd2", "xl")
PROMPT = "a cat to the left of a dog"
LAYOUT = Layout((LayoutObject("a cat", 0.2, 0.5), LayoutObject.shaped("a dog", Box(0.5, 0.0, 1.0, 1.0))), PROMPT)
ASKED: dict[str, Any] = {"height": 16, "width": 32, "num_inference_steps": 4, "guidance_scale": 3.0}
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True}),
    "DDIM": ("DDIMScheduler", {}),
    "DDPM": ("DDPMScheduler", {}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler, trailing": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "DPM++ 2M Karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "DEIS": ("DEISMultistepScheduler", {}),
    "LCM": ("LCMScheduler", {}),
    "TCD": ("TCDScheduler", {}),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    return {kind: diffusers_folders.build(kind, root / kind) for kind in KINDS}


@pytest.fixture(scope="module")
def pipes(folders: dict[str, Path]) -> dict[str, Any]:
    return {kind: quiet(SpaceTimePipeline.from_pretrained(folder)) for kind, folder in folders.items()}


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def librarys(pipe: Any) -> Any:
    """The library's own pipeline of the same parts and scheduler."""
    kind = diffusers.StableDiffusionXLPipeline if hasattr(pipe, "text_encoder_2") else diffusers.StableDiffusionPipeline
    more = {} if hasattr(pipe, "text_encoder_2") else {"requires_safety_checker": False}
    return quiet(kind(**pipe.components, **more))


def latents(pipe: Any, *given: Any, seed: int = 3, **more: Any) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return pipe(*given, generator=generator, output_type="latent", **{**ASKED, **more}).images


@pytest.mark.parametrize(
    ("kind", "name"), [("sd1", "Euler"), ("xl", "PNDM"), ("xl", "Euler a"), *(("sd2", name) for name in SCHEDULERS)]
)
def test_without_objects_it_is_the_librarys_chain(pipes: dict[str, Any], kind: str, name: str) -> None:
    pipe = pipes[kind]
    own, (class_, options) = pipe.scheduler, SCHEDULERS[name]
    pipe.scheduler = getattr(diffusers, class_).from_config(own.config, **options)
    try:
        made = latents(pipe, PROMPT, preset=None)
        assert torch.allclose(made, latents(librarys(pipe), PROMPT), atol=1e-4 * float(made.abs().max()))
        still = Layout((LayoutObject("a cat", 0.2, 0.5, weight=0.0),), PROMPT)
        assert torch.equal(latents(pipe, PROMPT, still, "fixed"), made)
        moved = latents(pipe, PROMPT, LAYOUT, "fixed")
        assert moved.isfinite().all() and not torch.allclose(moved, made, atol=1e-3)
    finally:
        pipe.scheduler = own


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_no_guidance_is_the_librarys(pipes: dict[str, Any], scale: float) -> None:
    """As models distilled to few steps are called."""
    pipe = pipes["xl"]
    want = latents(librarys(pipe), PROMPT, guidance_scale=scale)
    assert torch.allclose(latents(pipe, PROMPT, preset=None, guidance_scale=scale), want, atol=1e-4)
    still = Layout((LayoutObject("a cat", 0.2, 0.5, weight=0.0),), PROMPT)
    assert torch.allclose(latents(pipe, PROMPT, still, "fixed", guidance_scale=scale), want, atol=1e-4)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_moves_the_image(pipes: dict[str, Any], world: TinyWorld, preset: str) -> None:
    pipe = pipes["xl"]
    chosen = replace(PRESETS[preset], rounds=2) if preset.endswith("2023") else preset
    made = pipe(PROMPT, LAYOUT, chosen, clip=world.clip, generator=torch.Generator().manual_seed(3), **ASKED)
    plain = pipe(PROMPT, preset=None, generator=torch.Generator().manual_seed(3), **ASKED)
    assert made.images[0].size == (32, 16) and not np.array_equal(made.images[0], plain.images[0])
    assert made.weights[0].shape == (4, 2) and plain.weights == [None] and made.layouts == [LAYOUT]
    assert bool(made.losses[0]) == (preset != "fixed")


def test_a_batch_is_its_images(pipes: dict[str, Any], world: TinyWorld) -> None:
    pipe = pipes["sd2"]
    own, pipe.scheduler = pipe.scheduler, diffusers.EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    try:
        seeds = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
        asked = {**ASKED, "output_type": "latent", "clip": world.clip}
        both = pipe([PROMPT, "a dog"], [LAYOUT, Layout((LayoutObject("a dog", 0.5, 0.5),))], generator=seeds, **asked)
        for b, (prompt, layout) in enumerate(zip([PROMPT, "a dog"], both.layouts, strict=True)):
            one = latents(pipe, prompt, layout, seed=3 + b, clip=world.clip)
            assert torch.allclose(both.images[b : b + 1], one, atol=1e-3 * float(one.abs().max()))
    finally:
        pipe.scheduler = own


def test_blocks_are_recomputed_with_the_control(pipes: dict[str, Any], world: TinyWorld) -> None:
    """And afterwards the U-Net is as it was: its processors, and what its user chose."""
    pipe = pipes["xl"]
    own = dict(pipe.unet.attn_processors)
    kept, made = (latents(pipe, PROMPT, LAYOUT, clip=world.clip, block_checkpointing=on) for on in (False, True))
    assert torch.allclose(kept, made, atol=1e-4) and not pipe.unet.is_gradient_checkpointing
    pipe.unet.enable_gradient_checkpointing()
    try:
        assert torch.allclose(kept, latents(pipe, PROMPT, LAYOUT, clip=world.clip), atol=1e-4)
        assert pipe.unet.is_gradient_checkpointing and pipe.unet.attn_processors == own
    finally:
        pipe.unet.disable_gradient_checkpointing()


def test_two_threads_share_a_model(pipes: dict[str, Any], world: TinyWorld) -> None:
    """Each gets its own image, with recomputed blocks or without."""
    pipe = pipes["sd1"]
    shared = quiet(SpaceTimePipeline.from_pipe(pipe))
    other = Layout((LayoutObject("a dog", 0.7, 0.4),))
    calls = [
        lambda: latents(pipe, PROMPT, LAYOUT, clip=world.clip, block_checkpointing=True),
        lambda: latents(shared, PROMPT, other, clip=world.clip),
        lambda: latents(shared, PROMPT, preset=None),
    ]
    alone = [call() for call in calls]
    with ThreadPoolExecutor(3) as pool:
        together = [job.result() for job in [pool.submit(call) for call in calls * 2]]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(alone * 2, together, strict=True))
    assert not pipe.unet.is_gradient_checkpointing


def test_a_refiner_goes_on_from_its_latents(pipes: dict[str, Any]) -> None:
    pipe = pipes["xl"]
    refiner = quiet(diffusers.StableDiffusionXLImg2ImgPipeline(**pipe.components))
    made = pipe(PROMPT, LAYOUT, "fixed", output_type="latent", **ASKED).images
    assert refiner(PROMPT, image=made, strength=0.3, num_inference_steps=4).images[0].size == (32, 16)


def test_the_loss_may_look_at_half_the_size(pipes: dict[str, Any], world: TinyWorld) -> None:
    seen: list[tuple[int, ...]] = []
    pipe = pipes["sd1"]
    hook = pipe.vae.decoder.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape[-2:])))
    try:
        pipe(PROMPT, LAYOUT, clip=world.clip, half_decode=True, generator=torch.Generator().manual_seed(3), **ASKED)
    finally:
        hook.remove()
    assert seen == [(4, 8), (4, 8), (8, 16)]  # two of the four steps move the weights; then the image


def test_it_has_the_conventions_of_the_library(pipes: dict[str, Any]) -> None:
    pipe, told = pipes["xl"], list[tuple[int, float]]()

    def look(one: Any, number: int, t: float, given: dict[str, Tensor]) -> dict[str, Tensor]:
        assert one is pipe
        told.append((number, float(given["latents"].abs().mean())))
        return given

    asked = {**ASKED, "num_images_per_prompt": 2, "negative_prompt": "a bird", "preset": "fixed"}
    images, flagged = pipe(PROMPT, LAYOUT.to_json(), return_dict=False, callback_on_step_end=look, **asked)
    assert len(images) == 2 and images[0].size == (32, 16) and flagged is None
    assert [number for number, _ in told] == [0, 1, 2, 3]
    arrays = pipe(PROMPT, LAYOUT, output_type="np", **asked).images
    tensors = pipe(PROMPT, LAYOUT, output_type="pt", **asked).images
    assert arrays.shape == (2, 16, 32, 3) and tensors.shape == (2, 3, 16, 32)
    given = torch.zeros(1, 4, 8, 16)
    assert torch.equal(
        latents(pipe, PROMPT, LAYOUT, "fixed", latents=given, seed=1),
        latents(pipe, PROMPT, LAYOUT, "fixed", latents=given),
    )


def test_the_predictor_places_what_no_layout_places(pipes: dict[str, Any]) -> None:
    made = pipes["sd1"]("A cat to the left of a dog.", preset="fixed", **ASKED)
    cat, dog = made.layouts[0].objects
    assert (cat.phrase.lower(), dog.phrase) == ("a cat", "a dog") and cat.x < dog.x


def test_what_it_saves_loads_without_it(pipes: dict[str, Any], tmp_path: Path) -> None:
    for kind in ("sd1", "xl"):
        pipes[kind].save_pretrained(tmp_path / kind)
        again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / kind)
        assert type(again).__name__.startswith("StableDiffusion")
        shared = SpaceTimePipeline.from_pipe(again)
        assert type(shared) is type(pipes[kind]) and shared.unet is again.unet


def test_what_cannot_be_done_is_said(pipes: dict[str, Any], tmp_path: Path) -> None:
    pipe = pipes["sd1"]

    def said(*given: Any, **more: Any) -> str:
        with pytest.raises(UserError) as caught:
            pipe(*given, **{"preset": "fixed", **ASKED, **more})
        return str(caught.value)

    assert "multiples of 2" in said(PROMPT, LAYOUT, height=15)
    assert "no preset 'fix'" in said(PROMPT, LAYOUT, preset="fix")
    assert "2 layouts for 3 images" in said([PROMPT] * 3, [LAYOUT] * 2)
    assert "do not fit" in said(PROMPT, LAYOUT, latents=torch.zeros(1, 4, 4, 4))
    assert "cannot change" in said(PROMPT, LAYOUT, callback_on_step_end=lambda *_: {"latents": torch.zeros(1)})
    assert "output_type must be" in said(PROMPT, LAYOUT, output_type="jpeg")
    own = pipe.scheduler
    for name, text in (("HeunDiscreteScheduler", "twice a step"), ("EDMEulerScheduler", "not for models that predict")):
        pipe.scheduler = getattr(diffusers, name).from_config(own.config)
        try:
            assert text in said(PROMPT, LAYOUT)
        finally:
            pipe.scheduler = own
    for name, value, text in (
        ("time_cond_proj_dim", 4, "distilled"),
        ("encoder_hid_dim_type", "ip_image_proj", "IP-Adapter"),
    ):
        before = pipe.unet.config
        pipe.unet.register_to_config(**{name: value})
        try:
            assert text in said(PROMPT, LAYOUT)
        finally:
            pipe.unet._internal_dict = before  # noqa: SLF001
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    with pytest.raises(UserError, match="Stable Diffusion 3, which has a transformer"):
        SpaceTimePipeline.from_pretrained(tmp_path)


def test_a_hub_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldm.hub.unreachable", lambda: True)
    with pytest.raises(UserError, match="nor does the hub answer"):
        SpaceTimePipeline.from_pretrained("nobody/nothing")
