#!/bin/bash
#SBATCH --job-name=vtg-r1
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gres=gpu:8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@300
# Not run here: no such machine was available.
# The cold start and GRPO on one node of eight GPUs. Five minutes before the time is up Slurm sends SIGTERM to the step, which saves a checkpoint and ends. Submit the same command again to go on from it.
# Slurm itself requeues the job only after a preemption or the failure of a node.
# sbatch examples/slurm_one_node.sh RUN_NAME ANNOTATIONS VIDEO_ROOT
set -euo pipefail
run=$1 annotations=$2 videos=$3
source .venv/bin/activate
stage() {  # stage NAME ACCELERATE_CONFIG PARAMETER…
  local name=$1 config=$2; shift 2
  srun --kill-on-bad-exit accelerate launch --config_file "$config" -m "vtg_r1.$name" --params configs/paper_7b.yaml \
    -p run_name "$run" -p resume true -p video_root "$videos" "$@"
}
test -e "outputs/sft/$run/metrics.json" || stage sft configs/accelerate/fsdp2.yaml -p annotations "$annotations/coldstart.jsonl"
stage grpo configs/accelerate/fsdp2.yaml -p annotations "$annotations/rl.jsonl" -p model "outputs/sft/$run/model"
