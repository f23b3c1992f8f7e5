"""A trace of a few steps by torch's profiler (`run.profile`), to see where their time goes.

In: the end of every step, on the main process. Out: one file in the run's folder, ``profile/steps-N-M.json.gz``, which
ui.perfetto.dev shows. Nothing of the training changes; the traced steps take longer.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from janus_train.config import ProfileConfig
from janus_train.errors import one_line

logger = logging.getLogger(__name__)


class StepProfiler:
    """Traces ``options.active`` steps, once: those after ``wait`` steps without and ``warmup`` steps with a profiler that
    discards its results. ``first_step``: the first step that this process trains.
    """

    def __init__(self, options: ProfileConfig, folder: Path, first_step: int):
        self._folder = folder
        self._first = first_step + options.wait + options.warmup
        self._last = self._first + options.active - 1
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        self._profile: profile | None = profile(
            activities=activities,
            schedule=schedule(wait=options.wait, warmup=options.warmup, active=options.active, repeat=1),
        )
        self._profile.start()

    def step(self, number: int) -> None:
        """Step ``number`` is done."""
        if self._profile is None:
            return
        if number < self._last:
            self._profile.step()
            return
        self._profile.stop()
        path = self._folder / f"steps-{self._first}-{self._last}.json.gz"
        try:
            self._folder.mkdir(exist_ok=True)
            part = path.with_name(f"part-{path.name}")  # the ending decides on compression
            self._profile.export_chrome_trace(str(part))
            os.replace(part, path)
            logger.info(
                f"step {number}: the trace of steps {self._first} to {self._last} is {path} (ui.perfetto.dev shows it)"
            )
        except OSError as error:
            logger.warning(f"step {number}: its trace could not be written ({one_line(error)}); training continues")
        self._profile = None

    def close(self) -> None:
        """The run ends."""
        if self._profile is not None:
            self._profile.stop()
            self._profile = None
            logger.warning(f"run.profile: there is no trace, because the run ended before step {self._last}")
