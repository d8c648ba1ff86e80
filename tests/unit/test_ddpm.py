"""Diffusion model, averages and learning rates against the published numbers; conditions, chains, checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ldm.lr_scheduler import LambdaLinearScheduler, LambdaWarmUpCosineScheduler, LambdaWarmUpCosineScheduler2
from ldm.models.diffusion.ddpm import DDPM, DiffusionWrapper, LatentDiffusion
from ldm.modules.ema import LitEma
from ldm.util import (
    UserError,
    instantiate_from_config,
    load_config,
    load_model_from_config,
    load_state_dict,
    save_safetensors,
)
from tests.golden_data import ROOT, fill_, golden, listing, relative_error, tensor
from tests.training_parts import IDENTITY, first_stage, target, train, transformer_unet, unet


def build(config: dict[str, Any]) -> LatentDiffusion:
    model = LatentDiffusion(**config)
    fill_(model.model, prefix="model.")
    fill_(model.first_stage_model, prefix="first_stage_model.")
    return model


def losses(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    model = build(config).train()
    x0, noise = tensor(1, "ld/x0", (2, 4, 8, 8)), tensor(1, "ld/noise", (2, 4, 8, 8))
    loss, parts = model.p_losses(x0, tensor(1, "ld/c", (2, 7, 48)), torch.tensor([10, 900]), noise)
    return {"loss": loss, **{f"loss_{k.replace('/', '_')}": v for k, v in parts.items()}}


def test_golden_latent_diffusion() -> None:
    config, arrays = golden("ldm/latent_diffusion")
    model = build(config).eval()
    x0, noise = tensor(1, "ld/x0", (2, 4, 8, 8)), tensor(1, "ld/noise", (2, 4, 8, 8))
    x_T, c = tensor(1, "ld/xT", (2, 4, 8, 8)), tensor(1, "ld/c", (2, 7, 48))
    with torch.no_grad():
        out = {
            "q_sample": model.q_sample(x0, torch.tensor([10, 900]), noise),
            "apply_model": model.apply_model(x_T, torch.tensor([981, 21]), c),
            "decoded": model.decode_first_stage(torch.from_numpy(arrays["plms_10"])),
            **losses(config),
        }
    for name, value in out.items():
        assert relative_error(value, arrays[name]) < 1e-4, name
    for name in (n for n in arrays if n.startswith("buf_")):
        np.testing.assert_allclose(getattr(model, name.removeprefix("buf_")), arrays[name], rtol=1e-5, err_msg=name)


def test_golden_x0_l1_loss() -> None:
    config, arrays = golden("ldm/latent_diffusion_x0_l1")
    assert relative_error(losses(config)["loss"], arrays["loss"]) < 1e-4


def test_golden_ema() -> None:
    _, arrays = golden("ldm/ema")
    model = fill_(nn.Linear(3, 2))
    ema = LitEma(model)
    assert len(ema.state_dict()) == 4
    for i in range(5):
        with torch.no_grad():
            model.weight += 0.1 * (i + 1)
        ema(model)
        assert relative_error(ema.weight, arrays["weight"][i]) < 1e-5
    trained = model.weight.detach().clone()
    with ema.scope(model):
        assert torch.equal(model.weight, ema.weight)
    assert torch.equal(model.weight, trained)


def test_golden_learning_rates() -> None:
    _, arrays = golden("ldm/lr")
    cycles = ([10, 5], [0.1, 0.1], [1, 0.5], [0, 0.1], [30, 30])
    # The published lists are named by their arguments: warm-up, f_start, f_max, f_min, cycle lengths.
    kwargs = dict(zip(("warm_up_steps", "f_start", "f_max", "f_min", "cycle_lengths"), cycles, strict=True))
    schedules = {
        "cosine": LambdaWarmUpCosineScheduler(10, 0.1, 1.0, 0.0, 50),
        "cosine2": LambdaWarmUpCosineScheduler2(**kwargs),
        "linear": LambdaLinearScheduler(**kwargs),
    }
    for name, schedule in schedules.items():
        values = [schedule(n) for n in range(len(arrays[name]))]
        np.testing.assert_allclose(values, arrays[name], rtol=1e-6, atol=1e-9, err_msg=name)
    # The second cycle ends here; afterwards its last value stays.
    assert schedules["linear"](10_000) == pytest.approx(0.1)


def test_v1_inference_equals_its_listing() -> None:
    config = load_config(ROOT / "configs/stable-diffusion/v1-inference.yaml")
    with torch.device("meta"):
        model = LatentDiffusion(**config.model.params)
    own = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    text = {k: v for k, v in own.items() if k.startswith("cond_stage_model.")}
    assert len(text) == 197
    expected = listing("statedicts/configs__stable-diffusion__v1-inference.tsv")
    assert {k: v for k, v in own.items() if k not in text} == {k: shape for k, (shape, _) in expected.items()}


@pytest.fixture(scope="module")
def tiny() -> dict[str, Any]:
    parts = {"first_stage_config": first_stage(), "unet_config": transformer_unet(8), "cond_stage_config": IDENTITY}
    own = {"conditioning_key": "crossattn", "use_ema": False, "channels": 4, "scale_factor": 0.5}
    return target("models.diffusion.ddpm.LatentDiffusion", **parts, **own)


def test_load_uses_ema_weights_and_exact_schedules(tiny: dict[str, Any], tmp_path: Path) -> None:
    model = load_model_from_config({"model": tiny}, None)
    state = {k: v.half() for k, v in model.state_dict().items()}
    name = "model.diffusion_model.out.2.bias"
    state["model_ema." + name.removeprefix("model.").replace(".", "")] = torch.full_like(state[name], 0.25)
    save_safetensors(tmp_path / "m.safetensors", state)
    loaded = load_model_from_config({"model": tiny}, tmp_path / "m.safetensors")
    assert torch.equal(loaded.state_dict()[name], state[name].float())  # since the config says use_ema: false
    with_averages = {**tiny, "params": {**tiny["params"], "use_ema": True}}
    loaded = load_model_from_config({"model": with_averages}, tmp_path / "m.safetensors")
    assert torch.equal(loaded.state_dict()[name], torch.full((4,), 0.25))
    assert torch.equal(loaded.alphas_cumprod, model.alphas_cumprod)  # not rounded by the half-precision file
    assert loaded.scale_factor == 0.5 and not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_load_takes_the_mapped_weights_and_leaves_the_file(
    tiny: dict[str, Any], tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"m{suffix}"
    state = load_model_from_config({"model": tiny}, None).state_dict()
    if suffix == ".ckpt":
        torch.save({"state_dict": state, "global_step": 1}, path)
    else:
        save_safetensors(path, state)
    before = path.read_bytes()
    mapped: dict[str, torch.Tensor] = {}

    def load(name: Path) -> dict[str, torch.Tensor]:
        mapped.update(load_state_dict(name))
        return dict(mapped)

    monkeypatch.setattr("ldm.util.load_state_dict", load)
    loaded = load_model_from_config({"model": tiny}, path)
    for name, parameter in loaded.named_parameters():
        assert parameter.data_ptr() == mapped[name].data_ptr(), name  # no second copy
        assert torch.equal(parameter, state[name]), name
    if (maps := Path("/proc/self/maps")).exists():  # the file's own pages, and private ones
        assert {line.split()[1] for line in maps.read_text().splitlines() if line.endswith(str(path))} == {"rw-p"}
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.add_(1)
    assert path.read_bytes() == before
    assert not torch.equal(load_state_dict(path)[name], loaded.state_dict()[name])


def test_load_of_old_files_and_in_half_precision(tiny: dict[str, Any], tmp_path: Path) -> None:
    state = load_model_from_config({"model": tiny}, None).state_dict()
    torch.save({"state_dict": state}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)  # can't be mapped
    save_safetensors(tmp_path / "half.safetensors", {name: value.half() for name, value in state.items()})
    for name, tolerance in (("old.ckpt", 0.0), ("half.safetensors", 1e-3)):
        loaded = load_model_from_config({"model": tiny}, tmp_path / name)
        for key, value in loaded.state_dict().items():
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, state[key], rtol=tolerance, atol=tolerance)
    half = load_model_from_config({"model": tiny}, tmp_path / "old.ckpt", dtype=torch.float16)
    assert {p.dtype for p in half.parameters()} == {torch.float16}
    assert torch.equal(half.alphas_cumprod, state["alphas_cumprod"])


def test_load_refuses_other_names_and_shapes(tiny: dict[str, Any], tmp_path: Path) -> None:
    state = load_model_from_config({"model": tiny}, None).state_dict()
    name = "model.diffusion_model.out.2.bias"
    cases = {
        "lacks 1 names": {k: v for k, v in state.items() if k != name},
        "another architecture": {**state, name: torch.zeros(7)},
    }
    for message, broken in cases.items():
        save_safetensors(tmp_path / "m.safetensors", broken)
        with pytest.raises(UserError, match=message):
            load_model_from_config({"model": tiny}, tmp_path / "m.safetensors")


def test_min_snr_weights_are_one_at_high_noise(tiny: dict[str, Any]) -> None:
    model = LatentDiffusion(**{**tiny["params"], "snr_gamma": 5.0})
    weights = model.snr_weights(torch.tensor([0, 500, 999]))
    assert weights[0] < 0.01
    assert torch.equal(weights[1:], torch.ones(2))


def wrapper(key: str | None, **change: Any) -> DiffusionWrapper:
    return fill_(DiffusionWrapper(unet(**change), key)).eval()  # type: ignore[return-value]


def test_every_conditioning_key() -> None:
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([5, 9])
    maps, context = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 6)
    transformer = {"use_spatial_transformer": True, "context_dim": 6, "attention_resolutions": [1]}
    with torch.no_grad():
        model = wrapper(None)
        assert torch.equal(model(x, t), model.diffusion_model(x, t))
        model = wrapper("concat", in_channels=7)
        joined = torch.cat([x, maps], 1)
        assert torch.equal(model(x, t, c_concat=[maps]), model.diffusion_model(joined, t))
        model = wrapper("crossattn", **transformer)
        halves = [context[:, :2], context[:, 2:]]
        assert torch.equal(model(x, t, c_crossattn=halves), model.diffusion_model(x, t, context=context))
        model = wrapper("hybrid", in_channels=7, **transformer)
        expected = model.diffusion_model(joined, t, context=context)
        assert torch.equal(model(x, t, c_concat=[maps], c_crossattn=[context]), expected)
        model = wrapper("adm", num_classes=3)
        labels = torch.tensor([0, 2])
        assert torch.equal(model(x, t, c_crossattn=[labels]), model.diffusion_model(x, t, y=labels))
    with pytest.raises(UserError, match="none of concat"):
        wrapper("film")


def pixels(**options: Any) -> DDPM:
    torch.manual_seed(0)
    return DDPM(unet(), image_size=8, channels=4, timesteps=10, **options)


@pytest.mark.parametrize("parameterization", ["eps", "x0", "v"])
def test_ancestral_chain(parameterization: str) -> None:
    model = pixels(parameterization=parameterization, use_ema=False, log_every_t=5).eval()
    generator = torch.Generator().manual_seed(0)
    seen: list[int] = []
    x, states = model.p_sample_loop((2, 4, 8, 8), True, generator=generator, callback=seen.append)
    assert seen == list(range(9, -1, -1))
    assert len(states) == 4  # noise, steps 9, 5 and 0
    assert x.abs().max() <= 1 + 1e-5  # clipped, and the last step adds no noise
    again = model.p_sample_loop((2, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    assert torch.equal(x, again)
    known = torch.full((2, 4, 8, 8), 0.5)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    inpainted = model.p_sample_loop((2, 4, 8, 8), mask=mask, x0=known, timesteps=5)
    assert (inpainted[..., :4] - 0.5).abs().mean() < 0.1  # noised to the first step
    sampled = model.sample(batch_size=1, return_intermediates=True)
    assert sampled[0].shape == (1, 4, 8, 8)
    with pytest.raises(UserError, match="needs x0"):
        model.p_sample_loop((1, 4, 8, 8), mask=mask)
    with pytest.raises(UserError, match=r"1\.\.10"):
        model.p_sample_loop((1, 4, 8, 8), timesteps=11)


def test_pixel_diffusion_trains_and_draws() -> None:
    model = pixels(use_ema=True, log_every_t=5).train()
    model.learning_rate = 2e-3
    batch = {"image": torch.zeros(4, 8, 8, 4)}
    losses = train(model.configure_optimizers(), lambda: model.shared_step(batch)[0], 16)
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    logs = model.log_images(batch, N=2)
    shapes = {"inputs": 2, "diffusion_row": 4, "samples": 2, "denoise_row": 8}
    assert {k: tuple(v.shape) for k, v in logs.items()} == {k: (n, 4, 8, 8) for k, n in shapes.items()}
    assert list(model.log_images(batch, N=1, return_keys=["inputs"])) == ["inputs"]


def test_weights_to_begin_from(tiny: dict[str, Any], tmp_path: Path) -> None:
    source = LatentDiffusion(**tiny["params"])
    path = str(tmp_path / "m.safetensors")
    save_safetensors(path, source.state_dict())
    name = "diffusion_model.out.2.bias"
    for start in ({}, {"load_only_unet": True}, {"ignore_keys": ["first_stage_model."]}):
        model = LatentDiffusion(**{**tiny["params"], "use_ema": True, "ckpt_path": path, **start})
        ours, theirs = model.model.state_dict(), source.model.state_dict()
        assert all(torch.equal(ours[k], theirs[k]) for k in ours), start
        same = torch.equal(model.first_stage_model.quant_conv.weight, source.first_stage_model.quant_conv.weight)
        assert same == (start == {}), start
        # The average begins at the loaded weights, not at the random ones that were there before.
        averages = model.model_ema.state_dict()
        assert torch.equal(averages[name.replace(".", "")], theirs[name])
    with pytest.raises(UserError, match="does not exist"):
        LatentDiffusion(**{**tiny["params"], "ckpt_path": str(tmp_path / "none.ckpt")})
    with pytest.raises(UserError, match="does not exist"):
        DDPM(unet(), ckpt_path=str(tmp_path / "none.ckpt"))
    with torch.device("meta"):  # built for another checkpoint: its own is not looked for
        DDPM(unet(), ckpt_path=str(tmp_path / "none.ckpt"))
        LatentDiffusion(**{**tiny["params"], "ckpt_path": str(tmp_path / "none.ckpt")})


def test_weights_to_begin_from_in_pixel_space(tmp_path: Path) -> None:
    source = DDPM(unet(), learn_logvar=True, logvar_init=0.5)
    path = str(tmp_path / "m.safetensors")
    save_safetensors(path, source.state_dict())
    first, last = (f"model.diffusion_model.{n}" for n in ("input_blocks.0.0.weight", "middle_block.0.in_layers.2.bias"))
    for start, left_out in (
        ({}, None),
        ({"load_only_unet": True}, "logvar"),
        ({"ignore_keys": ["logv"]}, "logvar"),
        ({"ignore_keys": [first]}, first),
        ({"ignore_keys": [first], "load_only_unet": True}, first),
    ):
        options: dict[str, Any] = {"learn_logvar": True, "ckpt_path": path, **start}
        ours, theirs = DDPM(unet(), **options).state_dict(), source.state_dict()
        same = {name for name in ("logvar", first, last) if torch.equal(ours[name], theirs[name])}
        only = {"logvar"} if "load_only_unet" in start else set()
        assert same == {"logvar", first, last} - {left_out} - only, start
    with pytest.raises(UserError, match="use_positional_encodings"):
        DDPM(unet(), use_positional_encodings=True)


def test_options_that_cannot_be_honored_are_refused(tiny: dict[str, Any]) -> None:
    for change, message in (
        ({"use_positional_encodings": True}, "use_positional_encodings"),
        ({"num_timesteps_cond": 0}, "num_timesteps_cond must be"),
        ({"num_timesteps_cond": 1001}, r"1\.\.1000"),
        ({"parameterization": "score"}, "one of eps, x0, v"),
        ({"scale_facter": 1.0}, "did you mean 'scale_factor'"),
    ):
        with pytest.raises(UserError, match=message):
            instantiate_from_config({**tiny, "params": {**tiny["params"], **change}})


def test_noised_conditions(tiny: dict[str, Any]) -> None:
    model = LatentDiffusion(**{**tiny["params"], "num_timesteps_cond": 5})
    assert model.cond_ids[torch.tensor([0, 1, 4, 5, 999])].tolist() == [0, 250, 999, 999, 999]
    loss, _ = model(torch.randn(2, 4, 8, 8), torch.randn(2, 3, 8))
    assert loss > 0


def test_conditions_of_a_batch(tiny: dict[str, Any]) -> None:
    params = {k: v for k, v in tiny["params"].items() if k != "conditioning_key"}
    images, condition = torch.rand(2, 16, 16, 3), torch.rand(2, 8, 8, 5)
    model = LatentDiffusion(**{**params, "cond_stage_key": "segmentation", "concat_mode": True})
    batch = {"image": images, "segmentation": condition}
    maps = condition.permute(0, 3, 1, 2)
    assert torch.equal(model.get_input(batch, "image")[1], maps)
    assert model.model.conditioning_key == "concat"
    z, c, x, reconstruction, raw = model.get_input(batch, "image", True, return_original_cond=True, bs=1)
    assert (len(z), len(reconstruction)) == (1, 1) and torch.equal(x, images.permute(0, 3, 1, 2)[:1])
    assert torch.equal(c, maps[:1]) and torch.equal(raw, maps[:1])
    with pytest.raises(UserError, match="the batch has no 'segmentation'"):
        model.get_input({"image": images}, "image")
    model.cond_stage_key = "coordinates_bbox"
    assert model.get_input({"image": images, "coordinates_bbox": maps}, "image")[1] is maps
    first = LatentDiffusion(**{**params, "cond_stage_config": "__is_first_stage__", "cond_stage_key": "image"})
    latent, same = first.get_input({"image": images}, "image")
    assert same.shape == latent.shape
    assert any(k.startswith("cond_stage_model.encoder.") for k in first.state_dict())
    free = LatentDiffusion(**{**params, "cond_stage_config": "__is_unconditional__"})
    assert free.get_input({"image": images}, "image")[1] is None
    assert free.model.conditioning_key is None


def test_codebook_indices_are_decoded(tiny: dict[str, Any]) -> None:
    interface = first_stage("VQModelInterface", n_embed=6)
    model = LatentDiffusion(**{**tiny["params"], "first_stage_config": interface})
    indices = torch.randint(0, 6, (1, 8, 8))
    quantized = model.first_stage_model.quantize.embedding(indices).permute(0, 3, 1, 2)
    expected = model.decode_first_stage(model.scale_factor * quantized)
    logits = nn.functional.one_hot(indices, 6).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(model.decode_first_stage(indices, predict_cids=True), expected)
    torch.testing.assert_close(model.decode_first_stage(logits, predict_cids=True), expected)
    free = torch.randn(1, 4, 8, 8)
    raw = model.decode_first_stage(free, force_not_quantize=True)
    assert not torch.allclose(raw, model.decode_first_stage(free))


def test_latents_of_a_chain_are_not_clipped(tiny: dict[str, Any]) -> None:
    model = LatentDiffusion(**{**tiny["params"], "parameterization": "x0", "timesteps": 4}).eval()

    class Echo(nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return x

    model.model.diffusion_model, model.model.conditioning_key = Echo(), None
    x = model.p_sample_loop(None, (1, 4, 8, 8), x_T=torch.full((1, 4, 8, 8), 3.0))
    assert x.max() > 1


def test_v_by_its_definition(tiny: dict[str, Any]) -> None:
    model = LatentDiffusion(**{**tiny["params"], "parameterization": "v"})
    x0, noise, t = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([3, 700])
    x_t, v = model.q_sample(x0, t, noise), model.get_v(x0, noise, t)
    torch.testing.assert_close(model.predict_start_from_z_and_v(x_t, t, v), x0, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.predict_eps_from_z_and_v(x_t, t, v), noise, rtol=1e-4, atol=1e-4)
    model.apply_model = lambda x, t, c: v  # type: ignore[method-assign,assignment]
    assert float(model.p_losses(x0, None, t, noise)[0]) == pytest.approx(0.0, abs=1e-8)


def test_the_posterior_by_its_definition() -> None:
    model = pixels(use_ema=False)
    x0, x_t, t = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([0, 9])
    mean, variance, log_variance = model.q_posterior(x0, x_t, t)
    assert torch.allclose(mean[0], x0[0], atol=1e-6) and float(variance[0]) == 0.0
    assert torch.allclose(variance[1].log(), log_variance[1])
    mean, variance, log_variance = model.q_mean_variance(x0, t)
    assert torch.allclose(mean**2 / x0**2 + variance, torch.ones(()), atol=1e-5)
    assert torch.allclose(variance.log(), log_variance, atol=1e-4)


class Bias:
    """A score corrector."""

    def modify_score(self, model: Any, e_t: Any, x: Any, t: Any, c: Any, by: float) -> Any:
        return e_t + by


def test_latent_steps_under_a_condition(tiny: dict[str, Any]) -> None:
    model = fill_(LatentDiffusion(**{**tiny["params"], "timesteps": 6, "log_every_t": 2})).eval()
    x, c, t = torch.randn(2, 4, 8, 8), torch.randn(2, 3, 8), torch.tensor([2, 2])
    with torch.no_grad():
        out = model.p_sample(x, c, t, return_x0=True, temperature=0.0)
        moved = model.p_sample(x, c, t, temperature=0.0, score_corrector=Bias(), corrector_kwargs={"by": 1.0})
        mean, *_, x0 = model.p_mean_variance(x, c, t, clip_denoised=False, return_x0=True)
        assert torch.equal(out[0], mean) and torch.equal(out[1], x0) and (moved < mean).all()
        seen: list[int] = []
        samples, states = model.sample(
            {"c_crossattn": [torch.cat([c, c])]},
            2,
            return_intermediates=True,
            x_T=x,
            callback=seen.append,
            verbose=False,
        )
        assert len(states) == 5 and seen == [5, 4, 3, 2, 1, 0] and samples.shape == x.shape
        final, predicted = model.progressive_denoising(c, (4, 8, 8), verbose=False, batch_size=1, temperature=[0.0] * 6)
        assert len(predicted) == 4 and torch.equal(final, predicted[-1])  # the last step gives the predicted x_0 itself


def test_images_of_training(tiny: dict[str, Any]) -> None:
    model = LatentDiffusion(**{**tiny["params"], "timesteps": 6, "cond_stage_key": "txt", "log_every_t": 3}).eval()
    model.cond_stage_model.encode = lambda texts: torch.zeros(len(texts), 3, 8)
    batch = {"image": torch.rand(3, 16, 16, 3), "txt": ["a cat", "a dog", ""]}
    logs = model.log_images(batch, N=2, ddim_steps=2, plot_denoise_rows=True, unconditional_guidance_scale=2.0)
    counts = {k: len(v) for k, v in logs.items() if v.shape[1:] == (3, 16, 16)}
    rows = {"diffusion_row": 4, "denoise_row": 6, "progressive_row": 6}
    same = ("inputs", "reconstruction", "conditioning", "samples", "samples_inpainting", "samples_outpainting")
    assert counts == {**dict.fromkeys(same, 2), **rows}
    assert set(logs) - set(counts) == {"mask"}
    assert set(model.log_images(batch, ddim_steps=2, return_keys=["samples", "none"])) == {"samples"}


def test_a_saved_constant_is_taken_out(tiny: dict[str, Any]) -> None:
    model = LatentDiffusion(**tiny["params"])
    state = {**model.state_dict(), "logvar": torch.ones(1000)}  # other programs save it
    model.load_state_dict(state)
    assert not model.logvar.any() and "logvar" in state
