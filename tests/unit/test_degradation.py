"""BSRGAN's degradations: sizes, ranges, kernels, and that a generator decides everything."""

from __future__ import annotations

import numpy as np
import pytest

from ldm.modules.image_degradation import bsrgan, degradation_fn_bsr, degradation_fn_bsr_light
from ldm.modules.image_degradation import operations as ops
from ldm.util import UserError


def image(height: int = 64, width: int = 96) -> np.ndarray:
    """A smooth image, uint8 (H, W, 3)."""
    y, x = np.mgrid[:height, :width] / 32
    return ((np.stack([np.sin(x), np.cos(y), np.sin(x + y)], -1) + 1) * 127.5).astype(np.uint8)


@pytest.mark.parametrize("function", [degradation_fn_bsr, degradation_fn_bsr_light])
@pytest.mark.parametrize("factor", [2, 4])
def test_variants(function: object, factor: int) -> None:
    for seed in range(8):  # every branch of the chain within a few seeds
        low = function(image(), sf=factor, rng=np.random.default_rng(seed))["image"]  # type: ignore[operator]
        assert low.shape == (64 // factor, 96 // factor, 3) and low.dtype == np.uint8
    again = function(image(), sf=factor, rng=np.random.default_rng(seed))["image"]  # type: ignore[operator]
    assert np.array_equal(low, again)


def test_light_is_lighter() -> None:
    plain = ops.to_uint8(ops.resize(ops.to_float(image()), 16, 24, "area")).astype(int)

    def error(function: object) -> float:
        made = [function(image(), rng=np.random.default_rng(s))["image"] for s in range(10)]  # type: ignore[operator]
        return float(np.mean([abs(m - plain).mean() for m in made]))

    assert error(degradation_fn_bsr_light) < error(degradation_fn_bsr)


def test_patches_belong_together() -> None:
    high = ops.to_float(image(128, 128))
    low, crop = bsrgan.degradation_bsrgan(high, sf=4, lq_patchsize=16, rng=np.random.default_rng(0))
    assert low.shape == (16, 16, 3) and crop.shape == (64, 64, 3)
    assert low.min() >= 0 and low.max() <= 1
    assert abs(low.mean((0, 1)) - crop.mean((0, 1))).max() < 0.15
    with pytest.raises(UserError, match="too small"):
        bsrgan.degradation_bsrgan(high, lq_patchsize=72)
    with pytest.raises(UserError, match="camera"):
        degradation_fn_bsr(image(), isp_model=object())


def test_the_long_chain() -> None:
    for seed in range(4):
        low = bsrgan.degradation_bsrgan_plus(ops.to_float(image()), 4, np.random.default_rng(seed))
        assert low.shape == (16, 24, 3) and low.min() >= 0 and low.max() <= 1


def test_kernels() -> None:
    kernel = ops.anisotropic_gaussian(15, 0.0, 8.0, 2.0)  # wide along x
    assert kernel.sum() == pytest.approx(1) and kernel[7].std() < kernel[:, 7].std() * 2
    offsets = np.arange(15) - 7
    variance = [(kernel.sum(axis) * offsets**2).sum() for axis in (0, 1)]
    assert variance[0] == pytest.approx(8, rel=0.1) and variance[1] == pytest.approx(2, rel=0.1)
    assert np.allclose(ops.fspecial_gaussian(9, 1.5), ops.fspecial_gaussian(9, 1.5).T)
    # Blurring a constant changes nothing, up to its border.
    assert np.allclose(ops.blur(np.full((20, 20, 3), 0.3, np.float32), kernel), 0.3, atol=1e-6)


def test_shift_keeps_the_center() -> None:
    """Taking every fourth pixel of the shifted ramp gives the means of the ramp's groups of four."""
    ramp = np.tile(np.arange(32, dtype=np.float32)[None, :, None], (8, 1, 1))
    taken = ops.shift_pixel(ramp, 4)[:, ::4]
    assert np.allclose(taken[0, :, 0], ramp[0, :, 0].reshape(-1, 4).mean(1))


@pytest.mark.parametrize("noise", [ops.add_gaussian_noise, ops.add_speckle_noise, ops.add_poisson_noise])
def test_noises(noise: object) -> None:
    flat = np.full((32, 32, 3), 0.5, np.float32)
    made = [noise(flat, np.random.default_rng(seed)) for seed in range(8)]  # type: ignore[operator]
    assert all(m.shape == flat.shape and m.min() >= 0 and m.max() <= 1 for m in made)
    assert all(abs(m.mean() - 0.5) < 0.05 for m in made) and np.mean([m.std() for m in made]) > 0.005
