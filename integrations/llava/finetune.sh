#!/usr/bin/env bash
# The paper's final run: LLaVA-1.5-7B after its pretraining, every parameter but the vision tower's, one epoch of
# 8 GPUs x 16 samples in bf16 under ZeRO-3, with a weight for each task.
#
#   WEIGHTS=weights.json DATA=mixture/mixture.json IMAGES=images bash finetune.sh [LLaVA's own arguments]
#
# LLaVA's own arguments win over those below. The batch stays 128 on 4 GPUs with
#   GPUS=4 ... bash finetune.sh --gradient_accumulation_steps 2
set -euo pipefail

: "${WEIGHTS:?expected the task weights, a JSON file}"
: "${DATA:?expected the training data, a JSON file with a task in each record}"
: "${IMAGES:?expected the folder of the images}"
OUTPUT=${OUTPUT:-checkpoints/llava-v1.5-7b-cotbal}
# Vicuna and the projector of LLaVA's first stage. For a model that has its projector, set PROJECTOR to nothing.
MODEL=${MODEL:-lmsys/vicuna-7b-v1.5}
PROJECTOR=${PROJECTOR-checkpoints/llava-v1.5-7b-pretrain/mm_projector.bin}
TOWER=${TOWER:-openai/clip-vit-large-patch14-336}
ZERO=$(python -c 'from importlib.resources import files; print(files("cotbal.integrations.deepspeed") / "zero3.json")')

exec deepspeed --num_gpus "${GPUS:-8}" --module cotbal.integrations.llava --weights "$WEIGHTS" -- \
    --deepspeed "$ZERO" \
    --model_name_or_path "$MODEL" \
    ${PROJECTOR:+--pretrain_mm_mlp_adapter "$PROJECTOR"} \
    --vision_tower "$TOWER" \
    --data_path "$DATA" \
    --image_folder "$IMAGES" \
    --output_dir "$OUTPUT" \
    --version v1 \
    --mm_projector_type mlp2x_gelu \
    --mm_vision_select_layer -2 \
    --mm_use_im_start_end False \
    --mm_use_im_patch_token False \
    --image_aspect_ratio pad \
    --group_by_modality_length True \
    --model_max_length 2048 \
    --lazy_preprocess True \
    --num_train_epochs 1 \
    --per_device_train_batch_size 16 \
    --gradient_accumulation_steps 1 \
    --learning_rate 2e-5 \
    --weight_decay 0 \
    --lr_scheduler_type cosine \
    --warmup_ratio 0.03 \
    --bf16 True \
    --tf32 True \
    --gradient_checkpointing True \
    --dataloader_num_workers 4 \
    --save_strategy steps \
    --save_steps 50000 \
    --save_total_limit 1 \
    --logging_steps 1 \
    --report_to tensorboard \
    "$@"
