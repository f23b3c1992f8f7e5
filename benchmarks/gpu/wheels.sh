#!/usr/bin/env bash
# Wheels into .whl for a machine that has PyTorch and no network: bash benchmarks/gpu/wheels.sh [PYTHON VERSION, 3.12]
# Versions are those of constraints.txt; torch and what comes with it are the machine's own.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-3.12}
rm -rf .whl && mkdir .whl
flags=(--no-deps --only-binary=:all: --python-version "$python" --implementation cp)
for platform in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do flags+=(--platform "${platform}_x86_64"); done
wheels=() sources=()
version() { grep -i "^$1==" constraints.txt; }
# what such an image usually lacks; transformers, accelerate, einops and Jinja2 are taken as they are there
for name in hydra-core omegaconf pydantic pydantic_core annotated-types typing-inspection typing_extensions datasets multiprocess \
  dill webdataset braceexpand hjson psutil; do
  wheels+=("$(version "$name")")
done
for name in antlr4-python3-runtime deepspeed; do sources+=("$(version "$name")"); done # published as sources only; pure Python
python3 -m pip download -q "${flags[@]}" -d .whl "${wheels[@]}"
DS_BUILD_OPS=0 python3 -m pip wheel -q --no-deps -w .whl "${sources[@]}"
du -sh .whl
