"""The heat map of the mixtures: density by pixel, drawn over a canvas or a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from layout_predictor.inference.heatmap import blank, density_maps, draw_heatmap, read_picture
from layout_predictor.inference.objects import FoundObject
from layout_predictor.inference.predictor import Prediction
from layout_predictor.LayoutTransformer.model.mixture import Mixture
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.util import UserError


def mixture_at(*centres: tuple[float, float]) -> Mixture:
    """One narrow Gaussian an object; the other four components have no weight."""
    n = len(centres)
    pi, same = torch.zeros(n, 5), torch.full((n, 5), 0.08)
    pi[:, 0] = 1
    x, y = (torch.tensor(values)[:, None].expand(n, 5) for values in zip(*centres, strict=True))
    return Mixture(pi, x, y, same, same, torch.zeros(n, 5))


def test_density_is_highest_at_the_mean_and_sums_to_one() -> None:
    maps = density_maps(mixture_at((0.25, 0.5), (0.7, 0.3)), 40, 20)
    assert maps.shape == (2, 20, 40)
    for values, (x, y) in zip(maps, ((0.25, 0.5), (0.7, 0.3)), strict=True):
        row, column = np.unravel_index(values.argmax(), values.shape)
        assert abs((column + 0.5) / 40 - x) <= 0.0251
        assert abs((row + 0.5) / 20 - y) <= 0.0501
        assert abs(values.mean() - 1) < 0.02  # the integral over the unit square


def test_drawing_colours_where_the_object_is() -> None:
    found = (FoundObject("a cat", "cat", (2, 5)),)
    layout = Layout((LayoutObject("a cat", 0.25, 0.5),))
    image = draw_heatmap(Prediction(layout, found, mixture_at((0.25, 0.5))), blank(400, 400))
    pixels = np.asarray(image).astype(int)
    assert pixels.shape == (400, 400, 3)
    assert pixels[150, 100, 0] - pixels[150, 100, 2] > 30  # reddish above the centre
    assert np.abs(pixels[200, 390] - 245).max() <= 1


def test_pictures_and_sizes(tmp_path: Path) -> None:
    Image.new("L", (30, 20), 128).save(tmp_path / "grey.png")
    assert read_picture(tmp_path / "grey.png").shape == (20, 30, 3)
    assert read_picture(tmp_path / "grey.png", (10, 40)).shape == (40, 10, 3)
    (tmp_path / "text.png").write_text("no picture")
    for name in ("text.png", "missing.png"):
        with pytest.raises(UserError, match="cannot be read"):
            read_picture(tmp_path / name)
    for size in ((0, 10), (10, 100_000)):
        with pytest.raises(UserError, match="cannot be drawn"):
            blank(*size)
