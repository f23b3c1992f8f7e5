"""The steps of a run: rows in, updates, metrics and checkpoints out."""

from __future__ import annotations

import time

from janus_train.config import Config
from janus_train.data.loader import RowLoader
from janus_train.data.types import Row
from janus_train.errors import UserError
from janus_train.train.backends import Backend
from janus_train.train.checkpoint.saver import CheckpointSaver
from janus_train.train.distributed.signals import Preempted, StopSignals
from janus_train.train.distributed.step_sync import RowsReport, StepReport, StepSync
from janus_train.train.distributed.watchdog import Watchdog
from janus_train.train.monitor import Monitor
from janus_train.train.monitor.loss_spikes import check_finite
from janus_train.train.optim import learning_rate
from janus_train.train.step import StepResult, train_step


class Trainer:
    """Owns the order of things in a step. All ranks go through it together."""

    def __init__(
        self,
        config: Config,
        backend: Backend,
        rows: RowLoader,
        saver: CheckpointSaver,
        monitor: Monitor,
        watchdog: Watchdog,
    ):
        self.config, self.backend, self.rows = config, backend, rows
        self.saver, self.monitor, self.watchdog = saver, monitor, watchdog
        self.group = backend.distributed
        self.sync = StepSync(self.group)

    def train(self, steps_done: int) -> None:
        """Train from the step after ``steps_done`` to ``run.steps``.

        Raises `Preempted` on every rank after a signal to any, and `UserError` for data or losses that end the run; what
        was trained until then is saved.
        """
        run = self.config.run
        with StopSignals(announce=self.group.is_main) as signals:
            rows, report, wait_s = self._fetch()
            coming = self.sync.exchange(StepReport(), report).rows
            for step in range(steps_done + 1, run.steps + 1):
                if coming.error:
                    self.saver.finish()
                    raise UserError(coming.error)
                began = time.perf_counter()
                self.monitor.record_quarantined(step, coming)
                rate = learning_rate(step, self.config.optim, run.planned_steps or run.steps)
                result = self._step(step, rows, coming.num_loss_tokens, rate)
                trained_rows, this_step = rows, coming
                compute_s = self.monitor.forward_s()
                # The next rows come before the exchange: their counts are in it, and their errors are everyone's.
                rows, report, wait_s = self._fetch() if step < run.steps else ([], RowsReport(), 0.0)
                agreed = self.sync.exchange(
                    StepReport(
                        result.losses if result else None, signals.received, self.saver.written, wait_s, compute_s
                    ),
                    report,
                )
                coming = agreed.rows
                stop = agreed.stop if step < run.steps else None  # after the last step there is nothing to stop

                if agreed.save_written or (result and not result.applied):
                    self.saver.finish()  # what was saved before stays good, should this be the end
                if result:
                    self.monitor.judge(step, trained_rows, result, agreed)
                due = run.checkpoint_every and step % run.checkpoint_every == 0
                if due or stop or coming.error or step == run.steps:
                    self._save(step, trained_rows)
                if run.sample_every and not stop and step % run.sample_every == 0:
                    self.monitor.preview(step, self.rows.encoder)
                step_s = time.perf_counter() - began
                self.monitor.log(step, result, agreed, this_step, learning_rate=rate, wait_s=wait_s, step_s=step_s)
                self.watchdog.beat(f"step {step}")
                if stop:
                    saved = self.saver.finish()
                    what = f"step {step} is saved" if saved else f"step {step} could not be saved"
                    raise Preempted(f"stopped by {stop}: {what}; run the same command again to resume")
            self.saver.close()

    def _step(self, step: int, rows: list[Row], num_loss_tokens: int, rate: float) -> StepResult | None:
        """None: the step is left out (``run.skip_steps``)."""
        self.backend.set_learning_rate(rate)
        if step in self.config.run.skip_steps:
            self.monitor.say_skipped(step)
            return None
        micro_batches = self.rows.micro_batches(rows)
        return train_step(self.backend, micro_batches, num_loss_tokens, self.config.optim.gradient_clip)

    def _fetch(self) -> tuple[list[Row], RowsReport, float]:
        """The next step's rows, what is to be said of them, and the seconds that they were waited for."""
        began = time.perf_counter()
        try:
            rows = next(self.rows)
        except UserError as error:
            return [], RowsReport(error=str(error)), time.perf_counter() - began
        wait_s = time.perf_counter() - began
        return rows, RowsReport.of(rows, self.monitor.useful_flops(rows)), wait_s

    def _save(self, step: int, rows: list[Row]) -> None:
        check_finite(self.backend, step)
        states = dict(self.group.gather([(str(row.stream), row.state) for row in rows]))
        self.saver.begin(step, states)
