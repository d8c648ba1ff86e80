"""The single degradations of BSRGAN (Zhang et al. 2021, arXiv 2103.14006, section 3).

An image is a float array (H, W, C) in [0, 1]. Resizing and filtering are torch's, which samples as OpenCV does.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.float32]  # (H, W, C) in [0, 1]
Kernel = NDArray[np.float64]  # (k, k), sums to 1

RESIZE_MODES = ("bilinear", "bicubic", "area")


@dataclass(frozen=True)
class Strength:
    """How far the degradations go; the defaults are BSRGAN's, `LIGHT` is the published light variant."""

    kernel_sizes: tuple[int, int] = (7, 23)  # odd sides between these
    anisotropic_width: float = 4.0  # of the blur along its axes, at scale 4; scales with the factor
    isotropic_width: float = 2.0
    up: tuple[float, float] = (1.0, 2.0)  # of the first resizing
    gaussian: tuple[int, int] = (2, 25)  # standard deviation, of 255
    speckle: tuple[int, int] = (2, 25)
    poisson: tuple[float, float] = (2.0, 4.0)  # power of ten of the photons
    jpeg: tuple[int, int] = (30, 95)  # quality


FULL = Strength()
LIGHT = Strength(
    kernel_sizes=(7, 23), anisotropic_width=1.0, isotropic_width=0.5, gaussian=(2, 8), speckle=(2, 8), jpeg=(80, 95)
)


def fspecial_gaussian(size: int, sigma: float) -> Kernel:
    """An isotropic Gaussian (size, size) of standard deviation `sigma` pixels."""
    return gaussian_kernel(size, np.eye(2) * sigma**2)


def anisotropic_gaussian(size: int = 15, theta: float = math.pi, l1: float = 6.0, l2: float = 6.0) -> Kernel:
    """A Gaussian (size, size) whose covariance has eigenvalues l1 along the angle `theta`, and l2 across it."""
    axis = np.array([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]])
    return gaussian_kernel(size, axis @ np.diag([l1, l2]) @ axis.T)


def gaussian_kernel(size: int, covariance: NDArray[np.float64]) -> Kernel:
    """A Gaussian (size, size) of that 2x2 covariance over (x, y), centered, summing to 1."""
    offsets = np.arange(size) - (size - 1) / 2
    y, x = np.meshgrid(offsets, offsets, indexing="ij")
    points = np.stack([x, y], -1)  # (k, k, 2)
    distance = np.einsum("ijk,kl,ijl->ij", points, np.linalg.inv(covariance), points)
    kernel = np.exp(-0.5 * distance)
    return kernel / kernel.sum()


def shift_pixel(image: Pixels, factor: int) -> Pixels:
    """Move the content by (factor - 1) / 2 pixels, so that taking every `factor`-th pixel is not off-center."""
    for axis in (0, 1):
        side = image.shape[axis]
        image = _interpolate(image, np.clip(np.arange(side) + (factor - 1) / 2, 0, side - 1), axis)
    return image


def _interpolate(image: Pixels, at: NDArray[np.float64], axis: int) -> Pixels:
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, image.shape[axis] - 1)
    part = (at - low).reshape([-1 if i == axis else 1 for i in range(image.ndim)])
    return (np.take(image, low, axis) * (1 - part) + np.take(image, high, axis) * part).astype(np.float32)


def _to_torch(image: Pixels) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image, np.float32)).permute(2, 0, 1)[None]  # (1, C, H, W)


def _to_numpy(x: torch.Tensor) -> Pixels:
    return x[0].permute(1, 2, 0).numpy()


def blur(image: Pixels, kernel: Kernel) -> Pixels:
    """Convolve every channel, borders mirrored."""
    x = _to_torch(image)
    pad = len(kernel) // 2
    mode = "reflect" if pad < min(x.shape[-2:]) else "replicate"
    weight = torch.from_numpy(kernel[::-1, ::-1].astype(np.float32).copy()).expand(x.shape[1], 1, -1, -1)
    return _to_numpy(F.conv2d(F.pad(x, (pad, pad, pad, pad), mode=mode), weight, groups=x.shape[1]))


def resize(image: Pixels, height: int, width: int, mode: str) -> Pixels:
    """To (height, width, C) by "nearest", "bilinear", "bicubic" or "area"; no low-pass filter of its own."""
    options = {} if mode in ("nearest", "area") else {"align_corners": False}
    x = F.interpolate(_to_torch(image), size=(max(1, height), max(1, width)), mode=mode, **options)
    return _to_numpy(x).clip(0.0, 1.0)


def _scaled(image: Pixels, factor: float, mode: str) -> Pixels:
    return resize(image, round(image.shape[0] * factor), round(image.shape[1] * factor), mode)


def random_mode(rng: np.random.Generator) -> str:
    """An interpolation of :data:`RESIZE_MODES`."""
    return RESIZE_MODES[rng.integers(len(RESIZE_MODES))]


def _random_odd(rng: np.random.Generator, limits: tuple[int, int]) -> int:
    return limits[0] + 2 * int(rng.integers((limits[1] - limits[0]) // 2 + 1))


def add_blur(image: Pixels, rng: np.random.Generator, factor: float = 4, strength: Strength = FULL) -> Pixels:
    """Blur by a Gaussian, isotropic or not with equal chance (section 3.1)."""
    size = _random_odd(rng, strength.kernel_sizes)
    grown = (2 + 0.2 * factor) / 2.8  # at scale 4 the widths are as given
    if rng.random() < 0.5:
        widths = rng.random(2) * strength.anisotropic_width * grown + 0.1
        return blur(image, anisotropic_gaussian(size, rng.random() * math.pi, *widths))
    return blur(image, fspecial_gaussian(size, 0.1 + rng.random() * strength.isotropic_width * grown))


def add_resize(image: Pixels, rng: np.random.Generator, factor: float = 4, strength: Strength = FULL) -> Pixels:
    """Enlarge (a fifth of the time), shrink (most often) or keep (a tenth); an extra D of section 3.2."""
    chance, scale = rng.random(), 1.0
    if chance > 0.8:
        scale = rng.uniform(*strength.up)
    elif chance < 0.7:
        scale = rng.uniform(0.5 / factor, 1.0)
    return _scaled(image, scale, random_mode(rng))


def downsample(image: Pixels, rng: np.random.Generator, factor: int) -> Pixels:
    """Shrink by interpolation, up to twice `factor` (three quarters of the time), or blurred nearest (section 3.2)."""
    if rng.random() < 0.75:
        return _scaled(image, 1 / rng.uniform(1.0, 2.0 * factor), random_mode(rng))
    kernel = shifted(fspecial_gaussian(25, rng.uniform(0.1, 0.6 * factor)), factor)
    return blur(image, kernel)[::factor, ::factor]


def shifted(kernel: Kernel, factor: int) -> Kernel:
    """`kernel` moved as :func:`shift_pixel` moves an image, summing to 1."""
    moved = shift_pixel(kernel[..., None].astype(np.float32), factor)[..., 0].astype(np.float64)
    return moved / moved.sum()


def add_gaussian_noise(image: Pixels, rng: np.random.Generator, strength: Strength = FULL) -> Pixels:
    """Gaussian noise: per channel (0.4), grey (0.4), or with a random covariance of the channels (section 3.3)."""
    low, high = strength.gaussian
    return np.clip(image + _noise(image.shape, rng, int(rng.integers(low, high + 1)) / 255, high / 255), 0.0, 1.0)


def add_speckle_noise(image: Pixels, rng: np.random.Generator, strength: Strength = FULL) -> Pixels:
    """The same three kinds of noise, in proportion to the image."""
    low, high = strength.speckle
    noise = _noise(image.shape, rng, int(rng.integers(low, high + 1)) / 255, high / 255)
    return np.clip(np.clip(image, 0.0, 1.0) * (1 + noise), 0.0, 1.0)


def _noise(shape: tuple[int, ...], rng: np.random.Generator, level: float, most: float) -> Pixels:
    height, width, channels = shape
    chance = rng.random()
    if chance > 0.6:
        return rng.normal(0, level, shape).astype(np.float32)
    if chance < 0.4:
        return rng.normal(0, level, (height, width, 1)).astype(np.float32)
    mixing, _ = np.linalg.qr(rng.random((channels, channels)))
    covariance = mixing.T @ np.diag(rng.random(channels)) @ mixing
    covariance = np.abs(most**2 * covariance)
    covariance = (covariance + covariance.T) / 2
    draw = rng.multivariate_normal(np.zeros(channels), covariance, (height, width), check_valid="ignore")
    return draw.astype(np.float32)


def add_poisson_noise(image: Pixels, rng: np.random.Generator, strength: Strength = FULL) -> Pixels:
    """Photon noise, in color or in grey with equal chance: the sensor noise of section 3.3 in its simple form."""
    image = np.clip((image * 255.0).round(), 0, 255) / 255.0
    photons = 10 ** rng.uniform(*strength.poisson)
    if rng.random() < 0.5:
        return np.clip(rng.poisson(image * photons) / photons, 0.0, 1.0).astype(np.float32)
    grey = np.clip((image[..., :3] @ (0.299, 0.587, 0.114) * 255.0).round(), 0, 255) / 255.0
    noise = rng.poisson(grey * photons) / photons - grey
    return np.clip(image + noise[..., None], 0.0, 1.0).astype(np.float32)


def add_jpeg_noise(image: Pixels, rng: np.random.Generator, strength: Strength = FULL) -> Pixels:
    """JPEG at a random quality (section 3.3)."""
    return jpeg(image, int(rng.integers(strength.jpeg[0], strength.jpeg[1] + 1)))


def jpeg(image: Pixels, quality: int) -> Pixels:
    """The image as JPEG of that quality shows it."""
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(image)).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as decoded:
        return np.asarray(decoded.convert("RGB"), np.float32) / 255.0


def to_uint8(image: Pixels) -> NDArray[np.uint8]:
    """[0, 1] to 0..255, rounded."""
    return (np.clip(image, 0.0, 1.0) * 255.0).round().astype(np.uint8)


def to_float(image: NDArray[np.uint8]) -> Pixels:
    """0..255 to [0, 1]."""
    return image.astype(np.float32) / 255.0
