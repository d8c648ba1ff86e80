"""Autoencoders, their Gaussian and the DDPM U-Net against the published numbers; training with a discriminator."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from ldm.models.autoencoder import AutoencoderKL, VQModel, VQModelInterface
from ldm.modules.diffusionmodules import model as blocks
from ldm.modules.diffusionmodules.model import Decoder, Encoder, Model
from ldm.modules.distributions.distributions import DiagonalGaussianDistribution, normal_kl
from ldm.util import UserError
from tests.golden_data import fill_, golden, listing, relative_error, tensor
from tests.training_parts import DDCONFIG, IDENTITY, target
from tests.training_parts import first_stage as section

TINY = {**DDCONFIG, "ch_mult": [1, 2], "attn_resolutions": [8]}
VQ_TINY = {**TINY, "double_z": False}


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


def test_normalized_latents_leave_reconstructions_alone() -> None:
    torch.manual_seed(0)
    model = AutoencoderKL(TINY, IDENTITY, 4).eval()
    images = torch.rand(6, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        before, posterior = model(images, sample_posterior=False)
        _, std = model.normalize_latents(images)
        after, normalized = model(images, sample_posterior=False)
    assert relative_error(after, before) < 1e-4
    assert normalized.mean.mean((0, 2, 3)).abs().max() < 1e-4
    assert (normalized.mean.std((0, 2, 3)) - 1).abs().max() < 1e-4
    assert relative_error(normalized.std * std[:, None, None], posterior.std) < 1e-4


def test_folded_pixels_come_back_in_their_places() -> None:
    folded = {**TINY, "in_channels": 12, "out_ch": 12}
    model = AutoencoderKL(folded, IDENTITY, 4, fold=2).eval()
    image = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        reconstruction, posterior = model(image)
    assert posterior.mode().shape == (1, 4, 8, 12) and reconstruction.shape == image.shape
    model.encoder, model.decoder, model.quant_conv, model.post_quant_conv = (nn.Identity() for _ in range(4))
    assert torch.equal(model.decode(model.encode(image).parameters), image)
    with pytest.raises(UserError, match="fold 3"):
        AutoencoderKL(folded, IDENTITY, 4, fold=3)


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


def flat_images(count: int = 8) -> list[dict[str, torch.Tensor]]:
    """Two flat halves in random colors, (16, 16, 3) in [-1, 1]."""
    colors = torch.rand(count, 2, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return [{"image": pair.repeat_interleave(8, 0)[:, None].repeat(1, 16, 1)} for pair in colors]


def fit(model: pl.LightningModule, steps: int, **options: Any) -> pl.Trainer:
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    options |= {"accelerator": "cpu", "num_sanity_val_steps": 0, **dict.fromkeys(quiet, False)}
    trainer = pl.Trainer(max_steps=steps, **options)
    loader: Any = DataLoader(flat_images(), batch_size=4)  # type: ignore[arg-type]
    trainer.fit(model, loader, loader)
    return trainer


DISCRIMINATOR = {"disc_start": 2, "perceptual_weight": 0.0, "disc_ndf": 8, "disc_num_layers": 1, "disc_weight": 0.1}
KL_LOSS = target("modules.losses.LPIPSWithDiscriminator", **DISCRIMINATOR, kl_weight=1e-6)
VQ_LOSS = {"target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator", "params": DISCRIMINATOR}
CYCLE = {"warm_up_steps": [2], "cycle_lengths": [1000], "f_start": [0.1], "f_max": [1.0], "f_min": [1.0]}


def first_stage(kind: str) -> Any:
    torch.manual_seed(0)
    model: Any
    if kind == "kl":
        model = AutoencoderKL(TINY, KL_LOSS, 4, monitor="val/rec_loss")
    else:
        schedule = target("lr_scheduler.LambdaLinearScheduler", **CYCLE)
        options: dict[str, Any] = {"monitor": "val/rec_loss", "use_ema": True, "scheduler_config": schedule}
        model = VQModel(VQ_TINY, VQ_LOSS, 64, 4, **options)
        nn.init.normal_(model.quantize.embedding.weight, std=0.5)  # codes where the latents are, to begin at once
    model.learning_rate = 2e-3
    return model


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_training_with_a_discriminator(kind: str) -> None:
    model = first_stage(kind)
    images = model.get_input({"image": torch.stack([p["image"] for p in flat_images()])}, "image")

    def error() -> float:
        model.eval()
        with torch.no_grad():
            return float((model.reconstruct(images, "val")[0] - images).abs().mean())

    before, discriminator = error(), model.loss.discriminator.main[0].weight.detach().clone()
    model.train()
    trainer = fit(model, 24, check_val_every_n_epoch=12)
    assert trainer.global_step == 24  # batches, not the turns of both optimizers
    assert error() < 0.8 * before
    assert not torch.equal(model.loss.discriminator.main[0].weight, discriminator)
    assert all(p.requires_grad for p in model.encoder.parameters())
    assert {"val/rec_loss", "val/disc_loss"} <= set(trainer.callback_metrics)
    if kind == "vq":
        assert "val_ema/rec_loss" in trainer.callback_metrics


def test_accumulated_batches_are_one_step() -> None:
    model = first_stage("kl")
    model.accumulate_grad_batches = 2
    trainer = fit(model, 3, max_epochs=3, limit_val_batches=0)
    assert trainer.global_step == 3


def test_training_without_a_loss_is_refused() -> None:
    with pytest.raises(UserError, match="trains nothing"):
        fit(AutoencoderKL(TINY, IDENTITY, 4), 1)
    plain = {"target": "ldm.modules.losses.ReconstructionLoss"}
    with pytest.raises(UserError, match="VQLPIPSWithDiscriminator"):
        VQModel(VQ_TINY, plain, 16, 4).on_fit_start()
    interface = VQModelInterface(4, ddconfig=VQ_TINY, lossconfig=IDENTITY, n_embed=16)
    with pytest.raises(UserError, match="train it as"):
        interface.on_fit_start()


def test_decoders_and_rescalers() -> None:
    x = torch.randn(1, 32, 4, 4)
    common: dict[str, Any] = {"resolution": 16, "num_res_blocks": 1, "attn_resolutions": [], "ch": 32}
    common["ch_mult"] = (1, 1)
    assert blocks.SimpleDecoder(32, 3)(x).shape == (1, 3, 8, 8)
    assert blocks.UpsampleDecoder(32, 3, 32, 1, 16, ch_mult=(2, 1))(x).shape == (1, 3, 8, 8)
    assert blocks.LatentRescaler(1.5, 32, 32, 6)(x).shape == (1, 6, 6, 6)
    encoder = blocks.MergedRescaleEncoder(in_channels=3, out_ch=4, rescale_factor=0.5, **common)
    assert encoder(torch.randn(1, 3, 16, 16)).shape == (1, 4, 4, 4)
    decoder = blocks.MergedRescaleDecoder(z_channels=32, out_ch=3, rescale_factor=2.0, **common)
    assert decoder(x).shape == (1, 3, 16, 16)
    assert blocks.Upsampler(4, 8, 32, 3, ch_mult=1)(x).shape == (1, 3, 8, 8)
    assert blocks.Resize()(x) is x
    assert blocks.Resize()(x, 0.5).shape == (1, 32, 2, 2)
    assert blocks.make_attn(32, "linear")(x).shape == x.shape
    for call in (
        lambda: blocks.Upsampler(8, 4, 32, 3),
        lambda: blocks.Resize(learned=True),
        lambda: blocks.make_attn(32, "wide"),
        lambda: blocks.FirstStagePostProcessor([1], 4),
    ):
        with pytest.raises(UserError):
            call()


def test_post_processor_reads_a_frozen_first_stage() -> None:
    model = blocks.FirstStagePostProcessor([1, 2], 4, pretrained_config=section(ddconfig=TINY), reshape=True)
    tokens = model(torch.rand(2, 3, 16, 16))
    assert tokens.shape == (2, 4, 64)  # 8x8 latents halved twice, twice the encoder's 32 channels
    tokens.sum().backward()
    assert all(p.grad is None for p in model.pretrained_model.parameters())
