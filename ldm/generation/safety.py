"""What is done to a finished image before it is saved: the safety checker and the invisible watermark.

As published, txt2img has both on where package and weights are there, and warns where not; other scripts have neither
unless asked. What is asked for and missing ends the script.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ldm.errors import UserError
from ldm.generation.images import ImageArray
from ldm.pixels import read_image

logger = logging.getLogger(__name__)

SAFETY_MODEL = "CompVis/stable-diffusion-safety-checker"
WATERMARK = b"StableDiffusionV1"  # as published, so that published decoders find it
WATERMARK_METHOD = "dwtDct"
WATERMARK_AGREEMENT = 0.8  # share of right bits that counts as read; of 136 random bits so many agree once in 10^13
WATERMARK_MIN_PIXELS = 256 * 256  # the method's own limit


class SafetyChecker:
    """Stable Diffusion's checker: CLIP features of an image against those of unwanted concepts."""

    def __init__(self, source: str | Path = SAFETY_MODEL) -> None:
        """Load from a folder, or from the local cache of Hugging Face: nothing is downloaded.

        Raises:
            ImportError: `diffusers` is not installed.
            OSError: the weights are not there.
        """
        from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
        from transformers import CLIPImageProcessor

        self.processor = CLIPImageProcessor.from_pretrained(str(source), local_files_only=True)
        model: Any = StableDiffusionSafetyChecker.from_pretrained(str(source), local_files_only=True)
        self.model = model.eval()

    def __call__(self, images: Sequence[ImageArray]) -> tuple[list[ImageArray], list[bool]]:
        """The images, black where the checker objects, and whether it did."""
        import torch
        from PIL import Image

        inputs = self.processor([Image.fromarray(p) for p in images], return_tensors="pt")
        pixels = [p.astype(np.float32) / 255.0 for p in images]
        with torch.no_grad():
            _, found = self.model(images=pixels, clip_input=inputs.pixel_values)
        return [np.zeros_like(p) if bad else p for p, bad in zip(images, found, strict=True)], list(found)


class Watermark:
    """An invisible watermark in the frequencies of the image. ImportError without `invisible-watermark`."""

    def __init__(self) -> None:
        from imwatermark import WatermarkEncoder

        self.encoder = WatermarkEncoder()
        self.encoder.set_watermark("bytes", WATERMARK)

    def __call__(self, image: ImageArray) -> ImageArray:
        """(H, W, 3) uint8 RGB to the same; the image must have at least 256 x 256 pixels."""
        marked = self.encoder.encode(np.ascontiguousarray(image[..., ::-1]), WATERMARK_METHOD)  # BGR
        return np.ascontiguousarray(marked[..., ::-1]).astype(np.uint8)


class Guard:
    """Safety checker and watermark, each where wanted and available; loaded for the first image."""

    def __init__(
        self,
        safety: bool = True,
        watermark: bool = True,
        safety_source: str | Path | None = None,  # folder or name of the checker's weights
        required: bool = False,  # refuse to go on without what is wanted, instead of a warning
    ) -> None:
        self.wants_safety, self.wants_watermark, self.required = safety, watermark, required
        self.safety_source = safety_source or SAFETY_MODEL
        self._told = False

    def prepare(self) -> Guard:
        """Itself, loaded now: what cannot be had is told before any image is made. Raises UserError if required."""
        _ = self.checker, self.watermark
        return self

    @cached_property
    def checker(self) -> SafetyChecker | None:
        """The safety checker, or None after one warning."""
        try:
            return SafetyChecker(self.safety_source) if self.wants_safety else None
        except ImportError:
            reason = "the package diffusers is not installed (pip install diffusers)"
        except (OSError, ValueError):
            reason = f"there are no weights of {self.safety_source} here"
        self._missing(f"The safety checker is off: {reason}", "safety-checker")
        return None

    @cached_property
    def watermark(self) -> Watermark | None:
        """The watermark, or None after one warning."""
        try:
            return Watermark() if self.wants_watermark else None
        except ImportError:
            reason = "the package invisible-watermark is not installed (pip install invisible-watermark)"
        self._missing(f"Images get no watermark: {reason}", "watermark")
        return None

    def _missing(self, problem: str, flag: str) -> None:
        if self.required:
            raise UserError(f"{problem}, or leave out --{flag}")
        logger.warning("%s; --no-%s leaves out this line.", problem, flag)

    def __call__(self, images: Sequence[ImageArray]) -> list[ImageArray]:
        """The images as they may be saved."""
        made = list(images)
        if not made:
            return made
        if self.checker is not None:
            made, found = self.checker(made)
            if any(found):
                logger.warning("%d of %d images are black: the safety checker objects.", sum(found), len(found))
        return made if self.watermark is None else [self._marked(p, self.watermark) for p in made]

    def _marked(self, image: ImageArray, watermark: Watermark) -> ImageArray:
        if image.shape[0] * image.shape[1] >= WATERMARK_MIN_PIXELS:
            return watermark(image)
        if not self._told:
            self._told = True
            logger.warning("Images below 256x256 pixels get no watermark: they cannot hold it.")
        return image


def read_watermark(path: Path) -> str | None:
    """The text of the published watermark, if an image file holds it, else None.

    A few of its bits may be lost: rounding and saturated colors flip some in most images.

    Raises:
        UserError: the file is no image, or `invisible-watermark` is not installed.
    """
    try:
        from imwatermark import WatermarkDecoder
    except ImportError as err:
        raise UserError("the package invisible-watermark is not installed; pip install invisible-watermark") from err
    image = np.asarray(read_image(path))
    if image.shape[0] * image.shape[1] < WATERMARK_MIN_PIXELS:
        return None
    bits = WatermarkDecoder("bits", 8 * len(WATERMARK)).decode(np.ascontiguousarray(image[..., ::-1]), WATERMARK_METHOD)
    read = np.asarray(bits, np.uint8)
    wanted = np.unpackbits(np.frombuffer(WATERMARK, np.uint8))
    return WATERMARK.decode() if (read == wanted).mean() >= WATERMARK_AGREEMENT else None
