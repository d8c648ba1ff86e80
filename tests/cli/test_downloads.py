"""The download scripts, on archives of the test's own behind a file:// address."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.golden_data import ROOT

pytestmark = pytest.mark.skipif(
    not (shutil.which("bash") and shutil.which("curl") and shutil.which("unzip")), reason="needs bash, curl and unzip"
)


def fetch(script: str, root: Path, mirror: Path, *names: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ROOT": str(root), "BASE_URL": f"file://{mirror}"}
    command = ["bash", str(ROOT / "scripts" / script), *names]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_archives_and_plain_files(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror" / "latent-diffusion"
    (mirror / "nitro" / "cin").mkdir(parents=True)
    for name in ("kl-f8", "celeba"):
        with zipfile.ZipFile(mirror / f"{name}.zip", "w") as archive:
            archive.writestr("model.ckpt", name)
    (mirror / "nitro" / "cin" / "model.ckpt").write_text("cin")
    stages = fetch("download_first_stages.sh", tmp_path / "stages", mirror.parent, "kl-f8")
    models = fetch("download_models.sh", tmp_path / "models", mirror.parent, "ldm/celeba256", "ldm/cin256-v2")
    assert stages.returncode == models.returncode == 0, stages.stderr + models.stderr
    written = {str(p.relative_to(tmp_path)): p.read_text() for p in tmp_path.glob("*/**/model*") if p.is_file()}
    assert {k: v for k, v in written.items() if not k.startswith("mirror")} == {
        "stages/kl-f8/model.ckpt": "kl-f8",
        "models/ldm/celeba256/model.ckpt": "celeba",
        "models/ldm/cin256-v2/model.ckpt": "cin",
    }
    again = fetch("download_first_stages.sh", tmp_path / "stages", mirror.parent, "kl-f8")
    assert "already there" in again.stdout


@pytest.mark.parametrize(("name", "words"), [("kl-f9", "is none of: kl-f16"), ("kl-f4", "could not be fetched")])
def test_failures_speak_and_leave_nothing(tmp_path: Path, name: str, words: str) -> None:
    done = fetch("download_first_stages.sh", tmp_path / "stages", tmp_path / "none", name)
    assert done.returncode == 2 and words in done.stderr
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
