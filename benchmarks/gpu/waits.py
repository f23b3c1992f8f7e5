"""A step of the 1B's stage 2: where the host waits for the device, how long the device is busy, and with what."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.measure import device, has_gpu, say, wall_seconds
from benchmarks.gpu.training import MICRO_ROWS, ROWS
from benchmarks.rows import full_rows
from benchmarks.train import Bench, config_of


def main() -> None:
    config = config_of("janus_pro_1b" if has_gpu() else "tiny", 2)
    samples, _ = full_rows(config, ROWS if has_gpu() else 2)
    step = Bench(config, samples, MICRO_ROWS * config.batch.row_tokens, device()).our_step()
    for _ in range(2):
        step()
    if has_gpu():
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            step()
            torch.cuda.set_sync_debug_mode("default")
        places = [f"{Path(warning.filename).name}:{warning.lineno}" for warning in found]
        say(what="waits for the device in a step", number=len(places), places=sorted(set(places)))
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if has_gpu() else [])]
    with profile(activities=activities) as profiler:
        wall_s = wall_seconds(step)
    averages = profiler.key_averages()
    key = "self_device_time_total" if has_gpu() else "self_cpu_time_total"
    print(averages.table(sort_by=key, row_limit=40, max_name_column_width=90))
    events = sorted((event for event in averages if getattr(event, key) > 0), key=lambda e: -getattr(e, key))
    busy_s = sum(getattr(event, key) for event in events) / 1e6
    longest = [[event.key[:70], event.count, round(getattr(event, key) / 1e3, 1)] for event in events[:12]]
    say(what="a step's profile", wall_s=wall_s, busy_s=busy_s, longest_ms=longest)


if __name__ == "__main__":
    main()
