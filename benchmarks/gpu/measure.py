"""What the steps share: the device, timing, and how a step says its results."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import torch

PREFIX = "RESULT "
"""Begins a line of a step's output that holds a result as JSON."""


def say(**values: object) -> None:
    """Print a result for the runner to collect."""
    print(PREFIX + json.dumps(values), flush=True)


def has_gpu() -> bool:
    return torch.cuda.is_available()


def device() -> torch.device:
    return torch.device("cuda" if has_gpu() else "cpu")


def wait() -> None:
    """Wait until the device has done all it was given."""
    if has_gpu():
        torch.cuda.synchronize()


def seconds(call: Callable[[], object], repeats: int = 10, warm_up: int = 3) -> float:
    """The median time of ``call`` in seconds, on a GPU by its own events."""
    for _ in range(warm_up):
        call()
    times = []
    for _ in range(repeats):
        if has_gpu():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        else:
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def wall_seconds(call: Callable[[], object]) -> float:
    """The time of one ``call`` by the clock, with all that the device does for it."""
    wait()
    began = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - began


def peak_gb() -> dict[str, float]:
    """Peak memory since the last reset, in GB: what tensors took, and what the allocator held."""
    if not has_gpu():
        return {}
    return {
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
        "held_gb": torch.cuda.max_memory_reserved() / 1e9,
    }


def one_line(error: BaseException, length: int = 300) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:length]
