"""KL autoencoder, its Gaussian, and the DDPM U-Net it descends from, against the published numbers."""

from __future__ import annotations

import torch

from ldm.models.autoencoder import AutoencoderKL
from ldm.modules.diffusionmodules.model import Decoder, Encoder, Model
from ldm.modules.distributions.distributions import DiagonalGaussianDistribution, normal_kl
from tests.golden_data import fill_, golden, listing, relative_error, tensor

IDENTITY = {"target": "torch.nn.Identity"}
TINY = {
    "double_z": True, "z_channels": 4, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32,
    "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [8], "dropout": 0.0,
}  # fmt: skip


def test_golden_autoencoder_kl() -> None:
    config, arrays = golden("ldm/autoencoder_kl")
    model = fill_(AutoencoderKL(**config, lossconfig=IDENTITY)).eval()
    x = tensor(1, "vae/x", (2, 3, 32, 32), 0.5)
    with torch.no_grad():
        posterior = model.encode(x)
        out = {
            "moments": posterior.parameters,
            "mean": posterior.mean,
            "std": posterior.std,
            "kl": posterior.kl(),
            "nll": posterior.nll(posterior.mode() + 0.1),
            "dec": model.decode(posterior.mode()),
        }
    for name, value in out.items():
        assert relative_error(value, arrays[name]) < 1e-4, name


def test_golden_ddpm_model() -> None:
    config, arrays = golden("ldm/ddpm_model")
    model = fill_(Model(**config)).eval()
    with torch.no_grad():
        out = model(tensor(1, "ddpm/x", (2, 3, 16, 16)), torch.tensor([5, 700]))
    assert relative_error(out, arrays["out"]) < 1e-4


def test_state_dict_of_the_published_first_stage() -> None:
    names = listing("statedicts/configs__stable-diffusion__v1-inference.tsv")
    prefix = "first_stage_model."
    expected = {k.removeprefix(prefix): shape for k, (shape, _) in names.items() if k.startswith(prefix)}
    ddconfig = {**TINY, "resolution": 256, "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2}
    with torch.device("meta"):
        model = AutoencoderKL({**ddconfig, "attn_resolutions": []}, IDENTITY, 4)
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == expected


def test_checkpointed_blocks_give_the_same_image_and_gradient() -> None:
    torch.manual_seed(0)
    plain, blocks = (Decoder(**TINY, use_checkpoint=flag).requires_grad_(False) for flag in (False, True))
    blocks.load_state_dict(plain.state_dict())
    results = []
    for decoder in (plain, blocks):
        z = torch.ones(1, 4, 8, 8, requires_grad=True)
        image = decoder(z)
        image.square().sum().backward()
        results.append((image.detach(), z.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert relative_error(results[1][1], results[0][1]) < 1e-6


def test_rectangles_pass_through() -> None:
    encoder, decoder = Encoder(**TINY), Decoder(**TINY)
    moments = encoder(torch.zeros(1, 3, 16, 32))
    assert moments.shape == (1, 8, 8, 16)
    assert decoder(moments[:, :4]).shape == (1, 3, 16, 32)


def test_normalised_latents_leave_reconstructions_alone() -> None:
    torch.manual_seed(0)
    model = AutoencoderKL(TINY, IDENTITY, 4).eval()
    images = torch.rand(6, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        before, posterior = model(images, sample_posterior=False)
        _, std = model.normalise_latents(images)
        after, normalised = model(images, sample_posterior=False)
    assert relative_error(after, before) < 1e-4
    assert normalised.mean.mean((0, 2, 3)).abs().max() < 1e-4
    assert (normalised.mean.std((0, 2, 3)) - 1).abs().max() < 1e-4
    assert relative_error(normalised.std * std[:, None, None], posterior.std) < 1e-4


def test_gaussian() -> None:
    moments = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    gaussian = DiagonalGaussianDistribution(moments)
    assert torch.equal(gaussian.mode(), moments[:, :2])
    # KL to N(0, 1) is the sum of the elementwise divergences, and 0 to itself.
    elementwise = normal_kl(gaussian.mean, gaussian.logvar, 0.0, 0.0).flatten(1).sum(1)
    assert torch.allclose(gaussian.kl(), elementwise, atol=1e-5)
    assert gaussian.kl(gaussian).abs().max() < 1e-5
    one, two = (gaussian.sample(torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(DiagonalGaussianDistribution(moments, deterministic=True).sample(), moments[:, :2])
