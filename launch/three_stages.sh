#!/usr/bin/env bash
# The three stages one after the other; each starts from the previous one.  launch/three_stages.sh OUTPUT_DIR [key=value ...]
#   launch/three_stages.sh outputs/tiny                                    the embedded default, minutes on two cores
#   launch/three_stages.sh outputs/1b model=janus_pro_1b data.recipe=...   the paper's run
# ACCELERATE_CONFIG names an accelerate configuration for several processes. Run the same command again to resume.
set -euo pipefail
out=${1:?usage: launch/three_stages.sh OUTPUT_DIR [key=value ...]}
shift
config=${ACCELERATE_CONFIG:+--config_file "$ACCELERATE_CONFIG"}
for stage in 1 2 3; do
  # shellcheck disable=SC2086  # two words or none
  accelerate launch --quiet $config train.py "+stage=$stage" "output_dir=$out/stage$stage" "$@"
done
