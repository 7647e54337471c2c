#!/bin/bash
# Not run here: no such machine was available.
# Rollouts by a vLLM server on GPU 7, training on the other seven. The server listens on this machine only; name another --host only inside a closed network.
# The last line of the server's options is what TRL's trainer needs of it (vLLM 0.30 or 0.31): weights sent by NCCL, log-probabilities as sampled, prompts with images.
# examples/vllm_server.sh MODEL ANNOTATIONS VIDEO_ROOT
set -euo pipefail
model=$1 annotations=$2 videos=$3
CUDA_VISIBLE_DEVICES=7 VLLM_SERVER_DEV_MODE=1 vllm serve "$model" --host 127.0.0.1 --port 8000 --dtype bfloat16 \
  --weight-transfer-config '{"backend": "nccl"}' --logprobs-mode processed_logprobs --max-logprobs -1 --enable-scale-out &
trap 'kill %1' EXIT
CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6 accelerate launch --config_file configs/accelerate/ddp.yaml --num_processes 7 -m vtg_r1.grpo --params configs/single_gpu_lora.yaml \
  -p model "$model" -p annotations "$annotations" -p video_root "$videos" -p time_encoding interleaved \
  -p vllm server -p vllm_server 127.0.0.1:8000 -p prompts_per_step 7 -p per_device_batch_size 8
