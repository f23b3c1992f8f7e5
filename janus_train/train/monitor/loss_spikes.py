"""Bad steps: a loss or gradient that is not finite, or a loss that jumps. They are recorded with their samples.

In: every step's result and rows. Out: bad_steps.jsonl, one line per such step (``step, reason, loss, grad_norm,
samples``, the keys of all ranks' rows), and the end of the run after three in a row that could not be applied. The loss
and the norm are the same on all ranks, so all ranks decide alike.

A spike is an applied step whose loss lies more than 6 standard deviations above the mean of the last 100 applied ones;
the rule applies from the 20th on and starts over when a run resumes. A spike is logged, not undone: the gradient is
clipped, and going back is a person's decision (delete the checkpoints after the one to continue from, and run the same
command with ``run.skip_steps``).
"""

from __future__ import annotations

import logging
import math
import statistics
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from janus_train.data.types import Row
from janus_train.errors import UserError
from janus_train.jsonl import append_json_lines
from janus_train.train.backends import Backend
from janus_train.train.distributed.context import Distributed

logger = logging.getLogger(__name__)

MAX_CONSECUTIVE_BAD = 3
"""Steps in a row whose loss or gradient is not finite before the run stops."""
SPIKE_SIGMAS = 6.0
SPIKE_WINDOW = 100
SPIKE_FROM = 20


class SpikeRule:
    """Decides whether a loss stands out from the previous ones."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=SPIKE_WINDOW)

    def limit(self) -> float:
        """The loss above which a step is a spike; infinite until there are enough losses."""
        if len(self._losses) < SPIKE_FROM:
            return math.inf
        return statistics.fmean(self._losses) + SPIKE_SIGMAS * statistics.pstdev(self._losses)

    def add(self, loss: float) -> None:
        self._losses.append(loss)


class BadSteps:
    """Records bad steps in ``path``, and ends the run after too many in a row."""

    def __init__(self, path: Path, group: Distributed):
        self._path, self._group = path, group
        self._spikes = SpikeRule()
        self._num_consecutive = 0

    def judge(self, step: int, rows: Sequence[Row], loss: float, grad_norm: float, applied: bool) -> None:
        """Record the step if it is bad. ``rows`` are this rank's; the other arguments are the same on all ranks.

        Raises `UserError` on every rank when too many steps in a row were not applied.
        """
        if applied:
            self._num_consecutive = 0
            limit = self._spikes.limit()
            if loss > limit:
                count = self._write(step, rows, loss, grad_norm, "spike")
                logger.warning(
                    f"step {step}: the loss jumps to {loss:.3f}, over {limit:.3f} (mean of the last {SPIKE_WINDOW} steps "
                    f"and {SPIKE_SIGMAS:.0f} sigma); its {count} samples are in {self._path}"
                )
            self._spikes.add(loss)
            return
        self._num_consecutive += 1
        count = self._write(step, rows, loss, grad_norm, "not finite")
        logger.warning(
            f"step {step}: loss or gradient is not finite, the step is not applied; its {count} samples are in {self._path}"
        )
        if self._num_consecutive == MAX_CONSECUTIVE_BAD:
            raise UserError(
                f"step {step}: {MAX_CONSECUTIVE_BAD} steps in a row had a loss or gradient that is not finite: training "
                f"stops and does not save them; their samples are in {self._path}"
            )

    def _write(
        self, step: int, rows: Sequence[Row], loss: float, grad_norm: float, reason: Literal["spike", "not finite"]
    ) -> int:
        """Write the step's line; returns its number of samples over all ranks. A collective."""
        keys = self._group.gather([document.reference.text() for row in rows for document in row.documents])
        if self._group.is_main:
            line = {
                "step": step,
                "reason": reason,
                "loss": finite_or_none(loss),
                "grad_norm": finite_or_none(grad_norm),
                "samples": keys,
            }
            append_json_lines(self._path, [line])
        return len(keys)


def finite_or_none(value: float | None) -> float | None:
    """The value, or None if it is not finite: JSON has no NaN."""
    return value if value is not None and math.isfinite(value) else None


def has_finite_weights(backend: Backend) -> bool:
    """Whether all weights that this rank saves are finite."""
    checks = [torch.isfinite(shard.weight).all() for shard in backend.checkpoint_shards()]
    return not checks or bool(torch.stack(checks).all())


def not_finite_error(step: int) -> UserError:
    """The error that ends a run of which any rank has a weight that is not finite: such weights are never saved."""
    return UserError(
        f"step {step}: the weights are not finite and are not saved: continue from the "
        "previous checkpoint with a lower optim.learning_rate in another output_dir (init_from=FOLDER), or look at bad_steps.jsonl"
    )
