"""Computes the tables of plan.md, largest micro-batches per GPU and communication per step, in seconds and without a GPU.

    python benchmarks/plan.py

Each line is one of ``janus-train plan +stage=2 model=MODEL --gpus N --gpu GPU --cached-codes``.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from janus_train.planning.gpus import gpu_named
from janus_train.planning.plan import POLICIES, StagePlan
from janus_train.planning.run_plan import plan_run
from janus_train.planning.state import SHARDING_STRATEGIES

GPU_NAMES = ("rtx4090", "a100-40gb", "a100-80gb", "h200")
GPUS = {"janus_pro_1b": (1, 8, 128), "janus_pro_7b": (8, 256)}


def stage_plan(model: str, num_gpus: int, gpu: str) -> StagePlan:
    return plan_run(["+stage=2", f"model={model}"], gpu_named(gpu), num_gpus, 0.5, cached_codes=True).stage


def micro_batches() -> None:
    print(f"| model | GPUs | {' | '.join(SHARDING_STRATEGIES)} |\n|---|---|{'---|' * len(SHARDING_STRATEGIES)}")
    for model, numbers in GPUS.items():
        for num_gpus in numbers:
            for gpu in GPU_NAMES:
                stage = stage_plan(model, num_gpus, gpu)
                cells = [
                    " / ".join(str(stage.largest_micro_rows(sharding, policy) or "-") for policy in POLICIES)
                    for sharding in SHARDING_STRATEGIES
                ]
                print(f"| {model} | {num_gpus} x {gpu} | {' | '.join(cells)} |")


def communication() -> None:
    print(
        "| model | GPUs | sharding | rows at a time | GB in a node | GB across nodes | s sending | s computing | "
        "sending / computing |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for model, numbers in GPUS.items():
        num_gpus = numbers[-1]
        stage = stage_plan(model, num_gpus, "a100-40gb")
        rows = stage.rows_per_gpu
        for sharding in SHARDING_STRATEGIES:
            options = {o.traffic: o for o in (stage.option(sharding, "none", size) for size in (1, rows))}
            seconds = [option.communication_s for option in options.values()]
            computing = stage.option(sharding, "none", 1).compute_s
            sizes = f"1 / {rows}" if len(seconds) > 1 else "any"
            columns = (
                " / ".join(f"{sent.within_node / 1e9:.1f}" for sent in options),
                " / ".join(f"{sent.across_nodes / 1e9:.1f}" for sent in options),
                " / ".join(f"{s:.2f}" for s in seconds),
                f"{computing:.2f}",
                " / ".join(f"{100 * s / computing:.0f}" for s in seconds) + " %",
            )
            print(f"| {model} | {num_gpus} | {sharding} | {sizes} of {rows} | {' | '.join(columns)} |")


if __name__ == "__main__":
    micro_batches()
    print()
    communication()
