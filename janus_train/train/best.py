"""The best validation so far: which checkpoint a run keeps, and when it stops because none is better.

In: a metric's values by step, lower ones being better; those before a resume are read from metrics.jsonl, which a
resumed run cuts to its step. Out: whether a step is the best one. All ranks have the same values, so all decide alike.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from janus_train.config import RunConfig
from janus_train.jsonl import read_json_lines
from janus_train.train.checkpoint.store import step_folders, step_of
from janus_train.train.distributed.context import Distributed

DEFAULT_METRIC = "validation/loss"
"""What ``run.patience`` watches if ``run.keep_best`` names nothing."""

History = Sequence[tuple[int, float | None]]
"""A metric's values by step; None: not finite."""


@dataclass
class BestStep:
    """The step with the lowest value."""

    step: int | None = None
    value: float = math.inf
    num_later: int = 0
    """The number of values since."""

    def add(self, step: int, value: float | None) -> bool:
        """Whether this step is the best one now. The earlier one of two equal steps is."""
        if value is None or not value < self.value:
            self.num_later += 1
            return False
        self.step, self.value, self.num_later = step, value, 0
        return True


class Best:
    """The best step of a run's validations, and the best one that has a checkpoint.

    ``history``: the validations before a resume. ``checkpoints``: the steps that have a checkpoint.
    """

    def __init__(self, options: RunConfig, history: History = (), checkpoints: Collection[int] = ()):
        self.metric = options.keep_best or DEFAULT_METRIC
        self._keeps, self._patience = options.keep_best is not None, options.patience
        self.all, self.kept = BestStep(), BestStep()
        for step, value in history:
            self.all.add(step, value)
            if step in checkpoints:
                self.kept.add(step, value)

    @property
    def result(self) -> BestStep:
        """The best step whose checkpoint is kept, or without any the best step."""
        return self.all if self.kept.step is None else self.kept

    def judge(self, step: int, metrics: Mapping[str, Any]) -> bool:
        """Whether the checkpoint of this step is to be saved and kept. ``metrics``: those of its validation."""
        value = metrics[self.metric]
        self.all.add(step, value)
        return self._keeps and self.kept.add(step, value)

    @property
    def is_out_of_patience(self) -> bool:
        return self._patience is not None and self.all.num_later >= self._patience


def read_best(run: Path, options: RunConfig, digest: str, group: Distributed) -> Best:
    """The best step of a run that starts or resumes in ``run``, from rank 0's files. All ranks call it.

    Only validations on the samples of ``digest`` count: others cannot be compared.
    """
    history: list[tuple[int, float | None]] = []
    checkpoints: list[int] = []
    with group.raise_on_all_ranks():
        if group.is_main:
            metric = options.keep_best or DEFAULT_METRIC
            history = list(_values(read_json_lines(run / "metrics.jsonl"), metric, digest))
            checkpoints = [step_of(folder) for folder in step_folders(run)]
    return Best(options, group.gather(history), group.gather(checkpoints))


def _values(lines: Iterable[Mapping[str, Any]], metric: str, digest: str) -> Iterable[tuple[int, float | None]]:
    return ((line["step"], line.get(metric)) for line in lines if line.get("validation/digest") == digest)
