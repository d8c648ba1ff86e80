"""Checkpoints, configs and files that a user hands in."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm import unpickle
from ldm.util import (
    UserError,
    allow_targets,
    atomic_write,
    get_obj_from_str,
    instantiate_from_config,
    load_config,
    load_into,
    load_state_dict,
    pick_device,
    save_safetensors,
)
from tests.golden_data import ROOT
from tests.training_parts import UNET


class ModelCheckpoint:
    """Stands for a trainer's callback in a checkpoint."""


ModelCheckpoint.__module__ = "pytorch_lightning.callbacks.model_checkpoint"


class Attack:
    """Unpickling this would run a command."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_training_checkpoint_with_pickled_callbacks(
    tmp_path: Path, legacy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {"a.weight": torch.arange(6.0).reshape(2, 3), "half": torch.ones(2).half()}
    checkpoint = {"state_dict": weights, "callbacks": {ModelCheckpoint: {"best": 1}}, "epoch": 3}
    # pickle checks that a class can be found again where it says it lives
    import pytorch_lightning.callbacks.model_checkpoint as module

    monkeypatch.setattr(module, "ModelCheckpoint", ModelCheckpoint)
    torch.save(checkpoint, tmp_path / "m.ckpt", _use_new_zipfile_serialization=not legacy)
    monkeypatch.undo()
    loaded = load_state_dict(tmp_path / "m.ckpt")
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[k], weights[k]) for k in weights)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, legacy: bool) -> None:
    proof = tmp_path / "ran"
    checkpoint = {"state_dict": {"a": torch.zeros(1)}, "x": Attack(proof)}
    torch.save(checkpoint, tmp_path / "m.ckpt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match="could run code.*safetensors"):
        load_state_dict(tmp_path / "m.ckpt")
    (tmp_path / "raw.ckpt").write_bytes(pickle.dumps(Attack(proof)))
    with pytest.raises(UserError):
        load_state_dict(tmp_path / "raw.ckpt")
    assert not proof.exists()


def test_missing_and_truncated_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_state_dict(tmp_path / "none.ckpt")
    torch.save({"a": torch.zeros(1000)}, tmp_path / "m.ckpt")
    whole = (tmp_path / "m.ckpt").read_bytes()
    for name in ("cut.ckpt", "cut.safetensors"):
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match="truncated or corrupt"):
            load_state_dict(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(UserError, match="no weights by name; give"):
        load_state_dict(tmp_path / "list.ckpt")


@pytest.mark.parametrize(
    "target",
    [
        *("os.system", "subprocess.run", "torch.load", "ldmx.util", "ldm.util.nothing", "main.main", 3),
        *("ldm.files.write_json", "ldm.files.save_safetensors", "ldm.models.autoencoder.torch.nn.Linear"),
        "torch.utils.data.datapipes.utils.decoder.basichandlers",
    ],
)
def test_what_a_config_may_not_build(target: object) -> None:
    with pytest.raises(UserError, match="target"):
        instantiate_from_config({"target": target})


def test_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="did you mean 'ldm.models.autoencoder.AutoencoderKL'"):
        get_obj_from_str("ldm.models.autoencoder.AutoencoderKl")
    with pytest.raises(UserError, match="does not fit"):
        instantiate_from_config({"target": "ldm.modules.losses.ReconstructionLoss", "params": {"l3_weight": 1}})
    assert instantiate_from_config("__is_unconditional__") is None
    assert get_obj_from_str("main.ImageLogger").__module__ == "ldm.callbacks"


def test_a_program_may_let_in_its_own_package() -> None:
    with pytest.raises(UserError):
        get_obj_from_str("torchvision.transforms.Resize")
    allow_targets("torchvision.transforms.")
    assert get_obj_from_str("torchvision.transforms.Resize").__name__ == "Resize"
    with pytest.raises(UserError, match="no model, data set"):  # a function of that package
        get_obj_from_str("torchvision.transforms.functional.resize")
    with pytest.raises(ValueError, match="package"):
        allow_targets("")


# Each line holds ten of the line before.
BOMB = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "a: !!binary aGVsbG8=",
            "a: !!python/object/apply:os.system ['x']",
            "a: ${oc.env:HOME}",
            "a: ['${oc.env:HOME}']",
        ),
        *(BOMB, "a: 1\na: 2", "a: ${b", "[" * 100_000, "? [1, 2]\n: 3"),
    ],
)
def test_a_config_is_texts_and_numbers_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError, match="config .*a.yaml"):
        load_config(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04\x8c\x0ctorch._utils\x8c\x05sys.x\x93.",  # a dotted name
        b"ctorch\nFloatStorage\n}b.",  # a state for a class of this process
        b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b".",  # a buffer of a terabyte
        b"cbuiltins\neval\n(V1\ntR.",
        b"\x82\x01.",  # the extension registry
        b"(dp0\n" + b"(" * 10_000,
    ],
)
def test_pickles_that_ask_for_more_than_tensors(data: bytes) -> None:
    with pytest.raises((pickle.UnpicklingError, EOFError, KeyError, IndexError)):
        unpickle.loads(data)


def test_a_number_in_a_pickle_reserves_no_memory(tmp_path: Path) -> None:
    assert unpickle.loads(bytes.fromhex("80045d72ffffff7f2e")) == []  # a memo number of two billion
    torch.save({"a": torch.zeros(2, 3)}, tmp_path / "m.pt")
    state = torch.load(tmp_path / "m.pt", pickle_module=unpickle, weights_only=False)
    assert torch.equal(state["a"], torch.zeros(2, 3))
    storage = torch.storage.TypedStorage(
        wrap_storage=torch.zeros(4).untyped_storage(), dtype=torch.float32, _internal=True
    )
    for offset, size, stride in ((0, (5,), (1,)), (2, (2, 2), (2, 1)), (-1, (1,), (1,)), (0, (1 << 62,), (1,))):
        with pytest.raises(pickle.UnpicklingError, match="tensor"):
            unpickle.rebuild_tensor(storage, offset, size, stride)


def test_configs_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_config(tmp_path / "none.yaml")
    for text in ("a: [1", "- 1\n- 2\n"):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(UserError):
            load_config(tmp_path / "bad.yaml")
    (tmp_path / "good.yaml").write_text("x: &x {b: 1}\na: *x\n")
    assert load_config(tmp_path / "good.yaml", ["a.c=2"]) == {"x": {"b": 1}, "a": {"b": 1, "c": 2}}


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]
    with atomic_write(tmp_path / "new" / "out.txt") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "new" / "out.txt").read_text() == "whole"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), atomic_write(tmp_path / "file" / "x"):
        pass


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from ldm.util import UserError, atomic_write, save_safetensors
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))  # growing a file fails as on a full disk
path = Path(sys.argv[1])
try:
    if path.suffix == ".txt":
        with atomic_write(path) as temporary:
            temporary.write_bytes(bytes(10_000))
    else:
        save_safetensors(path, {"a": torch.zeros(10_000)})
except UserError as err:
    sys.exit(str(err))
"""


@pytest.mark.parametrize("name", ["out.txt", "out.safetensors"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / name)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and re.search("cannot be written.*free some space", done.stderr), done.stderr
    assert not list(tmp_path.iterdir())


def test_names_that_share_memory_are_saved_as_copies(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    state = {"a": whole, "b": whole, "part": whole[1:], "first": whole[:1], "column": whole[:, 1], "none": whole[:0]}
    save_safetensors(tmp_path / "shared.safetensors", state)
    again = load_state_dict(tmp_path / "shared.safetensors")
    assert again.keys() == state.keys() and all(torch.equal(again[k], state[k]) for k in state)


def test_unknown_device() -> None:
    with pytest.raises(UserError, match="--device cpu"):
        pick_device("nonsense")
    assert pick_device("cpu").type == "cpu"


def test_weights_that_differ_are_told_by_the_first_few_names() -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(4)))
    state = {name: torch.zeros(3) for name in model.state_dict()}
    told = r"8 names in other shapes \(0\.weight is \[3\] instead of \[2, 2\], 0\.bias is \[3\] instead of \[2\], 1\."
    with pytest.raises(UserError, match=rf"another architecture.*has {told}.*, \.\.\.\); give the config"):
        load_into(model, state, "checkpoint a")
    del state["0.bias"], state["1.bias"]
    state |= {"x": torch.zeros(1)}
    with pytest.raises(UserError, match=r"lacks 2 names \(0\.bias, \.\.\.\), has unexpected 1 names \(x\) and has 6 "):
        load_into(model, state, "checkpoint a")
    with pytest.raises(UserError, match=r"it has 6 names in other shapes \(0\.weight"):
        load_into(model, state, "checkpoint a", ["0.bias", "1.bias"], ["x"])


def test_values_of_the_wrong_kind_end_in_one_sentence() -> None:
    target = "ldm.modules.diffusionmodules.openaimodel.UNetModel"
    for change in ({"attention_resolutions": 4}, {"model_channels": "many"}, {"channel_mult": "wide"}):
        with pytest.raises(UserError, match=rf"config of {target} does not fit: {next(iter(change))} must be"):
            instantiate_from_config({"target": target, "params": {**UNET, **change}})
