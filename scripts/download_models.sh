#!/usr/bin/env bash
# Fetch the published diffusion models into models/: all of them (tens of GB), or those named.
#   bash scripts/download_models.sh ldm/celeba256 ldm/inpainting_big
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/_download.sh

ROOT="${ROOT:-models}"
declare -A MODELS=(
  [ldm/celeba256]=latent-diffusion/celeba.zip
  [ldm/ffhq256]=latent-diffusion/ffhq.zip
  [ldm/lsun_churches256]=latent-diffusion/lsun_churches.zip
  [ldm/lsun_beds256]=latent-diffusion/lsun_bedrooms.zip
  [ldm/text2img256]=latent-diffusion/text2img.zip
  [ldm/cin256]=latent-diffusion/cin.zip
  [ldm/semantic_synthesis256]=latent-diffusion/semantic_synthesis256.zip
  [ldm/semantic_synthesis512]=latent-diffusion/semantic_synthesis.zip
  [ldm/bsr_sr]=latent-diffusion/sr_bsr.zip
  [ldm/layout2img-openimages256]=latent-diffusion/layout_model.zip
  [ldm/inpainting_big]=latent-diffusion/inpainting_big.zip
  [ldm/text2img-large]=latent-diffusion/nitro/txt2img-f8-large/model.ckpt
  [ldm/cin256-v2]=latent-diffusion/nitro/cin/model.ckpt
  [rdm/rdm768x768]=rdm/model.ckpt
)
fetch_named "$@"
