#!/bin/bash
#SBATCH --job-name=vtg-r1
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@300
# Not run here: no such machine was available.
# GRPO on the paper's sixteen GPUs, from a finished cold start. The folder with outputs/ must be one that both nodes see.
# gloo, which carries what is not a tensor on a GPU, listens on the interface of the host's name. Where that is the loopback (Debian's 127.0.1.1), nodes wait for each
# other for minutes and fail: the interface of the default route is named. Export another GLOO_SOCKET_IFNAME if your nodes talk over another one.
# sbatch examples/slurm_two_nodes.sh RUN_NAME MODEL ANNOTATIONS VIDEO_ROOT
set -euo pipefail
run=$1 model=$2 annotations=$3 videos=$4
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export run model annotations videos first
srun --kill-on-bad-exit bash -c 'source .venv/bin/activate
export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$(ip -o -4 route show default | cut -d " " -f 5 | head -n 1)}
accelerate launch --config_file configs/accelerate/two_nodes.yaml \
  --machine_rank "$SLURM_NODEID" --main_process_ip "$first" -m vtg_r1.grpo --params configs/paper_7b.yaml \
  -p run_name "$run" -p resume true -p model "$model" -p annotations "$annotations" -p video_root "$videos"'
