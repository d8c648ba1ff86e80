"""Conversion to and from the folders of diffusers: the same outputs, the same weights, and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ldm.convert import configs
from ldm.convert.convert import (
    UNET_FILES,
    config_of_folder,
    convert,
    read_folder,
    unet_state_from_diffusers,
    unet_state_to_diffusers,
    vae_state_from_diffusers,
    vae_state_to_diffusers,
)
from ldm.models.autoencoder import AutoencoderKL
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.util import UserError, instantiate_from_config, load_config, load_state_dict, save_safetensors
from tests import tiny_world
from tests.golden_data import ROOT, relative_error, tensor
from tests.scripts_under_test import concat, hybrid, refusal, run, tiny_config, write_model

diffusers = pytest.importorskip("diffusers")

SD_UNET: dict[str, Any] = {"sample_size": 64, "in_channels": 4, "out_channels": 4, "layers_per_block": 2}
SD_UNET |= {"cross_attention_dim": 768, "block_out_channels": [320, 640, 1280, 1280], "attention_head_dim": 8}
SD_UNET["down_block_types"] = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
SD_UNET["up_block_types"] = ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3
SD_VAE: dict[str, Any] = {"sample_size": 512, "in_channels": 3, "out_channels": 3, "latent_channels": 4}
SD_VAE |= {"layers_per_block": 2, "block_out_channels": [128, 256, 512, 512], "norm_num_groups": 32}
SD_VAE |= {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
SD_VAE["scaling_factor"] = 0.18215
SMALL_UNET = {**SD_UNET, "sample_size": 8, "block_out_channels": [32, 64, 128, 128], "cross_attention_dim": 24}
SMALL_VAE = {**SD_VAE, "sample_size": 32, "block_out_channels": [32, 64, 64, 64]}


slow = pytest.mark.slow


def random_model(kind: str, config: dict[str, Any]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(diffusers, kind)(**config).eval()


@pytest.mark.parametrize("config", [SMALL_UNET, pytest.param(SD_UNET, marks=slow)], ids=["small", "full"])
def test_unet_gives_the_same_outputs(config: dict[str, Any]) -> None:
    theirs = random_model("UNet2DConditionModel", config)
    params = configs.unet_from_diffusers(dict(theirs.config))
    ours = UNetModel(**params).eval()
    ours.load_state_dict(unet_state_from_diffusers(theirs.state_dict(), params))
    x, context = tensor(1, "x", (2, 4, 8, 8)), tensor(1, "c", (2, 5, config["cross_attention_dim"]))
    t = torch.tensor([3, 981])
    with torch.no_grad():
        assert relative_error(ours(x, t, context=context), theirs(x, t, context).sample) < 1e-4
    back = unet_state_to_diffusers(ours.state_dict(), params)
    assert back.keys() == theirs.state_dict().keys()
    described = configs.unet_to_diffusers(params, config["sample_size"])
    assert all(
        theirs.config[key] == value or list(theirs.config[key]) == value  # tuples come from JSON as lists
        for key, value in described.items()
        if key != "_class_name"
    )


@pytest.mark.parametrize("config", [SMALL_VAE, pytest.param(SD_VAE, marks=slow)], ids=["small", "full"])
def test_vae_gives_the_same_outputs(config: dict[str, Any]) -> None:
    theirs = random_model("AutoencoderKL", config)
    params, scale_factor = configs.vae_from_diffusers(dict(theirs.config))
    assert scale_factor == config["scaling_factor"]
    ours = AutoencoderKL(**params).eval()
    ours.load_state_dict(vae_state_from_diffusers(theirs.state_dict(), params))
    image, latent = tensor(1, "image", (2, 3, 32, 32), 0.5), tensor(1, "latent", (2, 4, 4, 4))
    with torch.no_grad():
        assert relative_error(ours.encode(image).mean, theirs.encode(image).latent_dist.mean) < 1e-4
        assert relative_error(ours.encode(image).std, theirs.encode(image).latent_dist.std) < 1e-4
        assert relative_error(ours.decode(latent), theirs.decode(latent).sample) < 1e-4
    back = vae_state_to_diffusers(ours.state_dict(), params)
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[k], v) for k, v in theirs.state_dict().items())


def test_the_published_config_and_the_published_json_describe_each_other() -> None:
    params = load_config(ROOT / "configs/stable-diffusion/v1-inference.yaml").model.params
    unet = configs.unet_to_diffusers(params.unet_config.params, params.image_size)
    assert {key: unet[key] for key in SD_UNET} == SD_UNET
    vae = configs.vae_to_diffusers(params.first_stage_config.params, params.scale_factor)
    assert {key: vae[key] for key in SD_VAE} == {**SD_VAE, "sample_size": vae["sample_size"]}
    again = configs.unet_from_diffusers(unet)
    fixed = ("model_channels", "channel_mult", "num_res_blocks", "num_heads", "context_dim")
    assert {k: again[k] for k in fixed} == {k: params.unet_config.params[k] for k in fixed}
    assert set(again["attention_resolutions"]) == set(params.unet_config.params.attention_resolutions)


def test_heads_of_one_width() -> None:
    params = {**configs.unet_from_diffusers(SMALL_UNET), "num_head_channels": 16}
    del params["num_heads"]
    described = configs.unet_to_diffusers(params, 8)
    assert described["attention_head_dim"] == [2, 4, 8, 8]
    assert configs.unet_from_diffusers(described)["num_head_channels"] == 16


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tiny_world.TinyWorld:
    return tiny_world.build(tmp_path_factory.mktemp("world"))


def test_checkpoint_to_folder_and_back(
    world: tiny_world.TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("convert_checkpoint", world.ckpt, tmp_path / "folder", "--config", world.config)
    run("convert_checkpoint", tmp_path / "folder", tmp_path / "back.ckpt", "--config", world.config)
    assert f"written: {tmp_path / 'back.ckpt'}" in capsys.readouterr().out
    before, after = load_state_dict(world.ckpt), load_state_dict(tmp_path / "back.ckpt")
    parts = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")
    assert after.keys() == {k for k in before if k.startswith(parts)}
    assert all(torch.equal(before[k], after[k]) for k in after)
    assert not list(tmp_path.glob(".tmp-*"))


def test_the_libraries_read_the_folder(world: tiny_world.TinyWorld, tmp_path: Path) -> None:
    from transformers import CLIPTextModel

    convert(world.ckpt, tmp_path / "folder", world.config)
    unet = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "folder" / "unet")
    vae = diffusers.AutoencoderKL.from_pretrained(tmp_path / "folder" / "vae")
    text = CLIPTextModel.from_pretrained(tmp_path / "folder" / "text_encoder").eval()
    ours = instantiate_from_config(tiny_world.CONFIG["model"]).eval()
    ours.load_state_dict(load_state_dict(world.ckpt))
    x, t = tensor(1, "x", (1, 4, 8, 8)), torch.tensor([500])
    with torch.no_grad():
        context = ours.get_learned_conditioning(["a cat"])
        tokens = ours.cond_stage_model.tokenize(["a cat"])
        assert relative_error(text(input_ids=tokens).last_hidden_state, context) < 1e-4
        assert relative_error(unet(x, t, context).sample, ours.apply_model(x, t, context)) < 1e-4
        decoded = vae.decode(x / vae.config.scaling_factor).sample
        assert relative_error(decoded, ours.decode_first_stage(x)) < 1e-4
    scheduler = diffusers.PNDMScheduler.from_pretrained(tmp_path / "folder" / "scheduler")
    assert relative_error(scheduler.alphas_cumprod, ours.alphas_cumprod) < 1e-5


def test_single_files(world: tiny_world.TinyWorld, tmp_path: Path) -> None:
    run("convert_checkpoint", world.ckpt, tmp_path / "half.ckpt", "--config", world.config, "--half")
    run("convert_checkpoint", tmp_path / "half.ckpt", tmp_path / "again.safetensors", "--config", world.config)
    before, after = load_state_dict(world.ckpt), load_state_dict(tmp_path / "again.safetensors")
    assert before.keys() == after.keys()
    name = "model.diffusion_model.out.2.weight"
    assert load_state_dict(tmp_path / "half.ckpt")[name].dtype == torch.float16
    assert (before[name] - after[name]).abs().max() < 1e-3


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_folders_with_shards_and_variants(world: tiny_world.TinyWorld, tmp_path: Path, suffix: str) -> None:
    folder = convert(world.ckpt, tmp_path / "folder", world.config)[0]
    (whole,) = (folder / "unet").glob("diffusion_pytorch_model.*")
    state = load_state_dict(whole)
    whole.unlink()
    shards = [f"diffusion_pytorch_model-0000{i}-of-00002.{suffix}" for i in (1, 2)]
    where = {name: shards[i % 2] for i, name in enumerate(state)}
    for shard in shards:
        part = {name: value for name, value in state.items() if where[name] == shard}
        save_safetensors(folder / "unet" / shard, part) if suffix != "bin" else torch.save(
            part, folder / "unet" / shard
        )
    index = folder / "unet" / f"diffusion_pytorch_model.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (folder / "vae" / "diffusion_pytorch_model.safetensors").rename(
        folder / "vae" / "diffusion_pytorch_model.fp16.safetensors"
    )
    convert(folder, tmp_path / "again.safetensors", world.config)
    before, after = load_state_dict(world.ckpt), load_state_dict(tmp_path / "again.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in after.items() if "position_ids" not in name)
    # The variant of an index is named at its end, and a whole file without a variant goes before it.
    other = index.rename(index.with_name(index.name.replace(".json", ".fp16.json")))
    assert read_folder(folder, load_config(world.config)).keys() >= {f"model.diffusion_model.{'out.2.bias'}"}
    torch.save({name: value + 1 for name, value in state.items()}, folder / "unet" / UNET_FILES[1])
    after = read_folder(folder, load_config(world.config))
    assert torch.equal(after["model.diffusion_model.out.2.bias"], before["model.diffusion_model.out.2.bias"] + 1)
    (folder / "unet" / UNET_FILES[1]).unlink()
    index = other
    index.write_text(json.dumps({"weight_map": {"a": "../../m.safetensors"}}))
    with pytest.raises(UserError, match="outside of its folder"):
        convert(folder, tmp_path / "other.safetensors", world.config)


def test_an_inpainting_model_to_a_folder_and_back(tmp_path: Path) -> None:
    config, ckpt = write_model(tmp_path / "model", tiny_config(hybrid))
    folder = convert(ckpt, tmp_path / "folder", config)[0]
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == "StableDiffusionInpaintPipeline"
    unet = configs.unet_from_diffusers(json.loads((folder / "unet" / "config.json").read_text()))
    vae, scale_factor = configs.vae_from_diffusers(json.loads((folder / "vae" / "config.json").read_text()))
    params = configs.model_from_parts(unet, vae, scale_factor, {}, {})["model"]["params"]
    assert params["conditioning_key"] == "hybrid" and params["unet_config"]["params"]["in_channels"] == 9
    convert(folder, tmp_path / "back.ckpt", config)
    before, after = load_state_dict(ckpt), load_state_dict(tmp_path / "back.ckpt")
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_values_that_are_lost_are_refused(world: tiny_world.TinyWorld, tmp_path: Path) -> None:
    folder = convert(world.ckpt, tmp_path / "folder", world.config)[0]
    name, state = "first_stage_model.quant_conv.bias", load_state_dict(world.ckpt)
    save_safetensors(tmp_path / "large.safetensors", {**state, name: state[name] + 1e6})
    save_safetensors(tmp_path / "nan.safetensors", {**state, name: state[name] * float("nan")})
    with pytest.raises(UserError, match=f"not finite .{name}"):
        convert(tmp_path / "nan.safetensors", tmp_path / "out.safetensors", world.config)
    for target in ("out.safetensors", "out.ckpt", "out"):
        with pytest.raises(UserError, match=f"half precision .* not finite .{name}"):
            convert(tmp_path / "large.safetensors", tmp_path / target, world.config, half=True)
    weights = folder / "vae" / UNET_FILES[0]
    save_safetensors(weights, {k: v * float("inf") for k, v in load_state_dict(weights).items()})
    with pytest.raises(UserError, match="not finite .first_stage_model"):
        convert(folder, tmp_path / "out.safetensors", world.config)
    assert not list(tmp_path.glob("out*"))


def test_descriptions_that_lack_something(world: tiny_world.TinyWorld, tmp_path: Path) -> None:
    folder = convert(world.ckpt, tmp_path / "folder", world.config)[0]
    (folder / "unet" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="folder describes .* lacks 'block_out_channels'"):
        config_of_folder(folder)
    first = ROOT / "configs/autoencoder/autoencoder_kl_32x32x4.yaml"
    with pytest.raises(UserError, match="autoencoder_kl_32x32x4.yaml describes .* lacks"):
        convert(folder, tmp_path / "out.ckpt", first)
    (tmp_path / "out.yaml").write_text("mine")
    with pytest.raises(UserError, match="out.yaml is there already"):
        convert(folder, tmp_path / "out.ckpt")


def test_a_scheduler_that_contradicts_the_config_is_told(
    world: tiny_world.TinyWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = convert(world.ckpt, tmp_path / "folder", world.config)[0]
    convert(folder, tmp_path / "a.ckpt", world.config)
    assert "scheduler" not in caplog.text
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "prediction_type": "v_prediction"}))
    convert(folder, tmp_path / "b.ckpt", world.config)
    assert "prediction_type v_prediction, not epsilon" in caplog.text


def test_a_first_stage_that_is_the_conditioner_too(tmp_path: Path) -> None:
    config, ckpt = write_model(tmp_path / "model", tiny_config(concat))
    convert(ckpt, tmp_path / "again.safetensors", config)
    after = load_state_dict(tmp_path / "again.safetensors")
    name = "encoder.conv_in.weight"
    assert torch.equal(after[f"cond_stage_model.{name}"], after[f"first_stage_model.{name}"])


def test_the_config_of_a_folder_is_written_beside_the_checkpoint(tmp_path: Path, monkeypatch: Any) -> None:
    tower = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    monkeypatch.setitem(configs.TABLES["text_encoder"], "theirs", tower)  # the real one has 123 million weights
    described = {**tower, "vocab_size": 49408}
    parts = {
        "unet": {**SMALL_UNET, "cross_attention_dim": 32},
        "vae": SMALL_VAE,
        "text_encoder": described,
        "scheduler": {"beta_schedule": "scaled_linear", "beta_start": 0.001, "beta_end": 0.01},
    }
    for name, record in parts.items():
        (tmp_path / name).mkdir()
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        (tmp_path / name / file).write_text(json.dumps(record))
    params = config_of_folder(tmp_path)["model"]["params"]
    assert params["linear_start"] == 0.001 and params["scale_factor"] == 0.18215 and params["image_size"] == 8
    assert params["cond_stage_config"]["target"].endswith("FrozenCLIPEmbedder")
    with pytest.raises(UserError, match="holds no weights"):
        read_folder(tmp_path, {"model": {"params": params}})


def test_mistakes_end_in_one_sentence(
    world: tiny_world.TinyWorld, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def said(*words: str | Path) -> str:
        return refusal(capfd, "convert_checkpoint", *words)

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out.safetensors"
    assert "is in the way" in said(world.ckpt, tmp_path / "full", "--config", world.config)
    assert "does not exist" in said(tmp_path / "none.ckpt", out)
    assert "is there already" in said(world.ckpt, world.ckpt, "--config", world.config)
    for name in ("model.bin", "model.BIN"):
        assert "would be a folder" in said(world.ckpt, tmp_path / name, "--config", world.config)
    assert "both" in said(tmp_path / "empty", tmp_path / "out")
    assert "missing or no JSON" in said(tmp_path / "empty", out)
    assert "did you mean '.safetensors'?" in said(world.ckpt, tmp_path / "out.safetenors", "--config", world.config)
    # Without --config a checkpoint is taken for Stable Diffusion v1's.
    wrong = said(world.ckpt, out)
    assert "does not fit the config" in wrong or "of another architecture" in wrong
    assert not out.exists()


def test_a_folder_of_another_architecture_is_refused(world: tiny_world.TinyWorld, tmp_path: Path) -> None:
    convert(world.ckpt, tmp_path / "folder", world.config)
    for change, message in (
        ({"channel_mult": [1]}, r"names have no counterpart \(.*down_blocks"),
        ({"model_channels": 64}, "of another architecture than the config"),
    ):
        config: Any = copy.deepcopy(tiny_world.CONFIG)
        config["model"]["params"]["unet_config"]["params"] |= change
        (tmp_path / "other.yaml").write_text(yaml.safe_dump(config))
        with pytest.raises(UserError, match=message):
            convert(tmp_path / "folder", tmp_path / "out.ckpt", tmp_path / "other.yaml")
    assert not (tmp_path / "out.ckpt").exists()


def test_kinds_without_a_counterpart() -> None:
    unet = configs.unet_from_diffusers(SMALL_UNET)
    for change in ({"use_spatial_transformer": False}, {"num_classes": 10}, {"transformer_depth": 2}):
        with pytest.raises(UserError, match=next(iter(change))):
            configs.unet_to_diffusers({**unet, **change}, 8)
    with pytest.raises(UserError, match="addition_embed_type"):
        configs.unet_from_diffusers({**SMALL_UNET, "addition_embed_type": "text_time"})
    vae, _ = configs.vae_from_diffusers(SMALL_VAE)
    with pytest.raises(UserError, match="attn_resolutions"):
        configs.vae_to_diffusers({**vae, "ddconfig": {**vae["ddconfig"], "attn_resolutions": [16]}}, 1.0)
    with pytest.raises(UserError, match="--config"):
        configs.text_from_diffusers({"hidden_size": 1024})
