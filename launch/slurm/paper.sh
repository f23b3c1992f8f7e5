#!/usr/bin/env bash
# The paper's runs on the paper's clusters (A100-40GB, 8 per node), as three dependent jobs.
#   launch/slurm/paper.sh 1b OUTPUT_DIR BASE [key=value ...]   16 nodes
#   launch/slurm/paper.sh 7b OUTPUT_DIR BASE [key=value ...]   32 nodes; 16 in stage 3, whose steps have 128 rows
# BASE: folder of the pretrained base that stage 1 starts from. SBATCH_OPTIONS as for three_stages.sh.
# Memory: the 1B's state is 7.9 GB per GPU with a sharded optimiser (ZeRO-1), the 7B's 2.4 GB with everything sharded
# (ZeRO-3); a row's activations are 7.7 and 18.9 GB. So both fit with one row per micro-batch, without recomputation.
set -euo pipefail
usage="usage: launch/slurm/paper.sh 1b|7b OUTPUT_DIR BASE [key=value ...]"
size=${1:?$usage} out=${2:?$usage} base=${3:?$usage}
shift 3
case $size in
  1b) nodes="16 16 16" backend=zero1 ;;
  7b) nodes="32 32 16" backend=zero3 ;;
  *) echo "$usage" >&2 && exit 2 ;;
esac
export NODES=${NODES:-$nodes} ACCELERATE_CONFIG=${ACCELERATE_CONFIG:-launch/accelerate/$backend.yaml}
# shellcheck disable=SC2016  # each stage fills in its own number
exec launch/slurm/three_stages.sh "$out" "model=janus_pro_$size" "model.base=$base" \
  'data.recipe=data_recipes/stage${stage}.yaml' batch.micro_rows=1 "$@"
