"""What a run computes on: refuses GPUs that cannot be used as configured, and describes the rest in a line."""

from __future__ import annotations

from collections import Counter

import torch

from janus_train import gpu
from janus_train.config import Config
from janus_train.errors import UserError
from janus_train.train.distributed.context import Distributed


def check_gpu_is_used() -> None:
    """Raise `UserError` if this machine's GPU cannot be used and the run would train on the CPU instead."""
    problem = gpu.unusable_gpu()
    if problem is not None:
        raise UserError(f"{problem}; with CUDA_VISIBLE_DEVICES= (empty) a run trains on the CPU")


def check_precision(config: Config, device: torch.device) -> None:
    """Raise `UserError` if the run is in bf16 and the current GPU does not compute in it."""
    if config.precision == "bf16" and device.type == "cuda" and not gpu.computes_in_bf16():
        raise UserError(
            f"precision=bf16: {gpu.name(device)} does not compute in bf16, GPUs from sm_80 on do: use precision=fp32"
        )


def description(group: Distributed, config: Config, is_compiled: bool) -> str:
    """What the run computes on and how: ``2 x NVIDIA A100-SXM4-40GB, bf16, compiled, ZeRO-1``. All ranks call it."""
    if group.device.type == "cuda":
        counts = Counter(group.gather([torch.cuda.get_device_name(group.device)]))
        devices = " and ".join(f"{count} x {name}" for name, count in counts.items())
    else:
        threads = _count(torch.get_num_threads(), "thread", "threads") + (" each" if group.world_size > 1 else "")
        origin = " by OMP_NUM_THREADS" if group.threads_are_users else ""
        devices = f"{_count(group.world_size, 'process', 'processes')} on the CPU ({threads}{origin})"
    words = [devices, config.precision]
    if is_compiled:
        words.append("compiled")
    if group.world_size > 1 or group.backend != "ddp":
        words.append(group.backend_name)
    return ", ".join(words)


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
