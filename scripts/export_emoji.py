"""Turn training checkpoints of the emoji world into the fp16 safetensors that the project ships.

    python scripts/export_emoji.py first-stage logs/first_stage --out logs/first_stage/first_stage.safetensors
    python scripts/export_emoji.py model logs/unet --out models/emoji/model.safetensors
    python scripts/export_emoji.py clip logs/clip --out models/emoji/clip.safetensors
    python scripts/export_emoji.py detector logs/detector --out models/emoji/detector.safetensors
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ldm.util import UserError, load_config, load_model_from_config, load_state_dict, save_safetensors  # noqa: E402

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

    from ldm.data.emoji import EmojiScenes

    model = load_run(run)
    data = EmojiScenes(size=SCENES, seed=7, split="validation")
    images = torch.from_numpy(np.stack([data[i]["image"] for i in range(SCENES)])).permute(0, 3, 1, 2)
    mean, std = model.normalise_latents(images)
    with torch.no_grad():
        parts = images[:256].split(32)
        errors = [(model(part, sample_posterior=False)[0].clamp(-1, 1) - part).square() for part in parts]
    psnr = 10 * torch.log10(4 / torch.cat(errors).mean())
    logging.info("latents had mean %s, std %s; %.1f dB on fresh scenes", mean.tolist(), std.tolist(), psnr)
    save_safetensors(out, {k: v.half() for k, v in model.state_dict().items()})


def export_model(run: Path, out: Path) -> None:
    """Save the averaged U-Net, the text encoder and the first stage of `run` under their CompVis names.

    Buffers that follow from the config are left out: in half precision they would only lose digits.
    """
    model = load_run(run)
    skip = (*model.derived_buffers, "model_ema.")
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_safetensors(out, {k: v for k, v in state.items() if not k.startswith(skip)})


def export_clip(run: Path, out: Path) -> None:
    """Save the CLIP of `run` under OpenAI's names."""
    from ldm.spacetime.clip import save_clip

    save_clip(load_state_dict(run / "checkpoints" / "last.ckpt"), out)


def export_detector(run: Path, out: Path) -> None:
    """Save the detector of `run`."""
    model = load_run(run)
    save_safetensors(out, {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()})


EXPORTS = {
    "first-stage": export_first_stage,
    "model": export_model,
    "clip": export_clip,
    "detector": export_detector,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; exit code 2 for a user's mistake."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=EXPORTS)
    parser.add_argument("run", type=Path, help="folder of a training run")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    args = parser.parse_args(argv)
    try:
        EXPORTS[args.part](args.run, args.out)
    except UserError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
