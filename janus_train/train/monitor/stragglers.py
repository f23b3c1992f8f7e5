"""Which rank holds up the others: each rank's rank_times times per step, and a line for one that stands out.

A rank's rank_times times are what it does not spend waiting for others: ``data_s`` until its rows were there, ``compute_s`` in the
model's forward passes. The whole step takes equally long on all ranks, so that alone names no culprit. (Where the weights
are sharded, forward passes wait for other ranks' shards and grow alike; the data times still tell.)
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
"""Differences between ranks below this are never named: nobody waits for them."""


class ForwardTimer:
    """Seconds in ``model``'s forward passes since the last `take`; on a GPU by events, which hold up nothing.

    Of a wrapped model it is the one inside: DDP's wrapper may wait for other ranks.
    """

    def __init__(self, model: nn.Module, device: torch.device):
        self._on_gpu = device.type == "cuda"
        self._spans: list[tuple[Any, Any]] = []
        self._pass_start: Any = None
        model_inside = getattr(model, "module", model)
        model_inside.register_forward_pre_hook(lambda *_: self._begin())
        model_inside.register_forward_hook(lambda *_: self._end())

    def take(self) -> float:
        """After the step's loss was read, so that the GPU is done with all of them."""
        spans, self._spans = self._spans, []
        if self._on_gpu:
            return sum(start.elapsed_time(end) for start, end in spans) / 1000  # given in ms
        return sum(end - start for start, end in spans)

    def _begin(self) -> None:
        if torch.is_grad_enabled():  # previews are no steps
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
    """``every``: steps over which times are averaged; ``ratio``: how much slower than the others' median is named."""

    def __init__(self, every: int, ratio: float):
        self._every_steps, self._ratio = every, ratio
        self._window: list[Sequence[StepReport]] = []

    def times(self, step: int, reports: Sequence[StepReport]) -> dict[str, list[float]]:
        """``rank_data_s`` and ``rank_compute_s``: means by rank over the last ``every`` steps, at each of these; else nothing."""
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

    Says how many of its host's ranks are as slow, for then it is the host and not one of its GPUs.
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
