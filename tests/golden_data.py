"""Golden vectors: outputs of the published implementation on small models, and their weights.

Every weight and input is a function of (seed, name, shape) alone (`tensor`, `parameter`), so a module with
the published state-dict names can be filled with the very weights of the reference (`fill_`) and its output
compared with the stored arrays (`golden`). A case is looked for in `tests/golden/`, then in
`../shared/golden/` beside the checkout; a test whose case is in neither place is skipped.

`make gpu-check` runs some of the tests on a card, which GOLDEN_DEVICE names.

Bars on `relative_error`: 1e-4 for one module or a sampling chain, 1e-3 for a gradient through a chain.
"""

from __future__ import annotations

import ast
import json
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
GOLDEN_FOLDERS = (ROOT / "tests" / "golden", ROOT.parent / "shared" / "golden")
SPEC_FOLDER = ROOT.parent / "shared" / "spec"
SEED = 1
DEVICE = torch.device(os.environ.get("GOLDEN_DEVICE", "cpu"))
if DEVICE.type == "cuda":  # of convolutions, which otherwise round to ten bits
    torch.backends.cudnn.allow_tf32 = False


def tensor(seed: int, name: str, shape: Sequence[int], scale: float = 1.0) -> Tensor:
    """Standard normal float32 numbers of `shape` times `scale`, drawn for this name."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(f"{seed}:{name}".encode())))
    return torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32)).to(DEVICE) * scale


def parameter(seed: int, name: str, shape: Sequence[int]) -> Tensor:
    """The reference's value of a parameter.

    Matrices and kernels: normal / sqrt(fan in). Vectors: 0.1 * normal, plus 1 if the name ends in "weight".
    """
    if len(shape) >= 2:
        return tensor(seed, name, shape, math.prod(shape[1:]) ** -0.5)
    return tensor(seed, name, shape, 0.1) + (1.0 if name.endswith("weight") else 0.0)


@torch.no_grad()
def fill_(module: nn.Module, seed: int = SEED, prefix: str = "") -> nn.Module:
    """Give every parameter of `module` (not its buffers) its reference value, in place, on the device."""
    module.to(DEVICE)
    for name, p in module.named_parameters():
        p.copy_(parameter(seed, prefix + name, p.shape))
    return module


def listing(path: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name -> (shape, dtype) of a state-dict listing such as "statedicts/x.tsv"; skips the test if absent."""
    file = SPEC_FOLDER / path
    if not file.exists():
        pytest.skip(f"state-dict listing {path} is not beside this checkout")
    rows = (line.split("\t") for line in file.read_text().splitlines())
    return {name: (tuple(ast.literal_eval(shape)), dtype) for name, shape, dtype in rows}


def state_dict(seed: int, path: str) -> dict[str, Tensor]:
    """A checkpoint with the names of a listing: reference values, zeros for integer entries."""
    return {
        name: parameter(seed, name, shape)
        if dtype.startswith("float")
        else torch.zeros(shape, dtype=getattr(torch, dtype))
        for name, (shape, dtype) in listing(path).items()
    }


def golden(case: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Config and arrays of a case such as "ldm/unet_sd"; skips the calling test if it cannot be found."""
    folder_name, _, name = case.partition("/")
    for folder in GOLDEN_FOLDERS:
        for index in sorted((folder / folder_name).glob("index*.json")):
            cases = json.loads(index.read_text())["cases"]
            if name in cases and (index.parent / f"{name}.npz").exists():
                with np.load(index.parent / f"{name}.npz") as arrays:
                    return cases[name]["config"], dict(arrays)
    pytest.skip(f"golden case {case} is neither in tests/golden nor in ../shared/golden")


def relative_error(out: Tensor | np.ndarray, reference: Tensor | np.ndarray) -> float:
    """||out - reference|| / ||reference|| over all entries, in float64; infinite where the shapes differ."""
    arrays = (x.detach().cpu() if isinstance(x, Tensor) else x for x in (out, reference))
    a, b = (np.asarray(x, dtype=np.float64) for x in arrays)
    if a.shape != b.shape:
        return math.inf
    return float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(b)), 1e-300)
