#!/usr/bin/env bash
# The three stages as jobs; each starts when the previous one has succeeded.
#   launch/slurm/three_stages.sh OUTPUT_DIR [key=value ...]
#   NODES="16 16 16" ACCELERATE_CONFIG=launch/accelerate/zero1.yaml launch/slurm/three_stages.sh outputs/1b model=janus_pro_1b
# NODES: nodes of each stage, or one number for all. SBATCH_OPTIONS: more options for sbatch, such as "--partition=gpu --time=24:00:00".
# While a stage is preempted or requeued the next one waits. If a stage fails, the later ones are removed from the queue.
set -euo pipefail
out=${1:?usage: launch/slurm/three_stages.sh OUTPUT_DIR [key=value ...]}
shift
read -ra nodes <<<"${NODES:-2}"
read -ra options <<<"${SBATCH_OPTIONS:-}"
before=()
mkdir -p logs # sbatch does not create it
for stage in 1 2 3; do
  count=${nodes[$((stage - 1))]:-${nodes[-1]}}
  job=$(sbatch --parsable --job-name="janus-stage$stage" --nodes="$count" "${options[@]}" "${before[@]}" \
    launch/slurm/train.sbatch "+stage=$stage" "output_dir=$out/stage$stage" "$@")
  job=${job%%;*} # a federated cluster prints JOB;CLUSTER
  echo "stage $stage: job $job on $count nodes${before[0]:+, after ${before[0]##*:}}"
  before=("--dependency=afterok:$job" --kill-on-invalid-dep=yes)
done
