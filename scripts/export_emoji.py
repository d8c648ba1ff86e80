r"""Turn training checkpoints of the emoji world into the fp16 safetensors that the project ships.

    python scripts/export_emoji.py first-stage logs/first_stage --out logs/first_stage/first_stage.safetensors
    python scripts/export_emoji.py model logs/unet --first-stage logs/decoder/first_stage.safetensors \
        --out models/emoji/model.safetensors
    python scripts/export_emoji.py clip logs/clip --out models/emoji/clip.safetensors
    python scripts/export_emoji.py detector logs/detector --out models/emoji/detector.safetensors
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ldm.cli import common
from ldm.errors import UserError
from ldm.files import save_safetensors
from ldm.util import load_config, load_into, load_model_from_config, load_state_dict

SCENES = 1024  # for the statistics of the latents


def load_run(run: Path) -> Any:
    """The model of a run with its last weights."""
    config = load_config(run / "config.yaml")
    params = config.model.params
    for section in (params, params.get("first_stage_config", {}).get("params", {})):
        if "ckpt_path" in section:
            section.ckpt_path = None  # what training began from; the run's own checkpoint holds everything
    return load_model_from_config(config, run / "checkpoints" / "last.ckpt")


def export_first_stage(run: Path, out: Path) -> None:
    """Fold the latents' statistics over fresh scenes into the first stage of `run` and save it."""
    import numpy as np
    import torch

    from ldm.data.emoji.scenes import EmojiScenes

    model = load_run(run)
    data = EmojiScenes(size=SCENES, seed=7, split="validation")
    images = torch.from_numpy(np.stack([data[i]["image"] for i in range(SCENES)])).permute(0, 3, 1, 2)
    mean, std = model.normalize_latents(images)
    with torch.no_grad():
        parts = images[:256].split(32)
        errors = [(model(part, sample_posterior=False)[0].clamp(-1, 1) - part).square() for part in parts]
    psnr = 10 * torch.log10(4 / torch.cat(errors).mean())
    logging.info("latents had mean %s, std %s; %.1f dB on fresh scenes", mean.tolist(), std.tolist(), psnr)
    save_safetensors(out, _halved(model))


def export_model(run: Path, out: Path, first_stage: Path | None = None) -> None:
    """Save the averaged U-Net, the text encoder and the first stage of `run` under their CompVis names.

    Buffers that follow from the config are left out: in half precision they would only lose digits.
    A `first_stage` replaces the run's own; its encoder must be the same, since the U-Net knows its latents.
    """
    model = load_run(run)
    if first_stage is not None:
        replace_first_stage(model.first_stage_model, first_stage)
    skip = (*model.derived_buffers, "model_ema.")
    save_safetensors(out, {k: v for k, v in _halved(model).items() if not k.startswith(skip)})


def replace_first_stage(current: Any, path: Path) -> None:
    """Load the first stage at `path`. UserError if its encoder differs by more than half precision rounds."""
    state = load_state_dict(path)
    kept = ("encoder.", "quant_conv.")
    encoder = {name: value.clone() for name, value in current.state_dict().items() if name.startswith(kept)}
    load_into(current, state, str(path))
    for name, before in encoder.items():
        if (current.get_parameter(name) - before).abs().max() > 1e-2 * before.abs().max():
            raise UserError(f"{path} has another encoder ({name}), so its decoder can't read this model's latents")


def export_clip(run: Path, out: Path) -> None:
    """Save the CLIP of `run` under OpenAI's names."""
    from ldm.modules.encoders.openai_clip import save_clip

    save_clip(load_state_dict(run / "checkpoints" / "last.ckpt"), out)


def export_detector(run: Path, out: Path) -> None:
    """Save the detector of `run`."""
    save_safetensors(out, _halved(load_run(run)))


def _halved(model: Any) -> dict[str, Any]:
    return {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}


EXPORTS: dict[str, Callable[..., None]] = {
    "first-stage": export_first_stage,
    "model": export_model,
    "clip": export_clip,
    "detector": export_detector,
}


def build_parser() -> common.Parser:
    """What to export and where to."""
    parser = common.Parser(__doc__)
    parser.add_argument("part", choices=sorted(EXPORTS))
    parser.add_argument("run", type=Path, help="folder of a training run")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--first-stage", type=Path, help="for a model: take this first stage instead of the run's")
    return parser


def action(options: argparse.Namespace, progress: common.Progress) -> Iterator[str]:
    """Export; yields what was written."""
    given = dict(vars(options))
    if "first_stage" in given and options.part != "model":
        raise UserError("--first-stage goes with 'model' alone")
    logging.getLogger().setLevel(logging.INFO)
    EXPORTS[given.pop("part")](**given)
    yield f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB"


main = common.Script(build_parser, action)

if __name__ == "__main__":
    sys.exit(main())
