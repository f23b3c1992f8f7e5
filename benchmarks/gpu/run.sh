#!/usr/bin/env bash
# The checks on a machine with a GPU and without a network: bash benchmarks/gpu/run.sh [STEP ...]
# Before, on a machine with a network: bash benchmarks/gpu/wheels.sh, and take .whl along. What the machine has (torch for its
# driver, Triton, a compiler) is used as it is.
set -euo pipefail
cd "$(dirname "$0")/../.."
export HF_HUB_OFFLINE=1 WANDB_MODE=offline HYDRA_FULL_ERROR=1
if compgen -G ".whl/*.whl" >/dev/null; then
  site=$(mktemp -d)
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" .whl/*.whl
  export PYTHONPATH=$site:$PWD
else
  export PYTHONPATH=$PWD
fi
exec python3 -m benchmarks.gpu --out "${OUT:-outputs/gpu}" "$@"
