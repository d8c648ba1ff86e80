"""The method on models of diffusers: tiny random ones of Stable Diffusion 1, 2 and XL, judged by the library itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldm import hub
from ldm.backends.diffusers import Diffusers, grid_of, load
from ldm.convert.convert import convert
from ldm.errors import UserError
from ldm.generation.draw import contexts, draw
from ldm.generation.inpaint import text_and_masked
from ldm.generation.pipeline import choose_model, load_pipeline
from ldm.generation.settings import Sampling
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.spacetime.control import SpatialControl
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.spacetime.presets import PRESETS
from ldm.spacetime.shapes import Box
from tests import diffusers_folders
from tests.scripts_under_test import refusal, run
from tests.tiny_world import TinyWorld

KINDS = ("sd1", "sd2", "xl")
PROMPT, SIZE = "a cat to the left of a dog", (16, 32)  # height and width
WHOLE = Layout((LayoutObject.shaped("a dog", Box(0.0, 0.0, 1.0, 1.0), negative_prompt="cat"),), PROMPT)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("diffusers")
    return {kind: diffusers_folders.build(kind, root / kind) for kind in KINDS}


@pytest.fixture(scope="module")
def backends(folders: dict[str, Path]) -> dict[str, Diffusers]:
    return {kind: load(folder, torch.device("cpu")) for kind, folder in folders.items()}


def noise(batch: int = 1) -> Tensor:
    generators = [torch.Generator().manual_seed(7 + b) for b in range(batch)]
    return torch.stack([torch.randn(4, SIZE[0] // 2, SIZE[1] // 2, generator=g) for g in generators])


def sampled(backend: Any, prompts: list[str], **more: Any) -> Tensor:
    given = {"S": 4, "batch_size": len(prompts), "shape": (4, SIZE[0] // 2, SIZE[1] // 2), "x_T": noise(len(prompts))}
    given |= {
        "unconditional_guidance_scale": 3.0,
        "verbose": False,
        **contexts(backend, prompts, [""] * len(prompts), SIZE),
    }
    with torch.no_grad():
        return DDIMSampler(backend).sample(**{**given, **more})[0]


def control_of(backend: Diffusers, layouts: list[Layout]) -> dict[str, Any]:
    control = SpatialControl.build(layouts, backend.encode)
    return {"control": control, "weights": torch.ones(4, control.num_objects, len(layouts))}


@pytest.mark.parametrize("kind", KINDS)
def test_plain_sampling_is_the_librarys_own(
    folders: dict[str, Path], backends: dict[str, Diffusers], kind: str
) -> None:
    import diffusers

    pipe = diffusers.DiffusionPipeline.from_pretrained(str(folders[kind]), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    size = {"height": SIZE[0], "width": SIZE[1], "num_inference_steps": 4, "guidance_scale": 3.0}
    want = pipe(PROMPT, latents=noise(), output_type="latent", **size).images
    assert torch.allclose(sampled(backends[kind], [PROMPT]), want, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_region_at_weight_one_is_the_local_prompt(backends: dict[str, Diffusers], kind: str) -> None:
    """And its negative text the negative prompt; the pooled embedding of XL stays that of the whole prompt."""
    backend = backends[kind]
    made = sampled(backend, [PROMPT], **control_of(backend, [WHOLE]))
    local = contexts(backend, ["a photo of a dog"], ["cat"], SIZE)
    if kind == "xl":
        whole = contexts(backend, [PROMPT], [""], SIZE)
        local = {key: {**whole[key], "context": value["context"]} for key, value in local.items()}
    assert torch.allclose(made, sampled(backend, [PROMPT], **local), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_weight_zero_is_plain_and_processors_come_back(backends: dict[str, Diffusers], kind: str) -> None:
    backend = backends[kind]
    own = dict(backend.unet.attn_processors)
    given = control_of(backend, [Layout((LayoutObject("a dog", 0.5, 0.5),), PROMPT)])
    plain = sampled(backend, [PROMPT])
    assert torch.equal(sampled(backend, [PROMPT], **{**given, "weights": torch.zeros(4, 1, 1)}), plain)
    assert not torch.allclose(sampled(backend, [PROMPT], **given), plain, atol=1e-3)
    with pytest.raises(ValueError, match="control needs weights"):
        backend.apply_model(noise(), torch.tensor([1]), backend.condition([PROMPT], *SIZE), given["control"], None)
    assert backend.unet.attn_processors == own
    assert torch.equal(sampled(backend, [PROMPT]), plain)


def test_a_batch_is_its_images(backends: dict[str, Diffusers]) -> None:
    layouts = [WHOLE, Layout((LayoutObject("a cat", 0.2, 0.5), LayoutObject("a dog", 0.8, 0.5)), PROMPT)]
    backend = backends["xl"]
    together = sampled(backend, [PROMPT, "a dog"], **control_of(backend, layouts))
    for b, prompt in enumerate((PROMPT, "a dog")):
        alone = sampled(backend, [prompt], x_T=noise(2)[b : b + 1], **control_of(backend, layouts[b : b + 1]))
        assert torch.allclose(together[b : b + 1], alone, atol=1e-4)


def test_the_gradient_reaches_the_weights(backends: dict[str, Diffusers]) -> None:
    backend = backends["sd2"]
    given = control_of(backend, [Layout((LayoutObject("a dog", 0.4, 0.5),), PROMPT)])
    t, condition = torch.tensor([500]), backend.condition([PROMPT], *SIZE)

    def loss(weight: Tensor) -> Tensor:
        made = backend.apply_model(noise(), t, condition, given["control"], weight.view(1, 1))
        return backend.decode(made).mean()

    weight = torch.tensor(0.7, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(weight), weight)
    with torch.no_grad():
        difference = (loss(weight + 0.05) - loss(weight - 0.05)) / 0.1
    assert gradient.item() == pytest.approx(difference.item(), rel=0.1, abs=1e-6) and gradient != 0


def test_levels_of_odd_sizes() -> None:
    assert [grid_of(pixels, 9, 13) for pixels in (117, 35, 12)] == [(9, 13), (5, 7), (3, 4)]
    with pytest.raises(ValueError, match="no level"):
        grid_of(100, 9, 13)


# ---------------------------------------------------------------------------------------------------- scripts


@pytest.mark.parametrize(
    ("kind", "preset"), [("sd1", "per-step"), ("sd2", "iccv-2023"), *(("xl", preset) for preset in sorted(PRESETS))]
)
def test_the_script_with_every_preset(
    folders: dict[str, Path], world: TinyWorld, tmp_path: Path, kind: str, preset: str
) -> None:
    rounds = ["--rounds", "2"] if preset.endswith("2023") else []
    words = ["--model", folders[kind], "--clip", world.clip, "--device", "cpu", "--preset", preset, *rounds]
    words += ["--prompt", PROMPT, "--at", "a cat", "0.2", "0.5", "--box", "a dog", "0.5", "0", "1", "1"]
    run("txt2img-refine", *words, "--ddim_steps", "3", "--W", "32", "--baseline", "--outdir", tmp_path)
    details = json.loads((tmp_path / "details" / "00000" / "settings.json").read_text())
    assert details["model"]["ckpt"] == str(folders[kind]) and len(details["model"]["ckpt_sha256"]) == 64
    image, plain = (
        np.asarray(Image.open(tmp_path / name)) for name in ("samples/00000.png", "details/00000/baseline.png")
    )
    assert image.shape == (16, 32, 3) and not np.array_equal(image, plain)


def test_half_precision_keeps_latents_and_weights_in_full(folders: dict[str, Path]) -> None:
    backend = load(folders["xl"], torch.device("cpu"), "bfloat16")
    made = sampled(backend, [PROMPT], **control_of(backend, [WHOLE]))
    assert backend.unet.dtype == torch.bfloat16 and made.dtype == torch.float32 and made.isfinite().all()


def test_images_to_images(folders: dict[str, Path], tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(tmp_path / "gray.png")
    words = ["--model", folders["xl"], "--device", "cpu", "--init-img", tmp_path / "gray.png", "--prompt", PROMPT]
    run("img2img", *words, "--ddim_steps", "3", "--n_samples", "1", "--outdir", tmp_path / "out")
    assert Image.open(tmp_path / "out" / "samples" / "00000.png").size == (16, 16)


@pytest.mark.parametrize("kind", ["sd1", "xl"])
def test_inpainting_models_are_the_librarys_own(tmp_path: Path, kind: str) -> None:
    """The mask and the latents of the masked image beside the noisy ones, in its order."""
    import diffusers

    folder = diffusers_folders.build(kind, tmp_path / "model", inpainting=True)
    backend = load(folder, torch.device("cpu"))
    image, mask = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(1)), torch.zeros(1, 1, *SIZE)
    mask[..., 16:] = 1.0
    with torch.no_grad():
        given = text_and_masked(backend, PROMPT, "", image, mask)
        made = sampled(backend, [PROMPT], **given)
    pipe = diffusers.DiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    hidden = backend.encode_image(image * (1 - mask) + 0.5 * mask)
    size = {"height": SIZE[0], "width": SIZE[1], "num_inference_steps": 4, "guidance_scale": 3.0, "strength": 1.0}
    asked = {"image": image, "mask_image": mask, "masked_image_latents": hidden, "latents": noise(), **size}
    want = pipe(PROMPT, output_type="latent", **asked).images
    assert torch.allclose(made, want, atol=1e-4)


@pytest.mark.parametrize("kind", ["sd1", "xl", "inpainting"])
def test_the_script_paints_into_images(folders: dict[str, Path], world: TinyWorld, tmp_path: Path, kind: str) -> None:
    model = folders.get(kind) or diffusers_folders.build("sd1", tmp_path / "model", inpainting=True)
    given = np.full((16, 32, 3), 90, np.uint8)
    mask = np.zeros((16, 32), np.uint8)
    mask[:, 16:] = 255
    (tmp_path / "in").mkdir()
    Image.fromarray(given).save(tmp_path / "in" / "a.png")
    Image.fromarray(mask).save(tmp_path / "in" / "a_mask.png")
    words: list[str | Path] = [
        "--model",
        model,
        "--device",
        "cpu",
        "--prompt",
        PROMPT,
        "--steps",
        "3",
        "--clip",
        world.clip,
    ]
    words += ["--box", "a dog", "0.5", "0", "1", "1", "--indir", tmp_path / "in", "--outdir", tmp_path / "out"]
    run("inpaint", *words)
    made = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert np.array_equal(made[:, :16], given[:, :16]) and not np.array_equal(made[:, 16:], given[:, 16:])


def test_adapters_are_the_librarys_own(folders: dict[str, Path], world: TinyWorld, tmp_path: Path) -> None:
    import diffusers

    path = diffusers_folders.write_lora(folders["xl"], tmp_path / "style.safetensors")
    plain, half, none = (
        load(folders["xl"], torch.device("cpu"), lora=lora) for lora in ([], [f"{path}:0.5"], [f"{path}:0"])
    )
    pipe = diffusers.DiffusionPipeline.from_pretrained(str(folders["xl"]), local_files_only=True)
    pipe.load_lora_weights(tmp_path, weight_name=path.name, adapter_name="style", local_files_only=True)
    pipe.set_adapters(["style"], [0.5])
    pipe.set_progress_bar_config(disable=True)
    size = {"height": SIZE[0], "width": SIZE[1], "num_inference_steps": 4, "guidance_scale": 3.0}
    want = pipe(PROMPT, latents=noise(), output_type="latent", **size).images
    made = sampled(half, [PROMPT])
    assert torch.allclose(made, want, atol=1e-4) and not torch.allclose(made, sampled(plain, [PROMPT]), atol=1e-3)
    assert torch.allclose(sampled(none, [PROMPT]), sampled(plain, [PROMPT]), atol=1e-5)
    # The local prompt goes through the adapter as well.
    local = contexts(half, ["a photo of a dog"], ["cat"], SIZE)
    whole = contexts(half, [PROMPT], [""], SIZE)
    local = {key: {**whole[key], "context": value["context"]} for key, value in local.items()}
    controlled = sampled(half, [PROMPT], **control_of(half, [WHOLE]))
    assert torch.allclose(controlled, sampled(half, [PROMPT], **local), atol=1e-4)
    words = [
        "--model",
        folders["xl"],
        "--lora",
        f"{path}:0.5",
        "--clip",
        world.clip,
        "--device",
        "cpu",
        "--prompt",
        PROMPT,
    ]
    run("txt2img-refine", *words, "--at", "a cat", "0.2", "0.5", "--ddim_steps", "2", "--outdir", tmp_path / "out")
    told = json.loads((tmp_path / "out" / "details" / "00000" / "settings.json").read_text())["model"]
    assert told["dtype"] == "float32" and told["lora"][0]["scale"] == 0.5 and len(told["lora"][0]["sha256"]) == 64


def test_an_adapter_is_frozen_and_its_scale_may_change_within_a_chain(folders: dict[str, Path], tmp_path: Path) -> None:
    path = diffusers_folders.write_lora(folders["sd1"], tmp_path / "style.safetensors")
    backend = load(folders["sd1"], torch.device("cpu"), lora=[str(path)])
    assert not any(one.requires_grad for one in backend.unet.parameters())
    assert not any(one.training for one in backend.unet.modules())
    condition, weights = backend.condition([PROMPT], *SIZE), torch.ones(1, 1)
    kept, fresh = (control_of(backend, [WHOLE])["control"] for _ in range(2))

    def predicted(scale: float, control: Any) -> Tensor:
        backend.pipe.set_adapters(["adapter_0"], [scale])
        with torch.no_grad():
            return backend.apply_model(noise(), torch.tensor([500]), condition, control, weights)

    first = predicted(1.0, kept)
    assert torch.equal(predicted(0.0, kept), predicted(0.0, fresh)) and not torch.equal(first, predicted(0.0, fresh))


def test_a_run_of_the_evaluation(
    folders: dict[str, Path], world: TinyWorld, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It goes on with the same model only."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Objects: cat, dog\nRelation: left of\nSentence: A cat to the left of a dog.\n")
    words: list[str | Path] = [
        "--prompts",
        prompts,
        "--methods",
        "base",
        "fixed:weight=1",
        "--clip",
        world.clip,
        "--device",
        "cpu",
    ]
    words += ["--ddim_steps", "2", "--outdir", tmp_path / "out"]
    run("txt2img-gpt", *words, "--model", folders["sd1"])
    assert len(list((tmp_path / "out").rglob("*.png"))) == 2
    run("txt2img-gpt", *words, "--model", folders["sd1"])
    assert "another" in refusal(capfd, "txt2img-gpt", *words, "--model", folders["sd1"], "--dtype", "bfloat16")
    lora = diffusers_folders.write_lora(folders["sd1"], tmp_path / "style.safetensors")
    words = ["--model", folders["sd1"], "--clip", world.clip, "--device", "cpu", "--outdir", tmp_path / "table"]
    words += ["--lora", lora, "--count", "1", "--steps", "2", "--methods", "fixed", "--out", tmp_path / "t.jsonl"]
    run("evaluate", "table", *words)
    head = json.loads((tmp_path / "t.jsonl").read_text().splitlines()[0])
    assert len(head["settings"]["lora"][0]["sha256"]) == 64
    assert "another" in refusal(capfd, "evaluate", "table", *words, "--dtype", "bfloat16")


@pytest.mark.parametrize("preset", [None, "fixed", "per-step", "iccv-2023"])
def test_an_exported_checkpoint_gives_the_same_image(world: TinyWorld, tmp_path: Path, preset: str | None) -> None:
    """Of words, too, whose tokenizer the folder holds."""
    folder = convert(world.ckpt, tmp_path / "folder", world.config)[0]
    ours = load_pipeline(choose_model(world.config, world.ckpt), device="cpu", clip=world.clip)
    theirs = load_pipeline(choose_model(model=str(folder)), device="cpu", clip=world.clip)
    texts = [PROMPT, "", "Don't! 12 ZEBRAS-42, on a tarpaulin", "a " * 50]
    assert torch.allclose(ours.backend.encode(texts), theirs.backend.encode(texts), atol=1e-5)
    layout = Layout((LayoutObject("a cat", 0.2, 0.5), LayoutObject.shaped("a dog", Box(0.5, 0, 1, 1))), PROMPT)
    method = None if preset is None else PRESETS[preset]
    sampling = Sampling(sampler="plms", steps=4, height=32, width=64, scale=5.0)
    a, b = (draw(one, [PROMPT], [layout], [3], method, sampling)[0] for one in (ours, theirs))
    assert np.abs(a.image.astype(int) - b.image).max() <= 1
    if a.weights is not None and b.weights is not None:
        assert np.allclose(a.weights, b.weights, atol=1e-4)


def test_folders_of_one_variant_or_of_torch_files(folders: dict[str, Path], tmp_path: Path) -> None:
    import diffusers

    pipe = diffusers.DiffusionPipeline.from_pretrained(str(folders["sd1"]), local_files_only=True)
    pipe.save_pretrained(tmp_path / "variant", variant="fp16")
    pipe.save_pretrained(tmp_path / "torch", safe_serialization=False)
    want = sampled(load(folders["sd1"], torch.device("cpu")), [PROMPT])
    for name in ("variant", "torch"):
        assert torch.equal(sampled(load(tmp_path / name, torch.device("cpu")), [PROMPT]), want)


def test_a_single_file_of_xl_with_the_configs_of_a_folder(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "unreachable", lambda: True)
    single = diffusers_folders.write_single_file(folders["xl"], tmp_path / "model.safetensors")
    made = load_pipeline(choose_model(config=folders["xl"], model=str(single)), device="cpu")
    assert torch.equal(sampled(made.backend, [PROMPT]), sampled(load(folders["xl"], made.device), [PROMPT]))
    with pytest.raises(UserError, match="no folder of diffusers"):
        load_pipeline(choose_model(config=tmp_path / "nowhere", model=str(single)), device="cpu")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_missing_weights_are_not_drawn(
    folders: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], part: str
) -> None:
    folder = broken(folders["sd1"], tmp_path)
    single = diffusers_folders.write_single_file(folders["xl"], tmp_path / "model.safetensors")
    capfd.readouterr()
    (file,) = (folder / part).glob("*.safetensors")
    weights = load_file(file)
    name = max(weights)
    save_file({key: value for key, value in weights.items() if key != name}, file)
    with pytest.raises(UserError, match=f"lacks weights of its {part} .*{name}"):
        load(folder, torch.device("cpu"))
    start = {"unet": "model.", "vae": "first_stage_model.", "text_encoder": "conditioner.embedders.0."}[part]
    weights = load_file(single)
    name = min(key for key in weights if key.startswith(start) and key.endswith("weight"))
    save_file({key: value for key, value in weights.items() if key != name}, single)
    with pytest.raises(UserError, match="lacks weights|can't be loaded"):
        load(single, torch.device("cpu"), config=folders["xl"])
    assert not capfd.readouterr().err


def test_a_torch_file_runs_no_code(folders: dict[str, Path], tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.write_text, (tmp_path / "harm", "done")

    folder = tmp_path / "model"
    shutil.copytree(folders["sd1"], folder)
    for part in ("unet", "text_encoder", "vae"):
        for file in (folder / part).glob("*.safetensors"):
            torch.save({"weight": Evil()}, file.with_suffix(".bin"))
            file.unlink()
    with pytest.raises(UserError, match="can't be loaded"):
        load(folder, torch.device("cpu"))
    assert not (tmp_path / "harm").exists()


def broken(folder: Path, tmp_path: Path, **changed: Any) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps({**index, **changed}))
    return copy


def test_what_cannot_be_used_is_said(
    folders: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(model: str | Path, *more: str) -> str:
        words = ["--model", model, "--prompt", PROMPT, "--at", "a cat", "0.5", "0.5", "--preset", "fixed", *more]
        return refusal(capfd, "txt2img-refine", *words, "--device", "cpu", "--outdir", tmp_path / "out")

    monkeypatch.setattr(hub, "unreachable", lambda: True)
    flux = broken(folders["sd1"], tmp_path, _class_name="FluxPipeline")
    assert "Flux, which has a transformer and no U-Net" in said(flux)
    for kind, part, what in (
        ("sd1", "vae_2", ["diffusers", "AutoencoderKL"]),
        ("sd1", "unet", None),
        ("xl", "text_encoder", [None, None]),
    ):
        shutil.rmtree(flux)
        assert f"lacks its part '{part}'" in said(broken(folders[kind], tmp_path, **{part: what}))
    (flux / "model_index.json").write_text("{")
    assert "no readable model_index.json" in said(flux)
    assert "neither a folder of diffusers nor a hub name" in said(tmp_path / "nowhere")
    assert "it is on the hub, which does not answer" in said("nobody/nothing")
    assert "--offload keeps parts off a card" in said(folders["sd1"], "--offload")
    assert "leave out --config and --ckpt" in said(folders["sd1"], "--ckpt", "x.ckpt")
    single = tmp_path / "single.safetensors"
    names = {
        "conditioner.embedders.0.x": "configs and tokenizers are on the hub",
        "model.diffusion_model.joint_blocks.0.x": "Stable Diffusion 3",
    }
    for name, text in {**names, "double_blocks.0.x": "Flux"}.items():
        save_file({name: torch.ones(2)}, single)
        assert text in said(single)
    shutil.rmtree(flux)
    odd = broken(folders["sd1"], tmp_path)
    (odd / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"\0" * 100)
    assert "can't be loaded" in said(odd)


def test_adapters_that_cannot_be_used_are_said(folders: dict[str, Path], tmp_path: Path) -> None:
    def said(*lora: str | Path) -> str:
        with pytest.raises(UserError) as caught:
            load(folders["xl"], torch.device("cpu"), lora=[str(one) for one in lora])
        return str(caught.value)

    other = diffusers_folders.write_lora(folders["sd1"], tmp_path / "other.safetensors", ("to_k",))
    assert "other.safetensors does not go with this model" in said(other)
    save_file({"some.weight": torch.ones(2)}, tmp_path / "strange.safetensors")
    assert "does not go with this model" in said(tmp_path / "strange.safetensors")
    (tmp_path / "noise.safetensors").write_bytes(b"\1" * 64)
    assert "cannot be read as safetensors" in said(tmp_path / "noise.safetensors")
    assert "cannot be read as safetensors" in said(tmp_path / "nowhere.safetensors:0.5")
    assert "finite scale" in said(f"{other}:nan")


def test_what_goes_with_a_model_of_diffusers(world: TinyWorld) -> None:
    for more in ({"dtype": "float16"}, {"offload": True}, {"lora": ["a.safetensors"]}):
        with pytest.raises(UserError, match="--dtype, --offload and --lora go with --model"):
            choose_model(world.config, world.ckpt, **more)
