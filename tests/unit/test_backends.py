"""The CompVis backend: what it makes of a LatentDiffusion and its config."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ldm.backends.compvis import CompVis
from ldm.modules.distributions.distributions import DiagonalGaussianDistribution
from tests.tiny_world import CONFIG


class Diffusion:
    """Latents are images of half the size; the first stage adds noise of deviation 1."""

    def __init__(self, random: bool = True) -> None:
        self.random, self.seen = random, torch.zeros(0)

    def encode_first_stage(self, x: Tensor) -> Any:
        self.seen = x
        mean = x[..., ::2, ::2]
        return DiagonalGaussianDistribution(torch.cat([mean, torch.zeros_like(mean)], 1)) if self.random else mean

    def get_first_stage_encoding(self, posterior: Any, generator: torch.Generator | None = None) -> Tensor:
        return 2 * (posterior if isinstance(posterior, Tensor) else posterior.sample(generator))

    def decode_first_stage(self, z: Tensor) -> Tensor:
        return z / 2


def test_images_are_in_zero_to_one_and_the_models_in_minus_one_to_one() -> None:
    model, image = Diffusion(), torch.rand(1, 3, 4, 4)
    backend = CompVis(model, CONFIG, 7.5)
    latents = backend.encode_image(image)
    assert torch.equal(model.seen, 2 * image - 1)
    assert torch.allclose(backend.decode(latents), image[..., ::2, ::2])
    assert backend.decode(torch.tensor([-9.0, 0.0, 9.0])).tolist() == [0.0, 0.5, 1.0]


def test_a_random_latent_per_generator_is_its_own() -> None:
    def latents(*seeds: int, random: bool = True) -> Tensor:
        backend = CompVis(Diffusion(random), CONFIG, 7.5)
        return backend.encode_image(torch.zeros(1, 3, 4, 4), [torch.Generator().manual_seed(seed) for seed in seeds])

    assert torch.equal(latents(1, 2), torch.cat([latents(1), latents(2)])) and not latents(1).equal(latents(2))
    assert torch.equal(*latents(1, 2, random=False))  # a code of a VQ model


def test_numbers_of_the_config_and_models_without_a_first_stage() -> None:
    backend = CompVis(Diffusion(), CONFIG, 7.5)
    assert (backend.channels, backend.factor, backend.image_size) == (4, 4, 32)
    folded = copy.deepcopy(CONFIG)
    folded["model"]["params"]["first_stage_config"]["params"]["fold"] = 2
    assert CompVis(Diffusion(), folded, 7.5).image_size == 64
    pixels = CompVis(object(), {"model": {"params": {"channels": 3, "image_size": [24, 24]}}}, 1.0)
    assert (pixels.channels, pixels.factor, pixels.image_size) == (3, 1, 24)
    assert pixels.decode(torch.zeros(1)).item() == 0.5
