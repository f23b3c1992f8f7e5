"""What a run shows and records while it trains.

In: each step's result and the ranks' summary. Out: metrics.jsonl, trackers, bad_steps.jsonl, quarantine.jsonl, previews,
a trace and the log.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from janus_train.config import Config
from janus_train.data.encode import Encoder
from janus_train.data.recipe import Recipe
from janus_train.data.sources.registry import template_of
from janus_train.data.templates import get_template
from janus_train.data.types import Row
from janus_train.errors import one_line
from janus_train.jsonl import Line
from janus_train.train.backends import Backend
from janus_train.train.distributed.step_sync import RowsReport, StepSummary
from janus_train.train.monitor.log import set_up_logging
from janus_train.train.monitor.loss_spikes import BadSteps
from janus_train.train.monitor.metrics import MetricsLog, loss_metrics, rate_metrics, rows_metrics
from janus_train.train.monitor.mfu import MFU
from janus_train.train.monitor.previews import write_previews
from janus_train.train.monitor.profile import StepProfiler
from janus_train.train.monitor.quarantine import Quarantine
from janus_train.train.monitor.questions import Question, write_answers
from janus_train.train.monitor.stragglers import ForwardTimer, StragglerWatch
from janus_train.train.optim import LearningRates
from janus_train.train.run_dir import RunDir
from janus_train.train.step import StepResult

logger = logging.getLogger(__name__)


class Monitor:
    """Metrics, trackers, bad steps, quarantined samples, stragglers and previews of one run.

    All ranks create it together. ``first_step``: the first step that this process trains. ``questions``: those that
    previews answer.
    """

    def __init__(
        self,
        config: Config,
        run_dir: RunDir,
        recipe: Recipe,
        backend: Backend,
        first_step: int,
        questions: Sequence[Question] = (),
    ):
        group = backend.distributed
        self._config, self._run_dir, self._backend, self._group = config, run_dir, backend, group
        self._prompts, self._questions = recipe.config.previews, questions
        templates = [template_of(source) for source in recipe.config.sources if source.kind == "generation"]
        self._template = templates[0] if templates else get_template("request_to_image")
        self._quarantine = Quarantine(run_dir.quarantine, recipe.lengths, config.data.max_bad, writes=group.is_main)
        self._bad_steps = BadSteps(run_dir.bad_steps, group)
        self._timer = ForwardTimer(backend.model, group.device)
        self._stragglers = StragglerWatch(config.run.rank_times_every, config.run.straggler_ratio)
        self._mfu = MFU(config, group)
        console = set_up_logging(group.rank)
        self._metrics = MetricsLog(config, run_dir.metrics, first_step, console) if group.is_main else None
        profile = config.run.profile if group.is_main else None
        self._profiler = StepProfiler(profile, run_dir.path / "profile", first_step) if profile else None

    def record_quarantine(self, step: int, rows: RowsReport) -> None:
        """Record the samples that the rows of ``step`` could not use. Raises `UserError` if a source has too many."""
        self._quarantine.record(step, rows)

    def useful_flops(self, rows: Sequence[Row]) -> float:
        return self._mfu.useful_flops(rows)

    def forward_s(self) -> float:
        """Seconds in this rank's forward passes since the last call."""
        return self._timer.take()

    def log_skip(self, step: int) -> None:
        logger.info(f"step {step}: its batch is not trained on (run.skip_steps)")

    def judge(self, step: int, rows: Sequence[Row], result: StepResult, summary: StepSummary) -> None:
        """Record a loss spike or a step that was not applied.

        Raises `UserError` if too many in a row were not applied.
        """
        assert summary.losses is not None
        self._bad_steps.judge(step, rows, summary.losses.mean, result.grad_norm, result.applied)

    def preview(self, step: int, encoder: Encoder) -> None:
        """Generate the recipe's preview prompts, and answer the questions; all ranks call it.

        What fails is a warning, and training continues.
        """
        if not self._prompts and not self._questions:
            return
        reason = None
        try:
            self._write_preview(step, encoder)
        except OSError as error:
            reason = f"could not be written ({one_line(error)})"
        except torch.OutOfMemoryError:  # on all ranks or on the main one alone, in no collective
            reason = f"is skipped: it has no room in the memory of {self._group.device} beside the training"
        if reason is None:
            return
        if self._group.device.type == "cuda":
            torch.cuda.empty_cache()  # in small pieces what was taken is of no use to the next step
        if self._group.is_main:
            logger.warning(f"step {step}: its preview {reason}; training continues")

    def _write_preview(self, step: int, encoder: Encoder) -> None:
        janus = self._backend.full_model()
        if janus is None:  # not on the main process
            return
        path = self._run_dir.path / "samples" / f"step-{step:06d}.png"
        images, answers = None, list[Line]()
        if self._questions:
            with self._group.autocast():
                answers = write_answers(janus, encoder, self._questions, path.with_suffix(".json"))
            logger.info(f"step {step}: answers about held-out images are in {path.with_suffix('.json')}")
        if self._prompts:
            with self._group.autocast():  # as in training: frozen weights may exist in bf16 only
                images = write_previews(
                    janus,
                    encoder,
                    self._prompts,
                    self._template,
                    path,
                    guidance=self._config.model.guidance,
                    temperature=self._config.model.temperature,
                )
            logger.info(f"step {step}: images of the preview prompts are in {path}")
        if self._metrics is not None:
            self._metrics.preview(step, images, answers)

    def log(
        self,
        step: int,
        result: StepResult | None,
        summary: StepSummary,
        rows: RowsReport,
        validated: Mapping[str, Any],
        *,
        learning_rates: LearningRates,
        wait_s: float,
        step_s: float,
    ) -> None:
        """Write the step's line.

        ``rows``: the report over all ranks on its rows; ``result``: None if it was skipped; ``validated``: the metrics of
        its validation, empty without one.
        """
        rank_times = self._stragglers.times(step, summary.reports)
        if self._metrics is None:
            return
        grad_norm, applied = (result.grad_norm, result.applied) if result else (math.nan, False)
        self._metrics.step(
            {
                "step": step,
                **loss_metrics(summary.losses, grad_norm, applied),
                **rows_metrics(rows, self._config.batch.row_tokens),
                **rate_metrics(learning_rates),
                **rank_times,
                "tokens_per_s": rows.num_tokens / step_s,
                **self._mfu.shares(rows.flops, rows.num_tokens, step_s),
                "data_wait_s": wait_s,
                "step_s": step_s,
                **validated,
            }
        )
        if self._profiler is not None:
            self._profiler.step(step)

    def close(self) -> None:
        if self._profiler is not None:
            self._profiler.close()
        if self._metrics is not None:
            self._metrics.close()
