"""Compiled blocks: the numbers of the usual ones, in both directions; a clear word where nothing can be compiled."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldm.generation.settings import GenerateSettings, check_settings
from ldm.modules.compiling import check_compiler, compile_blocks
from ldm.spacetime.control import SpatialControl
from ldm.spacetime.optimize import set_block_checkpoints
from ldm.util import UserError
from tests.golden_data import relative_error
from tests.tiny_model import CONTEXT, SIZE, TWO, TinyDiffusion

NEEDS = [pytest.mark.slow, pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")]
BACKENDS = ["aot_eager", pytest.param("inductor", marks=NEEDS)]  # the first traces, and compiles no C++


@pytest.fixture(autouse=True)
def _forget_compiled_code() -> Iterator[None]:
    yield
    torch.compiler.reset()


def call(unet: nn.Module, controlled: bool = True) -> tuple[Tensor, Tensor]:
    """A guided call of the U-Net, and the gradient to the weights of the objects, or else to the latents."""
    torch.manual_seed(0)
    x, context = torch.randn(2, 4, SIZE, SIZE), torch.randn(2, *CONTEXT)
    control = SpatialControl.build([TWO], lambda texts: torch.randn(len(texts), *CONTEXT)) if controlled else None
    argument = torch.ones(2, 1, requires_grad=True) if controlled else x.requires_grad_()
    out = unet(x, torch.tensor([500, 500]), context, control=control, weights=argument if controlled else None)
    return out.detach(), torch.autograd.grad(out.square().sum(), argument)[0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("checkpoints", [False, True])
def test_compiled_blocks_compute_the_same(backend: str, checkpoints: bool) -> None:
    unet = TinyDiffusion().unet
    expected = [call(unet, controlled) for controlled in (True, False)]
    with torch.no_grad():
        plain = unet(torch.ones(1, 4, SIZE, SIZE), torch.tensor([7]), torch.ones(1, *CONTEXT))
    names = list(unet.state_dict())
    set_block_checkpoints(unet, checkpoints)
    assert compile_blocks(unet, "cpu", backend) == 13  # 5 residual blocks, 4 transformers with two parts each
    for controlled, want in zip((True, False), expected, strict=True):
        for got, value in zip(call(unet, controlled), want, strict=True):
            assert relative_error(got, value) < 1e-5
    with torch.no_grad():
        got = unet(torch.ones(1, 4, SIZE, SIZE), torch.tensor([7]), torch.ones(1, *CONTEXT))
    assert relative_error(got, plain) < 1e-5
    assert list(unet.state_dict()) == names


def test_blocks_are_graphs_without_breaks() -> None:
    from torch._dynamo.utils import counters

    unet = TinyDiffusion().unet
    compile_blocks(unet, "cpu", "aot_eager")
    counters.clear()
    call(unet)
    assert counters["stats"]["unique_graphs"] > 0 and not counters["graph_break"]


def test_a_copy_of_a_compiled_model_computes_too() -> None:
    unet = TinyDiffusion().unet
    compile_blocks(unet, "cpu", "aot_eager")
    assert relative_error(call(copy.deepcopy(unet))[0], call(unet)[0]) < 1e-6


def test_without_a_compiler_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Any, **options: Any) -> Any:
        def run(x: Tensor) -> Tensor:
            raise RuntimeError("\nno working C++ compiler was found\nlong story")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(UserError, match=r"device 'cpu' \(no working C\+\+ compiler.*g\+\+") as told:
        check_compiler("cpu")
    assert "\n" not in str(told.value)


def test_packed_and_compiled_are_not_for_one_run() -> None:
    with pytest.raises(UserError, match="leave one of them out"):
        check_settings(GenerateSettings(("a cat",), compile=True, pack_weights=True))
