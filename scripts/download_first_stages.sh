#!/usr/bin/env bash
# Fetch the published first stages into models/first_stage_models: all of them, or those named.
#   bash scripts/download_first_stages.sh kl-f8 vq-f4
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/_download.sh

ROOT="${ROOT:-models/first_stage_models}"
declare -A MODELS
for name in kl-f4 kl-f8 kl-f16 kl-f32 vq-f4 vq-f4-noattn vq-f8 vq-f8-n256 vq-f16; do
  MODELS[$name]="latent-diffusion/$name.zip"
done
fetch_named "$@"
