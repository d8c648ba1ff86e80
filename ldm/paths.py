"""Where the project's own files are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SD_CONFIG = Path("configs/stable-diffusion/v1-inference.yaml")
SD_CKPT = Path("models/ldm/stable-diffusion-v1/model.ckpt")
EMOJI_CONFIG = Path("configs/emoji/inference.yaml")
EMOJI_CKPT = Path("models/emoji/model.safetensors")
EMOJI_CLIP = Path("models/emoji/clip.safetensors")
RESULTS = ROOT / "docs" / "results"


def project_file(path: Path) -> Path:
    """`path` in the working folder where it exists there, else in the project's own folder."""
    return path if path.is_absolute() or path.exists() else ROOT / path
