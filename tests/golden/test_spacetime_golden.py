"""The two published presets against the golden vectors of both releases, round by round."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import clip
import pytest
import torch
from clip.model import CLIP
from torch import Tensor

from ldm.backends.compvis import CompVis
from ldm.models.diffusion.plms import PLMSSampler
from ldm.spacetime.control import SpatialControl
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.spacetime.objective import ClipObjective
from ldm.spacetime.optimize import optimize
from ldm.spacetime.presets import PRESETS, Preset
from tests.golden_data import DEVICE, fill_, golden, relative_error, tensor
from tests.golden_model import golden_diffusion

CASES = [  # (case, rounds of it); one of each release is quick
    ("init_two_objects_10steps", 2),
    ("head_edge_object", 1),
    pytest.param("init_two_objects", 3, marks=pytest.mark.slow),
    pytest.param("init_edge_object", 2, marks=pytest.mark.slow),
    pytest.param("head_edge_object", 2, marks=pytest.mark.slow),
    pytest.param("head_two_objects", 3, marks=pytest.mark.slow),
    pytest.param("head_three_objects", 2, marks=pytest.mark.slow),
]


@dataclass
class Bundle:
    """The small CLIP of the golden vectors as a ClipBundle."""

    model: CLIP
    resolution: int
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    tokenize = staticmethod(clip.tokenize)


def make_case(config: dict[str, Any], preset: Preset) -> tuple[Any, SpatialControl, ClipObjective]:
    """Diffusion model, control and objective of a case."""
    pairs = zip(config["names"], config["boxes"], strict=True)
    layout = Layout(tuple(LayoutObject(name, x, y) for name, (x, y) in pairs), config["prompt"])
    contexts = {entry.local_prompt: tensor(1, f"st/local{i}", (7, 48)) for i, entry in enumerate(layout.objects)}
    control = SpatialControl.build([layout], lambda texts: torch.stack([contexts[text] for text in texts]))
    clip_model = fill_(CLIP(**config["clip"]), 1, "clip.").eval().requires_grad_(False)
    bundle = Bundle(clip_model, config["clip"]["image_resolution"])
    objective = preset.objective(bundle, [config["prompt"]], [layout])
    model = CompVis(golden_diffusion(config["ldm"]), {"model": {"params": config["ldm"]}}, config["guidance"])
    return model, control, objective


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """x_T, conditional and unconditional context."""
    return tensor(1, "st/xT", (1, 4, 8, 8)), tensor(1, "st/c", (1, 7, 48)), tensor(1, "st/uc", (1, 7, 48))


@pytest.mark.parametrize(("case", "rounds"), CASES)
def test_rounds(case: str, rounds: int) -> None:
    config, arrays = golden(f"spacetime/{case}")
    preset = PRESETS["iccv-2023" if case.startswith("head") else "april-2023"]
    model, control, objective = make_case(config, preset)
    x_T, conditional, unconditional = inputs()
    result = optimize(
        model,
        PLMSSampler(model),
        control,
        objective,
        replace(preset, rounds=rounds),
        S=config["S"],
        batch_size=1,
        shape=x_T.shape[1:],
        x_T=x_T,
        conditioning=conditional,
        unconditional_conditioning=unconditional,
        unconditional_guidance_scale=config["guidance"],
    )
    for i, entry in enumerate(result.history):
        for name, bar in (("before", 1e-4), ("grad", 1e-3), ("after", 1e-4)):
            ours = entry[name][..., 0].T  # (S, N, 1) to (N, S)
            assert relative_error(ours, arrays[name][i]) < bar, (i, name)
        assert relative_error(entry["latents"], arrays["latent"][i]) < 1e-4
        assert relative_error(entry["images"], arrays["image"][i]) < 1e-4
        assert entry["loss"]["total"].item() == pytest.approx(arrays["loss"][i], rel=1e-4)
    assert relative_error(result.latents, arrays["latent"][rounds - 1]) < 1e-4


@pytest.mark.parametrize("case", ["init_two_objects", "head_two_objects", "head_three_objects", "init_edge_object"])
def test_one_guided_call(case: str) -> None:
    config, arrays = golden(f"spacetime/{case}")
    preset = PRESETS["iccv-2023" if case.startswith("head") else "april-2023"]
    model, control, _ = make_case(config, preset)
    x_T, conditional, unconditional = inputs()
    weights = (torch.from_numpy(arrays["coef"])[:, None] * preset.scales(control.present)).to(DEVICE)  # (N, 1)
    with torch.no_grad():
        out = model.apply_model(
            torch.cat([x_T, x_T]),
            torch.tensor([981, 981], device=DEVICE),
            torch.cat([unconditional, conditional]),
            control=preset.adapt(control),
            weights=weights,
        )
    assert relative_error(out, arrays["eps_uncond_cond"]) < 1e-4
