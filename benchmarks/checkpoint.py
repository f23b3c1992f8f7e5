"""Measures how long a save delays training, and how long it takes in all, in total and per GB.

    python benchmarks/checkpoint.py --folder /some/disk +stage=2 model.text.hidden_size=1024 ...
    accelerate launch --config_file launch/accelerate/zero2.yaml --num_processes 2 benchmarks/checkpoint.py ...

The model has random weights; the benchmark saves what a run with this configuration would save, with the same code.
Between saves the ranks compute matrix products, and check on the save as a run does at the end of each step.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import torch

from janus_train.compose import compose_config
from janus_train.model.build import build
from janus_train.model.parts import set_trainable
from janus_train.train.backends import make_backend
from janus_train.train.checkpoint.saver import CheckpointSaver
from janus_train.train.distributed.context import Distributed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="a folder on the disk to measure"
    )
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--step-s", type=float, default=0.2, help="seconds of work between two checks on the save")
    options, overrides = parser.parse_known_args()

    config = compose_config(overrides)
    distributed = Distributed(config)
    torch.manual_seed(0)
    janus = build(config.model)
    set_trainable(janus, config.train_parts)
    backend = make_backend(janus, config, distributed)
    backend.init_optimizer_state()
    shard_bytes = sum(piece.weight.numel() * (1 + len(piece.moments)) * 4 for piece in backend.checkpoint_shards())
    [total] = distributed.sum([float(shard_bytes)])
    gigabytes = total / 1e9
    run = options.folder / "checkpoint-benchmark"
    if distributed.is_main:
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir(parents=True)
        print(
            f"{distributed.backend} on {distributed.world_size} x {distributed.device.type}: "
            f"{total / 12 / 1e6:.0f} M trained parameters, {gigabytes:.2f} GB per checkpoint"
        )
    saver = CheckpointSaver(run, backend, config.run.model_copy(update={"keep_checkpoints": 1}), recipe={})
    for number in range(1, options.saves + 1):
        saver.blocked_s = saver.save_s = 0.0
        cpu_s = time.thread_time()  # CPU time, because load on the machine does not change it
        saver.begin(number, {})
        cpu_s = time.thread_time() - cpu_s
        snapshot_s = saver.blocked_s
        while distributed.sum([float(not saver.is_written)]) != [0.0]:
            work(options.step_s, distributed.device)
        saver.finish()
        if distributed.is_main:
            print(
                f"save {number}: steps held {saver.blocked_s:.3f} s (snapshot {snapshot_s:.3f} s, of that {cpu_s:.3f} s on the CPU), "
                f"{saver.blocked_s / gigabytes:.3f} s/GB; "
                f"written after {saver.save_s:.2f} s, {saver.save_s / gigabytes:.2f} s/GB"
            )
    saver.close()
    if distributed.is_main:
        shutil.rmtree(run)


def work(seconds: float, device: torch.device) -> None:
    """Computes matrix products, as a step does."""
    a = torch.randn(512, 512, device=device)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        a = torch.nn.functional.normalize(a @ a)


if __name__ == "__main__":
    main()
