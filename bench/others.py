"""Other programs that compute the call of `bench.unet`, where their packages are installed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from bench.counting import Call

PACKAGES = {"OpenVINO": "openvino"}  # by the name of the program
TOLERANCE = 1e-3  # greatest difference from our output, of its greatest value


def absent() -> list[str]:
    """A line for every program that has no row, since its package isn't installed."""
    return [
        f"no row of {program}: it needs the package {package} (pip install {package})"
        for program, package in PACKAGES.items()
        if not _installed(package)
    ]


def calls(unet: nn.Module, inputs: Sequence[Tensor]) -> dict[str, Call]:
    """The calls by the names of their rows, each with the architecture and the weights of `unet`.

    Args:
        unet: in float32 on the CPU, not packed.
        inputs: latents (R, 4, h, w), timesteps (R) and contexts (R, L, C).

    Raises:
        RuntimeError: a program computes something else, by more than `TOLERANCE`.
    """
    made = {f"OpenVINO {version('openvino')}, plain": openvino(unet, inputs)} if _installed("openvino") else {}
    with torch.no_grad():
        ours = unet(*inputs)
    for name, call in made.items():
        difference = float((torch.as_tensor(call()) - ours).abs().max() / ours.abs().max())
        if not difference <= TOLERANCE:
            raise RuntimeError(f"{name} differs from ours by {difference:.1e} of the greatest value")
    return made


def openvino(model: nn.Module, inputs: Sequence[Tensor]) -> Call:
    """A call of the model as OpenVINO compiles it for the CPU, in float32, with as many threads as PyTorch has.

    Shapes are fixed to those of the inputs. The model isn't changed; the call gives its first output.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # reports each import to its makers
    import openvino as ov

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tracing is deprecated, and takes shapes for constants
        converted = ov.convert_model(
            model, example_input=tuple(inputs), input=[tuple(tensor.shape) for tensor in inputs]
        )
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads(), "NUM_STREAMS": 1}
    compiled = ov.compile_model(converted, "CPU", settings)
    arrays = [tensor.numpy() for tensor in inputs]
    return lambda: compiled(arrays)[0]


def _installed(package: str) -> bool:
    return find_spec(package) is not None
