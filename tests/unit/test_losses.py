"""Adversarial losses: their parts, when they begin, LPIPS, and what is said when its weights cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from ldm.modules.distributions.distributions import DiagonalGaussianDistribution
from ldm.modules.losses import LPIPSWithDiscriminator, VQLPIPSWithDiscriminator
from ldm.modules.losses.lpips import LPIPS
from ldm.modules.losses.vqperceptual import measure_perplexity
from ldm.util import UserError

SMALL: dict[str, Any] = {"perceptual_weight": 0.0, "disc_ndf": 8, "disc_num_layers": 1}


def images() -> tuple[Tensor, Tensor, nn.Conv2d]:
    """Inputs, reconstructions made by a last layer, and that layer."""
    torch.manual_seed(0)
    x, last = torch.rand(2, 3, 16, 16) * 2 - 1, nn.Conv2d(3, 3, 1)
    return x, last(x), last


def posterior() -> DiagonalGaussianDistribution:
    return DiagonalGaussianDistribution(torch.ones(2, 8, 4, 4))


def test_kl_loss_is_the_sum_of_its_parts() -> None:
    loss = LPIPSWithDiscriminator(0, kl_weight=1e-3, disc_weight=0.5, logvar_init=0.2, **SMALL)
    x, rec, last = images()
    total, logs = loss(x, rec, posterior(), 0, 0, last_layer=last.weight)
    error = (x - rec).abs()
    nll = (error / torch.tensor(0.2).exp() + 0.2).sum() / 2
    kl = 0.5 * (1 + torch.tensor(1.0).exp() - 1 - 1) * 64
    torch.testing.assert_close(logs["train/rec_loss"], error.mean().detach())
    torch.testing.assert_close(logs["train/nll_loss"], nll.detach())
    torch.testing.assert_close(logs["train/kl_loss"], kl)
    assert logs["train/d_weight"] > 0
    expected = nll + 1e-3 * kl + logs["train/d_weight"] * logs["train/g_loss"]
    torch.testing.assert_close(total, expected)
    weighted, _ = loss(x, rec, posterior(), 0, 0, last_layer=last.weight, weights=torch.tensor(2.0))
    torch.testing.assert_close(weighted - total, nll)


def test_adaptive_weight_balances_the_gradients() -> None:
    loss = LPIPSWithDiscriminator(0, disc_weight=1.0, **SMALL)
    x, rec, last = images()
    nll, g_loss = (x - rec).abs().mean(), -loss.judge(rec, None).mean()
    weight = loss.calculate_adaptive_weight(nll, g_loss, last.weight)
    grads = [torch.autograd.grad(v, last.weight, retain_graph=True)[0].norm() for v in (nll, weight * g_loss)]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-2, atol=0)
    with torch.no_grad():
        assert loss.calculate_adaptive_weight(nll, g_loss, last.weight) == 0


def test_adversarial_terms_begin_at_disc_start() -> None:
    loss = LPIPSWithDiscriminator(10, **SMALL)
    x, rec, last = images()
    assert loss(x, rec, posterior(), 0, 9, last_layer=last.weight)[1]["train/disc_factor"] == 0
    assert loss(x, rec, posterior(), 0, 10, last_layer=last.weight)[1]["train/disc_factor"] == 1
    assert loss(x, rec, posterior(), 1, 9)[0] == 0
    late, logs = loss(x, rec, posterior(), 1, 10, split="val")
    assert late > 0
    assert set(logs) == {"val/disc_loss", "val/logits_real", "val/logits_fake"}
    late.backward()
    assert last.weight.grad is None  # the discriminator's turn leaves the autoencoder alone


def test_vq_loss_and_codebook_usage() -> None:
    loss = VQLPIPSWithDiscriminator(0, codebook_weight=0.5, n_classes=8, pixel_loss="l2", disc_factor=0.0, **SMALL)
    x, rec, last = images()
    indices = torch.tensor([0, 0, 1, 1])
    total, logs = loss(torch.tensor(2.0), x, rec, 0, 0, last_layer=last.weight, predicted_indices=indices)
    torch.testing.assert_close(total, (x - rec).square().mean() + 1.0)
    torch.testing.assert_close(logs["train/perplexity"], torch.tensor(2.0))
    assert logs["train/cluster_usage"] == 2
    assert loss(torch.tensor(2.0), x, rec, 1, 0)[0] == 0
    torch.testing.assert_close(measure_perplexity(torch.arange(8), 8)[0], torch.tensor(8.0))


def test_conditional_discriminator() -> None:
    loss = VQLPIPSWithDiscriminator(0, disc_conditional=True, disc_in_channels=4, disc_loss="vanilla", **SMALL)
    x, rec, _ = images()
    with pytest.raises(UserError, match="needs the condition"):
        loss(torch.tensor(0.0), x, rec, 1, 0)
    assert loss(torch.tensor(0.0), x, rec, 1, 0, cond=torch.zeros(2, 1, 16, 16))[0] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"disc_loss": "square"}, "hinge nor vanilla"),
        ({"pixel_loss": "l3"}, "l1 nor l2"),
        ({"perceptual_loss": "ssim"}, "only one is lpips"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        VQLPIPSWithDiscriminator(0, **{**SMALL, **options})


def test_missing_lpips_weights_end_in_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torchvision.models.VGG16_Weights.IMAGENET1K_V1.__class__, "get_state_dict", offline)
    loss = LPIPSWithDiscriminator(0, **{**SMALL, "perceptual_weight": 1.0})  # building asks for nothing
    with pytest.raises(UserError, match="perceptual_weight: 0") as error:
        loss.prepare()
    assert str(tmp_path) in str(error.value)


def test_lpips_is_tamings() -> None:
    from taming.modules.losses import lpips as published

    torch.manual_seed(0)
    model = LPIPS()
    names = set(model.state_dict())
    assert {"scaling_layer.shift", "net.slice1.0.weight", "net.slice5.28.bias", "lin4.model.1.weight"} <= names
    assert len(names) == 2 + 26 + 5
    for p in model.parameters():  # as a checkpoint would
        nn.init.normal_(p, std=0.05).abs_()
    model.train()
    x, y = torch.rand(2, 2, 3, 32, 32)
    distance = model(x, y)
    assert distance.shape == (2, 1, 1, 1)
    torch.testing.assert_close(distance, published.LPIPS.forward(model, x, y))  # type: ignore[arg-type]
    assert model(x, x).abs().max() == 0
    with torch.device("meta"):
        assert all(p.is_meta for p in LPIPS().net.parameters())
