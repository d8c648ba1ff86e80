"""Packed weights: the results of the usual layers, in both directions, and nothing kept that has changed."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldm.extensions.packed import available, pack, packed, room, unpack
from ldm.generation import pipeline as pipelines
from tests.golden_data import relative_error

pytestmark = pytest.mark.skipif(not available(), reason="this PyTorch has no oneDNN")

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "3x3": (nn.Conv2d(8, 16, 3, padding=1), (2, 8, 6, 5)),
    "1x1": (nn.Conv2d(8, 16, 1), (2, 8, 6, 5)),
    "stride": (nn.Conv2d(8, 16, 3, stride=2, padding=1), (2, 8, 6, 6)),
    "dilated": (nn.Conv2d(8, 16, 3, padding=2, dilation=2), (2, 8, 7, 7)),
    "unpadded": (nn.Conv2d(8, 16, 3, bias=False), (1, 8, 7, 7)),
    "padded more": (nn.Conv2d(8, 16, 1, padding=1), (1, 8, 7, 7)),
    "groups": (nn.Conv2d(8, 16, 3, padding=1, groups=2), (1, 8, 7, 7)),
    "in tiles": (nn.Conv2d(320, 352, 3, padding=1), (2, 320, 4, 4)),
    "in tiles, parts": (nn.Conv2d(320, 320, 3, padding=1, bias=False), (1, 320, 62, 40)),
    "too odd for tiles": (nn.Conv2d(320, 320, 3, padding=1), (2, 320, 5, 6)),
    "linear": (nn.Linear(12, 20), (2, 7, 12)),
    "linear without bias": (nn.Linear(12, 20, bias=False), (3, 12)),
}


def result(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Output, and the gradient of a sum of its squares."""
    x = x.clone().requires_grad_()
    out = layer(x)
    return out.detach(), torch.autograd.grad(out.square().sum(), x)[0]


@pytest.mark.parametrize("name", LAYERS)
def test_packed_layers_are_the_usual_ones(name: str) -> None:
    layer, shape = copy.deepcopy(LAYERS[name])
    layer.requires_grad_(False)
    for size in (shape, (shape[0] + 1, *shape[1:])):  # packed for the first, used for both
        x = torch.randn(size)
        expected = result(layer, x)
        with packed(layer) as count:
            assert count == 1
            assert relative_error(layer(x), expected[0]) < (1e-6 if "in tiles" not in name else 1e-5)
            for got, want in zip(result(layer, x), expected, strict=True):
                assert relative_error(got, want) < 1e-5
                assert got.shape == want.shape
        assert "forward" not in layer.__dict__


def test_one_layer_takes_images_of_any_size() -> None:
    layer = nn.Conv2d(320, 320, 3, padding=1).requires_grad_(False)
    inputs = [torch.randn(2, 320, *size) for size in ((8, 8), (7, 8), (8, 8), (2, 2), (1, 1), (6, 10))]
    expected = [layer(x) for x in inputs]
    with packed(layer):
        for x, want in zip(inputs, expected, strict=True):
            assert relative_error(layer(x), want) < 1e-5


def test_fewer_products_take_more_memory() -> None:
    layer = nn.Conv2d(320, 640, 3, padding=1, bias=False).requires_grad_(False)
    assert (room(layer), room(layer, tiles=False)) == (2 * 16 * 320 * 640 * 4, 2 * 9 * 320 * 640 * 4)


def test_other_layers_stay_as_they_are() -> None:
    class Special(nn.Linear):
        pass

    model = nn.ModuleDict(
        {
            "trained": nn.Linear(4, 4),
            "in double": nn.Linear(4, 4).double().requires_grad_(False),
            "special": Special(4, 4).requires_grad_(False),
            "reflect": nn.Conv2d(4, 4, 3, padding_mode="reflect"),
        }
    )
    model["reflect"].requires_grad_(False)
    assert pack(model) == []


def test_changed_layers_compute_with_what_they_are_now() -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(8, 8, 3, padding=1).requires_grad_(False), torch.randn(1, 8, 5, 5)
    names = list(layer.state_dict())
    pack(layer)
    before = layer(x)
    with torch.no_grad():
        layer.weight.mul_(2)
        layer.bias.mul_(2)  # type: ignore[union-attr]
    assert relative_error(layer(x), 2 * before) < 1e-6
    assert list(layer.state_dict()) == names
    double = copy.deepcopy(layer).double()
    assert double(x.double()).dtype == torch.float64
    assert relative_error(double(x.double()).float(), 2 * before) < 1e-6
    layer.requires_grad_(True)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    unpack(layer)
    assert "forward" not in layer.__dict__


def test_weights_of_large_models_are_packed_where_there_is_room(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Twice their size, in half of the memory that is free; it is told, with the flag that forbids it."""

    def is_packed(wanted: bool | None, free: int) -> bool:
        model = nn.Sequential(nn.Linear(8, 8)).requires_grad_(False)
        assert room(model) == 2 * 8 * 8 * 4
        monkeypatch.setattr("ldm.extensions.packed.free_memory", lambda: free)
        pipelines.pack_weights(SimpleNamespace(model=model), wanted)  # type: ignore[arg-type]
        return "forward" in model[0].__dict__

    assert not is_packed(None, 1 << 40) and is_packed(True, 0) and not caplog.messages  # small
    monkeypatch.setattr(pipelines, "LARGE", 512)
    assert not is_packed(None, 1023) and not is_packed(None, 0) and not is_packed(False, 1 << 40)
    assert not caplog.messages and is_packed(None, 1024) and "--no-pack-weights leaves it" in caplog.text


def test_where_room_is_short_convolutions_keep_all_their_products(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = nn.Conv2d(512, 512, 3, padding=1).requires_grad_(False), torch.randn(1, 512, 8, 8)
    with packed(layer, tiles=False):
        direct = layer(x)
    monkeypatch.setattr(pipelines, "LARGE", 512)
    for free in (room(layer) * 2, room(layer) * 2 - 1):
        monkeypatch.setattr("ldm.extensions.packed.free_memory", lambda free=free: free)
        pipelines.pack_weights(SimpleNamespace(model=layer), None)  # type: ignore[arg-type]
        assert torch.equal(layer(x), direct) == (free < room(layer) * 2)
        unpack(layer)


def test_a_copy_has_weights_of_its_own() -> None:
    layer, x = nn.Linear(6, 6).requires_grad_(False), torch.randn(2, 6)
    pack(layer)
    layer(x)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.weight.zero_()
        other.bias.zero_()
    assert not other(x).any() and layer(x).any()


def test_autocast_goes_the_usual_way() -> None:
    layer, x = nn.Linear(6, 6).requires_grad_(False), torch.randn(2, 6)
    pack(layer)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_a_missing_operator_means_no_packing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldm.extensions.packed.available", lambda: False)
    layer: Any = nn.Linear(4, 4).requires_grad_(False)
    assert pack(layer) == [] and "forward" not in layer.__dict__
