"""What generated and half-denoised images look like, imitated: blur, blocks, noise, color shifts.

CLIP and the detector judge images of the diffusion model, which are never as clean as the scenes.
"""

from __future__ import annotations

import io
import random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Pixels = NDArray[np.uint8]


def blur(image: Pixels, radius: float) -> Pixels:
    """Gaussian blur, standard deviation ``radius`` pixels; (H, W, 3) in and out, as everywhere here."""
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def coarsen(image: Pixels, factor: float) -> Pixels:
    """Shrinks by ``factor`` and enlarges again bilinearly, as a coarse latent decodes."""
    full = Image.fromarray(image)
    small = (max(2, round(full.width / factor)), max(2, round(full.height / factor)))
    return np.asarray(full.resize(small, Image.Resampling.BOX).resize(full.size, Image.Resampling.BILINEAR))


def jpeg(image: Pixels, quality: int) -> Pixels:
    """Blocks and ringing of JPEG at ``quality`` (1 to 95)."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def blotches(image: Pixels, strength: float, cell: int, rng: random.Random) -> Pixels:
    """Smooth colored noise, standard deviation ``strength`` (of 255), one value per ``cell`` pixels."""
    height, width = image.shape[:2]
    normal = np.random.default_rng(rng.getrandbits(32)).standard_normal
    coarse = normal((-(-height // cell) + 1, -(-width // cell) + 1, 3)).astype(np.float32)
    if cell > 1:
        layers = [Image.fromarray(coarse[..., channel]) for channel in range(3)]
        smooth = [np.asarray(layer.resize((width, height), Image.Resampling.BILINEAR)) for layer in layers]
        coarse = np.stack(smooth, -1)
    noisy = image + strength * coarse[:height, :width]
    return noisy.clip(0, 255).astype(np.uint8)


def shift_colors(image: Pixels, rng: random.Random, amount: float = 0.2) -> Pixels:
    """Contrast, brightness and saturation moved by up to ``amount``."""
    pixels = image.astype(np.float32)
    gray = pixels.mean(axis=-1, keepdims=True)
    pixels = gray + (pixels - gray) * rng.uniform(1 - 2 * amount, 1 + amount)
    pixels = 128 + (pixels - 128) * rng.uniform(1 - amount, 1 + amount) + 255 * rng.uniform(-amount, amount) / 2
    return pixels.clip(0, 255).astype(np.uint8)


def degrade(image: Pixels, rng: random.Random, clean_rate: float = 0.3, strength: float = 1.0) -> Pixels:
    """A random mixture of the above; a share of ``clean_rate`` of the images stays as it is.

    Args:
        image: (H, W, 3) uint8.
        rng: decides everything.
        clean_rate: in [0, 1].
        strength: scales blur and noise; 1 keeps the object recognizable.
    """
    if rng.random() < clean_rate:
        return image
    if rng.random() < 0.5:
        image = shift_colors(image, rng)
    softness = rng.random()
    if softness < 0.35:
        image = blur(image, rng.uniform(0.5, 3.0) * strength)
    elif softness < 0.65:
        image = coarsen(image, 1 + rng.uniform(0.2, 2.2) * strength)
    if rng.random() < 0.55:
        image = blotches(image, rng.uniform(3, 30) * strength, rng.choice((1, 2, 4, 8, 16)), rng)
    if rng.random() < 0.25:
        image = jpeg(image, rng.randint(15, 70))
    return image
