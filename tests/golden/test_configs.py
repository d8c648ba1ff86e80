"""The 33 published configs: each builds, names only allowed targets, and has the state dict of its listing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch

from ldm.util import NO_MODULE, get_obj_from_str, instantiate_from_config, load_config
from tests.golden_data import ROOT, SPEC_FOLDER, listing

INDEX = SPEC_FOLDER / "statedicts" / "index.json"
# Ours, and those of the later release, which tests/unit/test_stable_diffusion_2.py knows.
OWN = ("configs/emoji/", "configs/stable-diffusion/v2-", "configs/stable-diffusion/v1-inpainting")


def published() -> list[str]:
    """Paths of the configs in the project that have a model and are not the emoji world's."""
    paths = [p.relative_to(ROOT).as_posix() for top in ("configs", "models") for p in (ROOT / top).rglob("*.yaml")]
    return sorted(p for p in paths if not p.startswith(OWN))


def sections(config: Any) -> Iterator[Mapping[str, Any]]:
    """Every section of a config that names a target."""
    if isinstance(config, Mapping):
        if "target" in config:
            yield config
        for value in config.values():
            yield from sections(value)


def test_all_of_them_are_here() -> None:
    assert len(published()) == 33
    if not INDEX.exists():
        pytest.skip("the index of the published configs is not beside this checkout")
    assert published() == sorted(json.loads(INDEX.read_text()))


@pytest.mark.parametrize("path", published())
def test_targets_exist_and_paths_are_relative(path: str) -> None:
    from omegaconf import OmegaConf

    config = OmegaConf.to_container(load_config(ROOT / path))
    for section in sections(config):
        assert callable(get_obj_from_str(section["target"])), section["target"]
    text = (ROOT / path).read_text()
    assert not any(word in text for word in (": /", "~", "home/", "export/"))


@pytest.mark.parametrize("path", published())
def test_state_dict_equals_its_listing(path: str) -> None:
    expected = listing(f"statedicts/{path.removesuffix('.yaml').replace('/', '__')}.tsv")
    config = load_config(ROOT / path)
    with torch.device("meta"):
        model = instantiate_from_config(config.model)
    own = {k: (tuple(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in model.state_dict().items()}
    outside = ["loss."]  # listings of first stages leave out the training loss
    if not any(k.startswith("cond_stage_model.") for k in expected):
        outside.append("cond_stage_model.transformer.")  # and that of Stable Diffusion its text encoder
    own = {k: v for k, v in own.items() if not k.startswith(tuple(outside))}
    assert own.keys() == expected.keys()
    assert own == expected


def test_first_stages_of_diffusion_configs_are_the_published_ones() -> None:
    """A diffusion config's first stage has the shape of the published first stage that it names."""
    from omegaconf import OmegaConf

    for path in published():
        params = load_config(ROOT / path).model.params
        stage = params.get("first_stage_config")
        if stage is None or "ckpt_path" not in stage.params:
            continue
        own = load_config(ROOT / stage.params.ckpt_path.replace("model.ckpt", "config.yaml")).model.params
        assert OmegaConf.to_container(own.ddconfig) == OmegaConf.to_container(stage.params.ddconfig), path
        assert own.embed_dim == stage.params.embed_dim
        assert own.get("n_embed") == stage.params.get("n_embed")
        assert params.get("cond_stage_config") in NO_MODULE or "target" in params.cond_stage_config
