"""The steps of a run.

In: packed rows from the loader. Out: weight updates, metrics and checkpoints. All ranks do the same things in the same
order, because most of them are collectives.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from janus_train.config import Config
from janus_train.data.loader import RowLoader
from janus_train.data.micro_batches import MicroBatches
from janus_train.data.types import Row
from janus_train.errors import UserError
from janus_train.train.backends import Backend
from janus_train.train.best import Best
from janus_train.train.checkpoint.saver import CheckpointSaver
from janus_train.train.distributed.signals import Preempted, StopSignals
from janus_train.train.distributed.step_sync import RowsReport, StepReport, StepSync
from janus_train.train.distributed.watchdog import Watchdog
from janus_train.train.monitor import Monitor
from janus_train.train.monitor.loss_spikes import has_finite_weights, not_finite_error
from janus_train.train.optim import LearningRates, learning_rates
from janus_train.train.step import StepResult, train_step
from janus_train.train.validation import Validation


@dataclass(frozen=True)
class StepRows:
    """A step's rows on this rank."""

    rows: list[Row] = field(default_factory=list)
    batches: MicroBatches | None = None
    """None if there are no rows."""
    report: RowsReport = field(default_factory=RowsReport)
    wait_s: float = 0.0
    """Seconds that this rank waited for the rows."""

    @property
    def batches_wait_s(self) -> float:
        return self.batches.wait_s if self.batches else 0.0


class Trainer:
    """Runs the training steps and decides what happens in which order."""

    def __init__(
        self,
        config: Config,
        backend: Backend,
        rows: RowLoader,
        saver: CheckpointSaver,
        monitor: Monitor,
        watchdog: Watchdog,
        validation: Validation | None = None,
        best: Best | None = None,
    ):
        """``validation``: None if the run does not validate; ``best``: the best of its validations so far."""
        self.config, self.backend, self.rows = config, backend, rows
        self.saver, self.monitor, self.watchdog = saver, monitor, watchdog
        self.validation, self.best = validation, best or Best(config.run)
        self.group = backend.distributed
        self.sync = StepSync(self.group)
        self.next: StepRows = StepRows()
        """The rows of the next step, fetched while the device computes the current one."""

    def train(self, steps_done: int) -> int:
        """Train from the step after ``steps_done`` to ``run.steps``, or until ``run.patience`` is at its end.

        Returns the last step.

        Raises `Preempted` on every rank after a signal to any of them, and `UserError` for data or losses that end the
        run. A checkpoint is saved before a signal or an error in the data ends it.
        """
        run = self.config.run
        with StopSignals(announce=self.group.is_main) as signals:
            self._fetch()
            rows_report = self.sync.exchange(StepReport(), self.next.report).rows
            step = steps_done
            while step < run.steps and not self.best.is_out_of_patience:
                step += 1
                if rows_report.error:
                    self.saver.finish()
                    raise UserError(rows_report.error)
                start_s = time.perf_counter()
                self.monitor.record_quarantine(step, rows_report)
                rates = learning_rates(step, self.config.optim, self.config.planned_steps)
                current = self.next
                # The next rows come before the exchange: it carries their counts, and their errors to all ranks.
                fetch = self._fetch if step < run.steps else self._fetch_nothing
                result = self._step(step, current, rows_report.num_loss_tokens, rates, fetch)
                losses, compute_s = result.losses if result else None, self.monitor.forward_s()

                wait_s = self.next.wait_s + current.batches_wait_s
                step_report = StepReport(losses, signals.number, self.saver.is_written, wait_s, compute_s)
                summary = self.sync.exchange(step_report, self.next.report)
                stop_signal = summary.stop_signal if step < run.steps else None  # the last step ends the run anyway

                if summary.save_written or (result and not result.applied):
                    self.saver.finish()  # the checkpoint stays valid even if the next lines end the run
                if result:
                    self.monitor.judge(step, current.rows, result, summary)
                validated = {} if stop_signal else self._validate(step)
                is_best = bool(validated) and self.best.judge(step, validated)
                saves = self._saves_at(step) or is_best or self.best.is_out_of_patience
                if saves or stop_signal or summary.rows.error:
                    self._save(step, current.rows, is_best)
                if run.sample_every and not stop_signal and step % run.sample_every == 0:
                    self.monitor.preview(step, self.rows.encoder)
                step_s = time.perf_counter() - start_s - validated.get("validation/seconds", 0.0)
                times = {"wait_s": wait_s, "step_s": step_s}
                self.monitor.log(step, result, summary, rows_report, validated, learning_rates=rates, **times)
                self.watchdog.beat(f"step {step}")
                if stop_signal:
                    self._stop(step, stop_signal)
                rows_report = summary.rows
            self.saver.close()
        return step

    def _step(
        self, step: int, current: StepRows, num_loss_tokens: int, rates: LearningRates, meanwhile: Callable[[], None]
    ) -> StepResult | None:
        """Train on the rows; returns None if ``run.skip_steps`` names the step. ``meanwhile`` is called once."""
        self.backend.set_learning_rates(rates)
        if step in self.config.run.skip_steps:
            self.monitor.log_skip(step)
            meanwhile()
            return None
        assert current.batches is not None
        clip = self.config.optim.gradient_clip
        return train_step(self.backend, current.batches, num_loss_tokens, clip, meanwhile)

    def _fetch(self) -> None:
        """Fetch the next step's rows, and begin to make their first micro-batch."""
        start_s = time.perf_counter()
        try:
            rows = next(self.rows)
        except UserError as error:
            self.next = StepRows(report=RowsReport(error=str(error)), wait_s=time.perf_counter() - start_s)
            return
        wait_s = time.perf_counter() - start_s
        batches = self.rows.micro_batches(rows, pin=self.group.device.type == "cuda")
        self.next = StepRows(rows, batches, RowsReport.from_rows(rows, self.monitor.useful_flops(rows)), wait_s)

    def _fetch_nothing(self) -> None:
        """After the last step there are no rows."""
        self.next = StepRows()

    def _saves_at(self, step: int) -> bool:
        run = self.config.run
        return step == run.steps or bool(run.checkpoint_every and step % run.checkpoint_every == 0)

    def _validate(self, step: int) -> dict[str, Any]:
        """The metrics of the step's weights on held-out samples; empty if the step has no validation."""
        run = self.config.run
        if self.validation is None or (step % run.validate_every and step != run.steps):
            return {}
        self.watchdog.beat(f"the update of step {step}, before its validation", long=True)
        return self.validation.run(self.backend)

    def _save(self, step: int, rows: list[Row], is_best: bool = False) -> None:
        states = [(str(row.stream), row.state) for row in rows]
        rank_reports = self.group.gather([(has_finite_weights(self.backend), states)])
        if not all(is_finite for is_finite, _ in rank_reports):
            raise not_finite_error(step)
        self.saver.begin(step, {stream: state for _, states in rank_reports for stream, state in states}, is_best)

    def _stop(self, step: int, stop_signal: str) -> NoReturn:
        """Wait for the checkpoint of ``step`` and raise `Preempted`."""
        result = "is saved" if self.saver.finish() else "could not be saved"
        raise Preempted(f"stopped by {stop_signal}: step {step} {result}; run the same command again to resume")
