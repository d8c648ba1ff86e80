"""VQ first stages against the published numbers, their interface, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldm.models.autoencoder import VQModel, VQModelInterface
from ldm.util import UserError, instantiate_from_config, save_safetensors
from tests.golden_data import fill_, golden, relative_error, tensor
from tests.training_parts import IDENTITY
from tests.training_parts import VQ_DDCONFIG as TINY


def test_golden_vq_model() -> None:
    config, arrays = golden("ldm/vq_model")
    model = fill_(VQModel(**config, lossconfig=IDENTITY)).eval()
    with torch.no_grad():
        quant, loss, (_, _, indices) = model.encode(tensor(1, "vae/x", (2, 3, 32, 32), 0.5))
        image = model.decode(quant)
        again = model.decode_code(indices.reshape(2, 8, 8))
    np.testing.assert_array_equal(indices, arrays["indices"])
    for name, value in {"quant": quant, "loss": loss, "dec": image}.items():
        assert relative_error(value, arrays[name]) < 1e-4, name
    assert relative_error(again, image) < 1e-5


def test_golden_vq_interface() -> None:
    config, arrays = golden("ldm/vq_interface")
    model = fill_(VQModelInterface(**config, lossconfig=IDENTITY)).eval()
    with torch.no_grad():
        h = model.encode(tensor(1, "vae/x", (2, 3, 32, 32), 0.5))
        out = {"h": h, "dec": model.decode(h), "dec_noquant": model.decode(h, force_not_quantize=True)}
    for name, value in out.items():
        assert relative_error(value, arrays[name]) < 1e-4, name


def test_interface_reconstructs_as_the_model_does() -> None:
    torch.manual_seed(0)
    model = VQModel(TINY, IDENTITY, 16, 4).eval()
    interface = VQModelInterface(4, ddconfig=TINY, lossconfig=IDENTITY, n_embed=16).eval()
    interface.load_state_dict(model.state_dict())
    x = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(interface(x)[0], model(x)[0])
    logs = model.log_images({"image": x.permute(0, 2, 3, 1)})
    assert torch.equal(logs["reconstructions"], model(x)[0])
    assert list(model.log_images({"image": x.permute(0, 2, 3, 1)}, only_inputs=True)) == ["inputs"]


def test_label_maps_are_colored() -> None:
    config = {**TINY, "in_channels": 5, "out_ch": 5}
    model = VQModel(config, IDENTITY, 16, 4, colorize_nlabels=5)
    logs = model.log_images({"image": torch.rand(1, 16, 16, 5)})
    assert logs["inputs"].shape == logs["reconstructions"].shape == (1, 3, 16, 16)
    with pytest.raises(UserError, match="colorize_nlabels"):
        VQModel(config, IDENTITY, 16, 4).log_images({"image": torch.rand(1, 16, 16, 5)})


def test_training_batches_are_resized() -> None:
    model = VQModel(TINY, IDENTITY, 16, 4, batch_resize_range=(16, 32)).train()
    batch = {"image": torch.rand(1, 16, 16, 3)}
    assert model.get_input(batch, "image").shape[2:] == (32, 32)  # the first steps take the largest side
    assert model.eval().get_input(batch, "image").shape[2:] == (16, 16)


def test_checkpoint_without_the_loss(tmp_path: Path) -> None:
    model = VQModel(TINY, IDENTITY, 16, 4, use_ema=True)
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("model_ema.")}
    save_safetensors(tmp_path / "vq.safetensors", {**state, "loss.discriminator.main.0.bias": torch.zeros(1)})
    tiny: dict[str, Any] = {"embed_dim": 4, "ddconfig": TINY, "lossconfig": IDENTITY, "n_embed": 16}
    interface = VQModelInterface(**tiny, ckpt_path=tmp_path / "vq.safetensors")
    assert torch.equal(interface.quantize.embedding.weight, model.quantize.embedding.weight)
    with torch.device("meta"):  # built for another checkpoint: its own is not looked for
        VQModelInterface(**tiny, ckpt_path=tmp_path / "none.ckpt")
    with pytest.raises(UserError, match="does not exist"):
        VQModelInterface(**tiny, ckpt_path=tmp_path / "none.ckpt")


def test_averaged_weights_serve_the_validation() -> None:
    model = VQModel(TINY, IDENTITY, 16, 4, use_ema=True)
    weight = model.quant_conv.weight
    trained = torch.zeros_like(weight)
    averaged = weight.detach().clone()
    with torch.no_grad():
        weight.zero_()
    with model.ema_scope():
        assert torch.equal(weight, averaged)
    assert torch.equal(weight, trained)


def test_wrong_configs_are_named() -> None:
    target = "ldm.models.autoencoder.VQModel"
    params: dict[str, Any] = {"ddconfig": TINY, "lossconfig": IDENTITY, "n_embed": 16, "embed_dim": 4}
    cases: dict[str, dict[str, Any]] = {
        "did you mean 'n_embed'": {"n_embd": 16},
        "did you mean 'ch_mult'": {"ddconfig": {**TINY, "ch_mul": [1]}},
        "double_z: false": {"ddconfig": {**TINY, "double_z": True}},
        "lacks z_channels": {"ddconfig": {k: v for k, v in TINY.items() if k != "z_channels"}},
        "lacks num_res_blocks": {"ddconfig": {k: v for k, v in TINY.items() if k != "num_res_blocks"}},
    }
    for message, change in cases.items():
        with pytest.raises(UserError, match=message):
            instantiate_from_config({"target": target, "params": {**params, **change}})
    for name in ("ldm.models.autoencoder.VQModl", "ldm.models.autoencodr.VQModel", "lmd.models.autoencoder.VQModel"):
        with pytest.raises(UserError, match=f"did you mean '{target}'"):
            instantiate_from_config({"target": name, "params": params})
