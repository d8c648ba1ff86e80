"""Programs on top of the library, which import, subclass and call what stands under the published names."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from ldm import lightning
from ldm.callbacks import ImageLogger, LastCheckpoint
from ldm.data.base import DataModuleFromConfig
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.models.training import AfterStep
from ldm.modules import attention
from ldm.paths import ROOT
from ldm.targets import VARIABLE
from ldm.util import UserError, allow_targets, instantiate_from_config
from tests.golden_data import fill_, relative_error
from tests.hint_program import HintLDM, HintNet, TwiceDDIM
from tests.training_parts import IDENTITY, first_stage, transformer_unet, unet

SHAPE = {"model_channels": 32, "num_res_blocks": 1, "attention_resolutions": [1, 2], "channel_mult": [1, 2]}
V1 = {"num_heads": 2}
V2 = {"num_head_channels": 16, "use_linear_in_transformer": True, "disable_self_attentions": [True, False]}
V2 |= {"num_attention_blocks": [1, 0]}


class Texts(torch.nn.Module):
    """A conditioner: a context (B, 3, 8) from the length of each text."""

    def encode(self, texts: list[str]) -> torch.Tensor:
        return torch.stack([torch.full((3, 8), 0.1 * len(text)) for text in texts])


def config(**options: Any) -> dict[str, Any]:
    network = {**transformer_unet(8, **SHAPE, **options), "target": "tests.hint_program.HintedUNet"}
    shared = {**SHAPE, **options, "in_channels": 4, "context_dim": 8, "use_checkpoint": True}
    hint = {"target": "tests.hint_program.HintNet", "params": {**shared, "hint_channels": 3}}
    own = {"hint_config": hint, "hint_key": "hint", "only_middle": False}
    stages = {"unet_config": network, "first_stage_config": first_stage(), "cond_stage_config": IDENTITY}
    keys = {"first_stage_key": "jpg", "cond_stage_key": "txt", "conditioning_key": "crossattn"}
    sizes = {"image_size": 8, "channels": 4, "scale_factor": 0.18215, "use_ema": False, "timesteps": 1000}
    params = {**own, **stages, **keys, **sizes, "linear_start": 0.00085, "linear_end": 0.012, "num_timesteps_cond": 1}
    return {"target": "tests.hint_program.HintLDM", "params": params}


def build(**options: Any) -> HintLDM:
    torch.manual_seed(0)
    model = instantiate_from_config(config(**options))
    fill_(model.model)
    fill_(model.first_stage_model)
    model.cond_stage_model = Texts()
    return model


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldm.targets._packages", {"tests."})


def batch(size: int = 2) -> dict[str, Any]:
    images = {"jpg": torch.rand(size, 16, 16, 3) * 2 - 1, "hint": torch.rand(size, 16, 16, 3)}
    return {**images, "txt": ["a cat", "a dog on a mat", "two"][:size]}


@pytest.mark.parametrize("options", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_a_hint_branch_trains_and_samples(options: dict[str, Any], parameterization: str) -> None:
    model = build(**options)
    model.parameterization, model.learning_rate = parameterization, 1e-2
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([3, 700])
    _, cond = model.get_input(batch(), "jpg")
    with torch.no_grad():  # the zero convolutions: at first the hint changes nothing
        assert torch.equal(model.apply_model(x, t, cond), model.apply_model(x, t, {**cond, "c_concat": None}))
    optimizer = model.configure_optimizers()
    for _ in range(3):
        loss, parts = model.train().shared_step(batch())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert {"train/loss_simple", "train/loss_vlb", "train/loss"} <= set(parts) and loss.isfinite()
    assert all(p.grad is not None for p in model.hint_model.zeros.parameters())
    assert all(p.grad is None for p in model.model.diffusion_model.input_blocks.parameters())
    model.eval()
    with torch.no_grad():
        assert not torch.equal(model.apply_model(x, t, cond), model.apply_model(x, t, {**cond, "c_concat": None}))
        logs = model.log_images(batch(3), N=2, ddim_steps=2)
    assert logs["samples"].shape == logs["samples_guided"].shape == (2, 3, 16, 16)
    assert logs["conditioning"].shape == (3, 3, 512, 512)
    assert not torch.equal(logs["samples"], logs["samples_guided"])


def test_a_sampler_of_the_programs_own_agrees_with_ours() -> None:
    model = fill_(build(**V1)).eval()
    _, cond = model.get_input(batch(), "jpg")
    free = {"c_crossattn": [model.get_unconditional_conditioning(2)], "c_concat": cond["c_concat"]}
    x_T = torch.randn(2, 4, 8, 8)
    own = TwiceDDIM(model).sample(5, x_T.shape, cond, free, 3.0, x_T)
    options: dict[str, Any] = {"unconditional_guidance_scale": 3.0, "unconditional_conditioning": free}
    ours, _ = DDIMSampler(model).sample(5, 2, (4, 8, 8), cond, x_T=x_T, verbose=False, **options)
    assert not ours.requires_grad  # the model's own weights do not make a graph of the chain
    assert relative_error(ours, own) < 1e-4


def test_a_hint_branch_under_a_trainer() -> None:
    model, data = build(**V1), [{k: v[0] for k, v in batch(1).items()} for _ in range(4)]
    before = model.hint_model.zeros[0][0].weight.clone()
    options: dict[str, Any] = {"max_steps": 2, "logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(**options, enable_progress_bar=False, enable_model_summary=False)
        trainer.fit(model, DataLoader(data, batch_size=2))
    assert trainer.global_step == 2 and not torch.equal(model.hint_model.zeros[0][0].weight, before)
    model.low_vram_shift(is_diffusing=False)


def test_models_are_lightning_modules_where_nobody_left_lightning_out() -> None:
    lightning.leave_out()  # too late: a program that has imported Lightning keeps it
    assert not lightning.left_out()
    model = build(**V1)
    assert isinstance(model, pl.LightningModule) and isinstance(model.first_stage_model, pl.LightningModule)
    assert issubclass(DataModuleFromConfig, pl.LightningDataModule)
    assert all(issubclass(one, pl.Callback) for one in (AfterStep, ImageLogger, LastCheckpoint))
    assert issubclass(LastCheckpoint, pl.callbacks.Checkpoint)


def test_a_process_without_lightning_samples_and_does_not_train() -> None:
    network = unet(in_channels=3, out_channels=3)
    params = {"unet_config": network, "timesteps": 4, "use_ema": False, "image_size": 8}
    code = (
        "import sys, torch\n"
        "from ldm import lightning\n"
        "lightning.leave_out()\n"
        "from ldm.util import UserError, instantiate_from_config\n"
        "from ldm import callbacks\n"
        "from ldm.data.base import DataModuleFromConfig\n"
        f"model = instantiate_from_config({{'target': 'ldm.models.diffusion.ddpm.DDPM', 'params': {params}}})\n"
        "assert model.device.type == 'cpu' and model.dtype == torch.float32\n"
        "assert model.sample(1).shape == (1, 3, 8, 8)\n"
        "assert not hasattr(model, 'nothing') and DataModuleFromConfig(2).trainer is None\n"
        "try: model.training_step({'image': torch.rand(1, 8, 8, 3)}, 0)\n"
        "except UserError as error: print(error)\n"
        "sys.exit('pytorch_lightning' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    assert "train with main.py" in done.stdout and len(done.stdout.splitlines()) == 1


def test_weights_of_other_programs_that_save_constants() -> None:
    model = build(**V1)
    state = {**model.state_dict(), "logvar": torch.zeros(1000)}
    model.load_state_dict(state, strict=True)
    plain = HintNet(4, 32, 3, 1, [1, 2], [1, 2], num_heads=2, use_spatial_transformer=False)
    assert len(plain(torch.randn(1, 4, 8, 8), torch.randn(1, 3, 16, 16), torch.tensor([1]), None)) == 5


def test_attention_may_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program's own forward, of the published signature and attributes, on our class."""

    def sliced(self: Any, x: Any, context: Any = None, mask: Any = None) -> Any:
        context = x if context is None else context
        parts = (self.to_q(x), self.to_k(context), self.to_v(context))
        q, k, v = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in parts)
        out = torch.stack([(a @ b.transpose(-1, -2) * self.scale).softmax(-1) @ c for a, b, c in zip(q, k, v)])  # noqa: B905
        return self.to_out(out.transpose(1, 2).flatten(2))

    model = fill_(build(**V1)).eval()
    _, cond = model.get_input(batch(), "jpg")
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([3, 700])
    with torch.no_grad():
        plain = model.apply_model(x, t, cond)
        monkeypatch.setattr(attention.CrossAttention, "forward", sliced)
        assert relative_error(model.apply_model(x, t, cond), plain) < 1e-4


def test_who_may_let_a_config_build_a_programs_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldm.targets._packages", set())
    with pytest.raises(UserError, match="not one that a config may build"):
        instantiate_from_config(config(**V1))
    monkeypatch.setenv(VARIABLE, "tests.")
    assert isinstance(instantiate_from_config(config(**V1)), HintLDM)
    monkeypatch.setenv(VARIABLE, "tests")
    with pytest.raises(UserError, match=VARIABLE):
        instantiate_from_config(config(**V1))
    monkeypatch.delenv(VARIABLE)
    allow_targets("tests.")
    assert isinstance(instantiate_from_config(config(**V1)), HintLDM)
