#!/usr/bin/env bash
# As finetune.sh, with LoRA on the language model at LLaVA's own settings: rank 128, a learning rate of 2e-4, and
# 2e-5 for the projector, which is trained whole.
#
#   WEIGHTS=weights.json DATA=mixture/mixture.json IMAGES=images bash finetune_lora.sh [LLaVA's own arguments]
set -euo pipefail

OUTPUT=${OUTPUT:-checkpoints/llava-v1.5-7b-cotbal-lora} exec bash "$(dirname "$0")/finetune.sh" \
    --lora_enable True \
    --lora_r 128 \
    --lora_alpha 256 \
    --learning_rate 2e-4 \
    --mm_projector_lr 2e-5 \
    "$@"
