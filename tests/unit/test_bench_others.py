"""Rows of other programs in the benchmark of a call."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import others
from bench.page import lines

INPUTS = (torch.randn(2, 4, 8, 8), torch.tensor([500, 500]), torch.randn(2, 7, 6))


class Tiny(nn.Module):
    """Takes what a U-Net takes."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(6, 4)

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return (
            self.convolution(x) * torch.cos(t[:, None, None, None] / 1000)
            + self.linear(context).mean(1)[..., None, None]
        )


@pytest.fixture
def tiny() -> nn.Module:
    return Tiny().eval().requires_grad_(False)


def test_without_a_package_there_is_a_line_in_place_of_the_row(monkeypatch: pytest.MonkeyPatch, tiny: Any) -> None:
    monkeypatch.setattr(others, "PACKAGES", {"Nothing": "no_such_package"})
    (line,) = others.absent()
    assert "Nothing" in line and "no_such_package" in line
    result = {"settings": {"threads": 2}, "rows": {"a": {"median": 1.0, "ratio": 1.0}}, "absent": [line]}
    shown = lines("calls", result)
    assert shown[-1] == line and "2 threads" in shown[1]


def test_openvino_computes_the_same(tiny: nn.Module) -> None:
    pytest.importorskip("openvino")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call = others.openvino(tiny, INPUTS)
    torch.testing.assert_close(torch.as_tensor(call()), tiny(*INPUTS), rtol=1e-4, atol=1e-5)
    assert [name.split()[0] for name in others.calls(tiny, INPUTS)] == ["OpenVINO"]


def test_a_row_of_something_else_is_refused(monkeypatch: pytest.MonkeyPatch, tiny: nn.Module) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(others, "openvino", lambda model, inputs: lambda: model(*inputs) * 1.01)
    with pytest.raises(RuntimeError, match="differs from ours"):
        others.calls(tiny, INPUTS)
