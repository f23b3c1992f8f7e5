"""Finds the rank that slows down the others.

In: each rank's own times per step, without waiting for others: ``data_s`` until its rows arrived, ``compute_s`` in the
model's forward passes. Out: a log line for a slow rank, and metrics. The whole step takes equally long on all ranks, so
its time does not show which one is slow. (With sharded weights, forward passes also wait for other ranks; the data
times do not.)
"""

from __future__ import annotations

import logging
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from janus_train.train.distributed.step_sync import StepReport

logger = logging.getLogger(__name__)

NOTICEABLE_S = 0.01
"""Smaller differences between ranks, in seconds, are never reported."""


class ForwardTimer:
    """Measures the seconds in ``model``'s forward passes; on a GPU by events, which do not synchronise.

    For a wrapped model it measures the inner one: DDP's wrapper may wait for other ranks.
    """

    def __init__(self, model: nn.Module, device: torch.device):
        self._on_gpu = device.type == "cuda"
        self._spans: list[tuple[Any, Any]] = []
        self._pass_start: Any = None
        model_inside = getattr(model, "module", model)
        model_inside.register_forward_pre_hook(lambda *_: self._begin())
        model_inside.register_forward_hook(lambda *_: self._end())

    def take(self) -> float:
        """Seconds since the last call.

        Call it after the step's loss was read, so that the GPU has finished the passes.
        """
        spans, self._spans = self._spans, []
        if self._on_gpu:
            return sum(start.elapsed_time(end) for start, end in spans) / 1000  # elapsed_time is in ms
        return sum(end - start for start, end in spans)

    def _begin(self) -> None:
        if torch.is_grad_enabled():  # not in previews
            self._pass_start = self._now()

    def _end(self) -> None:
        if self._pass_start is not None:
            self._spans.append((self._pass_start, self._now()))
            self._pass_start = None

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class StragglerWatch:
    """Averages times over ``every`` steps, and reports a rank slower than ``ratio`` times the others' median."""

    def __init__(self, every: int, ratio: float):
        self._every_steps, self._ratio = every, ratio
        self._window: list[Sequence[StepReport]] = []

    def times(self, step: int, reports: Sequence[StepReport]) -> dict[str, list[float]]:
        """Every ``every`` steps the means per rank, ``rank_data_s`` and ``rank_compute_s``.

        The result is empty at the other steps.
        """
        self._window.append(reports)
        if step % self._every_steps:
            return {}
        window, self._window = self._window, []
        ranks = range(len(reports))
        data = [statistics.fmean(reports[r].data_s for reports in window) for r in ranks]
        compute = [statistics.fmean(reports[r].compute_s for reports in window) for r in ranks]
        for line in stragglers(data, compute, [report.host for report in reports], self._ratio):
            logger.warning("step %d: %s", step, line)
        return {"rank_data_s": [round(s, 4) for s in data], "rank_compute_s": [round(s, 4) for s in compute]}


def stragglers(data: Sequence[float], compute: Sequence[float], hosts: Sequence[str], ratio: float) -> list[str]:
    """A line for the slowest rank, if its data and compute time is over ``ratio`` times the others' median.

    It says how many of its host's ranks are as slow: if all are, the host is slow and not one GPU.
    """
    rank_times = [d + c for d, c in zip(data, compute, strict=True)]
    if len(rank_times) < 2:
        return []
    slowest = max(range(len(rank_times)), key=rank_times.__getitem__)
    median = statistics.median(rank_times[:slowest] + rank_times[slowest + 1 :])
    if rank_times[slowest] <= ratio * median or rank_times[slowest] - median < NOTICEABLE_S:
        return []
    slow_by_host = Counter(host for host, s in zip(hosts, rank_times, strict=True) if s > ratio * median)
    host = hosts[slowest]
    return [
        f"slow host {host}: rank {slowest} needs {data[slowest]:.3f} s for data and {compute[slowest]:.3f} s for the "
        f"forward pass, {rank_times[slowest] / max(median, 1e-9):.1f} times the others' median; {slow_by_host[host]} of its "
        f"{list(hosts).count(host)} ranks are that slow"
    ]
