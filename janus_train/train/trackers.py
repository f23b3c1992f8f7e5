"""W&B and TensorBoard, if asked for: whatever they do, training goes on, for metrics.jsonl is the record.

Without a key, or with a host that does not answer within a minute, W&B writes into the run's folder (``wandb sync`` uploads
it later). Nothing here asks a question or waits without a bound.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker

from janus_train.config import LoggingConfig
from janus_train.errors import first_line

WANDB_INIT_S = 60
WANDB_FINISH_S = 120


class Trackers:
    """Those asked for in ``options`` that could be started; ``warn`` is told of the others. For the main process alone."""

    def __init__(self, options: LoggingConfig, folder: Path, warn: Callable[[str], None]):
        self._warn = warn
        self._started: list[GeneralTracker] = []
        if options.tensorboard:
            self._start("TensorBoard", lambda: TensorBoardTracker(options.project, logging_dir=folder / "tensorboard"))
        if options.wandb:
            mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
            if mode == "offline":
                warn(f"W&B logs offline: `wandb sync {folder}/wandb/offline-run-*` uploads it")
            started = self._start("W&B", lambda: _wandb(options.project, folder, mode))
            if not started and mode == "online":
                self._start("W&B offline", lambda: _wandb(options.project, folder, "offline"))

    def log(self, metrics: dict[str, Any]) -> None:
        """``metrics`` of a step; what is not a number is left out."""
        numbers = {k: v for k, v in metrics.items() if isinstance(v, (int, float)) and k != "step"}
        for tracker in list(self._started):
            try:
                tracker.log(numbers, step=metrics["step"])
            except Exception as error:
                self._started.remove(tracker)
                self._warn(f"{tracker.name} is given up ({error}); metrics.jsonl goes on")

    def close(self) -> None:
        for tracker in self._started:
            try:
                tracker.finish()
            except Exception as error:
                self._warn(f"{tracker.name} could not be ended well ({error})")

    def _start(self, name: str, make: Callable[[], GeneralTracker]) -> bool:
        try:
            tracker = make()
            tracker.start()
        except Exception as error:  # whatever a logging service does
            why = first_line(error)
            self._warn(f"{name} could not be started ({why}); metrics.jsonl goes on")
            return False
        self._started.append(tracker)
        return True


def _wandb(project: str, folder: Path, mode: str) -> GeneralTracker:
    import wandb

    settings = wandb.Settings(init_timeout=WANDB_INIT_S, finish_timeout=WANDB_FINISH_S, console="off")
    return WandBTracker(project, dir=str(folder), group=str(folder), mode=mode, settings=settings)


def _has_key() -> bool:
    """Whether W&B knows who we are; never asks on the terminal."""
    import wandb

    try:
        return bool(wandb.login(prompt=False))
    except Exception:  # a key that is not one, or a host that does not answer: `_start` will say it
        return bool(os.environ.get("WANDB_API_KEY"))
