"""Training a part of a model: the first stage's decoder alone, and its way into the exported model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import main
from ldm.models.autoencoder import AutoencoderKL
from ldm.util import UserError, instantiate_from_config, load_config, load_state_dict, save_safetensors
from tests.cli.test_main import export
from tests.golden_data import ROOT
from tests.unit.test_emoji import needs_font

CONFIGS = [str(ROOT / "configs/emoji" / name) for name in ("first_stage.yaml", "decoder.yaml")]
TINY = ["model.params.ddconfig.ch=8", "data.params.batch_size=2", "data.params.validation.params.size=2"]


def tiny_first_stage() -> AutoencoderKL:
    config = load_config(CONFIGS[0], ["model.params.ddconfig.ch=8"])
    torch.manual_seed(0)
    model = instantiate_from_config(config.model)
    assert isinstance(model, AutoencoderKL)
    return model


@needs_font
def test_the_decoder_learns_and_the_encoder_stays(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "start.safetensors", tiny_first_stage().state_dict())
    steps = [f"model.params.ckpt_path={tmp_path / 'start.safetensors'}", "lightning.trainer.max_steps=2"]
    assert main.main(["--base", *CONFIGS, "-t", "--name", "decoder", "--logdir", str(tmp_path), *TINY, *steps]) == 0
    before = load_state_dict(tmp_path / "start.safetensors")
    after = load_state_dict(tmp_path / "decoder/checkpoints/last.ckpt")
    for name, value in before.items():
        assert torch.equal(value, after[name]) == name.startswith(("encoder.", "quant_conv.")), name


def test_a_prefix_of_nothing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_safetensors(tmp_path / "start.safetensors", tiny_first_stage().state_dict())
    start = f"model.params.ckpt_path={tmp_path / 'start.safetensors'}"
    wrong = [start, "lightning.callbacks.freeze.params.prefixes=[encodr]"]
    assert main.main(["--base", *CONFIGS, "-t", "--name", "x", "--logdir", str(tmp_path), *TINY, *wrong]) == 2
    assert "nothing to freeze is called 'encodr'; the model has decoder, encoder" in capsys.readouterr().err


def test_another_encoder_is_refused(tmp_path: Path) -> None:
    module, model, other = export(), tiny_first_stage(), tiny_first_stage()
    with torch.no_grad():
        other.decoder.conv_out.weight += 1
    save_safetensors(tmp_path / "decoder.safetensors", {k: v.half() for k, v in other.state_dict().items()})
    module.replace_first_stage(model, tmp_path / "decoder.safetensors")
    assert torch.allclose(model.decoder.conv_out.weight, other.decoder.conv_out.weight, atol=1e-2)
    with torch.no_grad():
        other.encoder.conv_in.weight += 1
    save_safetensors(tmp_path / "other.safetensors", other.state_dict())
    with pytest.raises(UserError, match="another encoder"):
        module.replace_first_stage(model, tmp_path / "other.safetensors")
