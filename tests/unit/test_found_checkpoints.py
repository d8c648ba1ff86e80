"""Checkpoints as they are found: read by content, under names that other programs gave, or named for what they are."""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ldm.errors import UserError
from ldm.unpickle import Reader
from ldm.util import check_fit, load_config, load_model_from_config, load_state_dict
from ldm.weights import fit_names
from tests.tiny_world import TinyWorld

State = dict[str, torch.Tensor]
TEXT = "cond_stage_model.transformer.text_model."
OPEN_CLIP = "cond_stage_model.model.transformer.resblocks."
UNET = "model.diffusion_model."


@pytest.fixture(scope="module")
def own(world: TinyWorld) -> State:
    return dict(load_model_from_config(load_config(world.config), world.ckpt).state_dict())


def load(world: TinyWorld, path: Path, **params: Any) -> Mapping[str, torch.Tensor]:
    config = load_config(world.config)
    config.model.params.update(params)
    return load_model_from_config(config, path).state_dict()


def under_averages(state: State) -> State:
    return {f"model_ema.{k[6:].replace('.', '')}" if k.startswith("model.") else k: v for k, v in state.items()}


def without_prefix(state: State, prefix: str) -> State:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


WRAPPED: dict[str, Callable[[State], Any]] = {
    "model": lambda s: {"model": s},
    "model and state_dict": lambda s: {"model": {"state_dict": s}, "epoch": 3},
    "module": lambda s: {"module": s},
    "notes among the tensors": lambda s: {"state_dict": {**s, "epoch": 3, "note": "mine"}},
    "prefix of all": lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
    "two prefixes": lambda s: {f"module.model.{k}": v for k, v in s.items()},
    "another key": lambda s: {
        "net": s,
        "step": torch.tensor(3),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(1)}}},
    },
    "prefix beside strays": lambda s: {"step": torch.tensor(3), **{f"net.{k}": v for k, v in s.items()}},
    "parallel inside": lambda s: {k.replace(UNET, f"{UNET}module."): v for k, v in s.items()},
    "averages of the compiled": lambda s: {
        k.replace("diffusion_model", "diffusion_model_orig_mod"): v for k, v in under_averages(s).items()
    },
    "parameters": lambda s: {k: torch.nn.Parameter(v, requires_grad=False) for k, v in s.items()},
    "matrices for convolutions": lambda s: {k: v[..., 0, 0] if v.shape[2:] == (1, 1) else v for k, v in s.items()},
    "other position_ids": lambda s: {k: v[:, :9].half() if "position_ids" in k else v for k, v in s.items()},
    "compiled": lambda s: {k.replace(UNET, f"{UNET}_orig_mod."): v for k, v in s.items()},
    "no text_model": lambda s: {k.replace(TEXT, TEXT.removesuffix("text_model.")): v for k, v in s.items()},
    "no position_ids": lambda s: {k: v for k, v in s.items() if "position_ids" not in k},
    "no schedule": lambda s: {k: v for k, v in s.items() if "alphas" not in k and "betas" not in k},
    "averages alone": under_averages,
    "surplus": lambda s: {**s, "extra.weight": torch.zeros(3)},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_weights_are_found_in_what_is_around_them(world: TinyWorld, own: State, tmp_path: Path, kind: str) -> None:
    torch.save(WRAPPED[kind](own), tmp_path / "m.ckpt")
    for name, value in load(world, tmp_path / "m.ckpt").items():
        assert torch.equal(value, own[name]), name


@pytest.mark.parametrize(
    ("name", "as_torch"),
    [("m.ckpt", False), ("m", False), ("M.SAFETENSORS", False), ("M.CKPT", True), ("m.safetensors", True)],
)
def test_the_content_decides_and_not_the_suffix(
    world: TinyWorld, own: State, tmp_path: Path, name: str, as_torch: bool
) -> None:
    torch.save({"state_dict": own}, tmp_path / name) if as_torch else save_file(own, tmp_path / name)
    assert all(torch.equal(value, own[name]) for name, value in load(world, tmp_path / name).items())


def test_use_ema_decides_between_the_trained_and_the_averaged_weights(
    world: TinyWorld, own: State, tmp_path: Path
) -> None:
    name = f"{UNET}out.2.bias"
    both = {**under_averages({k: v + 1 for k, v in own.items() if k.startswith("model.")}), **own}
    save_file({**both, "model_ema.decay": torch.tensor(0.99)}, tmp_path / "full.safetensors")
    assert torch.equal(load(world, tmp_path / "full.safetensors", use_ema=False)[name], own[name])
    assert torch.equal(load(world, tmp_path / "full.safetensors", use_ema=True)[name], own[name] + 1)
    save_file(own, tmp_path / "pruned.safetensors")
    assert torch.equal(load(world, tmp_path / "pruned.safetensors", use_ema=True)[name], own[name])


def test_surplus_entries_are_told_in_one_line(
    world: TinyWorld, own: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({**own, **{f"extra.{i}": torch.zeros(1) for i in range(5)}}, tmp_path / "m.ckpt")
    with caplog.at_level(logging.WARNING):
        load(world, tmp_path / "m.ckpt")
    (line,) = [record.getMessage() for record in caplog.records]
    assert "5 entries" in line and "extra.0" in line


ZEROS = torch.zeros(2, 3)
OTHERS: dict[str, Callable[[State], Any]] = {
    "is a LoRA": lambda s: {"lora_unet_down.lora_down.weight": ZEROS, "lora_unet_down.alpha": torch.zeros(1)},
    "is a LoRA,": lambda s: {"unet.down_blocks.0.attn.to_q.lora_A.weight": ZEROS},
    "is a LoRA, which": lambda s: {"down_blocks.0.attn1.processor.to_q_lora.down.weight": ZEROS},
    "is a LoRA, which changes": lambda s: {"unet:0:up": ZEROS, "unet:0:down": ZEROS},
    "is a LoRA, which changes a": lambda s: {"oft_unet_x.oft_blocks": ZEROS},
    "is a first stage": lambda s: without_prefix(s, "first_stage_model."),
    "is a U-Net only": lambda s: without_prefix(s, UNET),
    "is a U-Net only;": lambda s: {k: v for k, v in s.items() if k.startswith(UNET)},
    "is a textual inversion": lambda s: {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.zeros(2, 768)}},
    "is a textual inversion,": lambda s: {"emb_params": torch.zeros(2, 768)},
    "is a textual inversion, a": lambda s: {f"<toy{i}>": torch.zeros(768) for i in range(5)},
    "is a textual inversion, a word": lambda s: {"string_to_param": torch.nn.ParameterDict({"*": torch.zeros(768)})},
    "is a hypernetwork": lambda s: {768: [{"linear.0.weight": ZEROS}], "step": 3},
    "is an adapter": lambda s: {"image_proj": {"a.weight": ZEROS}, "ip_adapter": {"1.to_k_ip.weight": ZEROS}},
    "is an adapter,": lambda s: {"down_blocks.0.motion_modules.0.norm.weight": ZEROS},
    "is a ControlNet": lambda s: {"control_model.zero_convs.0.0.weight": ZEROS},
    "is Stable Diffusion 2": lambda s: {k.replace(TEXT, OPEN_CLIP): v for k, v in s.items()},
    "is Stable Diffusion XL": lambda s: {"conditioner.embedders.0.transformer.weight": ZEROS},
    "is Stable Diffusion 3": lambda s: {f"{UNET}joint_blocks.0.weight": ZEROS},
    "is Flux": lambda s: {"double_blocks.0.img_attn.qkv.weight": ZEROS},
    "is a transformer of diffusers": lambda s: {"transformer_blocks.0.attn.add_k_proj.weight": ZEROS},
    "is an inpainting model": lambda s: {**s, f"{UNET}input_blocks.0.0.weight": torch.zeros(32, 9, 3, 3)},
    "is InstructPix2Pix": lambda s: {**s, f"{UNET}input_blocks.0.0.weight": torch.zeros(32, 8, 3, 3)},
    "without its first stage": lambda s: {k: v for k, v in s.items() if not k.startswith("first_stage_model.")},
    "of int8 instead of": lambda s: {k: v.to(torch.int8) for k, v in s.items()},
    "holds no weights": lambda s: {k: v.to_sparse() for k, v in s.items()},
    "without its U-Net": lambda s: {k: v.to("meta") if UNET in k else v for k, v in s.items()},
    "is a text encoder only": lambda s: without_prefix(s, "cond_stage_model.transformer."),
    "holds no weights by name .it has optimizer, epoch.": lambda s: {"optimizer": {"lr": 1}, "epoch": 3},
    "does not fit the config": lambda s: {"a.weight": ZEROS, "b.weight": ZEROS},
}


@pytest.mark.parametrize("message", OTHERS)
def test_what_cannot_be_used_is_named_for_what_it_is(own: State, tmp_path: Path, message: str) -> None:
    torch.save(OTHERS[message](own), tmp_path / "m.ckpt")
    with pytest.raises(UserError, match=message):
        check_fit(own, fit_names(load_state_dict(tmp_path / "m.ckpt"), own), "this")


def test_a_model_of_the_other_kind_is_named(own: State) -> None:
    second = {k.replace(TEXT, OPEN_CLIP): v for k, v in own.items()}
    with pytest.raises(UserError, match="Stable Diffusion v1's kind"):
        check_fit(second, own, "this")
    check_fit(second, dict(second), "this")
    inpainting = {**own, f"{UNET}input_blocks.0.0.weight": torch.zeros(32, 9, 3, 3)}
    with pytest.raises(UserError, match="is a text-to-image model"):
        check_fit(inpainting, own, "this")
    first = without_prefix(own, "first_stage_model.")
    assert all(torch.equal(value, first[name]) for name, value in fit_names(own, first).items())
    with pytest.raises(UserError, match="another architecture"):
        check_fit(first, {**first, "encoder.conv_in.bias": torch.zeros(7)}, "this")


def zipped(files: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n <!DOCTYPE html><html>", "is a web page"),
        (b"<!-- x --><html>", "is a web page"),
        (b"Entry not found", "is a text"),
        (bytes(2000), "is empty"),
        (zipped({"model.ckpt": b"abc"}), "unpack it"),
        (zipped({"a/data.pkl": b"", "a/constants.pkl": b""}), "TorchScript"),
        (b"a" * 257 + b"ustar" + bytes(300), "unpack it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n", "git lfs pull"),
        (b'{"a": 1}', "is a JSON file"),
        (b"\x1f\x8b" + bytes(90), "unpack it"),
        (b"GGUF" + bytes(90), "GGUF"),
        (bytes(range(256)) * 4, "truncated or corrupt"),
    ],
)
def test_files_without_weights(tmp_path: Path, content: bytes, message: str) -> None:
    for name in ("m.ckpt", "m.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            load_state_dict(tmp_path / name)


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder; give"):
        load_state_dict(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match="convert_checkpoint.py"):
        load_state_dict(tmp_path)


@pytest.mark.parametrize("part", ["first_stage_model.decoder.conv_out.weight", f"{TEXT}final_layer_norm.weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(world: TinyWorld, own: State, tmp_path: Path, part: str, value: float) -> None:
    broken = own[part].clone()
    broken.view(-1)[-1] = value
    save_file({**own, part: broken}, tmp_path / "m.safetensors")
    with pytest.raises(UserError, match=f"not finite .{part}"):
        load(world, tmp_path / "m.safetensors")


def test_memory_that_ends_is_told(world: TinyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, told in (("allocate 16 bytes", "too little memory on cpu"), ("allocate 99999999999 bytes", "corrupt")):

        def load(*_: Any, text: str = text, **__: Any) -> None:
            raise RuntimeError(f"DefaultCPUAllocator: can't allocate memory: you tried to {text}. Error code 12")

        monkeypatch.setattr("safetensors.torch.load_file", load)
        with pytest.raises(UserError, match=told):
            load_model_from_config(load_config(world.config), world.ckpt)


def test_a_number_in_a_file_reserves_no_memory(tmp_path: Path) -> None:
    (tmp_path / "m.ckpt").write_bytes(b"\x80\x04\x8d" + (1 << 60).to_bytes(8, "little") + b"abc")
    with Reader(tmp_path / "m.ckpt") as file:
        assert len(file.read(1 << 60)) == 14
    with pytest.raises(UserError):
        load_state_dict(tmp_path / "m.ckpt")
