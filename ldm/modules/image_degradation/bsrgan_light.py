"""The published light variant of BSRGAN's degradation: the same chain with less blur, less noise, better JPEG."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm.modules.image_degradation import bsrgan
from ldm.modules.image_degradation.operations import LIGHT


def degradation_bsrgan_variant(
    image: NDArray[np.uint8], sf: int = 4, isp_model: Any = None, rng: np.random.Generator | None = None
) -> dict[str, NDArray[np.uint8]]:
    """As :func:`ldm.modules.image_degradation.bsrgan.degradation_bsrgan_variant`, lighter."""
    return bsrgan.degradation_bsrgan_variant(image, sf, isp_model, rng, LIGHT)
