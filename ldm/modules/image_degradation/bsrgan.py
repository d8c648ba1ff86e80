"""BSRGAN's degradation (Zhang et al. 2021, arXiv 2103.14006, figure 2).

Two blurs, two resizings, Gaussian, JPEG and sensor noise in random order, except that the exact resizing comes after
the free one; and JPEG once more at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm.modules.image_degradation import operations as ops
from ldm.modules.image_degradation.operations import FULL, Pixels, Strength
from ldm.util import UserError

Operation = Callable[[Pixels], Pixels]
HALF_FIRST = 0.25  # how often scale 4 begins with a plain halving
JPEG_CHANCE = 0.9
SENSOR_CHANCE = 0.25
SHUFFLE_CHANCE = 0.5  # of the long chain: all of it, or the noises alone


def _seven(rng: np.random.Generator, factor: int, size: tuple[int, int], strength: Strength) -> list[Operation]:
    """The seven degradations of the paper in a random order; the result has `size` (height, width)."""
    steps: list[Operation] = [
        lambda x: ops.add_blur(x, rng, factor, strength),
        lambda x: ops.add_blur(x, rng, factor, strength),
        lambda x: ops.downsample(x, rng, factor),
        lambda x: ops.resize(x, *size, ops.random_mode(rng)),
        lambda x: ops.add_gaussian_noise(x, rng, strength),
        lambda x: ops.add_jpeg_noise(x, rng, strength) if rng.random() < JPEG_CHANCE else x,
        lambda x: ops.add_poisson_noise(x, rng, strength) if rng.random() < SENSOR_CHANCE else x,
    ]
    order = list(rng.permutation(len(steps)))
    free, exact = order.index(2), order.index(3)
    if free > exact:
        order[free], order[exact] = order[exact], order[free]
    return [steps[i] for i in order]


def degrade(image: Pixels, rng: np.random.Generator, factor: int = 4, strength: Strength = FULL) -> Pixels:
    """A low-quality version (H / factor, W / factor, 3) of an image (H, W, 3) in [0, 1]."""
    image, size = _whole(image, factor)
    if factor == 4 and rng.random() < HALF_FIRST:
        image = ops.resize(image, 2 * size[0], 2 * size[1], ops.random_mode(rng))
        factor = 2
    for step in _seven(rng, factor, size, strength):
        image = step(image)
    return ops.add_jpeg_noise(image, rng, strength)


def degradation_bsrgan_plus(
    img: Pixels, sf: int = 4, rng: np.random.Generator | None = None, strength: Strength = FULL
) -> Pixels:
    """The long chain of BSRGAN+, every noise twice: (H / sf, W / sf, 3) of an image (H, W, 3) in [0, 1]."""
    rng = rng or np.random.default_rng()
    image, size = _whole(img, sf)
    noises: list[Operation] = [
        lambda x: ops.add_gaussian_noise(x, rng, strength),
        lambda x: ops.add_poisson_noise(x, rng, strength),
        lambda x: ops.add_speckle_noise(x, rng, strength),
    ]
    coarse: list[Operation] = [
        lambda x: ops.add_blur(x, rng, sf, strength),
        lambda x: ops.add_resize(x, rng, sf, strength),
    ]
    jpeg: list[Operation] = [lambda x: ops.add_jpeg_noise(x, rng, strength)]
    if rng.random() < SHUFFLE_CHANCE:
        steps = _shuffled([*coarse, *noises, *jpeg, *coarse, *noises], rng)
    else:
        steps = [*coarse, *_shuffled(noises, rng), *jpeg, *coarse, *_shuffled(noises, rng)]
    for step in steps:
        image = step(image)
    return ops.add_jpeg_noise(ops.resize(image, *size, ops.random_mode(rng)), rng, strength)


def _shuffled(steps: list[Operation], rng: np.random.Generator) -> list[Operation]:
    return [steps[i] for i in rng.permutation(len(steps))]


def _whole(image: Pixels, factor: int) -> tuple[Pixels, tuple[int, int]]:
    """The image cut to a multiple of `factor`, and the size of its low-quality version (height, width)."""
    height, width = (side // factor for side in image.shape[:2])
    return np.ascontiguousarray(image[: height * factor, : width * factor], np.float32), (height, width)


def random_crop(low: Pixels, high: Pixels, factor: int, side: int, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """The same random square of both: `side` pixels of the low-quality image, `side * factor` of the other."""
    y, x = (int(rng.integers(n - side + 1)) for n in low.shape[:2])
    big = side * factor
    return low[y : y + side, x : x + side], high[y * factor : y * factor + big, x * factor : x * factor + big]


def degradation_bsrgan(
    img: Pixels, sf: int = 4, lq_patchsize: int = 72, isp_model: Any = None, rng: np.random.Generator | None = None
) -> tuple[Pixels, Pixels]:
    """A pair of patches (lq_patchsize, lq_patchsize, 3) and `sf` times that, of `img` (H, W, 3), all in [0, 1].

    Raises:
        UserError: the image is too small, or a camera model `isp_model` is given.
    """
    _no_camera(isp_model)
    if min(img.shape[:2]) < lq_patchsize * sf:
        raise UserError(f"an image of {img.shape[1]}x{img.shape[0]} is too small for patches of {lq_patchsize * sf}")
    rng = rng or np.random.default_rng()
    high, _ = _whole(img, sf)
    return random_crop(degrade(high, rng, sf), high, sf, lq_patchsize, rng)


def degradation_bsrgan_variant(
    image: NDArray[np.uint8],
    sf: int = 4,
    isp_model: Any = None,
    rng: np.random.Generator | None = None,
    strength: Strength = FULL,
) -> dict[str, NDArray[np.uint8]]:
    """What the super-resolution data sets call: {"image": uint8 (H / sf, W / sf, 3)} of uint8 (H, W, 3)."""
    _no_camera(isp_model)
    low = degrade(ops.to_float(image), rng or np.random.default_rng(), sf, strength)
    return {"image": ops.to_uint8(low)}


def _no_camera(isp_model: Any) -> None:
    if isp_model is not None:
        raise UserError("camera (ISP) models are not part of this project; leave isp_model out")
